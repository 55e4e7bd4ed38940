"""Answers of language models: the cache of them, and the long loop that asks only what it does not hold, each once.

Answers already paid for are immutable parts of whole lines, in a folder per fingerprint. A line is
``{"key": <SHA-256 of the text>, "scores": [...]}``, with ``"cut": true`` where only the beginning of the text was read.
A text on which the model gave no valid answer has no scores but ``"raw": [...]``, what it said instead: it is not asked
again either. Where a form was filled in, ``values`` stands for the scores.

Nothing is ever appended to a part, so that DVC sends new parts alone and a file that its cache shares stays as it was;
parts are made aside and renamed into place. What the workers of a run have finished waits in a spool until it is sealed
into a part. A text that was paid for twice merely stands twice; a damaged line costs that line.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter

from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import ServerUnavailable, TooManyQuarantined, TryAgain
from ecmf_pipeline.core.files import flush_folder, sha256_text, write_atomic
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.schema import Value
from ecmf_pipeline.llm.server_run import DRAFTS_FILE, RAW, Drafts, Threads
from ecmf_pipeline.runner import Engine, Run, RunConfig, RunReport, StepFactory, Target
from ecmf_pipeline.runner.machine import threads_per_worker
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.runner.step import PartWriter, Spool

PART_SIZE = 1024
"""Answers that stand in one file."""
BRANCH = "llm"
"""The one branch of the loop."""
DIGITS = 6
"""Decimals that are kept of a score."""
_PART = re.compile(r"part-(\d{6,})-[0-9a-f]{8}\.jsonl")


class CacheRow(Protocol):
    """One line."""

    @property
    def key(self) -> str:
        """SHA-256 of what was asked about."""

    def line(self) -> str:
        """The line, with its end."""


RowT = TypeVar("RowT", bound=CacheRow)
Asked = TypeVar("Asked")


@dataclass(frozen=True, slots=True)
class TextScores:
    """What a model said of one text.

    Attributes:
        key: SHA-256 of the text.
        scores: A score for each label, (K,), rounded to `DIGITS`.
        cut: Whether the text was too long and only its beginning was read.
        raw: The answers that were not valid, with the reason before each. Without scores: the model abstains.
    """

    key: str
    scores: tuple[FiniteFloat, ...]
    cut: bool = False
    raw: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, scores: NDArray[np.float64], *, cut: bool = False) -> TextScores:
        """Scores of a text, rounded.

        Raises:
            ValueError: When a score is not finite.
        """
        if not np.isfinite(scores).all():
            raise ValueError(f"scores {scores} are not finite")
        return cls(key, tuple(np.round(scores, DIGITS).tolist()), cut)

    def line(self) -> str:
        """The line of the cache, with its end."""
        entry: dict[str, object] = {"key": self.key, "scores": list(self.scores)}
        entry |= ({"cut": True} if self.cut else {}) | ({"raw": list(self.raw)} if self.raw else {})
        return json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> TextScores:
        """Read a line.

        Raises:
            ValueError: When it is damaged.
        """
        return _SCORES.validate_json(line)


@dataclass(frozen=True, slots=True)
class Written:
    """What a model filled in, kept as a line.

    Attributes:
        key: SHA-256 of the question.
        values: The value of each field; None where every answer was invalid: the model abstains.
        raw: The answers that were not valid, each with the reason before it.
    """

    key: str
    values: Mapping[str, Value] | None = None
    raw: tuple[str, ...] = ()

    def line(self) -> str:
        """The line of the cache, with its end."""
        entry: dict[str, object] = {"key": self.key}
        entry |= {} if self.values is None else {"values": dict(self.values)}
        entry |= {"raw": [answer[:RAW] for answer in self.raw]} if self.raw else {}
        return json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> Written:
        """Read a line.

        Raises:
            ValueError: When it is damaged.
        """
        found = _WRITTEN.validate_json(line)
        if found.values is None and not found.raw:
            raise ValueError(f"not a line of answers: {line!r}")
        return found


_SCORES, _WRITTEN = TypeAdapter(TextScores), TypeAdapter(Written)


class AnswerCache(Generic[RowT]):
    """Answers by what was asked about. Reading needs no lock; `AnswerWriter` adds.

    Args:
        folder: Where this cache stands; need not exist yet.
        fingerprint: Of all that changes an answer (model, prompt, labels...); names the folder of the parts.
        parse: Reads a line, and raises a ValueError where it is damaged.
        also: Further caches that are read only, such as that of a stage which asked the same before.

    Attributes:
        root: Where this cache stands.
        fingerprint: Of all that changes an answer.
        folder: The parts of this fingerprint.
        dropped: How many damaged lines were passed over while reading.
    """

    def __init__(
        self, folder: Path, fingerprint: str, parse: Callable[[bytes], RowT], *, also: Sequence[Path] = ()
    ) -> None:
        self.root = folder
        self.fingerprint = fingerprint
        self.folder = folder / fingerprint
        self.dropped = 0
        self._parse = parse
        self._places = [*also, folder]
        self._read: set[Path] = set()
        self._rows: dict[str, RowT] = {}
        self.refresh()

    def __len__(self) -> int:
        """How many answers there are."""
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        """Whether there is an answer about what has that SHA-256."""
        return key in self._rows

    def __getitem__(self, key: str) -> RowT:
        """The answer about what has that SHA-256."""
        return self._rows[key]

    def get(self, key: str) -> RowT | None:
        """The answer about what has that SHA-256; None where there is none."""
        return self._rows.get(key)

    def rows(self) -> Iterable[RowT]:
        """All that is known."""
        return self._rows.values()

    def refresh(self) -> None:
        """Read the files that were not there before."""
        for place in self._places:
            for path in parts(place / self.fingerprint):
                if path not in self._read:
                    self._read.add(path)
                    self._rows |= {row.key: row for row in self.parse(path.read_bytes())}

    def parse(self, content: bytes) -> list[RowT]:
        """The rows of a file; damaged lines are counted in `dropped`."""
        rows = []
        for line in content.split(b"\n"):
            try:
                if line:
                    rows.append(self._parse(line))
            except ValueError:
                self.dropped += 1
        return rows


class ScoreCache(AnswerCache[TextScores]):
    """Scores by text; see `AnswerCache`."""

    def __init__(self, folder: Path, fingerprint: str, *, also: Sequence[Path] = ()) -> None:
        super().__init__(folder, fingerprint, TextScores.parse, also=also)


class AnswerWriter(PartWriter[RowT], Generic[RowT]):
    """The one writer of a cache; see `PartWriter`. On entering it also reads what other runs have added meanwhile.

    Args:
        cache: What is written to; knows each row as soon as it is added.
        waiting: Folder outside of what DVC tracks and on the cache's file system, for the lock and for what is not yet
            sealed.
        keys: SHA-256 of what is asked about each clip; None: batches are not sealed by clip, only appended to.

    Raises:
        StoreBusy: On entering, when another run writes to the cache.
    """

    def __init__(self, cache: AnswerCache[RowT], waiting: Path, keys: Mapping[str, str] | None = None) -> None:
        spool: Spool[RowT] = Spool(waiting / cache.fingerprint, pack_rows)
        super().__init__(spool, lock=waiting / "lock", what=f"the answers in {cache.root}")
        self.cache = cache
        self._keys = keys or {}

    def append(self, rows: Iterable[RowT], number: int | None = None) -> int:
        """Add rows as one new part, whole or not at all; what has an answer already is left out.

        Args:
            rows: What to add.
            number: Place of the part among those of this run; None for the next free one.

        Returns:
            How many rows were added.
        """
        new = {row.key: row for row in rows if row.key not in self.cache}
        if not new:
            return 0
        content = "".join(row.line() for row in new.values())
        name = f"part-{self._place(number):06d}-{sha256_text(content)[:8]}.jsonl"
        aside = self.spool.folder / name
        write_atomic(aside, content)
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        aside.rename(self.cache.folder / name)
        flush_folder(self.cache.folder)
        flush_folder(self.cache.folder.parent)
        self.cache.refresh()
        return len(new)

    def seal(self, number: int, tasks: Sequence[str], clip_ids: Sequence[str]) -> int:
        """Make one part of what workers kept; see `PartWriter`. An answer counts once however many clips share it."""
        keys = [self._keys[clip_id] for clip_id in clip_ids]
        with self._kept(tasks) as batches:
            kept = {row.key: row for payload in batches for row in self.cache.parse(payload)}
            self.append((kept[key] for key in dict.fromkeys(keys) if key in kept), number)
        return len(kept)

    def _refresh(self) -> None:
        self.cache.refresh()

    def _adopt(self, leftovers: Sequence[Path]) -> int:
        adopted = self.append(row for path in leftovers for row in self.cache.parse(path.read_bytes()))
        for path in leftovers:
            path.unlink()
        return adopted

    def _next_number(self) -> int:
        return 1 + max((_number(path) for path in parts(self.cache.folder)), default=-1)


def pack_rows(rows: Sequence[CacheRow]) -> bytes:
    """Return the lines of a finished batch; several clips may share a row."""
    unique = {row.key: row for row in rows}
    return "".join(row.line() for row in unique.values()).encode()


def parts(folder: Path) -> list[Path]:
    """The parts of one fingerprint, in order of their numbers."""
    found = [path for path in folder.glob("part-*") if _PART.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=lambda path: (_number(path), path.name))


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


@dataclass(frozen=True, slots=True)
class ScoreBooks:
    """Where a stage keeps what it has asked, and whether it tries again what it could not ask.

    Attributes:
        stage: The stage.
        cache: Answers already paid for.
        waiting: What is not sealed yet; outside of what DVC tracks.
        quarantine: Table of the clips that the model could not be asked about.
        earlier: Stages that asked the same before: what they know is read, what they set aside is not asked.
        retry_quarantined: Whether what the stage set aside is tried again although nothing changed.
    """

    stage: str
    cache: Path
    waiting: Path
    quarantine: Path
    earlier: tuple[ScoreBooks, ...] = ()
    retry_quarantined: bool = False


@dataclass(frozen=True, slots=True)
class Question(Generic[Asked]):
    """What is asked at once, for all the clips that share it.

    Attributes:
        about: A text, the turns of a chat, or a clip whose pictures are shown.
        targets: The clips.
    """

    about: Asked
    targets: tuple[Target, ...]

    def alone(self) -> Sequence[Question[Asked]]:
        """Itself: its clips are asked about in the same words."""
        return [self]


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of the questions.

    Attributes:
        asked: Keys of those that were answered just now.
        cached: How many were known.
        quarantined: How many clips are set aside.
    """

    asked: frozenset[str]
    cached: int
    quarantined: int


def ask_about(
    keys: Mapping[str, str],
    asked: Mapping[str, Asked],
    length: Callable[[Asked], int],
    *,
    cache: AnswerCache[RowT],
    books: ScoreBooks,
    steps: StepFactory,
    config: LlmConfig,
    engine: Engine | None = None,
) -> Answered:
    """Ask what the cache does not know, and keep the answers in it.

    Each finished batch is durable at once, and so is each paid answer of a question that takes several, so that a run
    that is cut short asks only the rest when it is repeated.

    Args:
        keys: SHA-256 of what is asked about each clip.
        asked: What that is; clips that share a key share a question.
        length: How much there is to read of it, in characters.
        cache: Of these settings.
        books: Where the stage keeps what it has asked.
        steps: Makes the steps; not called when everything is known.
        config: How the loop runs.
        engine: Who runs the workers; None: processes or threads of this machine, as ``config`` says.

    Raises:
        StoreBusy: When another run asks for the same stage.
        TryAgain: When a server failed each time it was asked about some clips; at once where it seems to be down.
        BudgetSpent: When more would have to be asked than the budget allows.
        TooManyQuarantined: When too many questions make the model fail; what was answered is kept.
        Interrupted: On Ctrl-C or SIGTERM; what was complete is kept.
    """
    on_server = config.backend == "openai"
    with AnswerWriter(cache, books.waiting, keys) as writer, ExitStack() as at_end:
        if on_server:
            at_end.callback(lambda: drafts_of(books, cache.fingerprint).tidy(cache))
        known = {key for key in keys.values() if key in cache}
        missing = {clip_id: key for clip_id, key in keys.items() if key not in known}
        quarantine = _set_aside(books, cache.fingerprint, missing)
        report = RunReport(reused={BRANCH: len(keys) - len(missing)})
        wanted: dict[str, list[str]] = defaultdict(list)
        for clip_id, key in missing.items():
            if not quarantine.holds(clip_id, key):
                wanted[key].append(clip_id)
        questions = [
            Question(asked[clip_ids[0]], tuple(Target(clip_id, BRANCH, key) for clip_id in clip_ids))
            for key, clip_ids in wanted.items()
        ]
        if questions:
            run: Run[Question[Asked]] = Run(
                steps,
                {BRANCH: writer},
                {BRANCH: quarantine},
                RunConfig(
                    1 if on_server else config.batch_size,  # a server's answers are paid for one by one
                    PART_SIZE,
                    config.max_quarantined,
                    config.workers,
                    config.clip_timeout,
                    threads=threads_per_worker(config.workers),
                ),
                report,
                engine or (Threads(config.server.concurrency) if on_server else None),
            )
            try:
                run(_in_order(questions, length), books.stage)
            except TryAgain as error:
                raise TryAgain(_see(books, f"{error}; the answers are kept")) from error
            except TooManyQuarantined as error:
                _refuse_without_server(config, books, report, error)
                raise
            _refuse_without_server(config, books, report)
        else:
            quarantine.write()
            quarantine.refuse_too_many(len(keys), config.max_quarantined)
    answered = frozenset(key for key in missing.values() if key in cache)
    return Answered(answered, cached=len(known), quarantined=len(quarantine))


def drafts_of(books: ScoreBooks, fingerprint: str) -> Drafts:
    """What has been paid for of questions that are not finished; these wait beside the spool."""
    own, *others = (each.waiting / fingerprint / DRAFTS_FILE for each in (books, *books.earlier))
    return Drafts(own, also=others)


def nothing_to_ask(books: ScoreBooks) -> None:
    """Write the empty table of a stage that has nothing to ask: DVC waits for it."""
    quarantine = Quarantine(books.quarantine, stage=books.stage)
    quarantine.clear()
    quarantine.write()


def _refuse_without_server(
    config: LlmConfig, books: ScoreBooks, report: RunReport, error: TooManyQuarantined | None = None
) -> None:
    """Where a server failed, it is the server that wants mending and not the clips."""
    if failed := report.transient[ServerUnavailable.__name__]:
        raise TryAgain(
            _see(
                books,
                f"{format_count(failed, 'question')} without an answer, since the server at {config.server.base_url} "
                "failed each time; the answers are kept",
            )
        ) from error


def _see(books: ScoreBooks, what: str) -> str:
    return f"{books.stage}: {what}.\n  See {books.quarantine}, and run it again once the server is well."


def _set_aside(books: ScoreBooks, fingerprint: str, missing: Mapping[str, str]) -> Quarantine:
    """The stage's table: of the clips that miss an answer, those whose question was found to break the model."""

    def table(of: ScoreBooks) -> Quarantine:
        read = Quarantine(of.quarantine, stage=of.stage, fingerprint=fingerprint, section="llm")
        read.keep_only(dict(missing))
        return read

    own = table(books)
    if books.retry_quarantined:
        own.clear()
        return own
    bad = {entry.digest: entry for read in (*map(table, books.earlier), own) for entry in read}
    for clip_id, key in missing.items():
        if key in bad:  # also when it was another clip, or an earlier stage, that it was tried for
            own.add(clip_id, bad[key].reason, bad[key].message, key)
    return own


def _in_order(questions: Sequence[Question[Asked]], length: Callable[[Asked], int]) -> list[Question[Asked]]:
    """Of the questions whose answers will stand in one part, the shorter ones first.

    A batch is as wide as its longest text: on MELD's utterances, batches in the order of the corpus cost twice the
    processor time.
    """
    parts = [questions[start : start + PART_SIZE] for start in range(0, len(questions), PART_SIZE)]
    return [question for part in parts for question in sorted(part, key=lambda question: length(question.about))]
