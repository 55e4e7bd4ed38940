"""Read the csv files of a corpus.

The reader accepts byte-order marks, some encodings besides UTF-8 (`encodings`), Windows line ends, upper-case headers
and blank lines.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ecmf_pipeline.core.clips import ClipId
from ecmf_pipeline.core.errors import AmbiguousName, CorpusError
from ecmf_pipeline.corpora.encodings import decode_table
from ecmf_pipeline.corpora.listing import Finding, FindingKind, quote_names

LINE_ENDS_AND_TABS = re.compile(r"\s*[\t-\r\x1c-\x1f\x85\u2028\u2029]\s*")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f\ud800-\udfff]")
MAX_UNKNOWN_SHARE = 0.5
"""Above this share of unknown labels, the list of classes is considered wrong, which is an error."""
MAX_EXCERPT = 60
"""Maximum number of characters of a cell that a finding quotes."""
Resolve = Callable[[str], ClipId]
"""Return the clip id of a name in a csv file; raise CorpusError if the name is not a valid clip id."""


@dataclass(frozen=True, slots=True)
class Table:
    """The cleaned rows of one csv file.

    Attributes:
        path: The file.
        columns: Header names in lower case, in file order.
        rows: One cell per column, cleaned by `clean_cell`; the first required column is cleaned by `clean_name`.
        findings: The rows that were skipped.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    findings: tuple[Finding, ...] = field(default=())

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


def read_table(path: Path, required: Sequence[str]) -> Table:
    """Read a comma-separated file with a header line.

    Args:
        path: The file.
        required: The required columns, first the one with the clip names. Header names are compared without case and
            surrounding whitespace.

    Returns:
        The rows. Missing cells at the end of a row are blank. A row with too many cells is skipped, with a finding:
        a text with an unquoted comma would otherwise lose its second half.

    Raises:
        CorpusError: If a required column is missing or occurs twice, or quotes are not closed.
        InputError: If the encoding of the file is unknown.
    """
    try:
        text, findings = decode_table(path)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror})", "make it a readable file") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[str, ...]] = []
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


def _check_header(path: Path, columns: tuple[str, ...], required: Sequence[str]) -> None:
    if not any(columns):
        raise CorpusError(f"{path} is empty", f"add the header line {','.join(required)} and rows")
    for name in required:
        if columns.count(name) == 1:
            continue
        problem = "no column" if name not in columns else "more than one column"
        hint = f"name the columns in the first line, for example {','.join(required)}"
        if len(columns) == 1 and (separator := next((mark for mark in ";\t|" if mark in columns[0]), None)):
            hint = f"the columns are separated by {separator!r}; save the file with commas"
        elif len(columns) == 1 and any(other in columns[0].split() for other in required if other != name):
            hint = "the columns seem to be separated by tabs or spaces; save the file with commas"
        raise CorpusError(f"{path} has {problem} {name!r}; columns: {quote_names(columns, 12)}", hint)


def _too_wide(path: Path, line: int, row: tuple[str, ...], width: int) -> Finding:
    return Finding(
        FindingKind.MALFORMED_ROW,
        "",
        f"{path.name}: line {line} ({_excerpt(row[0])}) has {len(row)} cells, the header {width}: the row is ignored; "
        'put text with commas in "double quotes"',
    )


def resolve_names(table: Table, resolve: Resolve) -> tuple[list[ClipId | None], list[Finding]]:
    """Return the clip id of each row (None if the name is invalid), and a finding for each invalid name."""
    clip_ids: list[ClipId | None] = []
    findings: list[Finding] = []
    for name in table.column("name"):
        try:
            clip_ids.append(resolve(name))
        except CorpusError as error:
            kind = FindingKind.AMBIGUOUS_NAME if isinstance(error, AmbiguousName) else FindingKind.BAD_CLIP_ID
            message = f"{table.path.name}: {error.message}: the row is ignored; {error.hint}"
            findings.append(Finding(kind, "", message))
            clip_ids.append(None)
    return clip_ids, findings


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
                f"{table.path.name}: clip {clip_id!r} has two values in column {column}, {_excerpt(first)} and "
                f"{_excerpt(value)}: both are ignored; remove the wrong row"
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


def keep_known_labels(
    values: Mapping[ClipId, str], labels: Sequence[str], source: str
) -> tuple[dict[ClipId, str], list[Finding]]:
    """Drop labels that are not among the classes; upper and lower case are equivalent.

    Args:
        values: The label of each clip id, or an empty string.
        labels: The classes.
        source: File and column of the values, for messages.

    Returns:
        The known label of each clip id, in the spelling of ``labels``, and a finding for each unknown label.

    Raises:
        CorpusError: If more than half of the labels are unknown.
    """
    spelled = {label.casefold(): label for label in labels}
    known: dict[ClipId, str] = {}
    unknown: dict[ClipId, str] = {}
    for clip_id, value in values.items():
        if value:
            label = spelled.get(value.casefold())
            (unknown if label is None else known)[clip_id] = label or value
    if len(unknown) > MAX_UNKNOWN_SHARE * (len(known) + len(unknown)):
        raise CorpusError(
            f"{source}: {len(unknown)} of {len(known) + len(unknown)} labels are not among the classes "
            f"{', '.join(labels)}; unknown labels: {quote_names(sorted(set(unknown.values())), 12)}",
            "set corpus.labels in params.yaml to the labels of the file",
        )
    suggestion = {value: _suggestion(value, spelled) for value in unknown.values()}
    findings = [
        Finding(
            FindingKind.UNKNOWN_LABEL,
            clip_id,
            f"{source}: clip {clip_id!r} has the unknown label {_excerpt(value)}: the label is ignored; "
            f"{suggestion[value]}",
        )
        for clip_id, value in unknown.items()
    ]
    return known, findings


def distinct_labels(values: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels, sorted; of spellings that differ only in case, the last in sort order is kept."""
    return tuple(sorted({value.casefold(): value for value in sorted(values) if value}.values()))


def _suggestion(value: str, spelled: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(value.casefold(), list(spelled), n=1)
    return f"did you mean {spelled[near[0]]!r}?" if near else f"use one of {', '.join(spelled.values())}"


def _excerpt(text: str) -> str:
    """Quote a cell; a long one is cut."""
    return repr(text if len(text) <= MAX_EXCERPT else f"{text[:MAX_EXCERPT]}...")
