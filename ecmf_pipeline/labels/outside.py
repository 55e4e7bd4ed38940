"""Votes and verdicts from elsewhere: csv files that a user names in params."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.labels.tables import read_table, refuse

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

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
        InputError: When it is damaged, a label is unknown, or a clip stands twice.
    """
    frame = read_table(path, ("clip_id", "label"), (), _HINT)
    named = _index(frame, labels)
    refuse(path, named < 0, "the label is unknown", _HINT)
    refuse(path, frame.duplicated("clip_id").to_numpy(), "the clip stands twice", _HINT)
    rows = _rows(frame, clip_ids)
    gold = np.full(len(clip_ids), -1, np.int64)
    gold[rows[rows >= 0]] = named[rows >= 0]
    return gold, int((rows < 0).sum())


def read_sources(path: Path, labels: Sequence[str], clip_ids: Sequence[str]) -> tuple[dict[str, Floats], int]:
    """Read votes of any origin: ``clip_id,source`` and either ``label`` ("" abstains) or ``p_<label>`` of every label.

    Args:
        path: The csv file; its rows may stand in any order, and a source abstains from clips it has no row for.
        labels: The K label names.
        clip_ids: The clips of the manifest, n.

    Returns:
        Probabilities by source, (n, K), NaN where it abstains, and how many votes are about other clips.

    Raises:
        MissingInput: When the file is not there.
        InputError: When it is damaged, a label or a probability is wrong, or a source votes twice on a clip.
    """
    probabilities = [f"p_{label}" for label in labels]
    frame = read_table(path, ("clip_id", "source"), (), _HINT, others=lambda column: column in probabilities)
    if set(probabilities) <= set(frame.columns):
        values = frame[probabilities].to_numpy(np.float64)
        silent = np.isnan(values).all(axis=1)
        fits = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) < 1e-3)
        refuse(path, ~silent & ~fits, "the probabilities are not a distribution", _HINT)
    else:
        frame = read_table(path, ("clip_id", "source", "label"), (), _HINT)
        named = _index(frame, labels)
        refuse(path, (named < 0) & (frame["label"] != "").to_numpy(), "the label is unknown", _HINT)
        values = np.where((named >= 0)[:, None], np.eye(len(labels))[named], np.nan)
    refuse(path, (frame["source"] == "").to_numpy(), "the source has no name", _HINT)
    refuse(path, frame.duplicated(["clip_id", "source"]).to_numpy(), "the source votes twice on this clip", _HINT)
    rows = _rows(frame, clip_ids)
    votes = {}
    for source, part in frame.groupby("source", sort=True).indices.items():
        votes[str(source)] = np.full((len(clip_ids), len(labels)), np.nan)
        known = part[rows[part] >= 0]
        votes[str(source)][rows[known]] = values[known]
    return votes, int((rows < 0).sum())


def _index(frame: pd.DataFrame, labels: Sequence[str]) -> Ints:
    import pandas as pd

    return np.asarray(pd.Index(list(labels)).get_indexer(pd.Index(frame["label"])), np.int64)


def _rows(frame: pd.DataFrame, clip_ids: Sequence[str]) -> Ints:
    import pandas as pd

    return np.asarray(pd.Index(list(clip_ids)).get_indexer(pd.Index(frame["clip_id"])), np.int64)
