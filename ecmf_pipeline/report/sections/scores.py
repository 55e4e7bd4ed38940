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
    Tile,
    count,
    foreign,
    percent,
    score,
    shortened,
    signed,
)
from ecmf_pipeline.report.inputs import Ablation, Confusion, Difference, Evaluation, ReportInput, Scores
from ecmf_pipeline.report.plots import Bar, Interval, Mark, bars, intervals
from ecmf_pipeline.report.sections.corpus import in_order
from ecmf_pipeline.report.verdicts import (
    Verdict,
    fusion_verdict,
    headline_score,
    interval,
    judged,
    labels_verdict,
    majority_f1,
    training_verdict,
)

SYNTHETIC = (
    "This corpus is synthetic: its clips were generated, not recorded from people. "
    "The figures show that the machinery works, not accuracy on people."
)


def tiles(report: ReportInput, evaluation: Evaluation) -> list[Tile]:
    """The headline strip."""
    splits = [clip.split.value for clip in report.clips]
    by_split = [count(splits.count(name), name, name) for name in ("train", "candidate", "unlabeled") if name in splits]
    value, rests_on = headline_score(evaluation)
    fusion, refinement = fusion_verdict(evaluation), labels_verdict(evaluation, refined=bool(report.refined))
    best = evaluation.fusion_over_best_modality
    against = f"against {best.best}, {interval(best) or 'no interval'}" if best and best.best else "no comparison"
    labels = evaluation.labels
    known = labels is not None and labels.given is not None and labels.refined is not None
    set_aside = len({entry.clip_id for entry in report.quarantine})
    return [
        Tile(
            "Corpus",
            shortened(str(report.corpus.get("kind") or "not named"), 40),
            "synthetic: generated clips" if report.synthetic else "not marked as synthetic",
        ),
        Tile("Clips", count(len(report.clips)), ", ".join(by_split) or "none"),
        Tile("Weighted F1", value, rests_on),
        Tile("Fusion over best single modality", fusion.short, against, fusion.state),
        Tile(
            "Training labels after refinement",
            refinement.short,
            _accuracies(evaluation) if known else "accuracy not known",
            refinement.state,
        ),
        Tile("Quarantined", count(set_aside, "clip"), count(len(report.quarantine), "entry", "entries")),
    ]


def verdicts(report: ReportInput, evaluation: Evaluation, ablation: Ablation | None = None) -> list[Verdict]:
    """The answers to: how good, is it the fusion, are the labels better, and is the model the better for them?

    A fusion that has collapsed onto one modality is named besides.
    """
    answers = [_score(evaluation), fusion_verdict(evaluation)]
    answers.append(labels_verdict(evaluation, refined=bool(report.refined)))
    if report.refined or evaluation.refined_over_given:
        answers.append(training_verdict(evaluation))
    warnings = ablation.weights.warnings if ablation else ()
    return answers + [Verdict("worse", "collapsed", f"{text[:1].upper()}{text[1:]}.") for text in warnings]


def _score(evaluation: Evaluation) -> Verdict:
    value, rests_on = headline_score(evaluation)
    if evaluation.weighted_f1 is None:
        return Verdict("unknown", value, f"How good the predictions are cannot be known: {rests_on}.")
    sentence = f"The fused model reaches a weighted F1 of {value} ({rests_on})."
    least = majority_f1(evaluation)
    if least is None:
        return Verdict(None, value, sentence)
    if evaluation.weighted_f1 > least:
        return Verdict(None, value, f"{sentence} Always answering the commonest label would reach {score(least)}.")
    sentence += f" That is no better than always answering the commonest label, which reaches {score(least)}."
    return Verdict("worse", value, sentence)


def _accuracies(evaluation: Evaluation) -> str:
    labels = evaluation.labels
    if labels is None or labels.given is None or labels.refined is None:
        return ""
    return f"accuracy {score(labels.given.accuracy)} before, {score(labels.refined.accuracy)} after"


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
