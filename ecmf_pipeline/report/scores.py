"""Report the scores: conclusions in plain sentences, single modalities, fusion, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

from ecmf_pipeline.core.console import format_share
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.refine import Decision, LabelAction
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Collapsible,
    Figure,
    Heading,
    Notice,
    Paragraph,
    Section,
    State,
    Table,
    corpus_text,
    count,
    ordered_labels,
    percent,
    score,
    signed,
)
from ecmf_pipeline.report.charts import Bar, Interval, Mark, bars, intervals
from ecmf_pipeline.report.inputs import Difference, Evaluation, LabelScores, ReportInput, Scores, column
from ecmf_pipeline.report.zero_shot import UNVERIFIED, Conclusion, zero_shot_blocks

GIVEN_CAVEAT = "The evaluation uses given labels, some of which may be wrong."
VERDICTS_CAVEAT = "The evaluation uses verdicts, whose clips were chosen and not drawn at random."


def scores_section(report: ReportInput, evaluation: Evaluation) -> Section:
    """Show the scores of single modalities and fusion, by split and by label."""
    title = "Scores"
    if evaluation.zero_shot is not None:
        return Section("scores", f"{title}: {UNVERIFIED}", zero_shot_blocks(report, evaluation, evaluation.zero_shot))
    if evaluation.weighted_f1 is None and evaluation.fusion is None and not evaluation.modalities:
        why = "No scores: there are neither gold labels nor given labels to evaluate predictions on."
        return Section("scores", title, [Notice(why)])
    blocks: list[Block] = []
    if evaluation.judged_by == "given" and evaluation.basis is Basis.VERDICTS:
        blocks.append(Notice(VERDICTS_CAVEAT))
    elif evaluation.judged_by == "given":
        why = "They measure agreement with these labels, not accuracy."
        blocks.append(
            Notice(f"The scores below use the given labels as truth, because there are no gold labels. {why}")
        )
    blocks += _modalities(evaluation)
    blocks += _differences(report, evaluation)
    blocks += _by_split(evaluation)
    blocks += _per_class(report, evaluation)
    return Section("scores", title, blocks)


def _modalities(evaluation: Evaluation) -> list[Block]:
    single = [
        (name, scores) for name, scores in evaluation.modalities.items() if scores and scores.weighted_f1 is not None
    ]
    single.sort(key=lambda item: (-(item[1].weighted_f1 or 0.0), item[0]))
    fused = evaluation.fusion
    fusion_models = [("fusion, given labels", fused.given), ("fusion, refined labels", fused.refined)] if fused else []
    fusion = [(name, scores) for name, scores in fusion_models if scores and scores.weighted_f1 is not None]
    if not single and not fusion:
        return [Notice("There are no scores of single modalities or of fusion.")]
    groups = [(f"{name} alone", [Bar(scores.weighted_f1, _with_coverage(scores), "sky")]) for name, scores in single]
    groups += [(name, [_fusion_bar(scores, evaluation)]) for name, scores in fusion]
    majority_score = majority_f1(evaluation)
    mark = Mark(majority_score, f"most frequent label: {score(majority_score)}") if majority_score is not None else None
    parts = [fusion_conclusion(evaluation).sentence]
    if single:
        best, worst = single[0], single[-1]
        single_text = f"Of the single modalities, {best[0]} has the highest score ({score(best[1].weighted_f1)})"
        parts.append(
            single_text + (f" and {worst[0]} the lowest ({score(worst[1].weighted_f1)})." if len(single) > 1 else ".")
        )
    else:
        parts.append("No single modality was evaluated.")
    caption = (
        f"Weighted F1 ({evaluation_basis(evaluation)}), and for how many of these clips the model had an input; the "
        "others count with the most frequent label. Single modalities are trained on the given labels. Dark blue: the "
        "fusion of the headline, with its 95% interval. Dashed line: always predicting the most frequent label."
    )
    table = Table(
        "Scores of each model",
        ["Model", "#Clips", "#With input", "#Weighted F1", "#Accuracy"],
        [
            [name, count(scores.clips), _answered(scores), score(scores.weighted_f1), score(scores.accuracy)]
            for name, scores in [*((f"{name} alone", scores) for name, scores in single), *fusion]
        ],
    )
    text = " ".join(parts)
    return [
        Paragraph(text),
        Figure(bars(groups, alt=f"Weighted F1 by model. {text}", maximum=1.0, mark=mark), caption, table),
    ]


def _fusion_bar(scores: Scores, evaluation: Evaluation) -> Bar:
    if scores is not evaluation.headline:
        return Bar(scores.weighted_f1, _with_coverage(scores), "sky")
    low, high = evaluation.interval or (None, None)
    return Bar(scores.weighted_f1, _with_coverage(scores), low=low, high=high)


def _answered(scores: Scores) -> str:
    return UNKNOWN if scores.answered is None else count(scores.answered)


def _with_coverage(scores: Scores) -> str:
    text = score(scores.weighted_f1)
    return text if scores.answered is None else f"{text} ({count(scores.answered)} of {count(scores.clips)})"


def _differences(report: ReportInput, evaluation: Evaluation) -> list[Block]:
    fusion, training = evaluation.fusion_over_best_modality, evaluation.refined_over_given
    rows = [
        Interval(name, difference.difference, difference.low, difference.high, _estimate(difference))
        for name, difference in (("fusion minus best single", fusion), ("refined minus given", training))
        if difference is not None and difference.difference is not None
    ]
    conclusion = training_conclusion(evaluation)
    sentence = [Paragraph(conclusion.sentence)] if report.refined or training else []
    if not rows:
        return list(sentence)
    table = Table(
        "Differences in weighted F1",
        ["Difference", "#Estimate", "#Low", "#High"],
        [[row.name, signed(row.value), signed(row.low), signed(row.high)] for row in rows],
    )
    alt = "; ".join(f"{row.name}: {row.text}" for row in rows)
    caption = (
        "Differences in weighted F1 with 95% bootstrap intervals. "
        "An interval that includes zero shows no significant difference."
    )
    return [Heading("Differences"), *sentence, Figure(intervals(rows, alt=alt), caption, table)]


def _by_split(evaluation: Evaluation) -> list[Block]:
    rows: list[list[str]] = []
    for split, models in evaluation.by_split.items():
        for labels, scores in (("given", models.given), ("refined", models.refined)) if models else ():
            if scores is not None:
                values = [count(scores.clips), score(scores.weighted_f1), score(scores.accuracy)]
                rows.append([split, f"{labels} labels", *values])
    if not rows:
        return []
    columns = ["Split", "Fusion trained on", "#Clips", "#Weighted F1", "#Accuracy"]
    return [Collapsible("Scores by split", [Table("Scores of fusion by split", columns, rows)])]


def _per_class(report: ReportInput, evaluation: Evaluation) -> list[Block]:
    headline: Scores | None = evaluation.headline
    if headline is None or not headline.per_class:
        return []
    rows = [
        [corpus_text(label, 40), score(row.precision), score(row.recall), score(row.f1), count(row.support)]
        for label in ordered_labels(report.labels, headline.per_class)
        if (row := headline.per_class.get(label))
    ]
    columns = ["Label", "#Precision", "#Recall", "#F1", "#Clips"]
    return [Heading("By label"), Table(f"Scores of fusion by label, {evaluation_basis(evaluation)}", columns, rows)]


def _estimate(difference: Difference) -> str:
    return f"{signed(difference.difference)} ({bounds(difference) or 'no interval'})"


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
    sentence = f"Of the training labels, {before}. {_change_summary(labels)}"
    if not labels.fixed and not labels.broken:
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
            f"Fusion cannot be compared with the best single modality: {_missing_comparison(evaluation)}.",
        )
    which = {"given": " trained on given labels", "refined": " trained on refined labels"}
    return compare(
        difference,
        first=f"Fusion{which.get(difference.model or '', '')}",
        second=f"the best single modality{f' ({difference.best})' if difference.best else ''}",
        caveat=caveat(evaluation.judged_by, evaluation.basis),
    )


def training_conclusion(evaluation: Evaluation) -> Conclusion:
    """Return whether training on refined labels is better than training on given labels."""
    difference = evaluation.refined_over_given
    labels_already_used = difference is not None and evaluation.judged_by == "given"
    if difference is None or difference.difference is None or labels_already_used:
        if labels_already_used:
            of = "verdicts" if evaluation.basis is Basis.VERDICTS else "given labels"
            why = f"there are no gold labels, and refinement used the {of}"
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
        second="the one trained on the given labels",
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


def _change_summary(labels: LabelScores) -> str:
    """Describe changed labels, dropped labels and pseudo-labels, each apart."""
    fixed, broken = count(labels.fixed, "wrong label"), count(labels.broken, "right one")
    if labels.fixed or labels.broken:
        sentence = (
            f"Refinement corrected {fixed}{_human_share(labels.fixed_by_verdicts, labels.fixed)} and broke {broken}"
            f"{_human_share(labels.broken_by_verdicts, labels.broken)}."
        )
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
    model = f", model trained on {evaluation.model} labels" if evaluation.model else ""
    return score(evaluation.weighted_f1), f"{evaluation_basis(evaluation)}, {count(evaluation.clips, 'clip')}{model}"
