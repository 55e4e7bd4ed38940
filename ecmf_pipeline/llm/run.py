"""The long loop of everything that is asked of a language model: only what is not known, each question once.

`Threads` is the engine for servers: right for work that consists of waiting. Models of this machine take the engines of
`runner`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from ecmf_pipeline.core.console import counted
from ecmf_pipeline.core.errors import (
    ServerUnavailable,
    TooManyQuarantined,
    TryAgain,
)
from ecmf_pipeline.llm.cache import DRAFTS_FILE, AnswerCache, AnswerWriter, Drafts, RowT
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Message
from ecmf_pipeline.runner import (
    Done,
    Engine,
    Item,
    Run,
    RunConfig,
    RunReport,
    StepFactory,
    Target,
    Task,
)
from ecmf_pipeline.runner.machine import threads_per_worker
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.runner.run import hurried
from ecmf_pipeline.runner.step import Spool, perform, unwatched

PART_SIZE = 1024
"""Answers that stand in one file."""
BRANCH = "llm"
"""The one branch of this loop."""


@dataclass(frozen=True, slots=True)
class ScoreBooks:
    """Where a stage keeps what it has asked.

    Attributes:
        stage: The stage.
        cache: Answers already paid for.
        waiting: What is not sealed yet; outside of what DVC tracks.
        quarantine: Table of the clips that the model could not be asked about.
        earlier: Stages that asked the same before: what they know is read, what they set aside is not asked.
    """

    stage: str
    cache: Path
    waiting: Path
    quarantine: Path
    earlier: tuple[ScoreBooks, ...] = ()


class Question(Item, Protocol):
    """What is asked at once, for all the clips that share it."""

    @property
    def length(self) -> int:
        """How much there is to read, in characters."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One text that the model is to be asked about.

    Attributes:
        text: The words.
        targets: The clips that say them.
    """

    text: str
    targets: tuple[Target, ...]

    @property
    def length(self) -> int:
        """Its characters."""
        return len(self.text)

    def alone(self) -> Sequence[Utterance]:
        """Itself: its clips say one and the same."""
        return [self]


@dataclass(frozen=True, slots=True)
class Form:
    """One chat that the model is to answer by filling in a form.

    Attributes:
        chat: Its turns.
        targets: The clips that it is about.
    """

    chat: tuple[Message, ...]
    targets: tuple[Target, ...]

    @property
    def length(self) -> int:
        """Its characters."""
        return sum(len(turn["content"]) for turn in self.chat)

    def alone(self) -> Sequence[Form]:
        """Itself: its clips are asked about in the same words."""
        return [self]


@dataclass(frozen=True, slots=True)
class Asked:
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
    items: Callable[[Mapping[str, Sequence[str]]], Sequence[Question]],
    *,
    cache: AnswerCache[RowT],
    fingerprint: str,
    books: ScoreBooks,
    steps: Callable[[Drafts], StepFactory],
    config: LlmConfig,
    retry_quarantined: bool = False,
    engine: Engine | None = None,
) -> Asked:
    """Ask what the cache does not know, and keep the answers in it.

    Each finished batch is durable at once, and so is each paid answer of a question that takes several, so that a run
    that is cut short asks only the rest when it is repeated.

    Args:
        keys: SHA-256 of what is asked about each clip.
        items: Makes the questions, of the clips that share each key.
        cache: Of these settings.
        fingerprint: Of all that changes an answer.
        books: Where the stage keeps what it has asked.
        steps: The factory of the steps, of what has been paid for of unfinished questions; not called when everything
            is known.
        config: How the loop runs.
        retry_quarantined: Whether what was set aside is tried again.
        engine: Who runs the workers; None: processes or threads of this machine, as ``config`` says.

    Raises:
        StoreBusy: When another run asks for the same stage.
        TryAgain: When a server failed each time it was asked about some clips; at once where it seems to be down.
        BudgetSpent: When more would have to be asked than the budget allows.
        TooManyQuarantined: When too many questions make the model fail; what was answered is kept.
        Interrupted: On Ctrl-C or SIGTERM; what was complete is kept.
    """
    with AnswerWriter(cache, books.waiting, keys) as writer, _drafting(books, cache) as drafts:
        known = {key for key in keys.values() if key in cache}
        missing = {clip_id: key for clip_id, key in keys.items() if key not in known}
        quarantine = _set_aside(books, fingerprint, missing, retry=retry_quarantined)
        report = RunReport(reused={BRANCH: len(keys) - len(missing)})
        if questions := items(_wanted(missing, quarantine)):
            run: Run[Question] = Run(
                steps(drafts),
                {BRANCH: writer},
                {BRANCH: quarantine},
                RunConfig(
                    _batch_size(config),
                    PART_SIZE,
                    config.max_quarantined,
                    config.workers,
                    config.clip_timeout,
                    threads=threads_per_worker(config.workers),
                ),
                report,
                engine or (Threads(config.server.concurrency) if config.backend == "openai" else None),
            )
            try:
                run(_in_order(questions), books.stage)
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
    return Asked(answered, cached=len(known), quarantined=len(quarantine))


def drafts_of(books: ScoreBooks, fingerprint: str) -> Drafts:
    """What has been paid for of questions that are not finished.

    Args:
        books: Where the stage keeps what it has asked.
        fingerprint: Of all that changes an answer.
    """
    own, *others = (each.waiting / fingerprint / DRAFTS_FILE for each in (books, *books.earlier))
    return Drafts(own, also=others)


def nothing_to_ask(books: ScoreBooks) -> None:
    """Write the empty table of a stage that has nothing to ask: DVC waits for it."""
    quarantine = Quarantine(books.quarantine, stage=books.stage)
    quarantine.clear()
    quarantine.write()


class Threads:
    """An engine of threads that share one step: right for work that consists of waiting.

    Args:
        count: Items under way at once.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def run(
        self, tasks: Iterable[Task[Any]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[Any]]:
        """Work on the tasks; see `runner.Engine`. Where one fails, those under way are finished first.

        So they are on a first Ctrl-C or SIGTERM; a second one leaves at once.
        """
        step: Any = factory(0)
        source = iter(tasks)
        first: BaseException | None = None
        with ThreadPoolExecutor(self._count, thread_name_prefix="ask") as pool:
            pending: set[Future[Done[Any]]] = set()
            try:
                while True:
                    if first is None:
                        for task in islice(source, self._count - len(pending)):
                            pending.add(pool.submit(perform, step, spools, task, unwatched))
                    if not pending:
                        break
                    finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in finished:
                        if error := future.exception():
                            first = first or error
                            step.stop()
                        else:
                            yield future.result()
            finally:
                step.stop()
                for future in pending:
                    future.cancel()
                try:
                    with hurried(step.abandon):  # what is under way is paid for; yet nobody has to wait for it
                        pool.shutdown(wait=True)
                finally:
                    step.close()
        if first is not None:
            raise first


@contextmanager
def _drafting(books: ScoreBooks, cache: AnswerCache[RowT]) -> Iterator[Drafts]:
    """The drafts for a run that holds the lock; those of questions that have an answer by its end go."""
    drafts = drafts_of(books, cache.folder.name)
    drafts.tidy(cache)
    try:
        yield drafts
    finally:
        drafts.tidy(cache)


def _refuse_without_server(
    config: LlmConfig, books: ScoreBooks, report: RunReport, error: TooManyQuarantined | None = None
) -> None:
    """Where a server failed, it is the server that wants mending and not the clips."""
    if failed := report.transient[ServerUnavailable.__name__]:
        raise TryAgain(
            _see(
                books,
                f"{counted(failed, 'question')} without an answer, since the server at {config.server.base_url} failed "
                "each time; the answers are kept",
            )
        ) from error


def _see(books: ScoreBooks, what: str) -> str:
    return f"{books.stage}: {what}.\n  See {books.quarantine}, and run it again once the server is well."


def _set_aside(books: ScoreBooks, fingerprint: str, missing: Mapping[str, str], *, retry: bool) -> Quarantine:
    """The stage's table: of the clips that miss an answer, those whose question was found to break the model."""

    def table(of: ScoreBooks) -> Quarantine:
        read = Quarantine(of.quarantine, stage=of.stage, fingerprint=fingerprint, section="llm")
        read.keep_only(dict(missing))
        return read

    own = table(books)
    if retry:
        own.clear()
        return own
    bad = {entry.digest: entry for read in (*map(table, books.earlier), own) for entry in read}
    for clip_id, key in missing.items():
        if key in bad:  # also when it was another clip, or an earlier stage, that it was tried for
            own.add(clip_id, bad[key].reason, bad[key].message, key)
    return own


def _wanted(missing: Mapping[str, str], quarantine: Quarantine) -> Mapping[str, Sequence[str]]:
    """The clips that share each key, without those that are set aside."""
    clips: dict[str, list[str]] = defaultdict(list)
    for clip_id, key in missing.items():
        if not quarantine.holds(clip_id, key):
            clips[key].append(clip_id)
    return clips


def _in_order(items: Sequence[Question]) -> list[Question]:
    """Of the questions whose answers will stand in one part, the shorter ones first.

    A batch is as wide as its longest text: on MELD's utterances, batches in the order of the corpus cost twice the
    processor time.
    """
    parts = [items[start : start + PART_SIZE] for start in range(0, len(items), PART_SIZE)]
    return [item for part in parts for item in sorted(part, key=lambda item: item.length)]


def _batch_size(config: LlmConfig) -> int:
    """Questions that are durable together: a server's answers are paid for one by one."""
    return 1 if config.backend == "openai" else config.batch_size
