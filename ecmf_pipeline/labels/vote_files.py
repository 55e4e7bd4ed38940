"""Read and write csv files of votes: those of the sources of this project, and external ones.

Written files are sorted and floats are rounded to six digits, so identical votes give identical bytes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.console import format_count, warn
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.tables import (
    write_sealed,
)
from ecmf_pipeline.corpora.listing import quote_names
from ecmf_pipeline.labels.table_files import (
    POSTERIOR,
    Remedy,
    as_csv,
    label_positions,
    positions,
    read_foreign_table,
    read_own_table,
    reject_first,
    row_blocks,
    vote_names,
)
from ecmf_pipeline.labels.vote_tables import VoteTable
from ecmf_pipeline.labels.votes import first_choice

if TYPE_CHECKING:
    import pandas as pd

_RESERVED = f"the prefix {POSTERIOR!r} is reserved for columns of refined.csv"


_VOTE_AGAIN = Remedy("run the stage that writes it", "ecmf-pipe vote")


def write_votes(
    path: Path, clip_ids: Sequence[str], votes: Mapping[str, NDArray[np.floating]], labels: Sequence[str]
) -> None:
    """Write votes as a long table: ``clip_id``, ``source``, ``label`` ("" for an abstention), ``p_<label>``.

    Rows are sorted by clip, then by source.

    Raises:
        ValueError: If votes are not (n, K), or a clip id occurs twice.
    """
    import pandas as pd

    clips, classes = len(clip_ids), len(labels)
    if len(set(clip_ids)) != clips or any(probs.shape != (clips, classes) for probs in votes.values()):
        raise ValueError(f"votes must have shape ({clips}, {classes}) and clip ids must be unique")
    order = np.array(sorted(range(clips), key=clip_ids.__getitem__), np.int64)
    sources = sorted(votes)

    def block(chosen: Ints) -> pd.DataFrame:
        rows = np.zeros((0, classes))
        if sources:  # (m * S, K), clip by clip
            stacked = np.stack([np.asarray(votes[source][chosen], np.float64) for source in sources], axis=1)
            rows = stacked.reshape(-1, classes)
        columns: dict[str, object] = {
            "clip_id": np.repeat(np.array([clip_ids[row] for row in chosen], dtype=object), len(sources)),
            "source": np.tile(np.array(sources, dtype=object), len(chosen)),
            "label": vote_names(first_choice(rows), labels),
        }
        return pd.DataFrame(columns | {f"p_{label}": np.round(rows[:, k], 6) for k, label in enumerate(labels)})

    write_sealed(path, as_csv(map(block, row_blocks(order))))


def read_votes(path: Path, labels: Sequence[str], clip_ids: Sequence[str] | None = None) -> VoteTable:
    """Read a long table of votes that `write_votes` wrote.

    Args:
        path: The csv file; its rows may be in any order.
        labels: The K expected labels, in the order of the result.
        clip_ids: The clips of the manifest, each of which must have votes; None: not checked.

    Raises:
        MissingInput: If the file does not exist, or has other clips than the manifest.
        InputError: If a column, label or probability is wrong, or a source has no row, or two rows, for a clip.
    """
    import pandas as pd

    probabilities = [f"p_{label}" for label in labels]
    required = ("clip_id", "source", "label", *probabilities)
    table, frame = read_own_table(path, required, probabilities, _VOTE_AGAIN, categories=required[:3])
    values = _probabilities(path, frame, labels, _VOTE_AGAIN, tolerance=1e-6 * (len(labels) + 1))
    clip_codes, found = _sorted_codes(frame["clip_id"])
    source_codes, sources = _sorted_codes(frame["source"])
    del frame
    pairs = pd.Series(clip_codes * max(len(sources), 1) + source_codes)
    reject_first(path, pairs.duplicated().to_numpy(), "the source votes twice on this clip", _VOTE_AGAIN)
    has_row = np.zeros((len(sources), len(found)), dtype=bool)
    has_row[source_codes, clip_codes] = True
    if not has_row.all():
        source, clip = np.argwhere(~has_row)[0]
        raise table.damaged(f"no row for clip {found[clip]!r} and source {sources[source]!r}")
    if clip_ids is not None:
        table.check_covers(sorted(found), clip_ids)
    votes = {}
    for code, source in enumerate(sources):
        rows = source_codes == code
        votes[source] = np.empty((len(found), len(labels)))
        votes[source][clip_codes[rows]] = values[rows]
    table.check_seal()
    return VoteTable(votes, tuple(labels), tuple(found))


def read_external_votes(path: Path, labels: Sequence[str], clip_ids: Sequence[str]) -> tuple[dict[str, Floats], int]:
    """Read external votes from a table, which may be an Excel file (see `corpora.tables`).

    The columns are ``clip_id,source`` and ``label`` ("" for an abstention), ``p_<label>`` of each label, or both.

    Args:
        path: The table; its rows may be in any order. A source without a row for a clip abstains from it.
        labels: The K label names.
        clip_ids: The n clips of the manifest.

    Returns:
        Probabilities by source, (n, K), NaN for abstentions, and the number of votes on other clips.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If the file is damaged, a label or probability is wrong, a label contradicts the probabilities of
            its row, a source votes twice on a clip or has an unusable name, or no vote is on a clip of the manifest.
    """
    probabilities = [f"p_{label}" for label in labels]
    spelled = {column.casefold(): column for column in probabilities}
    frame, remedy = read_foreign_table(path, ("clip_id", "source"), clip_ids, spelled)
    missing = [column for column in probabilities if column not in frame.columns]
    if 0 < len(missing) < len(probabilities):
        raise InputError(
            f"{path} has columns of probabilities, but no {', '.join(missing)}",
            f"give the probability of each label, in columns {', '.join(probabilities)}, or none",
        )
    if not missing:
        values = _probabilities(path, frame, labels, remedy)
        values /= values.sum(axis=1, keepdims=True)
    else:
        frame, remedy = read_foreign_table(path, ("clip_id", "source", "label"), clip_ids, spelled)
        label_indices = label_positions(path, frame, labels, remedy, abstain=True)
        values = np.where((label_indices >= 0)[:, None], np.eye(len(labels))[label_indices], np.nan)
    _reject_names(path, frame["source"], remedy)
    reject_first(
        path, frame.duplicated(["clip_id", "source"]).to_numpy(), "the source votes twice on this clip", remedy
    )
    rows = _clip_rows(path, frame, clip_ids)
    votes = {}
    for source, part in frame.groupby("source", sort=True).indices.items():
        votes[str(source)] = np.full((len(clip_ids), len(labels)), np.nan)
        in_corpus = part[rows[part] >= 0]
        votes[str(source)][rows[in_corpus]] = values[in_corpus]
    return votes, int((rows < 0).sum())


def _sorted_codes(column: pd.Series[Any]) -> tuple[Ints, list[str]]:
    """Return the index of each cell of a categorical column in the sorted values, (m,), and the values."""
    cells = column.astype("category").cat
    names = cells.categories.tolist()
    order = sorted(range(len(names)), key=names.__getitem__)
    position = np.empty(len(names), np.int64)
    position[order] = np.arange(len(names))
    return position[cells.codes.to_numpy()], [names[index] for index in order]


def _reject_names(path: Path, sources: pd.Series[str], remedy: Remedy) -> None:
    """Reject source names that clash with columns of refined.csv or cannot be printed in messages."""
    reject_first(path, (sources == "").to_numpy(), "empty source name", remedy)
    remedy = remedy._replace(hint="rename the source")
    reserved = np.array([f"{name}_".startswith(POSTERIOR) for name in sources], bool)
    reject_first(path, reserved, lambda row: f"invalid source name {sources.iloc[row]!r}: {_RESERVED}", remedy)
    odd = np.array([not name.isprintable() for name in sources], bool)
    reject_first(path, odd, lambda row: f"invalid source name {sources.iloc[row]!r}: not printable", remedy)


def _clip_rows(path: Path, frame: pd.DataFrame, clip_ids: Sequence[str]) -> Ints:
    """Return the clip index of each record, -1 for clips outside ``clip_ids``; at least one must be inside."""
    rows = positions(frame["clip_id"], clip_ids)
    if len(rows) and (rows < 0).all():
        raise InputError(
            f"{path}: no clip id is in the corpus: the file has {frame['clip_id'].iloc[0]!r}, "
            f"the corpus {clip_ids[0]!r}",
            "use the clip ids of data/manifest.csv, or remove the file from params.yaml",
        )
    if unknown := [*dict.fromkeys(frame["clip_id"][rows < 0])]:
        near = difflib.get_close_matches(unknown[0], clip_ids, n=1)
        warn(
            f"{path}: {format_count(len(unknown), 'clip')} not in the corpus, whose rows are ignored: "
            f"{quote_names(unknown)}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return rows


def _probabilities(
    path: Path, frame: pd.DataFrame, labels: Sequence[str], remedy: Remedy, *, tolerance: float = 1e-3
) -> Floats:
    """Return the columns ``p_<label>`` of m votes, (m, K), NaN for abstentions; sums are 1 up to ``tolerance``.

    A column ``label``, if present, must agree with them.
    """
    values = frame[[f"p_{label}" for label in labels]].to_numpy(np.float64)
    abstains = np.isnan(values).all(axis=1)
    wrong = ~abstains & ~((values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) <= tolerance))
    reject_first(path, wrong, "the probabilities are not a distribution", remedy)
    if "label" not in frame.columns:
        return values
    label_indices = label_positions(path, frame, labels, remedy, abstain=True)
    # Rounding may create ties, so the label must be one of the most probable labels, not necessarily the first.
    hard_votes = first_choice(values)
    rows = np.arange(len(values))
    wrong = np.where(
        abstains,
        label_indices >= 0,
        (label_indices < 0) | (values[rows, label_indices] < values[rows, hard_votes] - 2e-6),
    )
    names = [*map(repr, labels), "an abstention"]  # `ABSTAIN` as index -1 selects the last
    conflict = "label is {}, but the probabilities give {}".format
    reject_first(path, wrong, lambda row: conflict(names[label_indices[row]], names[hard_votes[row]]), remedy)
    return values
