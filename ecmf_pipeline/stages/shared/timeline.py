"""Write the timeline of recordings: the prediction of each clip that is a span of a file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Clips
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.core.predictions import Basis, PredictionTable
from ecmf_pipeline.core.tables import as_spreadsheet_text, seal_of, write_sealed_csv


@dataclass(frozen=True, slots=True)
class Moment:
    """The prediction of one clip of a recording.

    Attributes:
        path: The recording.
        clip_id: The clip.
        start: Start in seconds from the start of the recording.
        end: End in seconds.
        text: Its words; empty if unknown.
        label: Most likely label; empty if nothing of the clip is usable, or if it is too uncertain.
        basis: What the label rests on; zero-shot: nothing has verified it.
        probs: Probability of each label; empty without a label.
    """

    path: str
    clip_id: str
    start: float
    end: float
    text: str
    label: str
    basis: str
    probs: dict[str, float]


def moments_of(
    clips: Sequence[Clip], probs: NDArray[np.float32], label_names: Sequence[str], basis: Basis
) -> list[Moment]:
    """Return the moments of the clips that are spans of a file, by recording and time.

    Args:
        clips: The clips, n of them.
        probs: Probability of each label, (n, C); a row of NaN if nothing of a clip is usable.
        label_names: The labels, C of them.
        basis: What the predictions rest on.
    """
    moments = []
    for clip, row in sorted(zip(clips, probs.tolist(), strict=True), key=lambda pair: (pair[0].path, pair[0].start)):
        if clip.end:
            by_label = (
                {} if math.isnan(row[0]) else {name: round(p, 6) for name, p in zip(label_names, row, strict=True)}
            )
            label = max(by_label, key=by_label.__getitem__, default="")
            moments.append(
                Moment(clip.path, clip.clip_id, clip.start, clip.end, clip.transcript, label, basis.value, by_label)
            )
    return moments


def write_timelines(labels: paths.Labels, clips: Sequence[Clip], table: PredictionTable) -> None:
    """Write the timeline of the corpus as csv and JSON; remove an earlier one if no clip is a span of a file."""
    columns = Clips.of(clips)
    spans = columns.where(columns.column("end") > 0)  # a million clips as objects take more than a gigabyte
    rows = {clip_id: row for row, clip_id in enumerate(table.clip_ids)} if len(spans) else {}
    known = [clip for clip in spans if clip.clip_id in rows]
    is_usable = np.array([not flag for flag in table.flags], bool)
    probs = np.where(is_usable[:, None], table.probs, np.nan)[[rows[clip.clip_id] for clip in known]]
    moments = moments_of(known, probs, table.label_names, table.basis)
    for path in (paths.timeline(labels, "csv"), paths.timeline(labels, "json")):
        if moments:
            write_timeline(path, moments, table.label_names)
        else:
            path.unlink(missing_ok=True)
            seal_of(path).unlink(missing_ok=True)


def write_timeline(path: Path, moments: Sequence[Moment], label_names: Sequence[str]) -> None:
    """Write a timeline as csv, or as JSON if the file name ends so; an empty cell of a probability is unknown."""
    if path.suffix.lower() == ".json":
        write_atomic(path, json.dumps([asdict(one) for one in moments], ensure_ascii=False, indent=1) + "\n")
        return
    header = ["path", "clip_id", "start", "end", "text", "label", "basis", *(f"p_{name}" for name in label_names)]
    rows = (
        [
            *map(as_spreadsheet_text, (one.path, one.clip_id)),
            f"{one.start:.3f}",
            f"{one.end:.3f}",
            as_spreadsheet_text(one.text),
            one.label,
            one.basis,
            *(f"{one.probs[name]:.6f}" if one.probs else "" for name in label_names),
        ]
        for one in moments
    )
    write_sealed_csv(path, header, rows)
