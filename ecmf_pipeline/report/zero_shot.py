"""Report labels that nothing has verified: how many there are, and how far the sources agree."""

from __future__ import annotations

from dataclasses import dataclass

from ecmf_pipeline.core import paths
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Figure,
    Heading,
    Notice,
    Paragraph,
    State,
    Table,
    Tile,
    count,
    name_text,
    ordered_labels,
    percent,
    score,
)
from ecmf_pipeline.report.charts import Bar, bars
from ecmf_pipeline.report.inputs import ReportInput
from ecmf_pipeline.report.metrics import Evaluation, ZeroShot

UNVERIFIED = "zero-shot, unverified"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """A conclusion in a few words and as a sentence with its figures; ``state`` is None if it is not a comparison."""

    state: State | None
    short: str
    sentence: str


def zero_shot_tiles(evaluation: Evaluation, labels: ZeroShot) -> list[Tile]:
    """Return the headline figures about labels and verdicts."""
    tiles = [
        Tile(f"Labels, {UNVERIFIED}", f"{labels.labelled} of {labels.clips}", f"{labels.abstained} too uncertain"),
        Tile(
            "Verdicts",
            f"{labels.verdicts} of {labels.verdicts_needed}",
            f"models are trained from {labels.verdicts_needed} of two labels on",
        ),
    ]
    if evaluation.judged_by == "gold":
        tiles.append(
            Tile(
                f"Weighted F1, {UNVERIFIED} labels",
                score(evaluation.weighted_f1),
                f"evaluated on gold labels, {count(evaluation.clips, 'clip')}",
            )
        )
    return tiles


def zero_shot_conclusions(evaluation: Evaluation, labels: ZeroShot) -> list[Conclusion]:
    """Return what is known about the labels in plain sentences."""
    voting = [name for name, source in labels.sources.items() if source.votes]
    conclusions = [
        Conclusion(
            None,
            UNVERIFIED,
            f"Zero-shot, unverified: {count(labels.labelled, 'clip')} labelled by {count(len(voting), 'source')}"
            f"{' (' + ', '.join(voting) + ')' if voting else ''}; {count(labels.abstained, 'clip')} without label, "
            "because their most probable label is too uncertain.",
        )
    ]
    if evaluation.judged_by == "gold":
        conclusions.append(
            Conclusion(
                None,
                "gold labels",
                f"On {count(evaluation.clips, 'clip')} with a gold label, the most probable label has a weighted F1 of "
                f"{score(evaluation.weighted_f1)} and an accuracy of {score(evaluation.accuracy)}.",
            )
        )
    else:
        conclusions.append(
            Conclusion("unknown", "no accuracy", "The accuracy of these labels is unknown: there are no gold labels.")
        )
    if labels.verdicts:
        conclusions.append(
            Conclusion(
                None,
                "verdicts",
                f"The sources agree with {labels.verdicts_agreed} of {count(labels.verdicts, 'verdict')}. Their clips "
                "were chosen for labelling and not drawn at random, so this is no accuracy of all labels.",
            )
        )
    return conclusions


def next_step(labels: ZeroShot) -> str:
    """Return what a person should do next."""
    return (
        f"{labels.verdicts} of {labels.verdicts_needed} verdicts: label the first clips of {paths.NEXT} in "
        f"{paths.VERDICTS} and run dvc repro. From {labels.verdicts_needed} verdicts of two labels on, models are "
        "trained and calibrated on them."
    )


def zero_shot_blocks(report: ReportInput, evaluation: Evaluation, labels: ZeroShot) -> list[Block]:
    """Show the labels by class, the sources, and their agreement."""
    blocks: list[Block] = [
        Notice(
            "Zero-shot, unverified: this section shows agreement, not accuracy."
            if evaluation.judged_by != "gold"
            else "Zero-shot, unverified: the labels come from models that saw no label of this corpus; the scores use "
            "gold labels."
        )
    ]
    if evaluation.judged_by == "gold":
        row = [count(evaluation.clips), score(evaluation.weighted_f1), score(evaluation.accuracy)]
        blocks.append(
            Table(
                f"Most probable labels ({UNVERIFIED}), evaluated on gold labels of clips without a verdict",
                ["#Clips", "#Weighted F1", "#Accuracy"],
                [row],
            )
        )
    names = [name for name in ordered_labels(report.labels, labels.labels) if name in labels.labels]
    if names:
        groups = [(name, [Bar(float(labels.labels[name]), count(labels.labels[name]))]) for name in names]
        rows = [[name_text(name), count(labels.labels[name])] for name in names]
        table = Table(f"Clips by label ({UNVERIFIED})", ["Label", "#Clips"], rows)
        caption = f"Clips by label ({UNVERIFIED})."
        blocks.append(Figure(bars(groups, alt=caption), caption, table))
    if labels.agreement is not None:
        blocks.append(
            Paragraph(
                f"The sources agree in {percent(labels.agreement, 1)} of the pairs of votes on the same clip. Sources "
                "can agree and be wrong."
            )
        )
    sources = [
        [name_text(name, 60), count(source.votes), UNKNOWN if source.weight is None else f"{source.weight:.2f}"]
        for name, source in labels.sources.items()
    ]
    blocks += [
        Heading("Sources"),
        Table(f"Sources of the labels ({UNVERIFIED})", ["Source", "#Votes", "#Weight in the pool"], sources),
    ]
    if labels.confidence is not None:
        blocks.append(
            Paragraph(
                f"Mean confidence of the labels: {percent(labels.confidence)}. It follows the expected accuracy of the "
                "sources (vote.zero_shot.accuracy) and is not calibrated on this corpus."
            )
        )
    return blocks
