"""How good the predictions are: each modality alone, fusion, and the mistakes."""

from __future__ import annotations

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
    count,
    foreign,
    percent,
    score,
    shortened,
    signed,
)
from ecmf_pipeline.report.evaluation import Confusion, Difference, Evaluation, Scores
from ecmf_pipeline.report.inputs import ReportInput
from ecmf_pipeline.report.plots import Bar, Interval, Mark, bars, intervals
from ecmf_pipeline.report.sections.corpus import in_order
from ecmf_pipeline.report.verdicts import (
    fusion_verdict,
    interval,
    judged,
    majority_f1,
    training_verdict,
)


def scores_section(report: ReportInput, evaluation: Evaluation) -> Section:
    """Modalities against fusion, by split and by label."""
    title = "Scores"
    if evaluation.weighted_f1 is None and evaluation.fusion is None and not evaluation.modalities:
        why = "Nothing was evaluated: no gold labels and no given labels were there to judge predictions by."
        return Section("scores", title, [Notice(why)])
    blocks: list[Block] = []
    if evaluation.judged_by == "given":
        why = "They show agreement with those labels, not how often the model is right."
        blocks.append(
            Notice(f"The scores below are judged by the given labels, because no gold labels are known. {why}")
        )
    blocks += _modalities(evaluation)
    blocks += _differences(report, evaluation)
    blocks += _by_split(evaluation)
    blocks += _per_class(report, evaluation)
    return Section("scores", title, blocks)


def confusion_section(evaluation: Evaluation) -> Section:
    """True labels against predicted ones."""
    confusion = evaluation.confusion
    if confusion is None or not any(map(sum, confusion.counts)):
        why = "There is no confusion matrix: no evaluated clip has a true label to compare its prediction with."
        return Section("confusion", "Confusion", [Notice(why)])
    rows: list[list[str | Cell]] = []
    for label, counts in zip(confusion.labels, confusion.counts, strict=True):
        total = sum(counts)
        cells = [Cell(count(number), number / total if total else 0.0) for number in counts]
        recall = percent(counts[len(rows)] / total) if total else UNKNOWN
        rows.append([foreign(label, 40), *cells, count(total), recall])
    truth = "Given label" if evaluation.judged_by == "given" else "True label"
    columns = [truth, *(f"#{shortened(label, 40)}" for label in confusion.labels), "#Clips", "#Recall"]
    caption = f"Confusion matrix ({judged(evaluation)}). The stronger the tint, the larger a cell's share of its row."
    table = Table(caption, columns, rows, spread="Predicted label", spread_over=len(confusion.labels))
    return Section("confusion", "Confusion", [Paragraph(_worst_mistake(confusion, truth.lower())), table])


def _modalities(evaluation: Evaluation) -> list[Block]:
    alone = [
        (name, scores) for name, scores in evaluation.modalities.items() if scores and scores.weighted_f1 is not None
    ]
    alone.sort(key=lambda item: (-(item[1].weighted_f1 or 0.0), item[0]))
    fused = evaluation.fusion
    both = [("fusion, given labels", fused.given), ("fusion, refined labels", fused.refined)] if fused else []
    fusion = [(name, scores) for name, scores in both if scores and scores.weighted_f1 is not None]
    if not alone and not fusion:
        return [Notice("The evaluation states no scores of single modalities or of fusion.")]
    groups = [(f"{name} alone", [Bar(scores.weighted_f1, score(scores.weighted_f1), "sky")]) for name, scores in alone]
    groups += [(name, [Bar(scores.weighted_f1, score(scores.weighted_f1))]) for name, scores in fusion]
    least = majority_f1(evaluation)
    mark = Mark(least, f"commonest label only: {score(least)}") if least is not None else None
    parts = [fusion_verdict(evaluation).sentence]
    if alone:
        best, worst = alone[0], alone[-1]
        alone_text = f"On its own, {best[0]} scores highest ({score(best[1].weighted_f1)})"
        parts.append(
            alone_text + (f" and {worst[0]} lowest ({score(worst[1].weighted_f1)})." if len(alone) > 1 else ".")
        )
    else:
        parts.append("No modality was evaluated on its own.")
    caption = (
        f"Weighted F1 ({judged(evaluation)}). Each single-modality model is trained on the given labels. "
        "The dashed line is what always answering the commonest label would reach."
    )
    table = Table(
        "Scores of each model",
        ["Model", "#Clips", "#Weighted F1", "#Accuracy"],
        [
            [name, count(scores.clips), score(scores.weighted_f1), score(scores.accuracy)]
            for name, scores in [*((f"{name} alone", scores) for name, scores in alone), *fusion]
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
        for name, difference in (("fusion over best single", fusion), ("refined over given", training))
        if difference is not None and difference.difference is not None
    ]
    verdict = training_verdict(evaluation)
    sentence = [Paragraph(verdict.sentence)] if report.refined or training else []
    if not rows:
        return list(sentence)
    table = Table(
        "Differences in weighted F1",
        ["Difference", "#Estimate", "#Low", "#High"],
        [[row.name, signed(row.value), signed(row.low), signed(row.high)] for row in rows],
    )
    alt = "; ".join(f"{row.name}: {row.text}" for row in rows)
    caption = (
        "Differences in weighted F1 with their 95% bootstrap intervals. "
        "Where a whisker crosses zero, the difference may be chance."
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
        [foreign(label, 40), score(row.precision), score(row.recall), score(row.f1), count(row.support)]
        for label in in_order(report.labels, headline.per_class)
        if (row := headline.per_class.get(label))
    ]
    columns = ["Label", "#Precision", "#Recall", "#F1", "#Clips"]
    return [Heading("By label"), Table(f"Scores of fusion by label, {judged(evaluation)}", columns, rows)]


def _worst_mistake(confusion: Confusion, truth: str) -> str:
    mistakes = [
        (number, true, predicted, sum(counts))
        for true, counts in zip(confusion.labels, confusion.counts, strict=True)
        for predicted, number in zip(confusion.labels, counts, strict=True)
        if predicted != true and number
    ]
    if not mistakes:
        return f"The prediction of every evaluated clip is its {truth}."
    wrong, total = sum(row[0] for row in mistakes), sum(map(sum, confusion.counts))
    number, true, predicted, of_true = max(mistakes, key=lambda row: row[0])
    return (
        f"For {count(wrong)} of {count(total, 'clip')} the prediction is not the {truth}. The most frequent mistake "
        f"takes {shortened(true, 40)} for {shortened(predicted, 40)}: {count(number)} of {count(of_true)} "
        f"({percent(number / of_true)})."
    )


def _estimate(difference: Difference) -> str:
    spread = interval(difference).removeprefix("95% interval ") or "no interval"
    return f"{signed(difference.difference)} ({spread})"
