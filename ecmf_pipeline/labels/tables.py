"""Read and write csv files of labels: own and external votes, refined labels, clips to label next.

Written files are sorted and floats are rounded to six digits, so identical votes give identical bytes.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.clips import Clip, Clips, Corpus, Split
from ecmf_pipeline.core.console import format_count, warn
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.core.tables import (
    CATEGORY,
    TableFile,
    as_spreadsheet_text,
    from_spreadsheet_text,
    open_table,
    write_sealed,
)
from ecmf_pipeline.corpora.listing import quote_names
from ecmf_pipeline.corpora.names import match_names
from ecmf_pipeline.corpora.tables import read_table, reject_computed
from ecmf_pipeline.labels.refine import Decision, Decisions, LabelAction
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

POSTERIOR = "posterior_"
"""Prefix of the columns of refined.csv with the label model's posterior."""

_BLOCK = 16_384
"""Clips whose rows are formatted together: a million at once would take gigabytes."""

_RESERVED = f"the prefix {POSTERIOR!r} is reserved for columns of refined.csv"


class _Remedy(NamedTuple):
    """How to fix an unusable file: a hint and, if there is one, a shell command; the line of each row if known."""

    hint: str
    command: str | None = None
    lines: Sequence[int] = ()


_CORRECT_FILE = "correct the file, or remove it from params.yaml"
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
            "label": _label_names(first_choice(rows), labels),
        }
        return pd.DataFrame(columns | {f"p_{label}": np.round(rows[:, k], 6) for k, label in enumerate(labels)})

    write_sealed(path, _as_csv(map(block, _blocks(order))))


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
    table, frame = _read_table(path, required, probabilities, _VOTE_AGAIN, categories=required[:3])
    values = _probabilities(path, frame, labels, _VOTE_AGAIN, tolerance=1e-6 * (len(labels) + 1))
    clip_codes, found = _sorted_codes(frame["clip_id"])
    source_codes, sources = _sorted_codes(frame["source"])
    del frame
    pairs = pd.Series(clip_codes * max(len(sources), 1) + source_codes)
    _reject_first(path, pairs.duplicated().to_numpy(), "the source votes twice on this clip", _VOTE_AGAIN)
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
    return VoteTable(tuple(found), votes)


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
    frame, remedy = _read_foreign(path, ("clip_id", "source"), clip_ids, spelled)
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
        frame, remedy = _read_foreign(path, ("clip_id", "source", "label"), clip_ids, spelled)
        label_indices = _label_indices(path, frame, labels, remedy, abstain=True)
        values = np.where((label_indices >= 0)[:, None], np.eye(len(labels))[label_indices], np.nan)
    _reject_names(path, frame["source"], remedy)
    _reject_first(
        path, frame.duplicated(["clip_id", "source"]).to_numpy(), "the source votes twice on this clip", remedy
    )
    rows = _clip_rows(path, frame, clip_ids)
    votes = {}
    for source, part in frame.groupby("source", sort=True).indices.items():
        votes[str(source)] = np.full((len(clip_ids), len(labels)), np.nan)
        in_corpus = part[rows[part] >= 0]
        votes[str(source)][rows[in_corpus]] = values[in_corpus]
    return votes, int((rows < 0).sum())


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
            columns[f"{source}_vote"] = _label_names(hard_votes, labels)
            columns[f"{source}_prob"] = np.round(probs[np.arange(len(probs)), hard_votes], 6)
        return pd.DataFrame(columns | {column: np.round(rows.column(column), 6) for column in _NUMBERS})

    write_sealed(path, _as_csv(map(block, _blocks(order))))


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
    table, frame = _read_table(path, REFINED_COLUMNS, _NUMBERS, _REFINE_AGAIN, others=_is_probability)

    def reject(wrong: pd.Series[bool], problem: str | Callable[[int], str]) -> None:
        _reject_first(path, wrong.to_numpy(dtype=bool), problem, _REFINE_AGAIN)

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
    _, frame = _read_table(path, ("clip_id", *columns), columns, _REFINE_AGAIN)
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
    write_atomic(path, _as_csv([frame[[*NEXT_COLUMNS]]]), only_if_changed=True)


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


def _label_names(hard_votes: NDArray[np.int64], labels: Sequence[str]) -> NDArray[np.object_]:
    """Return the label names of votes; "" for `ABSTAIN`, which as index -1 selects the last name."""
    return np.array([*labels, ""], dtype=object)[hard_votes]


def _blocks(order: Ints) -> Iterator[Ints]:
    """Yield row numbers in blocks; at least one, which may be empty."""
    for start in range(0, max(len(order), 1), _BLOCK):
        yield order[start : start + _BLOCK]


def _as_csv(frames: Iterable[pd.DataFrame]) -> bytes:
    """Return a csv table of the rows of all frames, which have the same columns."""
    data = io.BytesIO()
    for number, frame in enumerate(frames):
        frame.to_csv(data, index=False, header=number == 0, lineterminator="\n", encoding="utf-8")
    return data.getvalue()


def _sorted_codes(column: pd.Series[Any]) -> tuple[Ints, list[str]]:
    """Return the index of each cell of a categorical column in the sorted values, (m,), and the values."""
    cells = column.astype("category").cat
    names = cells.categories.tolist()
    order = sorted(range(len(names)), key=names.__getitem__)
    position = np.empty(len(names), np.int64)
    position[order] = np.arange(len(names))
    return position[cells.codes.to_numpy()], [names[index] for index in order]


def _reject_names(path: Path, sources: pd.Series[str], remedy: _Remedy) -> None:
    """Reject source names that clash with columns of refined.csv or cannot be printed in messages."""
    _reject_first(path, (sources == "").to_numpy(), "empty source name", remedy)
    remedy = remedy._replace(hint="rename the source")
    reserved = np.array([f"{name}_".startswith(POSTERIOR) for name in sources], bool)
    _reject_first(path, reserved, lambda row: f"invalid source name {sources.iloc[row]!r}: {_RESERVED}", remedy)
    odd = np.array([not name.isprintable() for name in sources], bool)
    _reject_first(path, odd, lambda row: f"invalid source name {sources.iloc[row]!r}: not printable", remedy)


def _clip_rows(path: Path, frame: pd.DataFrame, clip_ids: Sequence[str]) -> Ints:
    """Return the clip index of each record, -1 for clips outside ``clip_ids``; at least one must be inside."""
    rows = _positions(frame["clip_id"], clip_ids)
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


def _positions(cells: pd.Series[str], names: Sequence[str]) -> Ints:
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


def _read_foreign(
    path: Path,
    required: Sequence[str],
    clip_ids: Sequence[str],
    numbers: Mapping[str, str] | None = None,
    *,
    by_people: bool = False,
) -> tuple[pd.DataFrame, _Remedy]:
    """Read a table that people write, with clip ids in the spelling of the manifest.

    Args:
        path: The table.
        required: The required columns, first that of the clips.
        clip_ids: The clips of the manifest.
        numbers: The columns of numbers, in lower case, and their names in the result.

        by_people: Whether tables that this project computed are rejected.

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
    if by_people:
        reject_computed(table)
    for finding in table.findings:
        warn(finding.message)
    remedy = _Remedy(_CORRECT_FILE, lines=table.lines)
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


def _read_table(
    path: Path,
    required: Sequence[str],
    numbers: Sequence[str],
    remedy: _Remedy,
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


def _as_numbers(path: Path, cells: pd.Series[Any], remedy: _Remedy) -> pd.Series[float]:
    """Return a column as finite numbers; empty cells are NaN."""
    import pandas as pd

    is_text = cells.dtype != "float64"
    values = pd.to_numeric(cells.where(cells != ""), errors="coerce").astype("float64") if is_text else cells
    wrong = np.isinf(values.to_numpy()) | (is_text & values.isna() & (cells != "")).to_numpy(dtype=bool)
    _reject_first(path, wrong, f"{cells.name} is not a finite number", remedy)
    return values


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
        line = remedy.lines[row] if remedy.lines else row + 2
        raise InputError(
            f"{path}: row {line}: {problem if isinstance(problem, str) else problem(row)}",
            remedy.hint,
            command=remedy.command,
        )


def _probabilities(
    path: Path, frame: pd.DataFrame, labels: Sequence[str], remedy: _Remedy, *, tolerance: float = 1e-3
) -> Floats:
    """Return the columns ``p_<label>`` of m votes, (m, K), NaN for abstentions; sums are 1 up to ``tolerance``.

    A column ``label``, if present, must agree with them.
    """
    values = frame[[f"p_{label}" for label in labels]].to_numpy(np.float64)
    abstains = np.isnan(values).all(axis=1)
    wrong = ~abstains & ~((values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) <= tolerance))
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

    cells = frame["label"]
    indices = _positions(cells, labels)
    if (indices < 0).any():
        indices = _positions(pd.Series(_spelled(cells, labels), dtype=str), labels)
    empty = (frame["label"] == "").to_numpy()
    wrong = (indices < 0) & ~(empty & abstain)

    def unknown(row: int) -> str:
        label = str(cells.iloc[row])
        near = difflib.get_close_matches(label.casefold(), labels, n=1)
        return f"unknown label {label!r}, not one of {', '.join(labels)}" + (
            f"; did you mean {near[0]!r}?" if near else ""
        )

    _reject_first(path, wrong, unknown, remedy)
    return indices
