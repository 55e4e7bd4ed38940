"""The table of transcripts, original, enriched and translated, that the text branch reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from ecmf_pipeline.encoders.base import ClipText
from ecmf_pipeline.errors import InputError, MissingInput
from ecmf_pipeline.files import read_text, write_atomic

_COLUMNS = ["clip_id", "original", "enriched", "translation"]
_FORMER_COLUMNS = _COLUMNS[:-1]
"""Of tables from before there were translations."""


def write_texts(path: Path, texts: Mapping[str, ClipText]) -> bool:
    """Write the table, sorted by clip id.

    Returns:
        Whether the file's bytes changed.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(
        [clip_id, text.original, text.enriched, text.translation] for clip_id, text in sorted(texts.items())
    )
    return write_atomic(path, table.getvalue(), only_if_changed=True)


def read_texts(path: Path) -> dict[str, ClipText]:
    """Read the table by clip id.

    Raises:
        MissingInput: When `rewrite` has not run yet.
        InputError: When it is damaged.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing", "run `ecmf-pipe rewrite` (or `dvc repro`) first")
    header, *rows = list(csv.reader(io.StringIO(read_text(path)))) or [[]]
    if header not in (_COLUMNS, _FORMER_COLUMNS) or any(len(row) != len(header) for row in rows):
        raise InputError(f"{path} is damaged", "run `ecmf-pipe rewrite` again")
    return {clip_id: ClipText(*texts) for clip_id, *texts in rows}
