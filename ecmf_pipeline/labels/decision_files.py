"""Read and write csv files of label decisions: refined labels, and clips to label next.

Written files are sorted and floats are rounded to six digits, so identical decisions give identical bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.clips import Clip, Clips, Corpus, Split
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.core.tables import (
    TableFile,
    as_spreadsheet_text,
    write_sealed,
)
from ecmf_pipeline.labels.refine import Decision, Decisions, LabelAction
from ecmf_pipeline.labels.table_files import (
    POSTERIOR,
    Remedy,
    as_csv,
    read_own_table,
    reject_first,
    row_blocks,
    vote_names,
)
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
    "label",
    "rival",
    "log_odds",
    "log_odds_prior",
    "log_odds_given",
    "log_odds_sources",
    "basis",
    "reason",
)
"""First columns of refined.csv, each an attribute of `Decision`. They are followed by ``posterior_<label>`` for each
label and by ``<source>_vote`` and ``<source>_prob`` for each source."""

LOG_ODDS_PARTS = ("log_odds_prior", "log_odds_given", "log_odds_sources")
"""Columns of refined.csv that add up to ``log_odds``."""

_NUMBERS = ("weight", "confidence", "agreement", "log_odds", *LOG_ODDS_PARTS)

_REFINE_AGAIN = Remedy("run the stage that writes it", "ecmf-pipe refine")


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

    all_decisions = Decisions.of(decisions)
    order = np.argsort(all_decisions.column("clip_id"), kind="stable")

    def block(chosen: Ints) -> pd.DataFrame:
        rows = all_decisions.take(chosen)
        columns: dict[str, object] = {column: rows.column(column) for column in REFINED_COLUMNS}
        for index, label in enumerate(labels):
            columns[f"{POSTERIOR}{label}"] = np.round(np.asarray(posterior[chosen, index], np.float64), 6)
        for source in sorted(votes):
            probs = np.asarray(votes[source][chosen], np.float64)
            hard_votes = first_choice(probs)
            columns[f"{source}_vote"] = vote_names(hard_votes, labels)
            columns[f"{source}_prob"] = np.round(probs[np.arange(len(probs)), hard_votes], 6)
        return pd.DataFrame(columns | {column: np.round(rows.column(column), 6) for column in _NUMBERS})

    write_sealed(path, as_csv(map(block, row_blocks(order))))


def read_decisions(path: Path, *, votes: bool = False, corpus: Corpus | None = None) -> Decisions:
    """Read refined.csv as decisions, sorted by clip id.

    Args:
        path: The csv file.
        votes: Whether to read the votes of all sources into the decisions.
        corpus: The corpus, each clip of which must have a row with its split and given label; None: not checked.

    Raises:
        MissingInput: If the file does not exist, or has other clips than the manifest.
        InputError: If a column is missing, or a cell is invalid.
    """
    table, frame = read_own_table(path, REFINED_COLUMNS, _NUMBERS, _REFINE_AGAIN, others=_is_probability)

    def reject(wrong: pd.Series[bool], problem: str | Callable[[int], str]) -> None:
        reject_first(path, wrong.to_numpy(dtype=bool), problem, _REFINE_AGAIN)

    reject(frame.duplicated("clip_id"), "the clip occurs twice")
    reject(frame["clip_id"] == "", "the clip id is empty")
    reject(~frame["split"].isin(list(Split)), "unknown split")
    reject(~frame["decision"].isin(list(LabelAction)), "unknown decision")
    reject(~(frame["weight"] >= 0), "the weight is not a number of at least 0")
    reject(~frame["confidence"].between(0, 1), "the confidence is not a probability")
    reject((frame["weight"] > 0) & (frame["refined_label"] == ""), "weight above 0 without a label")
    reject(frame["label"] == "", "the label is empty")
    reject(~frame["basis"].isin(list(Basis)), "unknown basis")
    parts = frame[[*LOG_ODDS_PARTS]].sum(axis=1, min_count=len(LOG_ODDS_PARTS))
    reject(parts.isna() != frame["log_odds"].isna(), "the log-odds are incomplete")
    reject((parts - frame["log_odds"]).abs() > 1e-5, "the parts of the log-odds do not add up")
    for name in frame.columns:
        if name == "agreement" or _is_probability(name):
            reject(frame[name].notna() & ~frame[name].between(0, 1), f"{name} is not a probability")
    posterior = frame[[name for name in frame.columns if name.startswith(POSTERIOR)]]
    reject((posterior.sum(axis=1) - 1).abs() > 1e-6 * (posterior.shape[1] + 1), "the posterior does not add up to 1")
    vote_columns = [*frame.columns][len(REFINED_COLUMNS) + posterior.shape[1] :: 2]
    sources = [name.removesuffix("_vote") for name in vote_columns]
    pairs = [f"{source}_{part}" for source in sources for part in ("vote", "prob")]
    if [*frame.columns] != [*REFINED_COLUMNS, *posterior.columns, *pairs]:
        raise table.damaged(f"the columns are {', '.join(frame.columns)}", 1)
    for source in sources:
        is_vote = frame[f"{source}_vote"] != ""
        reject(is_vote != frame[f"{source}_prob"].notna(), f"a vote of {source} without a probability, or the reverse")
    if corpus is not None:
        _check_belongs_to(table, frame, corpus, ["refined_label", "label", "rival", *vote_columns])
    table.check_seal()
    loaded = sources if votes else []
    return Decisions.of_columns(
        **{name: frame[name] for name in Decisions.types},
        **{f"{source}_{part}": frame[f"{source}_{part}"] for source in loaded for part in ("vote", "prob")},
    )


def read_posterior(path: Path, labels: Sequence[str]) -> Floats:
    """Return the posterior in refined.csv, (n, K), in the order of its rows, which are sorted by clip id.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If it lacks a label.
    """
    columns = [f"{POSTERIOR}{label}" for label in labels]
    _, frame = read_own_table(path, ("clip_id", *columns), columns, _REFINE_AGAIN)
    return frame[columns].to_numpy(np.float64)


def _check_belongs_to(table: TableFile, frame: pd.DataFrame, corpus: Corpus, label_columns: Sequence[str]) -> None:
    """Check that refined.csv has the clips, splits, given labels and label names of the corpus."""
    table.check_covers(frame["clip_id"].tolist(), corpus.columns.ids)
    for column in label_columns:
        wrong = ~frame[column].isin([*corpus.labels, ""]).to_numpy()
        if wrong.any():
            row = int(wrong.argmax())
            raise table.outdated(f"unknown label {frame[column].iloc[row]!r} in column {column}", row + 2)
    if absent := [label for label in corpus.labels if f"{POSTERIOR}{label}" not in frame.columns]:
        raise table.outdated(f"no column {POSTERIOR + absent[0]!r}", 1)
    for column in ("split", "given_label"):
        cells, expected = frame[column].to_numpy(object), corpus.columns.column(column)
        if (wrong := cells != expected).any():
            row = int(wrong.argmax())
            raise table.outdated(f"{column} is {cells[row]!r} instead of {expected[row]!r}", row + 2)


NEXT_COLUMNS = (
    "clip_id", "path", "split", "given_label", "decision", "gain", "transcript", "words_from", "sources", "reason",
)  # fmt: skip
"""Columns of next.csv."""


def write_clips_to_label(
    path: Path,
    clips: Sequence[Clip],
    decisions: Sequence[Decision],
    votes: Mapping[str, NDArray[np.floating]],
    gain: Floats,
    rows: Sequence[int],
    labels: Sequence[str],
) -> None:
    """Write the clips to label by hand next, in the given order, with their current decision.

    People open the table in a spreadsheet: cells that could be formulas are escaped. `verdicts.read_answers` accepts
    clip ids and labels with and without the apostrophe of the escape.

    Args:
        path: The csv file.
        clips: The n clips.
        decisions: Decisions on the n clips.
        votes: Probabilities by source, (n, K).
        gain: Expected gain of a verdict, (n,).
        rows: Indices of the chosen clips, highest gain first.
        labels: The K label names.
    """
    import pandas as pd

    chosen = np.asarray(rows, np.int64)
    chosen_clips, chosen_decisions = Clips.of(clips).take(chosen), Decisions.of(decisions).take(chosen)
    columns: dict[str, Sequence[str]] = {
        **{
            name: chosen_clips.column(name).tolist()
            for name in ("clip_id", "path", "split", "transcript", "words_from")
        },
        "sources": _votes_by_label({name: probs[chosen] for name, probs in votes.items()}, labels),
        **{name: chosen_decisions.column(name).tolist() for name in ("given_label", "decision", "reason")},
    }
    frame = pd.DataFrame({name: [as_spreadsheet_text(cell) for cell in cells] for name, cells in columns.items()})
    frame["gain"] = np.round(gain[chosen], 6)
    write_atomic(path, as_csv([frame[[*NEXT_COLUMNS]]]), only_if_changed=True)


def _votes_by_label(votes: Mapping[str, NDArray[np.floating]], labels: Sequence[str]) -> list[str]:
    """Format the votes on n clips, (n,), such as ``happy: face/linear 0.61, llm 0.50; sad: fusion 0.72``."""
    hard_votes = {name: first_choice(probs) for name, probs in votes.items()}
    cells = []
    for row in range(len(next(iter(votes.values()), ()))):
        by_label: dict[str, list[tuple[float, str]]] = {}
        for name, choices in hard_votes.items():
            if choices[row] >= 0:
                ballot = (float(votes[name][row, choices[row]]), name)
                by_label.setdefault(labels[choices[row]], []).append(ballot)
        ranked = sorted(by_label.items(), key=lambda item: (-len(item[1]), item[0]))
        cells.append(
            "; ".join(
                f"{label}: "
                + ", ".join(f"{name} {prob:.2f}" for prob, name in sorted(ballots, key=lambda b: (-b[0], b[1])))
                for label, ballots in ranked
            )
        )
    return cells


def _is_probability(column: str) -> bool:
    return column.startswith(POSTERIOR) or column.endswith("_prob")
