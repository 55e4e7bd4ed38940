"""Any corpus with a table: one row for each clip, which is a file or a part of one.

The table ``corpus.table`` has the column ``path``, relative to the corpus folder, and perhaps ``name``, ``label``,
``group``, ``split``, ``start``, ``end``, ``text`` and ``gold``; ``corpus.columns`` gives the names of columns that are
called otherwise. Without ``name``, the clip id is the path without extension, its folders joined by two underscores,
and for parts of a file the row of the part in it.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import TableColumn
from ecmf_pipeline.corpora.described import Described, Description, Source
from ecmf_pipeline.corpora.folder import SPLITS
from ecmf_pipeline.corpora.lengths import parse_seconds
from ecmf_pipeline.corpora.listing import FindingKind, quote_names
from ecmf_pipeline.corpora.names import ID_SEPARATOR
from ecmf_pipeline.corpora.scan import strip_media_extension
from ecmf_pipeline.corpora.tables import clean_name, find_table, reject_computed

OTHER_NAMES: Mapping[TableColumn, Sequence[str]] = {
    "path": ("file", "filename", "file_path", "filepath"),
    "name": ("clip_id",),
    "label": ("emotion", "sentiment", "class"),
    "group": ("speaker", "actor", "dialogue"),
    "split": ("mode", "set", "partition"),
    "start": ("start_time", "starttime"),
    "end": ("end_time", "endtime"),
    "text": ("transcript", "utterance", "transcription"),
    "gold": (),
}
"""The contents of columns, and other names of them that `guess_columns` accepts."""


def guess_columns(row: Mapping[str, str]) -> dict[TableColumn, str]:
    """Return the names of columns that differ from their content, for ``corpus.columns``.

    Args:
        row: The first row of the table by column. A column such as ``mode`` is the split only if it names one.
    """
    found = {
        column: next((name for name in (column, *others) if name in row), column)
        for column, others in OTHER_NAMES.items()
    }
    if found["split"] != "split" and row[found["split"]].casefold() not in SPLITS:
        del found["split"]
    return {column: name for column, name in found.items() if name != column}


class _Files:
    """Find the file of a path in the table."""

    def __init__(self, source: Source) -> None:
        self._roots = [f"{root.as_posix()}/" for root in (source.root.absolute(), source.root.resolve())]
        paths = [*source.scan.media, *source.scan.sounds]
        self._files = {clean_name(path): path for path in paths}
        self._of_stem = {strip_media_extension(name): path for name, path in reversed(self._files.items())}
        cases = Counter(name.casefold() for name in self._files)
        self._any_case = {name.casefold(): path for name, path in self._files.items() if cases[name.casefold()] == 1}

    def relative(self, cell: str) -> str:
        """Return a path relative to the corpus folder, without ``.`` and ``..`` unless it leaves the folder."""
        path = cell.replace("\\", "/")
        if root := next((root for root in self._roots if path.startswith(root)), ""):
            path = path.removeprefix(root)
        return posixpath.normpath(path) if path else ""

    def find(self, path: str) -> str:
        """Return the file of a relative path, with or without extension, in any case if only one fits; else empty."""
        return self._files.get(path) or self._of_stem.get(path) or self._any_case.get(path.casefold(), "")


def _read(source: Source) -> Iterator[Described]:
    root, config = source.root, source.config
    names = [config.columns.get(column, column).casefold() for column in OTHER_NAMES]
    required = [
        name for column, name in zip(OTHER_NAMES, names, strict=True) if column == "path" or column in config.columns
    ]
    found = find_table(root / config.table)
    table = source.table(found.relative_to(root).as_posix() if found.is_relative_to(root) else str(found), required)
    reject_computed(table)
    unused = [column for column in table.columns if column and column not in names]
    source.report(
        FindingKind.UNUSED_COLUMN, unused, "column", f"of {table.path.name} not read", "name it in corpus.columns"
    )
    files = _Files(source)
    parts: Counter[str] = Counter()
    wrong, unknown, outside = [], [], []
    used = set()
    for line, row in zip(table.lines, zip(*map(table.column, names), strict=True), strict=True):
        cells = dict(zip(OTHER_NAMES, row, strict=True))
        path = files.relative(cells["path"])
        start, end = parse_seconds(cells["start"] or "0"), parse_seconds(cells["end"] or "0")
        if start is None or end is None or start < 0 or (end <= start and (cells["start"] or cells["end"])):
            wrong.append(f"line {line}: {cells['start']} {cells['end']}")
            continue
        if cells["split"].casefold() not in {*SPLITS, ""}:
            unknown.append(cells["split"])
        if path.startswith(("/", "../")):
            outside.append(cells["path"])
        stem = ID_SEPARATOR.join(part for part in strip_media_extension(path).split("/") if part not in {"", ".."})
        parts[stem] += 1
        file = files.find(path)
        used.add(file)
        yield Described(
            cells["name"] or (f"{stem}_{parts[stem]:04}" if end else stem),
            emotion=cells["label"],
            path=file,
            group=cells["group"],
            split=SPLITS.get(cells["split"].casefold()),
            text=cells["text"],
            start=start,
            end=end,
            gold=cells["gold"],
        )
    if unknown:
        raise CorpusError(
            f"{table.path}: unknown splits: {quote_names(sorted(set(unknown)))}", f"use {', '.join(SPLITS)}"
        )
    source.report_unlisted(used, table.path.name)
    hint = "copy or link the files into it"
    source.report(FindingKind.LABEL_WITHOUT_FILE, outside, "path", "outside of the corpus folder", hint)
    source.report(FindingKind.MALFORMED_TIME, wrong, "row", "without valid times", "write seconds or HH:MM:SS,mmm")


TABLE = Description(
    kind="table",
    title="a corpus with a table",
    layout="a table labels.csv with the column path, one row for each clip",
    groups="the column group",
    fits=lambda glimpse: "path" in {*(row := glimpse.first_row("labels.csv")), *guess_columns(row)},
    read=_read,
    mapping=lambda _: {},
    published="the column split",
)
