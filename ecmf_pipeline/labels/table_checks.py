"""Reading the csv files of this room: what is wrong is refused by its record, before anything is made of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.errors import InputError, MissingInput
from ecmf_pipeline.files import read_text
from ecmf_pipeline.labels.evidence import first_choice

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def read_table(
    path: Path,
    required: Sequence[str],
    numbers: Sequence[str],
    hint: str,
    *,
    others: Callable[[str], bool] | None = None,
) -> pd.DataFrame:
    """Read a csv file that has at least the columns ``required``.

    Text stays as it is ("NA" is a name); cells of ``numbers``, and of ``others`` where present, may be empty.

    Raises:
        MissingInput: When the file is not there.
        InputError: When it is no csv file, or a column or a number is missing.
    """
    import pandas as pd

    if not path.is_file():
        raise MissingInput(f"{path} is missing", hint.removesuffix(" again"))
    text = read_text(path)
    try:
        header = _header(text)
        extra = [name for name in header if others and name not in required and others(name)]
        frame = pd.read_csv(
            io.StringIO(text),
            dtype=dict.fromkeys(header, "str") | dict.fromkeys([*numbers, *extra], "float64"),
            na_values={name: [""] for name in [*numbers, *extra]},
            keep_default_na=False,
        )
    except (csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error})", hint) from error
    if absent := [name for name in required if name not in frame.columns]:
        raise InputError(f"{path} has no column {absent[0]!r}", hint)
    return frame


def _header(text: str) -> list[str]:
    """The column names, once every record is known to have as many cells: pandas fills or shifts those that do not."""
    records = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(records, [])
    for number, record in enumerate(records, start=1):
        if record and len(record) != len(header):
            raise ValueError(f"record {number} has {len(record)} cells, not {len(header)}")
    return header


def refuse(path: Path, wrong: NDArray[np.bool_], what: str | Callable[[int], str], hint: str) -> None:
    """Raise an InputError that names the first record that is wrong, (n,), if any is; ``what`` may look at its row."""
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: record {row + 1}: {what if isinstance(what, str) else what(row)}", hint)


def probabilities_of(path: Path, frame: pd.DataFrame, labels: Sequence[str], hint: str) -> Floats:
    """The columns ``p_<label>`` of a table of m votes, (m, K), NaN rows where one abstains.

    Raises:
        InputError: When a row is no distribution, or the table has a column ``label`` too that says otherwise.
    """
    values = frame[[f"p_{label}" for label in labels]].to_numpy(np.float64)
    silent = np.isnan(values).all(axis=1)
    wrong = ~silent & ~((values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) < 1e-3))
    refuse(path, wrong, "the probabilities are not a distribution", hint)
    if "label" not in frame.columns:
        return values
    named = label_indices(path, frame, labels, hint, abstain=True)
    # Rounding may tie two labels, so the vote must be one of the most probable labels, not the first of them.
    cast = first_choice(values)
    rows = np.arange(len(values))
    wrong = np.where(silent, named >= 0, (named < 0) | (values[rows, named] < values[rows, cast] - 2e-6))
    said = [*map(repr, labels), "nothing"]  # under `ABSTAIN`, which as an index is the last
    contrast = "the label is not the vote: it says {}, the probabilities {}".format
    refuse(path, wrong, lambda row: contrast(said[named[row]], said[cast[row]]), hint)
    return values


def label_indices(path: Path, frame: pd.DataFrame, labels: Sequence[str], hint: str, *, abstain: bool = False) -> Ints:
    """The column ``label`` of a table as indices, (m,), `ABSTAIN` where it is empty.

    Args:
        path: The table's file.
        frame: Its m rows.
        labels: The K labels it may name.
        hint: How a wrong one is mended.
        abstain: Whether a label may be empty.

    Raises:
        InputError: When a label is none of those.
    """
    import pandas as pd

    named = np.asarray(pd.Index(list(labels)).get_indexer(pd.Index(frame["label"])), np.int64)
    empty = (frame["label"] == "").to_numpy()
    wrong = (named < 0) & ~(empty & abstain)
    said = "the label is unknown: {!r} is none of {}".format
    refuse(path, wrong, lambda row: said(str(frame["label"].iloc[row]), ", ".join(labels)), hint)
    return named
