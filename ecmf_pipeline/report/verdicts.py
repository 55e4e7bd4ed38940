"""What the evaluation allows to say, in plain sentences: better, worse, no difference shown, or not to be known."""

from __future__ import annotations

from dataclasses import dataclass

from ecmf_pipeline.core.formatting import part_of
from ecmf_pipeline.report.blocks import State, count, percent, score, signed
from ecmf_pipeline.report.inputs import Difference, Evaluation, LabelScores

GIVEN_CAVEAT = "This is judged by the given labels, some of which may be wrong."


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer.

    Attributes:
        state: How it turned out; None for what is no comparison.
        short: The answer in a few words.
        sentence: The answer with the numbers it rests on.
    """

    state: State | None
    short: str
    sentence: str


def labels_verdict(evaluation: Evaluation, *, refined: bool) -> Verdict:
    """Whether refinement raised the training labels' accuracy.

    Args:
        evaluation: The metrics of `evaluate`.
        refined: Whether refinement ran.
    """
    if not refined:
        return Verdict(None, "not run", "No refinement was run: the training labels are as they were given.")
    labels = evaluation.labels
    given = labels.given if labels else None
    kept = labels.refined if labels else None
    if labels is None or given is None or kept is None or given.accuracy is None or kept.accuracy is None:
        return Verdict(
            "unknown",
            "cannot be known",
            "Whether refinement raised the training labels' accuracy cannot be known: "
            "no gold labels are known for the training clips.",
        )
    change = kept.accuracy - given.accuracy
    before = f"{percent(given.accuracy, 1)} (of {count(given.clips, 'clip')})"
    after = f"{percent(kept.accuracy, 1)} (of {count(kept.clips, 'clip')})"
    points = f"{100 * change:+.1f} points".replace("-", "\N{MINUS SIGN}")
    if change > 0:
        return Verdict(
            "better",
            f"raised, {points}",
            f"Refinement raised the training labels' accuracy: from {before} to {after}. {_account(labels)}",
        )
    if change < 0:
        return Verdict(
            "worse",
            f"lowered, {points}",
            "Refinement did not raise the training labels' accuracy, it lowered it: "
            f"from {before} to {after}. {_account(labels)}",
        )
    return Verdict(
        "same",
        "unchanged",
        f"Refinement did not raise the training labels' accuracy: it stayed at {before}. {_account(labels)}",
    )


def fusion_verdict(evaluation: Evaluation) -> Verdict:
    """Whether fusion beat the best single modality."""
    difference = evaluation.fusion_over_best_modality
    if difference is None or difference.difference is None:
        return Verdict(
            "unknown",
            "cannot be known",
            f"Whether fusion beat the best single modality cannot be known: {_why_not(evaluation)}.",
        )
    which = {"given": " trained on given labels", "refined": " trained on refined labels"}
    return _compared(
        difference,
        first=f"Fusion{which.get(difference.model or '', '')}",
        second=f"the best single modality{f' ({difference.best})' if difference.best else ''}",
        judged_by=evaluation.judged_by,
    )


def training_verdict(evaluation: Evaluation) -> Verdict:
    """Whether the model trained on refined labels beat the one trained on the given labels."""
    difference = evaluation.refined_over_given
    seen = difference is not None and evaluation.judged_by == "given"
    if difference is None or difference.difference is None or seen:
        if seen:
            why = "there are no gold labels, and the given ones are what the refinement was made from"
        elif evaluation.fusion is None or evaluation.fusion.refined is None:
            why = "no model trained on refined labels was evaluated"
        else:
            why = _why_not(evaluation)
        return Verdict(
            "unknown",
            "cannot be known",
            f"Whether training on refined labels made the fused model better cannot be known: {why}.",
        )
    return _compared(
        difference,
        first="The fused model trained on refined labels",
        second="the one trained on the given labels",
        judged_by=evaluation.judged_by,
    )


def majority_f1(evaluation: Evaluation) -> float | None:
    """Weighted F1 of always answering the commonest label of the evaluated clips: p times 2p / (1 + p)."""
    support = [row.support for row in evaluation.headline.per_class.values()] if evaluation.headline else []
    if not sum(support):
        return None
    share = max(support) / sum(support)
    return share * 2 * share / (1 + share)


def interval(difference: Difference) -> str:
    """The interval in words; empty when it is not known."""
    if difference.low is None or difference.high is None:
        return ""
    return f"95% interval {signed(difference.low)} to {signed(difference.high)}"


def _compared(difference: Difference, *, first: str, second: str, judged_by: str | None) -> Verdict:
    amount, low, high = difference.difference or 0.0, difference.low, difference.high
    caveat = f" {GIVEN_CAVEAT}" if judged_by == "given" else ""
    shown = f"weighted F1 {signed(amount)}"
    if low is None or high is None:
        sentence = (
            f"Whether {_lowered(first)} beat {second} cannot be known: {shown}, but no interval says how sure that is."
        )
        return Verdict("unknown", f"no interval, {signed(amount)}", sentence + caveat)
    shown += f", {interval(difference)}"
    if low > 0:
        return Verdict("better", f"better, {signed(amount)}", f"{first} beat {second}: {shown}.{caveat}")
    if high < 0:
        sentence = f"{first} did not beat {second}, it did worse: {shown}.{caveat}"
        return Verdict("worse", f"worse, {signed(amount)}", sentence)
    sentence = f"{first} did not demonstrably beat {second}: {shown}. The interval includes zero.{caveat}"
    return Verdict("same", f"not shown, {signed(amount)}", sentence)


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _why_not(evaluation: Evaluation) -> str:
    if evaluation.weighted_f1 is None and evaluation.fusion is None:
        return "no gold labels and no given labels were there to evaluate by"
    if len(evaluation.modalities) < 2:
        return "fewer than two modalities were evaluated on their own"
    return "the evaluation does not state the difference"


def _account(labels: LabelScores) -> str:
    fixed, broken = count(labels.fixed, "wrong label"), count(labels.broken, "right one")
    parts = [
        f"It corrected {fixed}{_of_a_person(labels.fixed_by_verdicts, labels.fixed)} and broke {broken}"
        f"{_of_a_person(labels.broken_by_verdicts, labels.broken)};",
        f"it dropped {count(labels.dropped_wrong, 'wrong label')} and {count(labels.dropped_right, 'right one')}",
    ]
    if labels.dropped_wrong or labels.dropped_right:
        parts.append("(dropped clips no longer count)")
    sentence = " ".join(parts) + "."
    if labels.pseudo is not None and labels.pseudo.clips:
        known = labels.pseudo.accuracy is not None
        sentence += (
            f" Of {count(labels.pseudo.clips, 'judged pseudo-label')}"
            f"{_of_a_person(labels.pseudo_by_verdicts, labels.pseudo.clips)}, "
            f"{percent(labels.pseudo.accuracy, 1)} are right."
            if known
            else " How many of the pseudo-labels are right cannot be known."
        )
    return sentence


def _of_a_person(part: int, whole: int) -> str:
    """How many labels are a person's work, not the method's; empty where none is."""
    return f" ({share})" if (share := part_of(part, whole, "by verdicts")) else ""


def judged(evaluation: Evaluation) -> str:
    """What the scores were judged by, in words."""
    if evaluation.judged_by == "gold":
        return "judged by gold labels"
    if evaluation.judged_by == "given":
        return "judged by given labels, not by gold"
    return "what it was judged by is not stated"


def headline_score(evaluation: Evaluation) -> tuple[str, str]:
    """The weighted F1 of the fused model and what it rests on."""
    if evaluation.weighted_f1 is None:
        return "cannot be known", "no labels to evaluate by"
    model = f", model trained on {evaluation.model} labels" if evaluation.model else ""
    return score(evaluation.weighted_f1), f"{judged(evaluation)}, {count(evaluation.clips, 'clip')}{model}"
