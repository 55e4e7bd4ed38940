"""Corpus csv files as people save them: with a byte-order mark, Windows line ends, headers in odd case, blank lines."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ecmf_pipeline.corpora.listing import Finding, FindingKind, naming_some
from ecmf_pipeline.errors import CorpusError
from ecmf_pipeline.files import read_text

LINE_ENDS_AND_TABS = re.compile(r"\s*[\t-\r\x1c-\x1f\x85\u2028\u2029]\s*")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Table:
    """The cleaned rows of one csv file.

    Attributes:
        path: Where it was read.
        columns: Header names, lower case, in the file's order.
        rows: One cell for each column; see `clean_cell` and, for the first required column, `clean_name`.
        findings: Rows that were left out, and why.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    findings: tuple[Finding, ...] = field(default=())

    def column(self, name: str) -> list[str]:
        """One cell a row; empty ones when the table has no such column."""
        if name not in self.columns:
            return [""] * len(self.rows)
        position = self.columns.index(name)
        return [row[position] for row in self.rows]


def clean_cell(text: str) -> str:
    """One line without control characters or space around it; pandas' ``NaN`` means nothing at all."""
    if not text.isprintable():
        text = CONTROL.sub("", LINE_ENDS_AND_TABS.sub(" ", text))
    text = text.strip()
    return "" if text in {"nan", "NaN"} else unicodedata.normalize("NFC", text)


def clean_name(text: str) -> str:
    """A clip's name without space around it; control characters stay, so that the name is refused and not another's.

    Letters are composed (NFC), since some systems write file names decomposed and csv files not.
    """
    return unicodedata.normalize("NFC", text.strip())


def read_table(path: Path, required: Sequence[str]) -> Table:
    """Read a comma-separated file whose first line names its columns.

    Args:
        path: The file.
        required: Columns that must be there, the one with the clips' names first; header names match in any case and
            with space around them.

    Returns:
        The rows that have one cell for each column. Others are left out, each with a finding: a text with an unquoted
        comma would otherwise lose its second half. Missing cells at the end of a row are taken as blank.

    Raises:
        CorpusError: When a required column is missing or stands twice, or quotes are not closed.
        InputError: When the file is not UTF-8.
    """
    reader = csv.reader(io.StringIO(_read(path), newline=""), strict=True)
    rows: list[tuple[str, ...]] = []
    findings: list[Finding] = []
    try:
        header = next(reader, [])
        columns = tuple(clean_cell(cell).casefold() for cell in header)
        _check_header(path, columns, required)
        width, key = len(columns), columns.index(required[0])
        for cells in reader:
            row = tuple(clean_name(cell) if i == key else clean_cell(cell) for i, cell in enumerate(cells))
            if len(row) != width:
                if any(row[width:]):
                    findings.append(_too_wide(path, reader.line_num, row, width))
                    continue
                row = row[:width] + ("",) * (width - len(row))
            if any(row):
                rows.append(row)
    except csv.Error as error:
        raise CorpusError(
            f"{path}: line {reader.line_num} is not valid csv ({error})",
            'put a cell that holds commas, quotes or line ends in "double quotes", and double the quotes inside it',
        ) from error
    return Table(path, columns, tuple(rows), tuple(findings))


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror})", "it must be a file you may read") from error


def _check_header(path: Path, columns: tuple[str, ...], required: Sequence[str]) -> None:
    if not any(columns):
        raise CorpusError(f"{path} is empty", f"its first line must be: {','.join(required)}")
    for name in required:
        if columns.count(name) == 1:
            continue
        what = "no column" if name not in columns else "more than one column"
        hint = f"the first line must name the columns, as in: {','.join(required)}"
        if len(columns) == 1 and (separator := next((mark for mark in ";\t|" if mark in columns[0]), None)):
            hint = f"its columns are separated by {separator!r}: save it with commas"
        elif len(columns) == 1 and any(other in columns[0].split() for other in required if other != name):
            hint = "its columns seem separated by tabs or spaces: save it with commas"
        raise CorpusError(f"{path} has {what} {name!r}; found: {naming_some(columns, 12)}", hint)


def _too_wide(path: Path, line: int, row: tuple[str, ...], width: int) -> Finding:
    return Finding(
        FindingKind.MALFORMED_ROW,
        "",
        f"{path.name}: line {line} ({row[0][:60]!r}) has {len(row)} cells where the header has {width}; the row is not "
        'used: put a text that holds commas in "double quotes"',
    )
