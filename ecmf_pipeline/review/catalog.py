"""The clips in the order in which they are asked, with what the filters need; read by a worker process.

Order: the list of `refine` (data/labels/next.csv) first, then all other clips by the probability that a verdict changes
their label. Without refined labels, clips without a given label come first.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass, field
from typing import NamedTuple

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_corpus_tables
from ecmf_pipeline.core.errors import EcmfError, InputError
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.core.tables import from_spreadsheet_text, open_table

_REFINE = "ecmf-pipe refine"
_POSTERIOR = "posterior_"
_KEPT_FILTERS = 8
DISAGREEMENT = 0.5
"""Sources disagree on a clip if at most this share of them votes for its label."""


class Asked(NamedTuple):
    """One clip of the queue.

    Attributes:
        clip_id: The clip.
        digest: Digest of its content.
        label: The label that a verdict would confirm or change; empty if unknown.
        decision: Decision of `refine`; empty if it has not run.
        group: Speaker or dialogue.
        is_labelled: Whether the clip has a given label.
        is_disputed: Whether at most half of the sources vote for `label`.
        is_zero_shot: Whether the label comes from models that saw no label of this corpus.
        gain: Probability that a verdict changes the label; 0 if unknown.
    """

    clip_id: str
    digest: str
    label: str
    decision: str
    group: str
    is_labelled: bool
    is_disputed: bool
    is_zero_shot: bool
    gain: float


class Filters(NamedTuple):
    """Conditions on the clips that are asked; empty conditions hold for all clips.

    Attributes:
        label: The label that a verdict would confirm or change.
        decision: Decision of `refine`.
        group: Speaker or dialogue.
        kind: ``disagreement``: at most half of the sources vote for the label; ``unlabelled``: the clip has no given
            label, so its label comes from models alone; ``zero-shot``: these models saw no label of the corpus;
            ``reviewers``: reviewers differ.
    """

    label: str = ""
    decision: str = ""
    group: str = ""
    kind: str = ""

    def match(self, clip: Asked) -> bool:
        """Return whether the conditions hold, except the one on reviewers."""
        return (
            (not self.label or clip.label == self.label)
            and (not self.decision or clip.decision == self.decision)
            and (not self.group or clip.group == self.group)
            and (self.kind != "disagreement" or clip.is_disputed)
            and (self.kind != "unlabelled" or not clip.is_labelled)
            and (self.kind != "zero-shot" or clip.is_zero_shot)
        )


@dataclass(frozen=True)
class Catalog:
    """All clips that a person can judge.

    Attributes:
        clips: The clips in the order in which they are asked.
        clip_ids: All clips of the manifest.
        decisions: The decisions that occur, with their numbers.
        groups: The groups that occur, with their numbers.
        problem: Why the clips have no better order; empty if they are ordered by `refine`.
    """

    clips: list[Asked] = field(default_factory=list)
    clip_ids: list[str] = field(default_factory=list)
    decisions: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    problem: str = ""
    _matching: dict[Filters, dict[str, Asked]] = field(default_factory=dict)

    def matching(self, filters: Filters) -> dict[str, Asked]:
        """Return the clips that match the conditions, except the one on reviewers, by id."""
        if filters not in self._matching:
            while len(self._matching) >= _KEPT_FILTERS:
                self._matching.pop(next(iter(self._matching)))
            self._matching[filters] = {clip.clip_id: clip for clip in self.clips if filters.match(clip)}
        return self._matching[filters]


def read_next() -> list[str]:
    """Return the clips of data/labels/next.csv in their order; empty if `refine` has not written it.

    Raises:
        InputError: If it is damaged.
    """
    if not paths.NEXT.is_file():
        return []
    table = open_table(paths.NEXT, command=_REFINE)
    return [from_spreadsheet_text(row[0]) for row in table.parse(lambda row: row)]


def load_catalog() -> Catalog:
    """Read the manifest and the refined labels.

    Raises:
        MissingInput: If `index` has not run yet.
        InputError: If a table is damaged.
    """
    corpus = read_corpus_tables()
    problem = ""
    refined: dict[str, tuple[str, str, bool, bool, float]] = {}
    first: dict[str, int] = {}
    try:
        refined = _read_refined()
        first = {clip_id: rank for rank, clip_id in enumerate(read_next())}
    except EcmfError as error:
        problem = f"The clips are in no particular order, because {error}"
    unknown = ("", "", False, False, 0.0)
    clips = []
    for clip in corpus.clips:
        if not (clip.has_video or clip.has_audio or clip.transcript.strip() or clip.translation.strip()):
            continue
        label, decision, is_disputed, is_zero_shot, gain = refined.get(clip.clip_id, unknown)
        label, group = sys.intern(label or clip.given_label), sys.intern(clip.group)
        has_label = bool(clip.given_label)
        clips.append(
            Asked(clip.clip_id, clip.digest, label, decision, group, has_label, is_disputed, is_zero_shot, gain)
        )
    last = len(first)
    clips.sort(key=lambda clip: (first.get(clip.clip_id, last), -clip.gain, bool(clip.label)))
    decisions: dict[str, int] = {}
    groups: dict[str, int] = {}
    for asked in clips:
        decisions[asked.decision] = decisions.get(asked.decision, 0) + 1
        groups[asked.group] = groups.get(asked.group, 0) + 1
    for counts in (decisions, groups):
        counts.pop("", None)
    return Catalog(clips, [clip.clip_id for clip in corpus.clips], decisions, groups, problem)


def _read_refined() -> dict[str, tuple[str, str, bool, bool, float]]:
    """Return label, decision, whether the sources disagree and are zero-shot, and the gain of a verdict, by clip."""
    table = open_table(paths.REFINED, command=_REFINE)
    rows = csv.reader(table.text.splitlines())
    header = next(rows, [])
    column = {name: position for position, name in enumerate(header)}
    try:
        refined, given, best = column["refined_label"], column["given_label"], column["label"]
        decision, agreement = column["decision"], column["agreement"]
        basis = column["basis"]
        found: dict[str, tuple[str, str, bool, bool, float]] = {}
        for row in rows:
            label = row[refined] or row[given] or row[best]
            disputed = bool(row[agreement]) and float(row[agreement]) <= DISAGREEMENT
            gain = round(1.0 - float(row[column[_POSTERIOR + label]]), 6)
            found[row[0]] = (label, sys.intern(row[decision]), disputed, row[basis] == Basis.ZERO_SHOT, gain)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{paths.REFINED} is damaged ({error})", "write it again", command=_REFINE) from error
    table.check_seal()
    return found
