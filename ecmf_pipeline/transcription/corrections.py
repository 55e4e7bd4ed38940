"""Read the table of transcripts that people have corrected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.console import format_count, warn
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.tables import from_spreadsheet_text
from ecmf_pipeline.corpora.listing import quote_names
from ecmf_pipeline.corpora.names import match_names
from ecmf_pipeline.corpora.tables import read_table

_SHOWN = 5


def read_corrections(path: Path, clips: Sequence[Clip]) -> dict[ClipId, str]:
    """Read corrected transcripts: ``name,text`` (or ``clip_id,transcript``), in a csv or Excel file.

    Names match clips as in the other tables that people write; names of no clip are ignored with a warning.

    Args:
        path: The table.
        clips: The manifest.

    Returns:
        The text by clip id; empty if nobody speaks in the clip.

    Raises:
        InputError: If the table is damaged, has two texts for a clip, or no name is one of the corpus.
    """
    table = read_table(path, ("name", "text"), strict=True)
    for finding in table.findings:
        warn(finding.message)
    known = {clip.clip_id for clip in clips}
    names = [cell if cell in known else from_spreadsheet_text(cell) for cell in table.column("name")]
    texts = [from_spreadsheet_text(cell) for cell in table.column("text")]
    matched = match_names(names, known)
    corrections: dict[ClipId, str] = {}
    for name, text, line in zip(names, texts, table.lines, strict=True):
        clip_id = ClipId(matched.get(name, ""))
        if clip_id and corrections.setdefault(clip_id, text) != text:
            raise InputError(f"{path}: row {line}: clip {clip_id!r} has two different texts", "keep one of the rows")
    if unknown := [name for name in dict.fromkeys(names) if name not in matched]:
        shown = quote_names(unknown, _SHOWN)
        if not corrections:
            raise InputError(
                f"{path}: no name is in the corpus: the file has {shown}",
                f"use the clip ids of {paths.MANIFEST}, or set transcribe.corrections to null",
            )
        warn(f"{path}: {format_count(len(unknown), 'name')} of no clip ignored: {shown}")
    return corrections
