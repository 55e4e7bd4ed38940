"""Votes and verdicts from elsewhere: csv files that a user names in params."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.errors import InputError
from ecmf_pipeline.labels.table_checks import label_indices, probabilities_of, read_table, refuse
from ecmf_pipeline.labels.tables import POSTERIOR

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_RESERVED = f"columns of refined.csv that begin with {POSTERIOR!r} are the label model's"
_HINT = "mend the file, or take it out of params.yaml"


def read_verdicts(path: Path, labels: Sequence[str], clip_ids: Sequence[str]) -> tuple[Ints, int]:
    """Read what a person says of clips: ``clip_id,label``.

    Args:
        path: The csv file.
        labels: The K label names.
        clip_ids: The clips of the manifest, n.

    Returns:
        The label of each clip, (n,), -1 where there is no verdict, and how many verdicts are about other clips.

    Raises:
        MissingInput: When the file is not there.
        InputError: When it is damaged, a label is unknown, a clip stands twice, or none is one of the manifest's.
    """
    frame = read_table(path, ("clip_id", "label"), (), _HINT)
    named = label_indices(path, frame, labels, _HINT)
    refuse(path, frame.duplicated("clip_id").to_numpy(), "the clip stands twice", _HINT)
    rows = _rows(path, frame, clip_ids)
    gold = np.full(len(clip_ids), -1, np.int64)
    gold[rows[rows >= 0]] = named[rows >= 0]
    return gold, int((rows < 0).sum())


def read_sources(path: Path, labels: Sequence[str], clip_ids: Sequence[str]) -> tuple[dict[str, Floats], int]:
    """Read votes of any origin: ``clip_id,source`` and ``label`` ("" abstains), ``p_<label>`` of every label, or both.

    Args:
        path: The csv file; its rows may stand in any order, and a source abstains from clips it has no row for.
        labels: The K label names.
        clip_ids: The clips of the manifest, n.

    Returns:
        Probabilities by source, (n, K), NaN where it abstains, and how many votes are about other clips.

    Raises:
        MissingInput: When the file is not there.
        InputError: When it is damaged, a label or a probability is wrong, a label is not what the probabilities beside
            it say, a source votes twice on a clip or has a name that cannot be used, or no vote is about a clip of the
            manifest.
    """
    probabilities = [f"p_{label}" for label in labels]
    frame = read_table(path, ("clip_id", "source"), (), _HINT, others=lambda column: column in probabilities)
    if set(probabilities) <= set(frame.columns):
        values = probabilities_of(path, frame, labels, _HINT)
    else:
        frame = read_table(path, ("clip_id", "source", "label"), (), _HINT)
        named = label_indices(path, frame, labels, _HINT, abstain=True)
        values = np.where((named >= 0)[:, None], np.eye(len(labels))[named], np.nan)
    _refuse_names(path, frame["source"])
    refuse(path, frame.duplicated(["clip_id", "source"]).to_numpy(), "the source votes twice on this clip", _HINT)
    rows = _rows(path, frame, clip_ids)
    votes = {}
    for source, part in frame.groupby("source", sort=True).indices.items():
        votes[str(source)] = np.full((len(clip_ids), len(labels)), np.nan)
        known = part[rows[part] >= 0]
        votes[str(source)][rows[known]] = values[known]
    return votes, int((rows < 0).sum())


def _refuse_names(path: Path, sources: pd.Series[str]) -> None:
    """A source's name begins columns of refined.csv, which must not pass for another's, and stands in messages."""
    refuse(path, (sources == "").to_numpy(), "the source has no name", _HINT)
    hint = "give the source another name"
    reserved = np.array([f"{name}_".startswith(POSTERIOR) for name in sources], bool)
    refuse(path, reserved, lambda row: f"a source must not be called {sources.iloc[row]!r}: {_RESERVED}", hint)
    odd = np.array([not name.isprintable() for name in sources], bool)
    refuse(path, odd, lambda row: f"a source must not be called {sources.iloc[row]!r}: it cannot be printed", hint)


def _rows(path: Path, frame: pd.DataFrame, clip_ids: Sequence[str]) -> Ints:
    """The clip that each record is about, -1 where it is none of ``clip_ids``, which must not be so of all."""
    import pandas as pd

    rows = np.asarray(pd.Index(list(clip_ids)).get_indexer(pd.Index(frame["clip_id"])), np.int64)
    if len(rows) and (rows < 0).all():
        raise InputError(
            f"{path} says nothing of any clip of the corpus: it names {frame['clip_id'].iloc[0]!r}, "
            f"the corpus {clip_ids[0]!r}",
            "write clip ids as data/manifest.csv has them, or take the file out of params.yaml",
        )
    return rows
