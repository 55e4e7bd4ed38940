"""The csv files of this room: the long table of votes and the refined labels.

Both are sorted, and floats rounded to six digits, so that the same votes always make the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.clips import ClipId, Split
from ecmf_pipeline.files import write_atomic
from ecmf_pipeline.labels.evidence import ABSTAIN, first_choice
from ecmf_pipeline.labels.refine import Decision, Verdict
from ecmf_pipeline.labels.table_checks import probabilities_of, read_table, refuse

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

REFINED_COLUMNS = (
    "clip_id",
    "split",
    "given_label",
    "refined_label",
    "decision",
    "weight",
    "confidence",
    "agreement",
    "reason",
)
"""The columns of refined.csv. After them: ``posterior_<label>`` of each label, ``<source>_vote`` and ``<source>_prob``
of each source."""

POSTERIOR = "posterior_"
"""What the columns of refined.csv begin with that hold the label model's probability of a label."""


@dataclass(frozen=True, slots=True)
class VoteTable:
    """The votes of several sources.

    Attributes:
        clip_ids: The n clips, sorted.
        labels: The K label names.
        votes: Probabilities by source, (n, K); a row that is all NaN abstains.
    """

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    votes: dict[str, Floats]


def write_votes(
    path: Path, clip_ids: Sequence[str], votes: Mapping[str, NDArray[np.floating]], labels: Sequence[str]
) -> None:
    """Write the long table: clip_id, source, label ("" abstains), p_<label>...; rows sorted by clip, then source.

    Raises:
        ValueError: When the votes are not (n, K) or a clip id stands twice.
    """
    import pandas as pd

    clips, classes = len(clip_ids), len(labels)
    if len(set(clip_ids)) != clips or any(probs.shape != (clips, classes) for probs in votes.values()):
        raise ValueError(f"votes must be ({clips}, {classes}) and clip ids unique")
    order = sorted(range(clips), key=lambda i: clip_ids[i])
    sources = sorted(votes)
    stacked = np.zeros((clips, 0, classes))
    if sources:
        stacked = np.stack([np.asarray(votes[source], np.float64)[order] for source in sources], axis=1)
    rows = stacked.reshape(-1, classes)  # (n * S, K), clip by clip
    columns: dict[str, object] = {
        "clip_id": np.repeat(np.array([clip_ids[i] for i in order], dtype=object), len(sources)),
        "source": np.tile(np.array(sources, dtype=object), clips),
        "label": _named(first_choice(rows), labels),
    }
    columns |= {f"p_{label}": np.round(rows[:, k], 6) for k, label in enumerate(labels)}
    _write(path, pd.DataFrame(columns))


def read_votes(path: Path, labels: Sequence[str]) -> VoteTable:
    """Read a long table of votes. A source that has no row for a clip abstains from it.

    Args:
        path: The csv file; its rows may stand in any order.
        labels: The K labels the file must be about, in the order they are wanted.

    Raises:
        MissingInput: When the file is not there.
        InputError: When a column, label or probability is wrong, or a source votes twice on a clip.
    """
    import pandas as pd

    hint = "run `ecmf-pipe vote` again"
    probabilities = [f"p_{label}" for label in labels]
    frame = read_table(path, ("clip_id", "source", "label", *probabilities), probabilities, hint)
    values = probabilities_of(path, frame, labels, hint)
    clip_codes, clip_ids = pd.factorize(frame["clip_id"], sort=True)
    source_codes, sources = pd.factorize(frame["source"], sort=True)
    refuse(path, frame.duplicated(["clip_id", "source"]).to_numpy(), "the source votes twice on this clip", hint)
    votes = np.full((len(sources), len(clip_ids), len(labels)), np.nan)
    votes[source_codes, clip_codes] = values
    return VoteTable(tuple(clip_ids), tuple(labels), dict(zip(sources, votes, strict=True)))


def write_refined(
    path: Path,
    decisions: Sequence[Decision],
    votes: Mapping[str, NDArray[np.floating]],
    posterior: NDArray[np.floating],
    labels: Sequence[str],
) -> None:
    """Write the decisions, sorted by clip, and beside each the posterior and every source's vote and its probability.

    Args:
        path: The csv file.
        decisions: One a clip.
        votes: Probabilities by source, (n, K), rows as the decisions.
        posterior: The label model's probabilities, (n, K), rows as the decisions.
        labels: The K label names.
    """
    import pandas as pd

    fields = ("clip_id", "split", "old_label", "new_label", "decision", "weight", "confidence", "agreement", "reason")
    columns: dict[str, object] = {
        column: [getattr(decision, field) for decision in decisions]
        for column, field in zip(REFINED_COLUMNS, fields, strict=True)
    }
    for index, label in enumerate(labels):
        columns[f"{POSTERIOR}{label}"] = np.round(np.asarray(posterior, np.float64)[:, index], 6)
    for source in sorted(votes):
        probs = np.asarray(votes[source], np.float64)
        cast = first_choice(probs)
        columns[f"{source}_vote"] = _named(cast, labels)
        columns[f"{source}_prob"] = np.round(probs[np.arange(len(probs)), cast], 6)
    for column in ("weight", "confidence", "agreement"):
        columns[column] = np.round(np.array(columns[column], np.float64), 6)
    order = sorted(range(len(decisions)), key=lambda i: decisions[i].clip_id)
    _write(path, pd.DataFrame(columns).iloc[order])


def write_next(path: Path, posterior: NDArray[np.floating], decisions: Sequence[Decision], rows: Sequence[int]) -> None:
    """Write which clips a person should judge first, the most telling first, and what is thought of them now.

    Args:
        path: The csv file.
        posterior: Probabilities, (n, K).
        decisions: One a clip, n.
        rows: The chosen clips.
    """
    import pandas as pd

    ranked = np.sort(np.asarray(posterior, np.float64), axis=1)[list(rows)]
    chosen = [decisions[row] for row in rows]
    columns: dict[str, object] = {
        "clip_id": [decision.clip_id for decision in chosen],
        "split": [decision.split for decision in chosen],
        "given_label": [decision.old_label for decision in chosen],
        "decision": [decision.decision for decision in chosen],
        "first": np.round(ranked[:, -1:].sum(axis=1), 6),
        "second": np.round(ranked[:, -2:-1].sum(axis=1), 6),
        "reason": [decision.reason for decision in chosen],
    }
    _write(path, pd.DataFrame(columns))


def read_refined(path: Path) -> pd.DataFrame:
    """Read refined.csv: `REFINED_COLUMNS` and those after them (a source that abstains has the vote "", and NaN).

    Raises:
        MissingInput: When the file is not there.
        InputError: When a column is missing, or a decision or a weight is impossible.
    """
    hint = "run `ecmf-pipe refine` again"
    frame = read_table(path, REFINED_COLUMNS, ("weight", "confidence", "agreement"), hint, others=_is_probability)
    refuse(path, ~frame["decision"].isin(list(Verdict)).to_numpy(), "there is no such decision", hint)
    refuse(path, ~(frame["weight"] >= 0).to_numpy(), "the weight is not a number of at least 0", hint)
    unnamed = (frame["weight"] > 0) & (frame["refined_label"] == "")
    refuse(path, unnamed.to_numpy(), "a clip that is trained on has no label", hint)
    refuse(path, frame.duplicated("clip_id").to_numpy(), "the clip stands twice", hint)
    return frame


def read_decisions(path: Path) -> list[Decision]:
    """Read refined.csv back as the decisions it was written from, sorted by clip id.

    Raises:
        MissingInput: When the file is not there.
        InputError: When it is damaged.
    """
    return [
        Decision(
            clip_id=ClipId(str(row["clip_id"])),
            split=Split(str(row["split"])),
            old_label=str(row["given_label"]),
            new_label=str(row["refined_label"]),
            decision=Verdict(str(row["decision"])),
            weight=float(row["weight"]),
            confidence=float(row["confidence"]),
            agreement=float(row["agreement"]),
            reason=str(row["reason"]),
        )
        for row in read_refined(path).to_dict("records")
    ]


def _is_probability(column: str) -> bool:
    return column.startswith(POSTERIOR) or column.endswith("_prob")


def _named(cast: NDArray[np.int64], labels: Sequence[str]) -> NDArray[np.object_]:
    """Label names of votes, "" for `ABSTAIN`, which as an index is the last."""
    assert ABSTAIN == -1
    return np.array([*labels, ""], dtype=object)[cast]


def _write(path: Path, frame: pd.DataFrame) -> None:
    write_atomic(path, frame.to_csv(index=False, lineterminator="\n"), only_if_changed=True)
