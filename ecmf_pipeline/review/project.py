"""The project as the page shows it: clips in the order in which they are asked, what is known of each, and answers."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import MANIFEST_COLUMNS, Clip, Modality, clip_of_row, read_corpus_description
from ecmf_pipeline.core.errors import CorpusError, EcmfError, InputError, WorkerCrashed
from ecmf_pipeline.core.files import FileState
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.labels.verdicts import UNSURE, Answer, is_outdated, other_answers
from ecmf_pipeline.review.catalog import Asked, Catalog, Filters, load_catalog, read_next
from ecmf_pipeline.review.rows import RowFile
from ecmf_pipeline.review.verdict_log import VerdictLog
from ecmf_pipeline.review.words import with_transcript
from ecmf_pipeline.review.workers import Workers

CACHE = paths.REVIEW_CACHE

_FIRST = 50
"""Number of clips that can be shown while the others are read, if `refine` has not written a list."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Numbers of clips that match the filters, and of those that a reviewer has answered."""

    clips: int
    answered: int


class UnknownAnswer(InputError):
    """The clip or the label of an answer is not in the project, so sending the answer again is of no use."""


class Project:
    """The clips and answers of the project in the current directory.

    Args:
        root: The corpus folder.
        verdicts: The csv file of answers.
        workers: Worker processes, which read the order of all clips.

    Raises:
        MissingInput: If `index` has not run yet.
    """

    def __init__(self, root: Path, verdicts: Path, workers: Workers) -> None:
        self.root = root
        self._workers = workers
        self._lock = threading.RLock()
        self._states: list[FileState | None] = []
        self._catalog: Catalog | None = None
        self._loading: Future[Catalog] | None = None
        self._refined: RowFile | None = None
        self.problem = ""
        self._refresh()
        self.log = VerdictLog(verdicts, CACHE / "verdicts.lock", lambda: self.labels, self._clip_ids)

    def _refresh(self) -> None:
        """Open the tables again if a stage has written them."""
        states = [
            FileState.of(path) if path.is_file() else None
            for path in (paths.MANIFEST, paths.CORPUS, paths.REFINED, paths.NEXT, paths.TRANSCRIPTS)
        ]
        if states == self._states:
            return
        description = read_corpus_description()
        self._manifest = RowFile(paths.MANIFEST, "ecmf-pipe index")
        if tuple(self._manifest.columns) != MANIFEST_COLUMNS:
            raise CorpusError(
                f"{paths.MANIFEST} is not a manifest of this version", "write it again", command="ecmf-pipe index"
            )
        self.labels = description.labels
        self.synthetic = description.synthetic
        self._refined, self._catalog, self.problem = None, None, ""
        self._transcripts = RowFile(paths.TRANSCRIPTS, "ecmf-pipe transcribe") if states[-1] else None
        try:
            self._refined = RowFile(paths.REFINED, "ecmf-pipe refine")
            first = read_next()
        except EcmfError as error:
            first, self.problem = [], f"The clips are in no particular order, because {error}"
        self._first = first or [row["clip_id"] for row in self._manifest.first(_FIRST)]
        self._loading = None
        self._states = states

    def _asked(self, clip_id: str) -> Asked | None:
        """Return a clip of the list with which the page starts; its gain and agreement are not needed."""
        row = self._manifest.find(clip_id)
        if row is None:
            return None
        refined = self._refined.find(clip_id) if self._refined else None
        label = refined["refined_label"] or refined["given_label"] or refined["label"] if refined else ""
        return Asked(
            clip_id,
            row["digest"],
            label or row["given_label"],
            refined["decision"] if refined else "",
            row["group"],
            bool(row["given_label"]),
            is_disputed=False,
            is_zero_shot=refined is not None and refined.get("basis") == Basis.ZERO_SHOT,
            gain=0.0,
        )

    def _clip_ids(self) -> Sequence[str]:
        return self._catalog.clip_ids if self._catalog else self._manifest.keys()

    def catalog(self, *, wait: bool = False) -> Catalog | None:
        """Return all clips in their order; None while a worker reads them, which the first call starts.

        Args:
            wait: Whether to wait for them.

        Raises:
            InputError: If a table is damaged.
            WorkerCrashed: If the worker has crashed; the next call starts another one.
        """
        with self._lock:
            self._refresh()
            if self._catalog is not None:
                return self._catalog
            if self._loading is None:
                self._loading = self._workers.submit(load_catalog)
            loading = self._loading
        if not (wait or loading.done()):
            return None
        try:
            catalog = loading.result()
        except BaseException as error:
            with self._lock:
                if self._loading is loading:
                    self._loading = None
            if isinstance(error, BrokenProcessPool):
                raise WorkerCrashed("the process that reads the clips has crashed; load the page again") from None
            raise
        with self._lock:
            if self._loading is loading:
                self._catalog, self._loading, self.problem = catalog, None, catalog.problem
        return catalog

    def answers(self) -> dict[tuple[str, str], Answer]:
        """Return the answers that count, by clip and reviewer."""
        with self._lock:
            return dict(self.log.answers())

    def reviewer(self, name: str) -> str:
        """Return a reviewer's name as it is in the file of answers."""
        with self._lock:
            return self.log.reviewer(name)

    def record(self, answer: Answer) -> int:
        """Append an answer unless the reviewer has already given it; return the number of appended rows.

        Raises:
            UnknownAnswer: If the clip or the label is unknown.
            InputError: If the file of answers is damaged.
        """
        if answer.label not in {*self.labels, *other_answers(self.labels), ""}:
            raise UnknownAnswer(f"unknown label {answer.label!r}")
        with self._lock:
            if self._manifest.find(answer.clip_id) is None:
                raise UnknownAnswer(f"no clip {answer.clip_id!r} in {paths.MANIFEST}")
            return self.log.record([answer])

    def queue(self, filters: Filters, reviewer: str, skip: Collection[str], count: int) -> list[str]:
        """Return the next clips for a reviewer: those without an answer, then those that the reviewer is unsure of.

        Args:
            filters: Conditions on the clips.
            reviewer: Name of the reviewer.
            skip: Clips to leave out, such as those that are on the page already.
            count: Maximum number of clips.
        """
        with self._lock:
            self._refresh()
            catalog = self._catalog
        if any(filters):
            catalog = self.catalog(wait=True)
        answers, reviewer = self.answers(), self.reviewer(reviewer)
        skipped = set(skip)
        unsure: list[str] = []

        def without_answer() -> Iterator[str]:
            for clip in self._matching(catalog, filters, answers):
                if clip.clip_id in skipped:
                    continue
                answer = answers.get((clip.clip_id, reviewer))
                if answer is None or is_outdated(answer, clip.digest):
                    yield clip.clip_id
                elif answer.label == UNSURE and UNSURE not in self.labels:
                    unsure.append(clip.clip_id)

        found = list(islice(without_answer(), count))
        if len(found) < count and catalog is None:  # the first list is used up
            self.catalog(wait=True)
            return self.queue(filters, reviewer, skip, count)
        return (found + unsure)[:count]

    def progress(self, filters: Filters, reviewer: str) -> Progress | None:
        """Count the clips that match the filters and those that the reviewer has answered; None while they are read."""
        catalog = self.catalog()
        if catalog is None:
            return None
        answers, reviewer = self.answers(), self.reviewer(reviewer)
        if filters.kind == "reviewers":  # the clips change with each answer
            matching = {clip.clip_id: clip for clip in self._matching(catalog, filters, answers)}
        else:
            matching = catalog.matching(filters)
        answered = sum(
            other == reviewer and name in matching and not is_outdated(answer, matching[name].digest)
            for (name, other), answer in answers.items()
        )
        return Progress(len(matching), answered)

    def _matching(
        self, catalog: Catalog | None, filters: Filters, answers: Mapping[tuple[str, str], Answer]
    ) -> Iterator[Asked]:
        clips: Iterable[Asked] = catalog.clips if catalog else filter(None, map(self._asked, list(self._first)))
        if filters.kind == "reviewers":
            given: dict[str, set[str]] = {}
            for (clip_id, _), answer in answers.items():
                given.setdefault(clip_id, set()).add(answer.label)
            differ = {clip_id for clip_id, labels in given.items() if len(labels) > 1}
            clips = [clip for clip in clips if clip.clip_id in differ]
        return (clip for clip in clips if filters.match(clip))

    def clip(self, clip_id: str) -> Clip:
        """Return a clip of the manifest with its transcript.

        Raises:
            InputError: If there is none with this id.
        """
        with self._lock:
            row, transcripts = self._manifest.find(clip_id), self._transcripts
        if row is None:
            raise InputError(f"no clip {clip_id!r} in {paths.MANIFEST}")
        return with_transcript(clip_of_row(list(row.values())), transcripts)

    def describe(self, clip_id: str, reviewer: str, *, show_others: bool) -> dict[str, Any]:
        """Return what the page shows of a clip, as plain JSON values.

        Args:
            clip_id: The clip.
            reviewer: Name of the reviewer.
            show_others: Whether to add the answers of other reviewers.
        """
        clip = self.clip(clip_id)
        with self._lock:
            refined = (self._refined.find(clip_id) if self._refined else None) or {}
        answers, reviewer = self.answers(), self.reviewer(reviewer)
        mine = answers.get((clip_id, reviewer))
        is_mine_outdated = mine is not None and is_outdated(mine, clip.digest)
        return {
            "name": clip_id,
            "digest": clip.digest,
            "kind": "video" if clip.has_video else "audio" if clip.has_audio or clip.audio_path else "none",
            "start": clip.start,
            "end": clip.end,
            "duration": clip.duration,
            "transcript": clip.transcript,
            "translation": clip.translation,
            "words_from": clip.words_from.value,
            "language": clip.language,
            "split": clip.split.value,
            "group": clip.group,
            "given": clip.given_label,
            "decision": refined.get("decision", ""),
            "why": _why(refined),
            "reason": refined.get("reason", ""),
            "posterior": _posterior(refined, self.labels),
            "votes": _votes(refined),
            "faces": clip.has_video and paths.features(Modality.FACE).is_dir(),
            "mine": mine.label if mine and not is_mine_outdated else "",
            "outdated": is_mine_outdated,
            "others": [
                {"reviewer": answer.reviewer or "unknown", "label": answer.label}
                for (name, other), answer in answers.items()
                if name == clip_id and other != reviewer
            ]
            if show_others
            else [],
        }


_UNVERIFIED = ", as far as zero-shot, unverified models know"
_DECISIONS = {
    "keep": "The given label is probably right.",
    "down_weight": "The given label is doubtful.",
    "review": "A person should check this clip.",
    "drop": "The given label is probably wrong, so the clip is left out of training.",
    "relabel": "Another label has replaced the given one.",
    "pseudo": "The clip had no label and got one from the models.",
    "leave": "The clip has no label, and none is certain enough.",
}


def _why(refined: Mapping[str, str]) -> str:
    """Explain in one or two sentences why a clip is asked."""
    if not refined:
        return "The models have not judged this clip yet."
    label = refined["refined_label"] or refined["given_label"] or refined["label"]
    probability = float(refined.get(f"posterior_{label}") or 0)
    return (
        f"{_DECISIONS.get(refined['decision'], '')} Your answer changes its label with a probability of "
        f"{1 - probability:.0%}{_UNVERIFIED if refined.get('basis') == Basis.ZERO_SHOT else ''}."
    ).strip()


def _posterior(refined: Mapping[str, str], labels: Sequence[str]) -> list[list[Any]]:
    known = [[label, float(cell)] for label in labels if (cell := refined.get(f"posterior_{label}"))]
    return sorted(known, key=lambda entry: -entry[1])


def _votes(refined: Mapping[str, str]) -> list[list[Any]]:
    """Return source, label and probability of each vote; label "" is an abstention."""
    sources = [
        name.removesuffix("_vote") for name in refined if name.endswith("_vote") and not name.startswith("posterior_")
    ]
    return [
        [source, refined[f"{source}_vote"], float(cell) if (cell := refined.get(f"{source}_prob")) else None]
        for source in sources
    ]
