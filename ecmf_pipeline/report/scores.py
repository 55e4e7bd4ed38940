"""Report the scores: conclusions in plain sentences, single modalities, fusion, and the confusion matrix."""

from __future__ import annotations

from ecmf_pipeline.core.console import format_share
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Figure,
    Heading,
    Notice,
    Paragraph,
    Section,
    Table,
    corpus_text,
    count,
    ordered_labels,
    percent,
    score,
    shorten,
    signed,
)
from ecmf_pipeline.report.charts import Bar, Interval, Mark, bars, intervals
from ecmf_pipeline.report.inputs import Confusion, Difference, Evaluation, LabelScores, ReportInput, Scores
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


def confusion_section(evaluation: Evaluation) -> Section:
    """Show the confusion matrix of true and predicted labels."""
    confusion = evaluation.confusion
    if confusion is None or not any(map(sum, confusion.counts)):
        why = "No confusion matrix: no evaluated clip has a true label."
        return Section("confusion", "Confusion matrix", [Notice(why)])
    rows: list[list[str | Cell]] = []
    for label, counts in zip(confusion.labels, confusion.counts, strict=True):
        total = sum(counts)
        cells = [Cell(count(number), number / total if total else 0.0) for number in counts]
        recall = percent(counts[len(rows)] / total) if total else UNKNOWN
        rows.append([corpus_text(label, 40), *cells, count(total), recall])
    truth = "Given label" if evaluation.judged_by == "given" and evaluation.basis is Basis.GIVEN else "True label"
    columns = [truth, *(f"#{shorten(label, 40)}" for label in confusion.labels), "#Clips", "#Recall"]
    caption = f"Confusion matrix ({evaluation_basis(evaluation)}). A darker tint means a larger share of the row."
    table = Table(caption, columns, rows, spread="Predicted label", spread_over=len(confusion.labels))
    return Section("confusion", "Confusion matrix", [Paragraph(_most_frequent_error(confusion, truth.lower())), table])


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
    groups = [(f"{name} alone", [Bar(scores.weighted_f1, score(scores.weighted_f1), "sky")]) for name, scores in single]
    groups += [(name, [Bar(scores.weighted_f1, score(scores.weighted_f1))]) for name, scores in fusion]
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
        f"Weighted F1 ({evaluation_basis(evaluation)}). Single-modality models are trained on the given labels. "
        "Dashed line: score of always predicting the most frequent label."
    )
    table = Table(
        "Scores of each model",
        ["Model", "#Clips", "#Weighted F1", "#Accuracy"],
        [
            [name, count(scores.clips), score(scores.weighted_f1), score(scores.accuracy)]
            for name, scores in [*((f"{name} alone", scores) for name, scores in single), *fusion]
        ],
    )
    text = " ".join(parts)
    return [
        Paragraph(text),
        Figure(bars(groups, alt=f"Weighted F1 by model. {text}", maximum=1.0, mark=mark), caption, table),
    ]


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
    return [Heading("By split"), Table("Scores of fusion by split", columns, rows)]


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


def _most_frequent_error(confusion: Confusion, truth: str) -> str:
    errors = [
        (number, true, predicted, sum(counts))
        for true, counts in zip(confusion.labels, confusion.counts, strict=True)
        for predicted, number in zip(confusion.labels, counts, strict=True)
        if predicted != true and number
    ]
    if not errors:
        return f"All predictions equal the {truth}."
    wrong, total = sum(row[0] for row in errors), sum(map(sum, confusion.counts))
    number, true, predicted, n_true = max(errors, key=lambda row: row[0])
    return (
        f"{count(wrong)} of {count(total, 'prediction')} differ from the {truth}. The most frequent error is "
        f"{shorten(true, 40)} predicted as {shorten(predicted, 40)}: {count(number)} of {count(n_true)} "
        f"({percent(number / n_true)})."
    )


def _estimate(difference: Difference) -> str:
    return f"{signed(difference.difference)} ({bounds(difference) or 'no interval'})"


def labels_conclusion(evaluation: Evaluation, *, refined: bool) -> Conclusion:
    """Return whether refinement, if it ran, increased the accuracy of the training labels."""
    if not refined:
        return Conclusion(None, "not run", "Label refinement did not run: the training labels are the given labels.")
    labels = evaluation.labels
    given = labels.given if labels else None
    after_refinement = labels.refined if labels else None
    if (
        labels is None
        or given is None
        or after_refinement is None
        or given.accuracy is None
        or after_refinement.accuracy is None
    ):
        return Conclusion(
            "unknown",
            "unknown",
            "The effect of refinement on the accuracy of the training labels is unknown: "
            "the training clips have no gold labels.",
        )
    change = after_refinement.accuracy - given.accuracy
    before = f"{percent(given.accuracy, 1)} (of {count(given.clips, 'clip')})"
    after = f"{percent(after_refinement.accuracy, 1)} (of {count(after_refinement.clips, 'clip')})"
    points = f"{100 * change:+.1f} points".replace("-", "\N{MINUS SIGN}")
    if change > 0:
        return Conclusion(
            "better",
            f"increased, {points}",
            f"Refinement increased the accuracy of the training labels from {before} to {after}. "
            f"{_change_summary(labels)}",
        )
    if change < 0:
        return Conclusion(
            "worse",
            f"decreased, {points}",
            f"Refinement decreased the accuracy of the training labels from {before} to {after}. "
            f"{_change_summary(labels)}",
        )
    return Conclusion(
        "same",
        "unchanged",
        f"Refinement did not change the accuracy of the training labels: {before}. {_change_summary(labels)}",
    )


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
    return _compare(
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
    return _compare(
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


def _compare(difference: Difference, *, first: str, second: str, caveat: str) -> Conclusion:
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
    fixed, broken = count(labels.fixed, "wrong label"), count(labels.broken, "right one")
    parts = [
        f"It corrected {fixed}{_human_share(labels.fixed_by_verdicts, labels.fixed)} and broke {broken}"
        f"{_human_share(labels.broken_by_verdicts, labels.broken)};",
        f"it dropped {count(labels.dropped_wrong, 'wrong label')} and {count(labels.dropped_right, 'right one')}",
    ]
    if labels.dropped_wrong or labels.dropped_right:
        parts.append("(the accuracy excludes dropped clips)")
    sentence = " ".join(parts) + "."
    if labels.pseudo is not None and labels.pseudo.clips:
        known = labels.pseudo.accuracy is not None
        sentence += (
            f" Of {count(labels.pseudo.clips, 'pseudo-label')} with a gold label"
            f"{_human_share(labels.pseudo_by_verdicts, labels.pseudo.clips)}, "
            f"{percent(labels.pseudo.accuracy, 1)} are right."
            if known
            else " The accuracy of the pseudo-labels is unknown."
        )
    return sentence


def _human_share(part: int, whole: int) -> str:
    """Format how many of the labels are human labels, in parentheses; empty if none are."""
    return f" ({share})" if (share := format_share(part, whole, "by human labels")) else ""


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
