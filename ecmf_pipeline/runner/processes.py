"""Workers that are processes of this machine: one that crashes, hangs or is killed costs its clip and nothing else.

A worker says what it begins before it begins it, so a death has a suspect: the clip that was being opened or, while a
batch was being worked on, each of its clips. A suspect is tried once more, each of its pieces (`Item.alone`) alone in
a fresh worker; only a piece that breaks a worker a second time is given up. The others of its batch go on.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any, Generic

from ecmf_pipeline.errors import ClipError, EcmfError
from ecmf_pipeline.runner.blame import blame, blame_delay, name_end
from ecmf_pipeline.runner.engine import Done, Phase, Task
from ecmf_pipeline.runner.hired import Hired
from ecmf_pipeline.runner.machine import count_oom_kills, usable_cores
from ecmf_pipeline.runner.messages import At, Failed, Ready
from ecmf_pipeline.runner.step import ItemT, Keeper, StepFactory
from ecmf_pipeline.runner.waiting import Job, Waiting

_DEATHS_AT_START = 2
_DEATHS_BETWEEN_CLIPS = 5
_LONGEST_WAIT = 1.0


class LocalProcesses:
    """Runs workers as processes of this machine.

    Args:
        workers: How many; None is as many as the cores that this process may use hold.
        clip_timeout: Seconds that one clip may take to be read, and again to be worked on.
        threads: Threads of each worker's numerical libraries.
    """

    def __init__(self, workers: int | None = None, clip_timeout: float = 300.0, threads: int = 1) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"at least one worker is needed, not {workers}")
        self._workers = max(1, usable_cores() // threads) if workers is None else workers
        self._clip_timeout = clip_timeout
        self._threads = threads

    def run(self, tasks: Iterable[Task[ItemT]], factory: StepFactory, keeper: Keeper[Any]) -> Iterator[Done[ItemT]]:
        """Work on the tasks; see `Engine`."""
        crew = _Crew(Waiting(tasks), pickle.dumps((factory, keeper)), self._clip_timeout, self._threads)
        try:
            crew.hire(self._workers)
            while crew.has_work():
                yield from crew.listen()
            crew.dismiss()
        finally:
            crew.stop()


class _Crew(Generic[ItemT]):
    """The workers of one run."""

    def __init__(self, waiting: Waiting[ItemT], work: bytes, clip_timeout: float, threads: int) -> None:
        self._waiting = waiting
        self._work = work
        self._clip_timeout = clip_timeout
        self._threads = threads
        self._workers: dict[int, Hired[ItemT]] = {}
        self._deaths_at_start: Counter[int] = Counter()
        self._deaths_between_clips: Counter[int] = Counter()

    def hire(self, most: int) -> None:
        """Start as many workers as there are tasks for."""
        # All are started before the first is told to begin: interpreters take a moment, side by side.
        for number in range(self._waiting.count(most)):
            self._workers[number] = Hired(number, self._threads)
        for worker in self._workers.values():
            worker.begin(self._work)

    def has_work(self) -> bool:
        """Whether anything is still to be done, or being done."""
        return self._waiting.count(1) > 0 or any(worker.job for worker in self._workers.values())

    def listen(self) -> Iterator[Done[ItemT]]:
        """Wait until something happens, see to it, and give those something to do who have nothing."""
        nearest = min(worker.deadline for worker in self._workers.values()) - time.monotonic()
        wait([worker.connection for worker in self._workers.values()], min(_LONGEST_WAIT, max(0.0, nearest)))
        for worker in list(self._workers.values()):
            yield from self._hear(worker)
            if worker.gone:
                yield from self._replace(worker, late=False)
            elif time.monotonic() > worker.deadline:
                worker.kill()
                yield from self._replace(worker, late=True)
        for worker in self._workers.values():
            if worker.ready and worker.job is None and (job := self._waiting.take(suspects=worker.only_suspects)):
                worker.give(job)

    def dismiss(self) -> None:
        """Let the workers go in good order."""
        for worker in self._workers.values():
            worker.dismiss() if worker.ready else worker.kill()
        for worker in self._workers.values():
            worker.wait()
        self._workers.clear()

    def stop(self) -> None:
        """End all workers at once, whatever they are at."""
        for worker in self._workers.values():
            worker.kill()
        for worker in self._workers.values():
            worker.wait()

    def _hear(self, worker: Hired[ItemT]) -> Iterator[Done[ItemT]]:
        for message in worker.messages():
            match message:
                case Ready():
                    worker.ready = True
                    del self._deaths_at_start[worker.number]
                case At():
                    worker.enter(message.phase, message.position, self._clip_timeout)
                case Done():
                    worker.finish()
                    del self._deaths_between_clips[worker.number]
                    yield message
                case Failed():
                    raise message.revive()

    def _replace(self, worker: Hired[ItemT], *, late: bool) -> Iterator[Done[ItemT]]:
        """See to what a dead worker had to do, and put another in its place if there is more."""
        status = worker.wait()
        del self._workers[worker.number]
        job, phase = worker.job, worker.phase
        if job is None or phase is None or phase is Phase.KEEP:
            self._count_death(worker, status)
            if job is not None:
                self._waiting.again(job)
        elif not job.suspect:
            self._waiting.split(job, phase, worker.position)
        elif worker.given > 1:
            self._waiting.again(job)  # those before it may have left the worker broken: a fresh one is to judge
        else:
            oom_killed = count_oom_kills() > worker.oom_kills
            reason = blame_delay(phase, self._clip_timeout) if late else blame(status, phase, oom_killed=oom_killed)
            yield _given_up(job, reason)
        if self._waiting.count(1):
            fresh = self._workers[worker.number] = Hired(worker.number, self._threads)
            fresh.begin(self._work)

    def _count_death(self, worker: Hired[ItemT], status: int) -> None:
        """Note a death that no clip is to blame for, and stop when they go on."""
        deaths, most, doing = (
            (self._deaths_between_clips, _DEATHS_BETWEEN_CLIPS, "between clips")
            if worker.ready
            else (self._deaths_at_start, _DEATHS_AT_START, "while it was starting")
        )
        deaths[worker.number] += 1
        if deaths[worker.number] >= most:
            raise EcmfError(
                f"worker {worker.number} ended {most} times in a row {doing} ({name_end(status)}); no clip is to blame"
                "\n  what it wrote to standard error may say why; where memory is short, ask for fewer workers"
            )


def _given_up(job: Job[ItemT], reason: ClipError) -> Done[ItemT]:
    return Done(job.task, {}, [(target, reason) for item in job.task.items for target in item.targets])
