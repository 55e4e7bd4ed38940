"""Draw conclusions from metrics, in a few words and as sentences with their figures."""

from __future__ import annotations

from collections.abc import Sequence

from ecmf_pipeline.core.console import format_share
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.refine import Decision, LabelAction
from ecmf_pipeline.report.blocks import (
    State,
    count,
    percent,
    score,
    signed,
)
from ecmf_pipeline.report.inputs import column
from ecmf_pipeline.report.metrics import Difference, Evaluation, LabelScores
from ecmf_pipeline.report.words import given_label
from ecmf_pipeline.report.zero_shot import Conclusion

GIVEN_CAVEAT = "The evaluation uses given labels, some of which may be wrong."
VERDICTS_CAVEAT = "The evaluation uses verdicts, whose clips were chosen and not drawn at random."


def labels_conclusion(evaluation: Evaluation, decisions: Sequence[Decision]) -> Conclusion:
    """Return whether refinement, if it ran, made training labels right that were wrong; dropped labels count apart."""
    if not decisions:
        return Conclusion(None, "not run", "Label refinement did not run: the training labels are the given labels.")
    changed, dropped = map(column(decisions, "decision").count, (LabelAction.RELABEL, LabelAction.DROP))
    labels = evaluation.labels
    if labels is None or labels.given is None or labels.given.accuracy is None:
        return Conclusion(
            "unknown",
            "unknown",
            f"Refinement changed {count(changed, 'given label')} and dropped {count(dropped)}. Whether this made the "
            "labels better is unknown: the training clips have no gold labels.",
        )
    before = f"{percent(labels.given.accuracy, 1)} of {count(labels.given.clips, 'given label')} are right"
    changes = labels.fixed - labels.broken
    sentence = f"Of the training labels, {before}. {_change_summary(labels, changed)}"
    if not changed and not changes:
        return Conclusion("same", "no label changed", sentence)
    points = f"{changes:+d} right".replace("-", "\N{MINUS SIGN}")
    state: State = "better" if changes > 0 else "worse" if changes < 0 else "same"
    words = {"better": f"raised, {points}", "worse": f"lowered, {points}", "same": "as many right as before"}
    return Conclusion(state, words[state], sentence)


def fusion_conclusion(evaluation: Evaluation) -> Conclusion:
    """Return whether fusion is better than the best single modality."""
    difference = evaluation.fusion_over_best_modality
    if difference is None or difference.difference is None:
        return Conclusion(
            "unknown",
            "unknown",
            f"There is only one modality ({next(iter(evaluation.modalities))}), so nothing is fused."
            if len(evaluation.modalities) == 1
            else f"Fusion cannot be compared with the best single modality: {_missing_comparison(evaluation)}.",
        )
    return compare(
        difference,
        first=f"Fusion {trained_on(difference.model, evaluation)}" if difference.model else "Fusion",
        second=f"the best single modality{f' ({difference.best})' if difference.best else ''}",
        caveat=caveat(evaluation.judged_by, evaluation.basis),
    )


def training_conclusion(evaluation: Evaluation) -> Conclusion:
    """Return whether training on refined labels is better than training on given labels."""
    difference = evaluation.refined_over_given
    labels_already_used = difference is not None and evaluation.judged_by == "given"
    if difference is None or difference.difference is None or labels_already_used:
        if labels_already_used:
            why = f"there are no gold labels, and refinement used the {given_label(evaluation.basis)}s"
        elif evaluation.fusion is None or evaluation.fusion.refined is None:
            why = "no model trained on refined labels was evaluated"
        else:
            why = _missing_comparison(evaluation)
        return Conclusion(
            "unknown",
            "unknown",
            f"The effect of training on refined labels is unknown: {why}.",
        )
    return compare(
        difference,
        first="The fusion model trained on refined labels",
        second=f"the one trained on the {given_label(evaluation.basis)}s",
        caveat=caveat(evaluation.judged_by, evaluation.basis),
    )


def majority_f1(evaluation: Evaluation) -> float | None:
    """Return the weighted F1 of always predicting the most frequent label, with share p: p times 2p / (1 + p)."""
    support = [row.support for row in evaluation.headline.per_class.values()] if evaluation.headline else []
    if not sum(support):
        return None
    share = max(support) / sum(support)
    return share * 2 * share / (1 + share)


def bounds(difference: Difference) -> str:
    """Format the interval; empty if it is unknown."""
    if difference.low is None or difference.high is None:
        return ""
    return f"{signed(difference.low)} to {signed(difference.high)}"


def caveat(judged_by: str | None, basis: Basis) -> str:
    """Return a sentence on labels that are no held-out gold labels, after a space; empty for gold labels."""
    if judged_by != "given":
        return ""
    return f" {VERDICTS_CAVEAT if basis is Basis.VERDICTS else GIVEN_CAVEAT}"


def compare(difference: Difference, *, first: str, second: str, caveat: str) -> Conclusion:
    """Return the conclusion of a difference between two models with its interval."""
    amount, low, high = difference.difference or 0.0, difference.low, difference.high
    result = f"weighted F1 {signed(amount)}"
    if low is None or high is None:
        sentence = f"{first} cannot be compared with {second}: the difference ({result}) has no confidence interval."
        return Conclusion("unknown", f"no interval, {signed(amount)}", sentence + caveat)
    result += f", 95% interval {bounds(difference)}"
    if low > 0:
        sentence = f"{first} is significantly better than {second}: {result}.{caveat}"
        return Conclusion("better", f"better, {signed(amount)}", sentence)
    if high < 0:
        sentence = f"{first} is significantly worse than {second}: {result}.{caveat}"
        return Conclusion("worse", f"worse, {signed(amount)}", sentence)
    sentence = f"{first} is not significantly different from {second}: {result}. The interval includes zero.{caveat}"
    return Conclusion("same", f"not significant, {signed(amount)}", sentence)


def _missing_comparison(evaluation: Evaluation) -> str:
    if evaluation.weighted_f1 is None and evaluation.fusion is None:
        return "there are neither gold labels nor given labels for evaluation"
    if len(evaluation.modalities) < 2:
        return "fewer than two single modalities were evaluated"
    return "the evaluation contains no difference"


def _change_summary(labels: LabelScores, changed: int) -> str:
    """Describe changed labels, dropped labels and pseudo-labels, each apart."""
    fixed, broken = count(labels.fixed, "wrong label"), count(labels.broken, "right one")
    if labels.fixed or labels.broken:
        sentence = (
            f"Refinement corrected {fixed}{_human_share(labels.fixed_by_verdicts, labels.fixed)} and broke {broken}"
            f"{_human_share(labels.broken_by_verdicts, labels.broken)}."
        )
    elif changed:
        sentence = f"Refinement replaced {count(changed)}, but no wrong label by a right one."
    else:
        sentence = "Refinement replaced none of them."
    if labels.dropped_wrong or labels.dropped_right:
        sentence += (
            f" It dropped {count(labels.dropped_wrong, 'wrong label')} and {count(labels.dropped_right, 'right one')}"
        )
        if labels.refined is not None and labels.refined.accuracy is not None:
            share = percent(labels.refined.accuracy, 1)
            sentence += f"; of the {count(labels.refined.clips)} that are left, {share} are right"
        sentence += "."
    if labels.pseudo is not None and labels.pseudo.clips:
        sentence += (
            f" Of {count(labels.pseudo.clips, 'pseudo-label')} with a gold label"
            f"{_human_share(labels.pseudo_by_verdicts, labels.pseudo.clips)}, "
            f"{percent(labels.pseudo.accuracy, 1)} are right."
            if labels.pseudo.accuracy is not None
            else " The accuracy of the pseudo-labels is unknown."
        )
    return sentence


def _human_share(part: int, whole: int) -> str:
    """Format how many of the labels are human labels, in parentheses; empty if none are."""
    return f" ({share})" if (share := format_share(part, whole, "by human labels")) else ""


def trained_on(labels: str, evaluation: Evaluation) -> str:
    """Return what a model is trained on; ``labels`` is ``given``, ``refined`` or ``zero-shot``."""
    return f"trained on {given_label(evaluation.basis)}s" if labels == "given" else f"trained on {labels} labels"


def truth_name(evaluation: Evaluation) -> str:
    """Return the name of the labels that clips are judged by, as the heading of a column."""
    return "Given label" if evaluation.judged_by == "given" and evaluation.basis is Basis.GIVEN else "True label"


def evaluation_basis(evaluation: Evaluation) -> str:
    """Describe the labels that the scores were computed on."""
    if evaluation.judged_by == "gold":
        return "evaluated on gold labels"
    if evaluation.judged_by == "given" and evaluation.basis is Basis.VERDICTS:
        return "evaluated on verdicts, whose clips were chosen and not drawn at random"
    if evaluation.judged_by == "given":
        return "evaluated on given labels, not gold labels"
    return "evaluation labels not recorded"


def headline_score(evaluation: Evaluation) -> tuple[str, str]:
    """Return the weighted F1 of the fusion model and a description of its basis."""
    if evaluation.weighted_f1 is None:
        return "unknown", "there are no labels for evaluation"
    model = f", model {trained_on(evaluation.model, evaluation)}" if evaluation.model else ""
    return score(evaluation.weighted_f1), f"{evaluation_basis(evaluation)}, {count(evaluation.clips, 'clip')}{model}"
