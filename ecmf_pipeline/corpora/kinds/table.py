"""Any corpus with a table: one row for each clip, which is a file or a part of one.

The table ``corpus.table`` has the column ``path``, relative to the corpus folder, and perhaps ``name``, ``label``,
``group``, ``split``, ``start``, ``end``, ``text`` and ``gold``; ``corpus.columns`` gives the names of columns that are
called otherwise. Without ``name``, the clip id is the path without extension, its folders joined by two underscores,
and for parts of a file the row of the part in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

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


def guess_columns(header: Collection[str]) -> dict[TableColumn, str]:
    """Return the names of columns that differ from their content, for ``corpus.columns``."""
    found = {
        column: next((name for name in (column, *others) if name in header), column)
        for column, others in OTHER_NAMES.items()
    }
    return {column: name for column, name in found.items() if name != column}


def _read(source: Source) -> Iterator[Described]:
    root, config = source.root, source.config
    names = [config.columns.get(column, column).casefold() for column in OTHER_NAMES]
    required = [
        name for column, name in zip(OTHER_NAMES, names, strict=True) if column == "path" or column in config.columns
    ]
    path = find_table(root / config.table)
    table = source.table(path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path), required)
    reject_computed(table)
    unused = [column for column in table.columns if column and column not in names]
    source.report(
        FindingKind.UNUSED_COLUMN, unused, "column", f"of {table.path.name} not read", "name it in corpus.columns"
    )
    files = {clean_name(path): path for path in (*source.scan.media, *source.scan.sounds)}
    of_stem = {strip_media_extension(path): path for path in reversed(files.values())}
    parts: Counter[str] = Counter()
    wrong, unknown = [], []
    for line, row in zip(table.lines, zip(*map(table.column, names), strict=True), strict=True):
        cells = dict(zip(OTHER_NAMES, row, strict=True))
        path = cells["path"].replace("\\", "/").removeprefix("./")
        start, end = parse_seconds(cells["start"] or "0"), parse_seconds(cells["end"] or "0")
        if start is None or end is None or start < 0 or (end <= start and (cells["start"] or cells["end"])):
            wrong.append(f"line {line}: {cells['start']} {cells['end']}")
            continue
        if cells["split"].casefold() not in {*SPLITS, ""}:
            unknown.append(cells["split"])
        stem = ID_SEPARATOR.join(strip_media_extension(path).split("/"))
        parts[stem] += 1
        yield Described(
            cells["name"] or (f"{stem}_{parts[stem]:04}" if end else stem),
            emotion=cells["label"],
            path=files.get(path, "") or of_stem.get(path, ""),
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
    source.report(FindingKind.MALFORMED_TIME, wrong, "row", "without valid times", "write seconds or HH:MM:SS,mmm")


TABLE = Description(
    kind="table",
    title="a corpus with a table",
    layout="a table labels.csv with the column path, one row for each clip",
    groups="the column group",
    fits=lambda glimpse: "path" in {*(header := glimpse.first_row("labels.csv")), *guess_columns(header)},
    read=_read,
    mapping=lambda _: {},
    published="the column split",
)
