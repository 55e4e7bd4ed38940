"""Csv files of labels: votes, of our own voters and of others, verdicts, refined labels, and clips to label next.

What is written is sorted, and floats rounded to six digits, so that the same votes always make the same bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.clips import ClipId, Split
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import read_text, write_atomic
from ecmf_pipeline.labels.refine import Decision, Verdict, Vote
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
"""The first columns of refined.csv, each an attribute of `Decision`. After them: ``posterior_<label>`` of each label,
``<source>_vote`` and ``<source>_prob`` of each source."""

POSTERIOR = "posterior_"
"""What the columns of refined.csv begin with that hold the label model's probability of a label."""

_RESERVED = f"columns of refined.csv that begin with {POSTERIOR!r} are the label model's"

_HINT = "mend the file, or take it out of params.yaml"


@dataclass(frozen=True, slots=True)
class VoteTable:
    """Clips, sorted, (n,), and their votes: probabilities by source, (n, K); a row that is all NaN abstains."""

    clip_ids: tuple[str, ...]
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
    frame = _read_table(path, ("clip_id", "source", "label", *probabilities), probabilities, hint)
    values = _probabilities(path, frame, labels, hint)
    clip_codes, clip_ids = pd.factorize(frame["clip_id"], sort=True)
    source_codes, sources = pd.factorize(frame["source"], sort=True)
    _refuse(path, frame.duplicated(["clip_id", "source"]).to_numpy(), "the source votes twice on this clip", hint)
    votes = np.full((len(sources), len(clip_ids), len(labels)), np.nan)
    votes[source_codes, clip_codes] = values
    return VoteTable(tuple(clip_ids), dict(zip(sources, votes, strict=True)))


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
    frame = _read_table(path, ("clip_id", "source"), (), _HINT, others=lambda column: column in probabilities)
    if set(probabilities) <= set(frame.columns):
        values = _probabilities(path, frame, labels, _HINT)
    else:
        frame = _read_table(path, ("clip_id", "source", "label"), (), _HINT)
        named = _label_indices(path, frame, labels, _HINT, abstain=True)
        values = np.where((named >= 0)[:, None], np.eye(len(labels))[named], np.nan)
    _refuse_names(path, frame["source"])
    _refuse(path, frame.duplicated(["clip_id", "source"]).to_numpy(), "the source votes twice on this clip", _HINT)
    rows = _rows(path, frame, clip_ids)
    votes = {}
    for source, part in frame.groupby("source", sort=True).indices.items():
        votes[str(source)] = np.full((len(clip_ids), len(labels)), np.nan)
        known = part[rows[part] >= 0]
        votes[str(source)][rows[known]] = values[known]
    return votes, int((rows < 0).sum())


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
    frame = _read_table(path, ("clip_id", "label"), (), _HINT)
    named = _label_indices(path, frame, labels, _HINT)
    _refuse(path, frame.duplicated("clip_id").to_numpy(), "the clip stands twice", _HINT)
    rows = _rows(path, frame, clip_ids)
    gold = np.full(len(clip_ids), -1, np.int64)
    gold[rows[rows >= 0]] = named[rows >= 0]
    return gold, int((rows < 0).sum())


def write_refined(
    path: Path,
    decisions: Sequence[Decision],
    votes: Mapping[str, NDArray[np.floating]],
    posterior: NDArray[np.floating],
    labels: Sequence[str],
) -> None:
    """Write the decisions, sorted by clip, and beside each the posterior and every source's vote and its probability.

    Votes and posterior, (n, K), have rows as the decisions.
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
        columns[f"{source}_vote"] = _named(hard_votes, labels)
        columns[f"{source}_prob"] = np.round(probs[np.arange(len(probs)), hard_votes], 6)
    for column in ("weight", "confidence", "agreement"):
        columns[column] = np.round(np.array(columns[column], np.float64), 6)
    order = sorted(range(len(decisions)), key=lambda i: decisions[i].clip_id)
    _write(path, pd.DataFrame(columns).iloc[order])


def read_decisions(path: Path, *, votes: bool = False) -> list[Decision]:
    """Read refined.csv back as the decisions it was written from, sorted by clip id.

    Args:
        path: The csv file.
        votes: Whether each decision gets the votes of all sources, too.

    Raises:
        MissingInput: When the file is not there.
        InputError: When a column is missing, or a decision or a weight is impossible.
    """
    hint = "run `ecmf-pipe refine` again"
    frame = _read_table(path, REFINED_COLUMNS, ("weight", "confidence", "agreement"), hint, others=_is_probability)
    _refuse(path, ~frame["decision"].isin(list(Verdict)).to_numpy(), "there is no such decision", hint)
    _refuse(path, ~(frame["weight"] >= 0).to_numpy(), "the weight is not a number of at least 0", hint)
    unnamed = (frame["weight"] > 0) & (frame["refined_label"] == "")
    _refuse(path, unnamed.to_numpy(), "a clip that is trained on has no label", hint)
    _refuse(path, frame.duplicated("clip_id").to_numpy(), "the clip stands twice", hint)
    of_sources = [name for name in frame.columns if name.endswith("_vote") and not name.startswith(POSTERIOR)]
    sources = [name.removesuffix("_vote") for name in of_sources] if votes else []
    columns = [*REFINED_COLUMNS, *(f"{source}_{part}" for source in sources for part in ("vote", "prob"))]

    def vote(source: str, label: str, probability: float) -> Vote:
        return Vote(source, label, None if np.isnan(probability) else probability)

    return [
        Decision(
            clip_id=ClipId(row["clip_id"]),
            split=Split(row["split"]),
            given_label=row["given_label"],
            refined_label=row["refined_label"],
            decision=Verdict(row["decision"]),
            weight=row["weight"],
            confidence=row["confidence"],
            agreement=row["agreement"],
            reason=row["reason"],
            votes=[vote(source, row[f"{source}_vote"], row[f"{source}_prob"]) for source in sources],
        )
        for row in frame[columns].to_dict("records")
    ]


def write_next(path: Path, posterior: NDArray[np.floating], decisions: Sequence[Decision], rows: Sequence[int]) -> None:
    """Write which clips, by row, a person should judge first, the most telling first, and what is thought of them now.

    The posterior is (n, K), as `write_refined` has it.
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


def _named(hard_votes: NDArray[np.int64], labels: Sequence[str]) -> NDArray[np.object_]:
    """Label names of votes, "" for `ABSTAIN`, which as an index is the last."""
    return np.array([*labels, ""], dtype=object)[hard_votes]


def _write(path: Path, frame: pd.DataFrame) -> None:
    write_atomic(path, frame.to_csv(index=False, lineterminator="\n"), only_if_changed=True)


def _refuse_names(path: Path, sources: pd.Series[str]) -> None:
    """A source's name begins columns of refined.csv, which must not pass for another's, and stands in messages."""
    _refuse(path, (sources == "").to_numpy(), "the source has no name", _HINT)
    hint = "give the source another name"
    reserved = np.array([f"{name}_".startswith(POSTERIOR) for name in sources], bool)
    _refuse(path, reserved, lambda row: f"a source must not be called {sources.iloc[row]!r}: {_RESERVED}", hint)
    odd = np.array([not name.isprintable() for name in sources], bool)
    _refuse(path, odd, lambda row: f"a source must not be called {sources.iloc[row]!r}: it cannot be printed", hint)


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


def _read_table(
    path: Path,
    required: Sequence[str],
    numbers: Sequence[str],
    hint: str,
    *,
    others: Callable[[str], bool] | None = None,
) -> pd.DataFrame:
    """Read a csv file that has at least the columns ``required``.

    Text stays as it is ("NA" is a name); cells of ``numbers``, and of ``others`` where present, may be empty.
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


def _refuse(path: Path, wrong: NDArray[np.bool_], what: str | Callable[[int], str], hint: str) -> None:
    """Raise an InputError that names the first record that is wrong, (n,), if any is; ``what`` may look at its row."""
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{path}: record {row + 1}: {what if isinstance(what, str) else what(row)}", hint)


def _probabilities(path: Path, frame: pd.DataFrame, labels: Sequence[str], hint: str) -> Floats:
    """The columns ``p_<label>`` of m votes, (m, K), NaN where one abstains; a column ``label`` must say the same."""
    values = frame[[f"p_{label}" for label in labels]].to_numpy(np.float64)
    silent = np.isnan(values).all(axis=1)
    wrong = ~silent & ~((values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) < 1e-3))
    _refuse(path, wrong, "the probabilities are not a distribution", hint)
    if "label" not in frame.columns:
        return values
    named = _label_indices(path, frame, labels, hint, abstain=True)
    # Rounding may tie two labels, so the vote must be one of the most probable labels, not the first of them.
    hard_votes = first_choice(values)
    rows = np.arange(len(values))
    wrong = np.where(silent, named >= 0, (named < 0) | (values[rows, named] < values[rows, hard_votes] - 2e-6))
    said = [*map(repr, labels), "nothing"]  # under `ABSTAIN`, which as an index is the last
    contrast = "the label is not the vote: it says {}, the probabilities {}".format
    _refuse(path, wrong, lambda row: contrast(said[named[row]], said[hard_votes[row]]), hint)
    return values


def _label_indices(path: Path, frame: pd.DataFrame, labels: Sequence[str], hint: str, *, abstain: bool = False) -> Ints:
    """The column ``label`` of a table as indices, (m,), `ABSTAIN` where it is empty, as only ``abstain`` allows."""
    import pandas as pd

    named = np.asarray(pd.Index(list(labels)).get_indexer(pd.Index(frame["label"])), np.int64)
    empty = (frame["label"] == "").to_numpy()
    wrong = (named < 0) & ~(empty & abstain)
    said = "the label is unknown: {!r} is none of {}".format
    _refuse(path, wrong, lambda row: said(str(frame["label"].iloc[row]), ", ".join(labels)), hint)
    return named
