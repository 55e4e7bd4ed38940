"""A few clips through the real extraction, into a temporary folder: what they cost, and what the rest will."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from ecmf_pipeline.core.clips import Clip, ClipText, Modality
from ecmf_pipeline.core.errors import TryAgain
from ecmf_pipeline.extraction.run import extract, plan_branch, writing
from ecmf_pipeline.llm.answers import ScoreBooks
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Context
from ecmf_pipeline.llm.rewriting import enrich_texts
from ecmf_pipeline.runner import Engine, LocalProcesses
from ecmf_pipeline.runner.machine import usable_cores
from ecmf_pipeline.runner.step import Done, ItemT, Spool, StepFactory, Task
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.store import FeatureStore, has_fingerprint

TRIAL_CLIPS = 4
Anything = TypeVar("Anything")


class TimedEngine:
    """Another engine, of a single worker, and a clock beside it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._begun = 0.0
        self._finished: list[tuple[float, int]] = []

    def run(
        self, tasks: Iterable[Task[ItemT]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[ItemT]]:
        """See `runner.Engine`."""
        self._begun = time.perf_counter()
        results = cast("Iterator[Done[ItemT]]", self._engine.run(tasks, factory, spools))
        with closing(results) as finished:  # type: ignore[type-var]
            for done in finished:
                self._finished.append((time.perf_counter(), len(done.task.items)))
                yield done

    @property
    def includes_loading(self) -> bool:
        """Whether there was but one batch, so that loading the models cannot be told from working."""
        return len(self._finished) == 1

    def seconds_an_item(self) -> float | None:
        """Seconds for one item. Those of the first batch are left out, for a worker loads its models before it.

        Where there was a single batch, that is told, loading included; None where there was none.
        """
        if not self._finished:
            return None
        if len(self._finished) == 1:
            ended, items = self._finished[0]
            return (ended - self._begun) / items
        return (self._finished[-1][0] - self._finished[0][0]) / sum(items for _, items in self._finished[1:])


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a few clips of one modality.

    Attributes:
        absent: How many of the clips have no such input, and were not.
        failed: Clips that failed: id, reason, message.
        seconds: Seconds a clip, with one worker of one thread; None where nothing was tried.
        bytes_a_clip: Bytes of features a clip that has some; None where none has.
        includes_loading: Whether the time is that of a single clip and of loading the models.
    """

    tried: int
    absent: int
    failed: Sequence[tuple[str, str, str]]
    seconds: float | None
    bytes_a_clip: float | None
    includes_loading: bool = False


def spread(items: Sequence[Anything], count: int) -> list[Anything]:
    """At most ``count`` items, evenly spread over all."""
    if len(items) <= count:
        return list(items)
    return [items[position * (len(items) - 1) // (count - 1)] for position in range(count)]


def try_extraction(
    params: Params,
    modality: Modality,
    settings: dict[str, Any],
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    folder: Path,
) -> Trial:
    """Extract a modality of some measured clips, one after the other in a worker process of its own.

    Nothing is written but into the folder.
    """
    root = folder / f"{modality.value}.zarr"
    engine = TimedEngine(LocalProcesses(1, params.extract.clip_timeout))
    with writing({modality: settings}, lambda _: root) as writers:
        branch = plan_branch(
            modality,
            clips,
            texts,
            encoder=params.encoder_of(modality),
            settings=settings,
            root=root,
            quarantine_path=folder / f"{modality.value}.csv",
        )
        with suppress(TryAgain):  # what may pass stands in the quarantine table too
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
        engine.seconds_an_item(),
        _bytes_a_clip(root, branch.fingerprint),
        engine.includes_loading,
    )


def _bytes_a_clip(root: Path, fingerprint: str) -> float | None:
    if not has_fingerprint(root, fingerprint):
        return None
    store = FeatureStore(root, fingerprint)
    files = [path for path in store.folder.glob("part-*/**/*") if path.is_file()]
    return sum(path.stat().st_size for path in files if path.name != "zarr.json") / len(store) if len(store) else None


@dataclass(frozen=True, slots=True)
class Answers:
    """What the LLM says of a few texts.

    Attributes:
        texts: The transcripts, original and enriched, by clip id.
        failed: How many the LLM could not be asked about.
        seconds: Seconds a text, in batches of a few.
        includes_loading: Whether the time is that of a single text and of loading the model.
    """

    texts: Mapping[str, ClipText]
    failed: int
    seconds: float | None
    includes_loading: bool


def ask_llm(params: Params, clips: Sequence[Clip], labels: Sequence[str], folder: Path) -> Answers:
    """Score and enrich what some clips, all with words, say, with the LLM in a worker process of its own.

    Nothing is written but into the folder.

    Raises:
        ModelError: When the model cannot be loaded.
    """
    books = ScoreBooks("doctor", folder / "scores", folder / ".scores.spool", folder / "llm.csv")
    two_batches = (len(clips) + 1) // 2  # the first one's time is that of loading, too
    config: LlmConfig = params.llm.model_copy(update={"batch_size": two_batches, "max_quarantined": 1.0})
    engine = TimedEngine(LocalProcesses(1, config.clip_timeout, threads=usable_cores()))
    contexts: dict[str, Context] = {clip.clip_id: Context(clip.transcript) for clip in clips}
    answers = enrich_texts(config, params.rewrite, contexts, labels, books=books, engine=engine)
    texts: dict[str, ClipText] = {
        clip.clip_id: ClipText(clip.transcript, answers.texts[clip.clip_id], clip.translation) for clip in clips
    }
    return Answers(texts, answers.quarantined, engine.seconds_an_item(), engine.includes_loading)
