"""What the face branch saw."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from ecmf_pipeline.clips import MAX_CLIP_ID_BYTES
from ecmf_pipeline.report.blocks import (
    Block,
    Folded,
    Notice,
    Paragraph,
    Photograph,
    Section,
    Table,
    count,
    foreign,
    shortened,
)
from ecmf_pipeline.report.inputs import FaceSheet, ReportInput

_HOW_TO_READ = (
    "Above, one whole frame with the face's box and landmarks (its crop has a green edge); below, every crop that "
    "features were computed from, with its time in the clip, the detector's score (s) and the landmark quality (q, 0 "
    "to 1: low where the face is turned away, blurred or small). All crops of a clip should show one person."
)


def faces_section(report: ReportInput) -> Sequence[Section]:
    """Contact sheets of some clips; no section where none were asked for."""
    if report.no_face_sheets:
        return [Section("faces", "Faces", [Notice(report.no_face_sheets)])]
    if not report.face_sheets:
        return []
    shown = [sheet for sheet in report.face_sheets if sheet.picture]
    blocks: list[Block] = []
    if shown:
        blocks += [Paragraph(f"{count(len(shown), 'clip')}, chosen for what can go wrong. {_HOW_TO_READ}")]
        blocks += [_photograph(sheet) for sheet in shown]
    if missing := [sheet for sheet in report.face_sheets if not sheet.picture]:
        rows = [
            [foreign(sheet.clip_id, MAX_CLIP_ID_BYTES), foreign(sheet.why), foreign(sheet.problem)] for sheet in missing
        ]
        are = "1 chosen clip is" if len(missing) == 1 else f"{count(len(missing))} chosen clips are"
        blocks.append(Notice(f"{are} not shown: the media cannot be read on this machine, or not as they were."))
        blocks.append(Folded("Which", [Table("Clips that are not shown", ["Clip", "Chosen as", "Why not"], rows)]))
    return [Section("faces", "Faces", blocks)]


def _photograph(sheet: FaceSheet) -> Photograph:
    address = f"data:image/jpeg;base64,{base64.b64encode(sheet.picture).decode()}"
    name = foreign(sheet.clip_id, MAX_CLIP_ID_BYTES)
    return Photograph(
        address,
        alt=f"Contact sheet of {shortened(sheet.clip_id, 80)}: {sheet.about}",
        caption=name + f": {sheet.why}. {sheet.about}",
        width=sheet.width,
        height=sheet.height,
    )
