"""Corpus csv files as people save them: with a byte-order mark, Windows line ends, headers in odd case, blank lines."""

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
from ecmf_pipeline.core.files import read_text
from ecmf_pipeline.corpora.listing import Finding, FindingKind, naming_some

LINE_ENDS_AND_TABS = re.compile(r"\s*[\t-\r\x1c-\x1f\x85\u2028\u2029]\s*")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f\ud800-\udfff]")
MOST_UNKNOWN = 0.5
"""Beyond this share of unknown labels it is not the corpus that is odd but the list of classes that is wrong."""
Resolve = Callable[[str], ClipId]
"""From a name in a csv file to a clip id; raises CorpusError for a name that cannot be one."""


@dataclass(frozen=True, slots=True)
class Table:
    """The cleaned rows of one csv file.

    Attributes:
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
    try:
        text = read_text(path)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror})", "it must be a file you may read") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
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


def resolve_names(table: Table, resolve: Resolve) -> tuple[list[ClipId | None], list[Finding]]:
    """The clip id of each row, None where the name is no clip's, with a finding that says why."""
    clip_ids: list[ClipId | None] = []
    findings: list[Finding] = []
    for name in table.column("name"):
        try:
            clip_ids.append(resolve(name))
        except CorpusError as error:
            kind = FindingKind.AMBIGUOUS_NAME if isinstance(error, AmbiguousName) else FindingKind.BAD_CLIP_ID
            findings.append(Finding(kind, "", f"{table.path.name}: {error.args[0]}; the row is not used: {error.hint}"))
            clip_ids.append(None)
    return clip_ids, findings


def values_by_clip(
    table: Table, clip_ids: Sequence[ClipId | None], column: str
) -> tuple[dict[ClipId, str], list[Finding]]:
    """One value a clip, in the table's order.

    A clip with two rows that say the same has it once; where they differ neither is believed, and the value is empty.
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
            message = f"{table.path.name}: {clip_id!r} has {first!r} and {value!r} as {column}: neither is used"
            findings.append(Finding(FindingKind.CONFLICTING_ROW, clip_id, message))
    values.update(dict.fromkeys(conflicts, ""))
    return values, findings


def doubled_rows(table: Table, clip_ids: Sequence[ClipId | None]) -> list[Finding]:
    """A finding for each clip that stands in a table more than once."""
    counts = Counter(clip_id for clip_id in clip_ids if clip_id is not None)
    return [
        Finding(FindingKind.DUPLICATE_ROW, clip_id, f"{table.path.name}: {clip_id!r} stands in {count} rows")
        for clip_id, count in counts.items()
        if count > 1
    ]


def keep_known_labels(
    values: Mapping[ClipId, str], labels: Sequence[str], source: str
) -> tuple[dict[ClipId, str], list[Finding]]:
    """Drop labels that are not among the classes; letter case is forgiven.

    Args:
        values: A label, or an empty text, by clip id.
        labels: The classes.
        source: The file and column they come from, for messages.

    Returns:
        The known labels by clip id, as the classes spell them, and one finding for each clip whose label is ignored.

    Raises:
        CorpusError: When more than half of the labels are unknown.
    """
    spelled = {label.casefold(): label for label in labels}
    known: dict[ClipId, str] = {}
    unknown: dict[ClipId, str] = {}
    for clip_id, value in values.items():
        if value:
            label = spelled.get(value.casefold())
            (unknown if label is None else known)[clip_id] = label or value
    if len(unknown) > MOST_UNKNOWN * (len(known) + len(unknown)):
        raise CorpusError(
            f"{source}: {len(unknown)} of {len(known) + len(unknown)} labels are not among the classes "
            f"{', '.join(labels)}; found: {naming_some(sorted(set(unknown.values())), 12)}",
            "set corpus.labels in params.yaml to the names that the file uses",
        )
    suggestion = {value: _suggestion(value, spelled) for value in unknown.values()}
    findings = [
        Finding(
            FindingKind.UNKNOWN_LABEL,
            clip_id,
            f"{source}: {clip_id!r} has the unknown label {value!r}, which is ignored{suggestion[value]}",
        )
        for clip_id, value in unknown.items()
    ]
    return known, findings


def spellings(values: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels of a corpus, sorted; of spellings that differ in case only, the one with small letters."""
    return tuple(sorted({value.casefold(): value for value in sorted(values) if value}.values()))


def _suggestion(value: str, spelled: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(value.casefold(), list(spelled), n=1)
    return f": did you mean {spelled[near[0]]!r}?" if near else f" (known: {', '.join(spelled.values())})"
