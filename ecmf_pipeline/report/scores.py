"""Report how good the predictions are: verdicts in plain sentences, each modality alone, fusion, and the mistakes."""

from __future__ import annotations

from dataclasses import dataclass

from ecmf_pipeline.core.console import format_part
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Bar,
    Block,
    Cell,
    Figure,
    Heading,
    Interval,
    Mark,
    Notice,
    Paragraph,
    Section,
    State,
    Table,
    bars,
    count,
    foreign,
    in_order,
    intervals,
    percent,
    score,
    shortened,
    signed,
)
from ecmf_pipeline.report.inputs import Confusion, Difference, Evaluation, LabelScores, ReportInput, Scores

GIVEN_CAVEAT = "This is judged by the given labels, some of which may be wrong."


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer, in a few words and with the numbers it rests on; ``state`` is None for what is no comparison."""

    state: State | None
    short: str
    sentence: str


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
    return f"{signed(difference.difference)} ({bounds(difference) or 'no interval'})"


def labels_verdict(evaluation: Evaluation, *, refined: bool) -> Verdict:
    """Whether refinement, if it ran, raised the training labels' accuracy."""
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


def bounds(difference: Difference) -> str:
    """The ends of the interval; empty when it is not known."""
    if difference.low is None or difference.high is None:
        return ""
    return f"{signed(difference.low)} to {signed(difference.high)}"


def _compared(difference: Difference, *, first: str, second: str, judged_by: str | None) -> Verdict:
    amount, low, high = difference.difference or 0.0, difference.low, difference.high
    caveat = f" {GIVEN_CAVEAT}" if judged_by == "given" else ""
    shown = f"weighted F1 {signed(amount)}"
    if low is None or high is None:
        sentence = (
            f"Whether {first[:1].lower()}{first[1:]} beat {second} cannot be known: {shown}, but no interval says how "
            "sure that is."
        )
        return Verdict("unknown", f"no interval, {signed(amount)}", sentence + caveat)
    shown += f", 95% interval {bounds(difference)}"
    if low > 0:
        return Verdict("better", f"better, {signed(amount)}", f"{first} beat {second}: {shown}.{caveat}")
    if high < 0:
        sentence = f"{first} did not beat {second}, it did worse: {shown}.{caveat}"
        return Verdict("worse", f"worse, {signed(amount)}", sentence)
    sentence = f"{first} did not demonstrably beat {second}: {shown}. The interval includes zero.{caveat}"
    return Verdict("same", f"not shown, {signed(amount)}", sentence)


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
    return f" ({share})" if (share := format_part(part, whole, "by verdicts")) else ""


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
