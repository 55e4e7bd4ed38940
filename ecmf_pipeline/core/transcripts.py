"""The table of transcripts, original, enriched and translated, that the text branch reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import read_text, write_atomic

_COLUMNS = ["clip_id", "original", "enriched", "translation"]


@dataclass(frozen=True, slots=True)
class ClipText:
    """The text branch's view of a clip; "" stands for what there is none of.

    Attributes:
        original: What was said.
        enriched: The same, enriched by the LLM.
        translation: The same in the corpus' other language.
    """

    original: str
    enriched: str = ""
    translation: str = ""

    def having(self, columns: Sequence[str]) -> list[str]:
        """The texts of some columns, in their order; none where one of them is blank."""
        texts: list[str] = [getattr(self, column) for column in columns]
        return texts if all(text.strip() for text in texts) else []


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
    if header != _COLUMNS or any(len(row) != len(header) for row in rows):
        raise InputError(f"{path} is damaged", "run `ecmf-pipe rewrite` again")
    return {clip_id: ClipText(*texts) for clip_id, *texts in rows}
