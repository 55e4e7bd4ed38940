"""Reading and writing of csv files of labels: parts that the files of votes and of decisions share."""

from __future__ import annotations

import difflib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Ints
from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.tables import (
    CATEGORY,
    TableFile,
    from_spreadsheet_text,
    open_table,
)
from ecmf_pipeline.corpora.names import match_names
from ecmf_pipeline.corpora.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

POSTERIOR = "posterior_"
"""Prefix of the columns of refined.csv with the label model's posterior."""


class Remedy(NamedTuple):
    """How to fix an unusable file: a hint and, if there is one, a shell command; the line of each row if known."""

    hint: str
    command: str | None = None
    lines: Sequence[int] = ()


_CORRECT_FILE = "correct the file, or remove it from params.yaml"
_BLOCK = 16_384
"""Clips whose rows are formatted together: a million at once would take gigabytes."""


def vote_names(hard_votes: NDArray[np.int64], labels: Sequence[str]) -> NDArray[np.object_]:
    """Return the label names of votes; "" for `ABSTAIN`, which as index -1 selects the last name."""
    return np.array([*labels, ""], dtype=object)[hard_votes]


def row_blocks(order: Ints) -> Iterator[Ints]:
    """Yield row numbers in blocks; at least one, which may be empty."""
    for start in range(0, max(len(order), 1), _BLOCK):
        yield order[start : start + _BLOCK]


def as_csv(frames: Iterable[pd.DataFrame]) -> bytes:
    """Return a csv table of the rows of all frames, which have the same columns."""
    data = io.BytesIO()
    for number, frame in enumerate(frames):
        frame.to_csv(data, index=False, header=number == 0, lineterminator="\n", encoding="utf-8")
    return data.getvalue()


def positions(cells: pd.Series[str], names: Sequence[str]) -> Ints:
    """Return the index of each cell in ``names``, (m,), -1 for others."""
    import pandas as pd

    return np.asarray(pd.Index(list(names)).get_indexer(pd.Index(cells)), np.int64)


def _spelled(cells: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the cells in the spelling of ``names``: upper and lower case are equal, cells may be escaped."""
    spelling = {name.casefold(): name for name in names}
    spelling |= {name: name for name in spelling.values()}

    def spelled(cell: str) -> str:
        variants = (cell, from_spreadsheet_text(cell))
        return next((spelling[text] for v in variants for text in (v, v.casefold()) if text in spelling), cell)

    return [spelled(cell) for cell in cells]


def read_foreign_table(
    path: Path,
    required: Sequence[str],
    clip_ids: Sequence[str],
    numbers: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, Remedy]:
    """Read a table that people write, with clip ids in the spelling of the manifest.

    Args:
        path: The table.
        required: The required columns, first that of the clips.
        clip_ids: The clips of the manifest.
        numbers: The columns of numbers, in lower case, and their names in the result.

    Returns:
        The rows, and the remedy of errors in them.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If the table is damaged, lacks a column, or has other cells in the columns of numbers.
    """
    import pandas as pd

    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise MissingInput(f"{path} {problem}", "correct the path in params.yaml, or remove it")
    table = read_table(path, required, strict=True)
    for finding in table.findings:
        warn(finding.message)
    remedy = Remedy(_CORRECT_FILE, lines=table.lines)
    frame = pd.DataFrame([*table.rows], columns=[*table.columns], dtype=str)
    column = required[0]
    known = set(clip_ids)
    cells = [cell if cell in known else from_spreadsheet_text(cell) for cell in frame[column]]
    matched = match_names(cells, clip_ids)
    frame[column] = [matched.get(cell, cell) for cell in cells]
    frame = frame.rename(columns=numbers or {})
    for name in (numbers or {}).values():
        if name in frame.columns:
            decimals = frame[name].str.replace(r"^(\d*),(\d+)$", r"\1.\2", regex=True)  # spreadsheets of most languages
            frame[name] = _as_numbers(path, decimals, remedy)
    return frame, remedy


def read_own_table(
    path: Path,
    required: Sequence[str],
    numbers: Sequence[str],
    remedy: Remedy,
    *,
    others: Callable[[str], bool] | None = None,
    categories: Sequence[str] = (),
) -> tuple[TableFile, pd.DataFrame]:
    """Read a csv file of this project that must have the columns ``required``.

    Text is kept unchanged ("NA" is a valid name). Cells may be empty in the columns ``numbers`` and in those for which
    ``others`` returns True; other cells of these columns are finite numbers. The columns ``categories`` are read as
    categories, which takes less memory if few cells differ. The returned table file is without content.
    """
    import pandas as pd

    table = open_table(path, command=remedy.command, hint=remedy.hint)
    header = table.header()
    numeric = [*numbers, *(name for name in header if others and name not in required and others(name))]
    types = dict.fromkeys(header, "string") | dict.fromkeys(categories, CATEGORY) | dict.fromkeys(numeric, "double")
    if (columns := table.arrow(types) if set(required) <= set(header) else None) is not None:
        table = replace(table, data=b"")
        frame = columns.to_pandas(split_blocks=True, self_destruct=True)
        for name in numeric:
            frame[name] = _as_numbers(path, frame[name], remedy)
        return table, frame
    for _ in table.rows():  # pandas would fill or shift rows with another number of cells
        pass
    if absent := [name for name in required if name not in header]:
        raise InputError(f"{path} has no column {absent[0]!r}", remedy.hint, command=remedy.command)

    def read(numeric: Sequence[str]) -> pd.DataFrame:
        return pd.read_csv(
            io.StringIO(table.text),
            dtype=dict.fromkeys(header, "str") | dict.fromkeys(numeric, "float64"),
            na_values={name: [""] for name in numeric},
            keep_default_na=False,
        )

    try:
        frame = read(numeric)
    except ValueError:  # pandas does not name the row
        frame = read(())
    for name in numeric:
        frame[name] = _as_numbers(path, frame[name], remedy)
    return table, frame


def _as_numbers(path: Path, cells: pd.Series[Any], remedy: Remedy) -> pd.Series[float]:
    """Return a column as finite numbers; empty cells are NaN."""
    import pandas as pd

    is_text = cells.dtype != "float64"
    values = pd.to_numeric(cells.where(cells != ""), errors="coerce").astype("float64") if is_text else cells
    wrong = np.isinf(values.to_numpy()) | (is_text & values.isna() & (cells != "")).to_numpy(dtype=bool)
    reject_first(path, wrong, f"{cells.name} is not a finite number", remedy)
    return values


def reject_first(path: Path, wrong: NDArray[np.bool_], problem: str | Callable[[int], str], remedy: Remedy) -> None:
    """Raise an InputError for the first wrong record, if any.

    Args:
        path: The csv file.
        wrong: Whether each record is wrong, (n,).
        problem: Description of the error, or a function from the row index to it.
        remedy: How to fix it.
    """
    if wrong.any():
        row = int(wrong.argmax())
        line = remedy.lines[row] if remedy.lines else row + 2
        raise InputError(
            f"{path}: row {line}: {problem if isinstance(problem, str) else problem(row)}",
            remedy.hint,
            command=remedy.command,
        )


def label_positions(
    path: Path, frame: pd.DataFrame, labels: Sequence[str], remedy: Remedy, *, abstain: bool = False
) -> Ints:
    """Return the column ``label`` as indices, (m,); empty cells are `ABSTAIN`, and allowed only if ``abstain``."""
    import pandas as pd

    cells = frame["label"]
    indices = positions(cells, labels)
    if (indices < 0).any():
        indices = positions(pd.Series(_spelled(cells, labels), dtype=str), labels)
    empty = (frame["label"] == "").to_numpy()
    wrong = (indices < 0) & ~(empty & abstain)

    def unknown(row: int) -> str:
        label = str(cells.iloc[row])
        near = difflib.get_close_matches(label.casefold(), labels, n=1)
        return f"unknown label {label!r}, not one of {', '.join(labels)}" + (
            f"; did you mean {near[0]!r}?" if near else ""
        )

    reject_first(path, wrong, unknown, remedy)
    return indices
