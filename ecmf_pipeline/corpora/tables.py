"""Read the tables that people write: labels, votes, verdicts, transcripts, submissions.

All of them are read in the same way: csv files with commas, semicolons or tabs, or Excel files. The reader accepts
byte-order marks, some encodings besides UTF-8 (`encodings`), Windows line ends, upper-case headers, other names of a
column (`SYNONYMS`), blank lines, and the line ``sep=;`` that Excel puts before the header.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ecmf_pipeline.core.clips import ClipId
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.encodings import decode_table
from ecmf_pipeline.corpora.listing import Finding, FindingKind, quote_names

SYNONYMS = (("name", "clip_id"), ("label", "discrete"), ("text", "transcript"))
"""Names of the same column. The project itself writes both names of a pair, and reads both everywhere."""
COMPUTED_COLUMNS = {"refined_label": "refine", "out_of_fold": "predict"}
"""Columns that only tables of this project have, and the command that writes them."""
SEPARATORS = ",;\t"
EXCEL_EXTENSIONS = (".xlsx", ".xls", ".xlsb", ".xlsm", ".ods")
_OTHER_EXTENSIONS = (".tsv", *EXCEL_EXTENSIONS)
"""A table of a corpus may have one of these extensions in place of ``.csv``."""
_EXCEL_STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""First bytes of Excel and OpenDocument files (zip, and Microsoft's compound files), whatever their names are."""

LINE_ENDS_AND_TABS = re.compile(r"\s*[\t-\r\x1c-\x1f\x85\u2028\u2029]\s*")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f\ud800-\udfff]")
MAX_EXCERPT = 60
"""Maximum number of characters of a cell that a finding quotes."""


@dataclass(frozen=True, slots=True)
class Table:
    """The cleaned rows of one table.

    Attributes:
        path: The file.
        columns: Header names in lower case, in file order; required columns have the required name.
        rows: One cell per column, cleaned by `clean_cell`; the first required column is cleaned by `clean_name`.
        lines: The line of each row in the file; in an Excel file its row.
        findings: The rows that were skipped, and the encoding if it is not UTF-8.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    findings: tuple[Finding, ...] = field(default=())
    lines: tuple[int, ...] = field(default=())

    def column(self, name: str) -> list[str]:
        """Return one cell per row; empty cells if the table has no such column."""
        if name not in self.columns:
            return [""] * len(self.rows)
        position = self.columns.index(name)
        return [row[position] for row in self.rows]


def clean_cell(text: str) -> str:
    """Return the text as one line, without control characters and surrounding whitespace; ``NaN`` becomes empty."""
    if not text.isprintable():
        text = CONTROL.sub("", LINE_ENDS_AND_TABS.sub(" ", text))
    text = text.strip()
    return "" if text in {"nan", "NaN"} else unicodedata.normalize("NFC", text)


def clean_name(text: str) -> str:
    """Strip a clip name and normalise it to NFC.

    Some systems store file names decomposed (NFD), while csv files are composed. Control characters are kept: without
    them the name could match another clip. `validate_clip_id` rejects it instead.
    """
    return unicodedata.normalize("NFC", text.strip())


def find_table(path: Path) -> Path:
    """Return ``path``, or the same table as a tsv or Excel file, or in another case, if only that exists."""
    if path.exists():
        return path
    names = [path.name, *(path.with_suffix(extension).name for extension in _OTHER_EXTENSIONS)]
    try:
        listed = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:  # the caller reports it
        return path
    spelled = {entry.casefold(): entry for entry in listed} | {entry: entry for entry in listed}
    found = (spelled[text] for name in names for text in (name, name.casefold()) if text in spelled)
    return path.with_name(next(found, path.name))


def read_table(path: Path, required: Sequence[str], *, strict: bool = False) -> Table:
    """Read a table with a header line.

    Args:
        path: The file. Text has the separator of `SEPARATORS` with which the header has all required columns.
        required: The required columns, first the one with the clip names. Header names are compared without case and
            surrounding whitespace; `SYNONYMS` are equal.
        strict: Whether a row with too many cells is an error.

    Returns:
        The rows. Missing cells at the end of a row are blank. A row with too many cells is skipped, with a finding:
        a text with an unquoted comma would otherwise lose its second half.

    Raises:
        CorpusError: If a required column is missing or occurs twice, or quotes are not closed.
        InputError: If the encoding of the file is unknown.
    """
    try:
        with path.open("rb") as file:
            is_excel = file.read(4) in _EXCEL_STARTS
        if is_excel:
            from ecmf_pipeline.corpora.excel import excel_rows  # lazy: most corpora have no such file

            records, findings = excel_rows(path)
        else:
            text, findings = decode_table(path)
            records = _csv_rows(path, text, _separator(text, required))
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror})", "make it a readable file") from error
    columns = _required_names(path, _header(cells for _, cells in records), required)
    width, key = len(columns), columns.index(required[0])
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    for line, cells in records:
        row = tuple(clean_name(cell) if i == key else clean_cell(cell) for i, cell in enumerate(cells))
        if len(row) != width:
            if any(row[width:]):
                findings.append(_too_wide(path, line, row, width, strict=strict))
                continue
            row = row[:width] + ("",) * (width - len(row))
        if any(row):
            rows.append(row)
            lines.append(line)
    return Table(path, columns, tuple(rows), tuple(findings), tuple(lines))


def reject_computed(table: Table) -> None:
    """Raise if the labels of a table are those of this project, not of people.

    Raises:
        CorpusError: If it is refined.csv or a table of predictions, which also have a column ``label``.
    """
    if made_by := next((COMPUTED_COLUMNS[column] for column in table.columns if column in COMPUTED_COLUMNS), None):
        raise CorpusError(
            f"{table.path} has the labels that {made_by} computed, not those of people",
            "write a table with the names of the clips and the labels that people gave them",
        )


def _csv_rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the last line and the cells of each row."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise CorpusError(
            f"{path}: line {reader.line_num} is not valid csv ({error})",
            'put a cell that holds commas, quotes or line ends in "double quotes", and double the quotes inside it',
        ) from error


def _separator(text: str, required: Sequence[str]) -> str:
    """Return the separator with which the header has all required columns; a comma if none has."""
    for separator in SEPARATORS:
        try:
            names = set(_header(csv.reader(io.StringIO(text, newline=""), delimiter=separator)))
        except csv.Error:
            continue
        if all(not names.isdisjoint(_synonyms(name)) for name in required):
            return separator
    return ","


def _header(records: Iterable[Sequence[str]]) -> list[str]:
    """Return the first row in lower case that is neither blank nor Excel's ``sep=;``; consume the rows up to it."""
    cleaned = ([clean_cell(cell).casefold() for cell in cells] for cells in records)
    return next((row for row in cleaned if any(row) and not (row[0].startswith("sep=") and not any(row[1:]))), [])


def _synonyms(name: str) -> tuple[str, ...]:
    return next((names for names in SYNONYMS if name in names), (name,))


def _required_names(path: Path, columns: list[str], required: Sequence[str]) -> tuple[str, ...]:
    """Return the columns, the required ones under the required name.

    Raises:
        CorpusError: If a required column is missing or occurs twice.
    """
    if not any(columns):
        raise CorpusError(f"{path} is empty", f"add the header line {','.join(required)} and rows")
    for name in required:
        synonyms = _synonyms(name)
        found = [column for column in columns if column in synonyms]
        if len(found) == 1:
            columns[columns.index(found[0])] = name
            continue
        listed = " or ".join(map(repr, sorted(synonyms, key=name.__ne__)))
        hint = f"name the columns in the first line, for example {','.join(required)}"
        if found:
            raise CorpusError(
                f"{path} has more than one column {listed}; columns: {quote_names(columns, 12)}", "keep one of them"
            )
        if len(columns) == 1 and (separator := next((mark for mark in "|;\t" if mark in columns[0]), None)):
            hint = f"{hint}; separate them by commas instead of {separator!r}"
        elif len(columns) == 1 and any(other in columns[0].split() for other in required if other != name):
            hint = "the columns seem to be separated by spaces; save the file with commas"
        raise CorpusError(f"{path} has no column {listed}; columns: {quote_names(columns, 12)}", hint)
    return tuple(columns)


def _too_wide(path: Path, line: int, row: tuple[str, ...], width: int, *, strict: bool) -> Finding:
    """Return the finding about a row with too many cells.

    Raises:
        CorpusError: If ``strict``.
    """
    problem = f"line {line} ({excerpt(row[0])}) has {len(row)} cells, the header {width}"
    hint = 'put text with commas in "double quotes"'
    if strict:
        raise CorpusError(f"{path}: {problem}", hint)
    return Finding(FindingKind.MALFORMED_ROW, "", f"{path.name}: {problem}: the row is ignored; {hint}")


def values_by_clip(
    table: Table, clip_ids: Sequence[ClipId | None], column: str
) -> tuple[dict[ClipId, str], list[Finding]]:
    """Return the value of each clip, in table order.

    If the rows of a clip differ, its value is empty and a finding reports the conflict.
    """
    values: dict[ClipId, str] = {}
    conflicts: set[ClipId] = set()
    findings: list[Finding] = []
    for clip_id, value in zip(clip_ids, table.column(column), strict=True):
        if clip_id is None:
            continue
        first = values.setdefault(clip_id, value)
        if first != value and clip_id not in conflicts:
            conflicts.add(clip_id)
            message = (
                f"{table.path.name}: clip {clip_id!r} has two values in column {column}, {excerpt(first)} and "
                f"{excerpt(value)}: both are ignored; remove the wrong row"
            )
            findings.append(Finding(FindingKind.CONFLICTING_ROW, clip_id, message))
    values.update(dict.fromkeys(conflicts, ""))
    return values, findings


def duplicate_rows(table: Table, clip_ids: Sequence[ClipId | None]) -> list[Finding]:
    """Return a finding for each clip that has several rows."""
    counts = Counter(clip_id for clip_id in clip_ids if clip_id is not None)
    return [
        Finding(
            FindingKind.DUPLICATE_ROW,
            clip_id,
            f"{table.path.name}: clip {clip_id!r} has {count} rows; keep one of them",
        )
        for clip_id, count in counts.items()
        if count > 1
    ]


def excerpt(text: str) -> str:
    """Quote a cell; a long one is cut."""
    return repr(text if len(text) <= MAX_EXCERPT else f"{text[:MAX_EXCERPT]}...")
