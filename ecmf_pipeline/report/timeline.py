"""Report the predictions of recordings that were cut into clips, over time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Collapsible,
    Figure,
    Heading,
    Paragraph,
    Section,
    Table,
    corpus_text,
    count,
    ordered_labels,
    percent,
)
from ecmf_pipeline.report.charts import PALETTE, Colour, Stretch, strips
from ecmf_pipeline.report.inputs import PredictedClip, ReportInput

ROW_SECONDS = 300.0
"""Seconds of a recording in one strip."""
MAX_RECORDINGS = 20
"""Number of recordings with a timeline on the page; the table of `predict` has all."""
UNUSABLE = "not usable"
_OTHER: Colour = "grey"


def timeline_section(report: ReportInput) -> list[Section]:
    """Show the predicted label of each clip of a recording; nothing if no clip is a span of a file."""
    recordings: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(report.clips, key=lambda clip: clip.start):
        if clip.end:
            recordings[clip.path].append(clip)
    if not recordings:
        return []
    predicted = {prediction.clip_id: prediction for prediction in report.predictions}
    labels = ordered_labels(report.labels, (one.label for one in report.predictions))
    colours: dict[str, Colour] = dict(zip(labels, PALETTE[:-1], strict=False))
    shown = sorted(recordings.items())[:MAX_RECORDINGS]
    blocks: list[Block] = [
        Paragraph(
            f"{count(sum(map(len, recordings.values())), 'clip')} of {count(len(recordings), 'recording')}: the label "
            "that the model predicts for each, by time. Clips of training are predicted out of fold."
        )
    ]
    for path, clips in shown:
        blocks += _recording(path, clips, predicted, colours)
    if hidden := len(recordings) - len(shown):
        blocks.append(Paragraph(f"{count(hidden, 'more recording')}: see the tables of timelines that predict writes."))
    return [Section("timeline", "Timeline of recordings", blocks)]


def _recording(
    path: str, clips: Sequence[Clip], predicted: Mapping[str, PredictedClip], colours: Mapping[str, Colour]
) -> list[Block]:
    names = {clip.clip_id: _label(predicted.get(clip.clip_id)) for clip in clips}
    counts = Counter(names.values())
    legend = {name: colours.get(name, _OTHER) for name in (*colours, UNUSABLE) if counts[name]}
    sentence = ", ".join(f"{name} {number}" for name, number in counts.most_common())
    rows: defaultdict[int, list[Stretch]] = defaultdict(list)
    for clip in clips:
        text = f"{_clock(clip.start)} {names[clip.clip_id]}: {clip.transcript}"
        for row in range(int(clip.start // ROW_SECONDS), int((clip.end - 1e-3) // ROW_SECONDS) + 1):
            start, end = max(clip.start - row * ROW_SECONDS, 0.0), min(clip.end - row * ROW_SECONDS, ROW_SECONDS)
            rows[row].append(Stretch(start, end, colours.get(names[clip.clip_id], _OTHER), text))
    longest = ROW_SECONDS if max(rows) else max(clip.end for clip in clips)
    drawing = strips(
        [(_clock(row * ROW_SECONDS), rows[row]) for row in range(max(rows) + 1)],
        length=longest,
        alt=f"Timeline of {path}: {sentence}.",
        legend=legend,
    )
    cells = [[_clock(c.start), _clock(c.end), names[c.clip_id], *_cells(c, predicted.get(c.clip_id))] for c in clips]
    table = Table(f"Clips of {path}", ["Start", "#End", "Label", "#Probability", "Words"], cells)
    caption = f"Predicted label by time; each strip is {_clock(longest)} long. Clips: {sentence}."
    return [
        Heading(path),
        Figure(drawing, caption),
        Collapsible(f"Table of {count(len(clips), 'clip')}", [table]),
    ]


def _label(prediction: PredictedClip | None) -> str:
    return prediction.label if prediction is not None and not prediction.flag else UNUSABLE


def _cells(clip: Clip, prediction: PredictedClip | None) -> tuple[str, str]:
    is_usable = prediction is not None and not prediction.flag
    return percent(prediction.probability) if prediction and is_usable else UNKNOWN, corpus_text(clip.transcript)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
