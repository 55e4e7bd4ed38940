"""Read votes and gold labels from pandas tables, as arrays of probabilities by source."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ecmf_pipeline.core.arrays import Floats, Ints, is_missing
from ecmf_pipeline.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "p_"
"""Prefix of the columns of probabilities, before the label."""

_FORMS = "one row for each vote (columns clip_id, source, and label or p_<label>), or one column for each source"


@dataclass(frozen=True, slots=True)
class VoteTable:
    """Votes of several sources on n clips with K labels.

    Attributes:
        votes: Probabilities by source, (n, K) each; a row of NaN is an abstention.
        label_names: The labels, in the order of the probabilities.
        clip_ids: The clips.
    """

    votes: dict[str, Floats]
    label_names: tuple[str, ...]
    clip_ids: tuple[Hashable, ...]


def read_vote_table(table: pd.DataFrame, label_names: Sequence[str] | None, gold: Any = None) -> VoteTable:
    """Read a long or a wide table of votes.

    Args:
        table: Long: ``clip_id`` (a column or the index), ``source``, and ``label`` or one column ``p_<label>`` for each
            label, or both if they agree. Wide: the clips are the index, each column is a source, cells are labels. An
            empty, None or NaN label is an abstention.
        label_names: All labels in order; None: those of the ``p_`` columns, or the labels of votes and gold, sorted.
        gold: Known labels by clip, whose labels also count.

    Raises:
        InputError: If votes are not a table, a column is missing, there is no label, a label is unknown, a vote has no
            clip or source, or a source votes twice on a clip.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise InputError(
            f"votes are of the type {type(table).__name__}", f"pass arrays by source, or a table of {_FORMS}"
        )
    if "clip_id" in table.columns:
        table = table.set_index("clip_id")
    wide = "source" not in table.columns
    long = table.melt(var_name="source", value_name="label", ignore_index=False) if wide else table
    clips, clip_ids = pd.factorize(long.index)
    sources, source_names = pd.factorize(long["source"])
    if min(clips.min(initial=0), sources.min(initial=0)) < 0:
        raise InputError("a vote has no clip_id or no source", "drop these rows, or fill them in")
    if len(np.unique(clips * len(source_names) + sources)) < len(long):
        raise InputError("a source votes twice on one clip", f"votes are {_FORMS}")
    p_labels = [str(name).removeprefix(PREFIX) for name in long.columns if str(name).startswith(PREFIX)]
    if "label" not in long.columns and not p_labels:
        raise InputError("the votes have neither a column label nor columns p_<label>", f"votes are {_FORMS}")
    labels = [_text(label) for label in long["label"]] if "label" in long.columns else [""] * len(long)
    if label_names is None:
        gold_labels = map(_text, _known(gold).values())
        label_names = p_labels or sorted({*labels, *gold_labels} - {""})
    label_names = tuple(map(str, label_names))
    if not label_names:
        raise InputError("the votes hold no label", f"votes are {_FORMS}")
    classes = _indices(labels, label_names)
    probs = np.full((len(long), len(label_names)), np.nan)
    if p_labels:
        if set(p_labels) != set(label_names):
            raise InputError(
                f"the columns are those of the labels {', '.join(p_labels)}, not of {', '.join(label_names)}",
                "write one column p_<label> for each label",
            )
        probs = long[[PREFIX + name for name in label_names]].to_numpy(np.float64, copy=True)
    labelled = np.flatnonzero(classes >= 0)
    if (probs[labelled, classes[labelled]] < probs[labelled].max(axis=1)).any():  # comparisons with NaN are false
        raise InputError("a label is not the most probable one in its p_ columns", "correct the label or the columns")
    without_probs = labelled[np.isnan(probs[labelled]).all(axis=1)]
    probs[without_probs] = np.eye(len(label_names))[classes[without_probs]]
    stacked = np.full((len(source_names), len(clip_ids), len(label_names)), np.nan)
    stacked[sources, clips] = probs
    votes = dict(zip(map(str, source_names), stacked, strict=True))
    return VoteTable(votes, label_names, tuple(clip_ids))


def read_gold(gold: Any, clip_ids: Sequence[Hashable], label_names: Sequence[str]) -> Ints:
    """Return the gold label of each clip, (n,); -1 if unknown.

    Args:
        gold: A Series or a mapping from clip to label; an empty, None or NaN label is unknown. Other clips are ignored.
        clip_ids: The clips, (n,).
        label_names: The labels.

    Raises:
        InputError: If a label is unknown, a clip occurs twice, or no clip of ``gold`` has a vote.
    """
    known = _known(gold)
    if known and known.keys().isdisjoint(clip_ids):
        raise InputError(
            f"no clip of gold has a vote: its first is {next(iter(known))!r}, that of the votes {list(clip_ids)[:1]}",
            "pass gold as a Series or dict from clip_id to label",
        )
    labels = [known.get(clip_id) for clip_id in clip_ids]
    return _indices(list(map(_text, labels)), label_names)


def _known(gold: Any) -> dict[Hashable, Any]:
    """Return the label of each clip of a Series, a mapping or None."""
    is_by_clip = gold is None or hasattr(gold, "keys")
    if not is_by_clip or not getattr(getattr(gold, "index", None), "is_unique", True):
        problem = "has a clip twice" if is_by_clip else f"is of the type {type(gold).__name__}"
        raise InputError(f"gold {problem}", "pass gold as a Series or dict from clip_id to label, each clip once")
    return {} if gold is None else dict(gold)


def _text(label: Any) -> str:
    """Return a label as text, "" if it is missing; pandas makes 1.0 of 1 in a column with missing labels."""
    if is_missing(label):
        return ""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _indices(labels: Sequence[str], names: Sequence[str]) -> Ints:
    """Return the index of each label, (n,); -1 for ""."""
    index = {name: number for number, name in enumerate(names)} | {"": -1}
    if unknown := [label for label in labels if label not in index]:
        raise InputError(f"label {unknown[0]!r} is unknown", f"the labels are {', '.join(names)}")
    return np.array([index[label] for label in labels], np.int64)
