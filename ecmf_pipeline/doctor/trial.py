"""Extract features and enrich texts of a few clips in a temporary folder, and measure the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from ecmf_pipeline.core.clips import Clip, ClipText
from ecmf_pipeline.core.errors import TryAgain
from ecmf_pipeline.extraction.run import extract, open_writers, plan_branch
from ecmf_pipeline.llm.answers import AnswerFiles
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Context
from ecmf_pipeline.llm.rewriting import enrich_transcripts
from ecmf_pipeline.runner import Engine, LocalProcesses
from ecmf_pipeline.runner.machine import usable_cores
from ecmf_pipeline.runner.step import Done, ItemT, Spool, Step, StepFactory, Task
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.store import FeatureStore, has_fingerprint

TRIAL_CLIPS = 4
"""Number of clips of a trial."""
T = TypeVar("T")


class TimedStep(Step[Any, Any, Any]):
    """A step that appends the seconds of each call of ``open`` and ``work`` to a file."""

    def __init__(self, step: Step[Any, Any, Any], log: Path) -> None:
        self._step = step
        self._log = log

    def open(self, item: Any) -> Any:
        """Open an item; see `Step`."""
        return self._timed("open", self._step.open, item)

    def work(self, batch: Any) -> list[Any]:
        """Compute a batch; see `Step`."""
        return cast("list[Any]", self._timed("work", self._step.work, batch))

    def close(self) -> None:
        """Close the step."""
        self._step.close()

    def _timed(self, phase: str, call: Callable[[Any], Any], argument: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(argument)
        finally:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(f"{phase} {time.perf_counter() - started}\n")


@dataclass(frozen=True, slots=True)
class TimedFactory:
    """A picklable factory of timed steps."""

    factory: StepFactory
    log: Path

    def __call__(self, worker: int) -> TimedStep:
        """Build the step in its worker."""
        return TimedStep(self.factory(worker), self.log)


def opening_share(log: Path) -> float:
    """Return the share of the time of a trial in which clips were opened; the first clip counts only if it is alone."""
    seconds: dict[str, list[float]] = {"open": [0.0], "work": [0.0]}
    if log.is_file():
        for line in log.read_text(encoding="utf-8").splitlines():
            phase, value = line.split()
            seconds[phase].append(float(value))
    opened, worked = (sum(values[2:] or values) for values in seconds.values())
    return opened / (opened + worked) if opened + worked else 0.0


class TimedEngine:
    """An engine with a single worker that records when each batch finishes.

    Args:
        engine: The engine.
        log: File for the seconds of each phase; see `TimedStep`. None: phases are not timed.
    """

    def __init__(self, engine: Engine, log: Path | None = None) -> None:
        self._engine = engine
        self._log = log
        self._started = 0.0
        self._finished: list[tuple[float, int]] = []  # time and number of items of each batch

    def run(
        self, tasks: Iterable[Task[ItemT]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[ItemT]]:
        """See `runner.Engine`."""
        self._started = time.perf_counter()
        timed = TimedFactory(factory, self._log) if self._log else factory
        results = cast("Iterator[Done[ItemT]]", self._engine.run(tasks, timed, spools))
        with closing(results) as finished:  # type: ignore[type-var]
            for done in finished:
                self._finished.append((time.perf_counter(), len(done.task.items)))
                yield done

    @property
    def includes_loading(self) -> bool:
        """Whether the time includes loading the models, because there was only one batch."""
        return len(self._finished) == 1

    def seconds_per_item(self) -> float | None:
        """Return the seconds per item, without the first batch, before which the worker loads its models.

        If there was a single batch, the time includes loading. None if there was no batch.
        """
        if not self._finished:
            return None
        if len(self._finished) == 1:
            ended, items = self._finished[0]
            return (ended - self._started) / items
        return (self._finished[-1][0] - self._finished[0][0]) / sum(items for _, items in self._finished[1:])


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of extracting one modality of a few clips.

    Attributes:
        tried: Number of clips that were processed.
        absent: Number of clips without an input of this modality.
        failed: Clip id, reason and message of each failure.
        seconds: Seconds per clip with one single-threaded worker; None if no clip was processed.
        bytes_a_clip: Bytes of features per clip with features; None if there is none.
        includes_loading: Whether the time is that of a single clip and includes loading the models.
        opening_share: Share of the time in which clips are read and decoded, on the CPU.
        files_of_part: Number of files of one part of the store.
    """

    tried: int
    absent: int
    failed: Sequence[tuple[str, str, str]]
    seconds: float | None
    bytes_a_clip: float | None
    includes_loading: bool = False
    opening_share: float = 0.0
    files_of_part: int = 0


def sample_evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` items, evenly spaced over all items."""
    if len(items) <= count:
        return list(items)
    return [items[position * (len(items) - 1) // (count - 1)] for position in range(count)]


def try_extraction(
    params: Params,
    features: str,
    settings: dict[str, Any],
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    folder: Path,
) -> Trial:
    """Extract features (a name of `Params.tokens`) of some clips in batches of one, in a separate worker process.

    Output goes only to ``folder``.
    """
    modality = params.tokens[features].modality
    root = folder / f"{features}.zarr"
    log = folder / f"{features}.seconds"
    engine = TimedEngine(LocalProcesses(1, params.extract.clip_timeout), log)
    with open_writers({features: settings}, lambda _: root) as writers:
        branch = plan_branch(
            modality,
            clips,
            texts,
            encoder=params.encoder_of(*params.tokens[features]),
            settings=settings,
            root=root,
            quarantine_path=folder / f"{features}.csv",
            name=features,
        )
        with suppress(TryAgain):  # the quarantine table lists transient failures too
            extract(
                [branch],
                clips,
                texts,
                writers=writers,
                corpus_root=params.corpus.root,
                media=params.media,
                faces=params.faces,
                config=params.extract.model_copy(update={"batch_size": 1, "max_quarantined": 1.0}),
                engine=engine,
            )
    failed = [(entry.clip_id, entry.reason, entry.message) for entry in branch.quarantine]
    return Trial(
        len(branch.todo),
        branch.absent,
        failed,
        engine.seconds_per_item(),
        _bytes_per_clip(root, branch.fingerprint),
        engine.includes_loading,
        opening_share(log),
        max((sum(path.is_file() for path in part.rglob("*")) for part in root.glob("*/part-*")), default=0),
    )


def _bytes_per_clip(root: Path, fingerprint: str) -> float | None:
    if not has_fingerprint(root, fingerprint):
        return None
    store = FeatureStore(root, fingerprint)
    files = [path for path in store.folder.glob("part-*/**/*") if path.is_file()]
    return sum(path.stat().st_size for path in files if path.name != "zarr.json") / len(store) if len(store) else None


@dataclass(frozen=True, slots=True)
class LlmTrial:
    """Result of enriching a few texts.

    Attributes:
        texts: Original and enriched transcripts, by clip id.
        failed: Number of texts that failed.
        seconds: Seconds per text, in batches of a few texts.
        includes_loading: Whether the time is that of a single batch and includes loading the model.
    """

    texts: Mapping[str, ClipText]
    failed: int
    seconds: float | None
    includes_loading: bool


def try_llm(params: Params, clips: Sequence[Clip], labels: Sequence[str], folder: Path) -> LlmTrial:
    """Enrich the transcripts of some clips with the LLM in a separate worker process.

    Output goes only to ``folder``.

    Raises:
        ModelError: If the model cannot be loaded.
    """
    answer_files = AnswerFiles("doctor", folder / "scores", folder / ".scores.spool", folder / "llm.csv")
    batch_size = (len(clips) + 1) // 2  # two batches, since the time of the first one includes loading
    config: LlmConfig = params.llm.model_copy(update={"batch_size": batch_size, "max_quarantined": 1.0})
    engine = TimedEngine(LocalProcesses(1, config.clip_timeout, threads=usable_cores()))
    contexts: dict[str, Context] = {clip.clip_id: Context(clip.transcript) for clip in clips}
    rewritten = enrich_transcripts(config, params.rewrite, contexts, labels, answer_files=answer_files, engine=engine)
    texts: dict[str, ClipText] = {
        clip.clip_id: ClipText(clip.transcript, rewritten.texts[clip.clip_id], clip.translation) for clip in clips
    }
    return LlmTrial(texts, rewritten.quarantined, engine.seconds_per_item(), engine.includes_loading)
