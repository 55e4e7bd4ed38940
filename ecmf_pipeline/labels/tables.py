"""Read and write csv files of labels: own and external votes, human labels, refined labels, clips to label next.

Written files are sorted and floats are rounded to six digits, so identical votes give identical bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.clips import ClipId, Split
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import read_text, write_atomic
from ecmf_pipeline.labels.refine import Decision, LabelAction, Vote
from ecmf_pipeline.labels.votes import first_choice

if TYPE_CHECKING:
    import pandas as pd

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
"""First columns of refined.csv, each an attribute of `Decision`. They are followed by ``posterior_<label>`` for each
label and by ``<source>_vote`` and ``<source>_prob`` for each source."""

POSTERIOR = "posterior_"
"""Prefix of the columns of refined.csv with the label model's posterior."""

_RESERVED = f"the prefix {POSTERIOR!r} is reserved for columns of refined.csv"


class _Remedy(NamedTuple):
    """How to fix an unusable file: a hint and, if there is one, a shell command."""

    hint: str
    command: str | None = None


_CORRECT_FILE = _Remedy("correct the file, or remove it from params.yaml")
_VOTE_AGAIN = _Remedy("run the stage that writes it", "ecmf-pipe vote")
_REFINE_AGAIN = _Remedy("run the stage that writes it", "ecmf-pipe refine")


@dataclass(frozen=True, slots=True)
class VoteTable:
    """Sorted clip ids, (n,), and their votes: probabilities by source, (n, K); a row of NaN is an abstention."""

    clip_ids: tuple[str, ...]
    votes: dict[str, Floats]


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
    order = sorted(range(clips), key=lambda i: clip_ids[i])
    sources = sorted(votes)
    stacked = np.zeros((clips, 0, classes))
    if sources:
        stacked = np.stack([np.asarray(votes[source], np.float64)[order] for source in sources], axis=1)
    rows = stacked.reshape(-1, classes)  # (n * S, K), clip by clip
    columns: dict[str, object] = {
        "clip_id": np.repeat(np.array([clip_ids[i] for i in order], dtype=object), len(sources)),
        "source": np.tile(np.array(sources, dtype=object), clips),
        "label": _label_names(first_choice(rows), labels),
    }
    columns |= {f"p_{label}": np.round(rows[:, k], 6) for k, label in enumerate(labels)}
    _write(path, pd.DataFrame(columns))


def read_votes(path: Path, labels: Sequence[str]) -> VoteTable:
    """Read a long table of votes. A source without a row for a clip abstains from it.

    Args:
        path: The csv file; its rows may be in any order.
        labels: The K expected labels, in the order of the result.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If a column, label or probability is wrong, or a source votes twice on a clip.
    """
    import pandas as pd

    probabilities = [f"p_{label}" for label in labels]
    frame = _read_table(path, ("clip_id", "source", "label", *probabilities), probabilities, _VOTE_AGAIN)
    values = _probabilities(path, frame, labels, _VOTE_AGAIN)
    clip_codes, clip_ids = pd.factorize(frame["clip_id"], sort=True)
    source_codes, sources = pd.factorize(frame["source"], sort=True)
    _reject_first(
        path, frame.duplicated(["clip_id", "source"]).to_numpy(), "the source votes twice on this clip", _VOTE_AGAIN
    )
    votes = np.full((len(sources), len(clip_ids), len(labels)), np.nan)
    votes[source_codes, clip_codes] = values
    return VoteTable(tuple(clip_ids), dict(zip(sources, votes, strict=True)))


def read_external_votes(path: Path, labels: Sequence[str], clip_ids: Sequence[str]) -> tuple[dict[str, Floats], int]:
    """Read external votes from a csv file.

    The columns are ``clip_id,source`` and ``label`` ("" for an abstention), ``p_<label>`` of each label, or both.

    Args:
        path: The csv file; its rows may be in any order. A source without a row for a clip abstains from it.
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
    frame = _read_table(path, ("clip_id", "source"), (), _CORRECT_FILE, others=lambda column: column in probabilities)
    if set(probabilities) <= set(frame.columns):
        values = _probabilities(path, frame, labels, _CORRECT_FILE)
    else:
        frame = _read_table(path, ("clip_id", "source", "label"), (), _CORRECT_FILE)
        label_indices = _label_indices(path, frame, labels, _CORRECT_FILE, abstain=True)
        values = np.where((label_indices >= 0)[:, None], np.eye(len(labels))[label_indices], np.nan)
    _reject_names(path, frame["source"])
    _reject_first(
        path, frame.duplicated(["clip_id", "source"]).to_numpy(), "the source votes twice on this clip", _CORRECT_FILE
    )
    rows = _clip_rows(path, frame, clip_ids)
    votes = {}
    for source, part in frame.groupby("source", sort=True).indices.items():
        votes[str(source)] = np.full((len(clip_ids), len(labels)), np.nan)
        in_corpus = part[rows[part] >= 0]
        votes[str(source)][rows[in_corpus]] = values[in_corpus]
    return votes, int((rows < 0).sum())


def read_human_labels(path: Path, labels: Sequence[str], clip_ids: Sequence[str]) -> tuple[Ints, int]:
    """Read human labels: ``clip_id,label``.

    Args:
        path: The csv file.
        labels: The K label names.
        clip_ids: The n clips of the manifest.

    Returns:
        The label of each clip, (n,), -1 if it has none, and the number of labels of other clips.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If the file is damaged, a label is unknown, a clip occurs twice, or no clip is one of the manifest.
    """
    frame = _read_table(path, ("clip_id", "label"), (), _CORRECT_FILE)
    label_indices = _label_indices(path, frame, labels, _CORRECT_FILE)
    _reject_first(path, frame.duplicated("clip_id").to_numpy(), "the clip occurs twice", _CORRECT_FILE)
    rows = _clip_rows(path, frame, clip_ids)
    gold = np.full(len(clip_ids), -1, np.int64)
    gold[rows[rows >= 0]] = label_indices[rows >= 0]
    return gold, int((rows < 0).sum())


def write_refined(
    path: Path,
    decisions: Sequence[Decision],
    votes: Mapping[str, NDArray[np.floating]],
    posterior: NDArray[np.floating],
    labels: Sequence[str],
) -> None:
    """Write the decisions, sorted by clip, with the posterior and each source's vote and probability.

    Args:
        path: The csv file.
        decisions: Decisions on n clips.
        votes: Probabilities by source, (n, K), in the order of the decisions.
        posterior: Posterior, (n, K), in the same order.
        labels: The K label names.
    """
    import pandas as pd

    columns: dict[str, object] = {
        column: [getattr(decision, column) for decision in decisions] for column in REFINED_COLUMNS
    }
    for index, label in enumerate(labels):
        columns[f"{POSTERIOR}{label}"] = np.round(np.asarray(posterior, np.float64)[:, index], 6)
    for source in sorted(votes):
        probs = np.asarray(votes[source], np.float64)
        hard_votes = first_choice(probs)
        columns[f"{source}_vote"] = _label_names(hard_votes, labels)
        columns[f"{source}_prob"] = np.round(probs[np.arange(len(probs)), hard_votes], 6)
    for column in ("weight", "confidence", "agreement"):
        columns[column] = np.round(np.array(columns[column], np.float64), 6)
    order = sorted(range(len(decisions)), key=lambda i: decisions[i].clip_id)
    _write(path, pd.DataFrame(columns).iloc[order])


def read_decisions(path: Path, *, votes: bool = False) -> list[Decision]:
    """Read refined.csv as decisions, sorted by clip id.

    Args:
        path: The csv file.
        votes: Whether to read the votes of all sources into the decisions.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If a column is missing, or a decision or weight is invalid.
    """
    frame = _read_table(
        path, REFINED_COLUMNS, ("weight", "confidence", "agreement"), _REFINE_AGAIN, others=_is_probability
    )
    _reject_first(path, ~frame["decision"].isin(list(LabelAction)).to_numpy(), "unknown decision", _REFINE_AGAIN)
    _reject_first(path, ~(frame["weight"] >= 0).to_numpy(), "the weight is not a number of at least 0", _REFINE_AGAIN)
    unlabelled = (frame["weight"] > 0) & (frame["refined_label"] == "")
    _reject_first(path, unlabelled.to_numpy(), "weight above 0 without a label", _REFINE_AGAIN)
    _reject_first(path, frame.duplicated("clip_id").to_numpy(), "the clip occurs twice", _REFINE_AGAIN)
    vote_columns = [name for name in frame.columns if name.endswith("_vote") and not name.startswith(POSTERIOR)]
    sources = [name.removesuffix("_vote") for name in vote_columns] if votes else []
    columns = [*REFINED_COLUMNS, *(f"{source}_{part}" for source in sources for part in ("vote", "prob"))]

    def vote(source: str, label: str, probability: float) -> Vote:
        return Vote(source, label, None if np.isnan(probability) else probability)

    return [
        Decision(
            clip_id=ClipId(row["clip_id"]),
            split=Split(row["split"]),
            given_label=row["given_label"],
            refined_label=row["refined_label"],
            decision=LabelAction(row["decision"]),
            weight=row["weight"],
            confidence=row["confidence"],
            agreement=row["agreement"],
            reason=row["reason"],
            votes=[vote(source, row[f"{source}_vote"], row[f"{source}_prob"]) for source in sources],
        )
        for row in frame[columns].to_dict("records")
    ]


def write_clips_to_label(
    path: Path, posterior: NDArray[np.floating], decisions: Sequence[Decision], rows: Sequence[int]
) -> None:
    """Write the clips to label by hand next, in the given order, with their current decision.

    Args:
        path: The csv file.
        posterior: Posterior, (n, K).
        decisions: Decisions on the n clips.
        rows: Indices of the chosen clips, most informative first.
    """
    import pandas as pd

    ranked = np.sort(np.asarray(posterior, np.float64), axis=1)[list(rows)]
    fields = ("clip_id", "split", "given_label", "decision", "reason")
    columns: dict[str, object] = {field: [getattr(decisions[row], field) for row in rows] for field in fields}
    frame = pd.DataFrame(columns)
    frame.insert(4, "first", np.round(ranked[:, -1], 6))
    frame.insert(5, "second", np.round(ranked[:, -2], 6))
    _write(path, frame)


def _is_probability(column: str) -> bool:
    return column.startswith(POSTERIOR) or column.endswith("_prob")


def _label_names(hard_votes: NDArray[np.int64], labels: Sequence[str]) -> NDArray[np.object_]:
    """Return the label names of votes; "" for `ABSTAIN`, which as index -1 selects the last name."""
    return np.array([*labels, ""], dtype=object)[hard_votes]


def _write(path: Path, frame: pd.DataFrame) -> None:
    write_atomic(path, frame.to_csv(index=False, lineterminator="\n"), only_if_changed=True)


def _reject_names(path: Path, sources: pd.Series[str]) -> None:
    """Reject source names that clash with columns of refined.csv or cannot be printed in messages."""
    _reject_first(path, (sources == "").to_numpy(), "empty source name", _CORRECT_FILE)
    remedy = _Remedy("rename the source")
    reserved = np.array([f"{name}_".startswith(POSTERIOR) for name in sources], bool)
    _reject_first(path, reserved, lambda row: f"invalid source name {sources.iloc[row]!r}: {_RESERVED}", remedy)
    odd = np.array([not name.isprintable() for name in sources], bool)
    _reject_first(path, odd, lambda row: f"invalid source name {sources.iloc[row]!r}: not printable", remedy)


def _clip_rows(path: Path, frame: pd.DataFrame, clip_ids: Sequence[str]) -> Ints:
    """Return the clip index of each record, -1 for clips outside ``clip_ids``; at least one must be inside."""
    import pandas as pd

    rows = np.asarray(pd.Index(list(clip_ids)).get_indexer(pd.Index(frame["clip_id"])), np.int64)
    if len(rows) and (rows < 0).all():
        raise InputError(
            f"{path}: no clip id is in the corpus: the file has {frame['clip_id'].iloc[0]!r}, "
            f"the corpus {clip_ids[0]!r}",
            "use the clip ids of data/manifest.csv, or remove the file from params.yaml",
        )
    return rows


def _read_table(
    path: Path,
    required: Sequence[str],
    numbers: Sequence[str],
    remedy: _Remedy,
    *,
    others: Callable[[str], bool] | None = None,
) -> pd.DataFrame:
    """Read a csv file that must have the columns ``required``.

    Text is kept unchanged ("NA" is a valid name). Cells may be empty in the columns ``numbers`` and in those for which
    ``others`` returns True.
    """
    import pandas as pd

    if not path.is_file():
        hint = remedy.hint if remedy.command else "correct the path in params.yaml, or remove it"
        raise MissingInput(f"{path} does not exist", hint, command=remedy.command)
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
        raise InputError(f"{path} is damaged: {error}", remedy.hint, command=remedy.command) from error
    if absent := [name for name in required if name not in frame.columns]:
        raise InputError(f"{path} has no column {absent[0]!r}", remedy.hint, command=remedy.command)
    return frame


def _header(text: str) -> list[str]:
    """Return the column names; raise ValueError if a record has another number of cells.

    pandas would fill or shift such records.
    """
    records = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(records, [])
    for number, record in enumerate(records, start=1):
        if record and len(record) != len(header):
            raise ValueError(f"record {number} has {len(record)} cells, not {len(header)}")
    return header


def _reject_first(path: Path, wrong: NDArray[np.bool_], problem: str | Callable[[int], str], remedy: _Remedy) -> None:
    """Raise an InputError for the first wrong record, if any.

    Args:
        path: The csv file.
        wrong: Whether each record is wrong, (n,).
        problem: Description of the error, or a function from the row index to it.
        remedy: How to fix it.
    """
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{path}: record {row + 1}: {problem if isinstance(problem, str) else problem(row)}",
            remedy.hint,
            command=remedy.command,
        )


def _probabilities(path: Path, frame: pd.DataFrame, labels: Sequence[str], remedy: _Remedy) -> Floats:
    """Return the columns ``p_<label>`` of m votes, (m, K), NaN for abstentions.

    A column ``label``, if present, must agree with them.
    """
    values = frame[[f"p_{label}" for label in labels]].to_numpy(np.float64)
    abstains = np.isnan(values).all(axis=1)
    wrong = ~abstains & ~((values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) < 1e-3))
    _reject_first(path, wrong, "the probabilities are not a distribution", remedy)
    if "label" not in frame.columns:
        return values
    label_indices = _label_indices(path, frame, labels, remedy, abstain=True)
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
    _reject_first(path, wrong, lambda row: conflict(names[label_indices[row]], names[hard_votes[row]]), remedy)
    return values


def _label_indices(
    path: Path, frame: pd.DataFrame, labels: Sequence[str], remedy: _Remedy, *, abstain: bool = False
) -> Ints:
    """Return the column ``label`` as indices, (m,); empty cells are `ABSTAIN`, and allowed only if ``abstain``."""
    import pandas as pd

    indices = np.asarray(pd.Index(list(labels)).get_indexer(pd.Index(frame["label"])), np.int64)
    empty = (frame["label"] == "").to_numpy()
    wrong = (indices < 0) & ~(empty & abstain)
    unknown = "unknown label {!r}, not one of {}".format
    _reject_first(path, wrong, lambda row: unknown(str(frame["label"].iloc[row]), ", ".join(labels)), remedy)
    return indices
