"""Read verdicts: the answers of people who looked at clips, one row for each answer.

A row has the columns `COLUMNS`, of which a person who writes the file needs only the first two. The last row of a
reviewer on a clip counts; one with an empty label withdraws the answer. Rows are only ever added by the review page,
so a crash loses no earlier one.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Clips
from ecmf_pipeline.core.console import format_count, warn
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.tables import from_spreadsheet_text, parse_number
from ecmf_pipeline.corpora.listing import quote_names
from ecmf_pipeline.corpora.names import match_names
from ecmf_pipeline.corpora.tables import Table, read_table, reject_computed

if TYPE_CHECKING:
    from ecmf_pipeline.core.arrays import Bools, Floats, Ints

COLUMNS = ("name", "label", "reviewer", "time", "seconds", "digest")
"""Columns of the file: clip, label or other answer, who answered, when (UTC), after how many seconds, and the digest of
the clip at that time."""

UNSURE = "unsure"
"""The reviewer cannot decide: no label, and the clip is asked again."""
BAD_CLIP = "bad clip"
"""The clip cannot be used, for example because another person is shown: it is left out of training."""
NO_EMOTION = "no emotion"
"""The clip shows no emotion: the neutral class if the corpus has one, otherwise no label."""
OTHER_ANSWERS = (UNSURE, BAD_CLIP, NO_EMOTION)
"""Answers that are no labels, unless the corpus has a label of this name."""

MIN_GOLD = 30
"""Minimum number of gold labels for calibrated probabilities."""

MAX_SECONDS = 3600.0
"""Longest time of an answer; a longer one is not that of a person who looked at the clip."""

_NEUTRAL = ("neutral", "neu", "中性", "平静")
_HINT = "correct the file, or remove it from params.yaml"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of one reviewer about one clip.

    Attributes:
        clip_id: The clip.
        label: A label of the corpus or one of `OTHER_ANSWERS`; empty if the answer is withdrawn.
        reviewer: Name of the reviewer; empty if unknown.
        time: Time of the answer in UTC; empty if unknown.
        seconds: Seconds from the display of the clip to the answer; 0 if unknown.
        digest: Digest of the clip that was shown; empty if unknown.
    """

    clip_id: str
    label: str
    reviewer: str = ""
    time: str = ""
    seconds: float = 0.0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts on the n clips of a corpus with K labels.

    Attributes:
        gold: Label on which all reviewers of a clip agree, (n,); -1 if there is none.
        shares: Share of reviewers for each label, (n, K), for clips on which they differ; other rows are NaN.
        is_bad: Whether at least half of the reviewers call the clip bad, (n,).
        outdated: Number of answers on clips whose content has changed since; they are ignored.
    """

    gold: Ints
    shares: Floats
    is_bad: Bools
    outdated: int = 0


def verdicts_path(setting: str | None) -> Path | None:
    """Return the file of verdicts that params name (`refine.verdicts`); None if they name none.

    Raises:
        InputError: If it is in `paths.DATA`.
    """
    if setting is None:
        return None
    path = Path(setting)
    if path.resolve().is_relative_to(paths.DATA.resolve()):
        raise InputError(
            f"refine.verdicts is {path}, but DVC manages {paths.DATA}/, whose files the pipeline computes",
            f"write the labels of people into {paths.VERDICTS}, or another file outside of {paths.DATA}/",
        )
    return path


def other_answers(labels: Sequence[str]) -> list[str]:
    """Return the answers that are possible besides the labels of a corpus."""
    taken = {label.casefold() for label in labels}
    return [answer for answer in OTHER_ANSWERS if answer not in taken]


def neutral_label(labels: Sequence[str]) -> str | None:
    """Return the label that `NO_EMOTION` stands for; None if the corpus has no neutral class."""
    return next((label for name in _NEUTRAL for label in labels if label.casefold() == name), None)


def read_answers(path: Path, labels: Sequence[str], clip_ids: Sequence[str]) -> tuple[list[Answer], int]:
    """Read the answers in a csv or Excel file (see `corpora.tables`), in the order of the rows.

    Args:
        path: The table.
        labels: The labels of the corpus.
        clip_ids: The clips of the manifest.

    Returns:
        The answers on clips of the manifest, and the number of other names.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If the file is damaged, an answer is unknown, a clip without a reviewer occurs twice, no clip is
            one of the manifest, or it is refined.csv or a table of predictions, whose labels are not those of a person.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise MissingInput(f"{path} {problem}", "correct the path in params.yaml, or remove it")
    table = read_table(path, COLUMNS[:2], strict=True)
    reject_computed(table)
    for finding in table.findings:
        warn(finding.message)
    answers, unknown = parse_answers(table, labels, clip_ids)
    if unknown:
        near = difflib.get_close_matches(unknown[0], clip_ids, n=1)
        warn(
            f"{path}: {format_count(len(unknown), 'clip')} not in the corpus, whose rows are ignored: "
            f"{quote_names(unknown)}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return answers, len(unknown)


def parse_answers(table: Table, labels: Sequence[str], clip_ids: Sequence[str]) -> tuple[list[Answer], list[str]]:
    """Return the answers in a table, and the names that are no clips; see `read_answers`."""
    names = _clips_of(table.column("name"), clip_ids)
    columns = [table.column(name) for name in COLUMNS]
    possible = [*labels, *other_answers(labels)]
    spelling = {name.casefold(): name for name in possible} | {name: name for name in ("", *possible)}
    is_log = "reviewer" in table.columns
    answers: list[Answer] = []
    unsigned: set[str] = set()
    for line, name, (_, label, reviewer, time, seconds, digest) in zip(
        table.lines, names, zip(*columns, strict=True), strict=True
    ):

        def wrong(problem: str, line: int = line) -> InputError:
            return InputError(f"{table.path}: row {line}: {problem}", _HINT)

        variants = (label, from_spreadsheet_text(label))
        found = next((spelling[text] for v in variants for text in (v, v.casefold()) if text in spelling), None)
        if found is None:
            near = difflib.get_close_matches(label.casefold(), possible, n=1)
            raise wrong(
                f"unknown label {label!r}, not one of {', '.join(possible)}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        if not found and not is_log:  # next.csv with a further column `label` may be filled in part
            continue
        if not reviewer and not time:
            if name in unsigned:
                raise wrong("the clip occurs twice")
            unsigned.add(name)
        answers.append(Answer(name, found, from_spreadsheet_text(reviewer), time, read_seconds(seconds), digest))
    known = set(clip_ids)
    inside = [answer for answer in answers if answer.clip_id in known]
    if answers and not inside:
        raise InputError(
            f"{table.path}: no clip id is in the corpus: the file has {answers[0].clip_id!r}, the corpus "
            f"{clip_ids[0]!r}",
            "use the clip ids of data/manifest.csv, or remove the file from params.yaml",
        )
    return inside, [*dict.fromkeys(answer.clip_id for answer in answers if answer.clip_id not in known)]


def read_seconds(cell: str) -> float:
    """Return a number of seconds, also with a decimal comma; 0 (unknown) if the cell holds something else.

    Spreadsheets turn such numbers into dates; labels are not lost for that.
    """
    try:
        return round(parse_number(cell.replace(",", ".") or "0", high=MAX_SECONDS), 1)
    except ValueError:
        return 0.0


def latest_answers(answers: Iterable[Answer]) -> dict[tuple[str, str], Answer]:
    """Return the answers that count, by clip and reviewer: the last ones, without those withdrawn."""
    latest: dict[tuple[str, str], Answer] = {}
    for answer in answers:
        key = (answer.clip_id, answer.reviewer)
        latest.pop(key, None)  # a later answer is last in the order, too
        if answer.label:
            latest[key] = answer
    return latest


def is_outdated(answer: Answer, digest: str) -> bool:
    """Return whether the clip has changed since the answer; an answer without a digest is never outdated."""
    return bool(answer.digest) and answer.digest != digest


def combine_answers(answers: Iterable[Answer], clips: Sequence[Clip], labels: Sequence[str]) -> Verdicts:
    """Combine the answers of all reviewers to one verdict for each clip.

    Args:
        answers: The answers in order of time.
        clips: The n clips.
        labels: The K labels.
    """
    import numpy as np

    rows = {clip_id: row for row, clip_id in enumerate(Clips.of(clips).ids)}
    index = {label: position for position, label in enumerate(labels)}
    neutral = neutral_label(labels)
    if neutral and NO_EMOTION in other_answers(labels):
        index[NO_EMOTION] = index[neutral]
    verdicts = Verdicts(
        np.full(len(clips), -1, np.int64), np.full((len(clips), len(labels)), np.nan), np.zeros(len(clips), bool)
    )
    by_clip: Mapping[int, list[str]] = defaultdict(list)
    outdated = 0
    for answer in latest_answers(answers).values():
        row = rows.get(answer.clip_id)
        if row is None:
            continue
        if is_outdated(answer, clips[row].digest):
            outdated += 1
        else:
            by_clip[row].append(answer.label)
    for row, given in by_clip.items():
        counts = Counter(label for label in given if label != UNSURE or UNSURE in index)
        if counts and 2 * counts[BAD_CLIP] >= counts.total() and BAD_CLIP not in index:
            verdicts.is_bad[row] = True
            continue
        votes = np.zeros(len(labels))
        for label, count in counts.items():
            if label in index:
                votes[index[label]] += count
        if (votes > 0).sum() == 1 and votes.sum() == counts.total():
            verdicts.gold[row] = votes.argmax()
        elif votes.any():
            verdicts.shares[row] = votes / votes.sum()
    return Verdicts(verdicts.gold, verdicts.shares, verdicts.is_bad, outdated)


def _clips_of(names: Sequence[str], clip_ids: Sequence[str]) -> list[str]:
    """Return the clip id of each name, in the spelling of the manifest; names that match none are kept."""
    known = set(clip_ids)
    cells = [name if name in known else from_spreadsheet_text(name) for name in names]
    if known.issuperset(cells):
        return cells
    matched = match_names(cells, clip_ids)
    return [matched.get(cell, cell) for cell in cells]
