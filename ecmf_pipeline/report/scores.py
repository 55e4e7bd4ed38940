"""Report the scores of single modalities and fusion, by split and by label."""

from __future__ import annotations

from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Collapsible,
    Figure,
    Heading,
    Notice,
    Paragraph,
    Section,
    Table,
    count,
    fold_long,
    name_text,
    ordered_labels,
    score,
    signed,
)
from ecmf_pipeline.report.charts import Bar, Interval, Mark, bars, intervals
from ecmf_pipeline.report.conclusions import (
    VERDICTS_CAVEAT,
    bounds,
    evaluation_basis,
    fusion_conclusion,
    majority_f1,
    training_conclusion,
)
from ecmf_pipeline.report.inputs import ReportInput
from ecmf_pipeline.report.metrics import Difference, Evaluation, Scores
from ecmf_pipeline.report.words import given_label
from ecmf_pipeline.report.zero_shot import UNVERIFIED, zero_shot_blocks


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
    fused, given = evaluation.fusion, given_label(evaluation.basis)
    fusion_models = [(f"fusion, {given}s", fused.given), ("fusion, refined labels", fused.refined)] if fused else []
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
        "others count with the most frequent label. Single modalities are trained on the "
        f"{given}s. Dark blue: the "
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
    before = "given" if evaluation.basis is Basis.GIVEN else "verdicts"
    rows = [
        Interval(name, difference.difference, difference.low, difference.high, _estimate(difference))
        for name, difference in (
            ("fusion minus best single", fusion),
            (f"refined minus {before}", training),
        )
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
                name = f"{given_label(evaluation.basis)}s" if labels == "given" else f"{labels} labels"
                rows.append([split, name, *values])
    if not rows:
        return []
    columns = ["Split", "Fusion trained on", "#Clips", "#Weighted F1", "#Accuracy"]
    return [Collapsible("Scores by split", [Table("Scores of fusion by split", columns, rows)])]


def _per_class(report: ReportInput, evaluation: Evaluation) -> list[Block]:
    headline: Scores | None = evaluation.headline
    if headline is None or not headline.per_class:
        return []
    rows = [
        [name_text(label), score(row.precision), score(row.recall), score(row.f1), count(row.support)]
        for label in ordered_labels(report.labels, headline.per_class)
        if (row := headline.per_class.get(label))
    ]
    columns = ["Label", "#Precision", "#Recall", "#F1", "#Clips"]
    table = Table(f"Scores of fusion by label, {evaluation_basis(evaluation)}", columns, rows)
    return [Heading("By label"), *fold_long([table], len(rows), f"Scores of {count(len(rows), 'label')}")]


def _estimate(difference: Difference) -> str:
    return f"{signed(difference.difference)} ({bounds(difference) or 'no interval'})"
