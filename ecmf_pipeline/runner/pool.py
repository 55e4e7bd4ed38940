"""Worker and opener processes together, and what is done when one of them breaks.

Each says what it begins before it begins it, so a death has a suspect: the clip that was being opened or, while a batch
was being worked on, each of its clips. A suspect is tried once more, each of its pieces (`Item.alone`) alone in a fresh
process of the kind that broke; only a piece that breaks one a second time is given up. The others of its batch go on.

Without openers, a worker opens what it works on. With openers, these open batch after batch, which wait for the next
free worker, and go on while it works: about two batches a worker wait at most, and one more in the hands of each
opener. What broke an opener never comes near a worker until it has been opened; what broke a worker is opened and
worked on by a fresh one, as it would be without openers. A batch that was handed to a worker and not begun is opened
again.
"""

from __future__ import annotations

import pickle
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any, Generic

from ecmf_pipeline.core.errors import ClipError, ClipTimeout, EcmfError, OutOfMemory, WorkerCrashed, WorkerKilled
from ecmf_pipeline.runner import messages as parcels
from ecmf_pipeline.runner.jobs import Job, Waiting
from ecmf_pipeline.runner.machine import count_oom_kills, usable_cores
from ecmf_pipeline.runner.messages import At, Failed, Opened, Parcel, Ready, Role
from ecmf_pipeline.runner.step import Done, ItemT, Keeper, Phase, StagedFactory, StepFactory, Task
from ecmf_pipeline.runner.worker_process import Hired

_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM)


def name_end(status: int) -> str:
    """An exit status in words: the signal's name, as a rule."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"


def blame(status: int, phase: Phase, *, oom_killed: bool) -> ClipError:
    """The reason for which a clip is set aside that broke its worker.

    Args:
        status: Exit status of the worker; minus the signal that ended it.
        phase: What it was at.
        oom_killed: Whether the kernel has meanwhile killed processes for want of memory.
    """
    found = f"{name_end(status)} while the clip was being {phase.value}, also when it was tried alone"
    if -status == signal.SIGKILL and oom_killed:
        return OutOfMemory(f"the kernel ran out of memory: {found}")
    return WorkerKilled(found) if -status in _FROM_OUTSIDE else WorkerCrashed(found)


def blame_delay(phase: Phase, seconds: float) -> ClipError:
    """The reason for which a clip is set aside that took too long."""
    return ClipTimeout(f"not {phase.value} within {seconds:g} s, also when it was tried alone")


_DEATHS_AT_START = 2
_DEATHS_BETWEEN_CLIPS = 5
_LONGEST_WAIT = 1.0
_BATCHES_AHEAD = 2

_Place = tuple[Role, int]


class Crew(Generic[ItemT]):
    """The workers and openers of one run.

    Args:
        waiting: What is to be done.
        work: The pickled factory and keeper.
        clip_timeout: Seconds that one clip may take to be read, and again to be worked on.
        threads: Threads of each process's numerical libraries.
    """

    def __init__(self, waiting: Waiting[ItemT], work: bytes, clip_timeout: float, threads: int) -> None:
        self._waiting = waiting
        self._work = work
        self._clip_timeout = clip_timeout
        self._threads = threads
        self._hired: dict[_Place, Hired[ItemT]] = {}
        self._opened: deque[Job[ItemT]] = deque()  # with their parcels
        self._staged = False
        self._most_opened = 0
        self._deaths_at_start: Counter[_Place] = Counter()
        self._deaths_between_clips: Counter[_Place] = Counter()

    def hire(self, workers: int, openers: int) -> None:
        """Start as many of each as there are tasks for."""
        self._staged = openers > 0
        self._most_opened = _BATCHES_AHEAD * workers
        # All are started before the first is told to begin: interpreters take a moment, side by side.
        for role, most in ((Role.OPENER, openers), (Role.WORKER, workers)):
            for number in range(self._waiting.count(most)):
                self._hired[role, number] = Hired(role, number, self._threads)
        for hired in self._hired.values():
            hired.begin(self._work)

    def has_work(self) -> bool:
        """Whether anything is still to be done, or being done."""
        return bool(self._waiting.count(1) or self._opened or any(hired.job for hired in self._hired.values()))

    def listen(self) -> Iterator[Done[ItemT]]:
        """Wait until something happens, see to it, and give those something to do who have nothing."""
        nearest = min(hired.deadline for hired in self._hired.values()) - time.monotonic()
        wait([hired.connection for hired in self._hired.values()], min(_LONGEST_WAIT, max(0.0, nearest)))
        for hired in list(self._hired.values()):
            yield from self._hear(hired)
            if hired.gone:
                yield from self._replace(hired, late=False)
            elif time.monotonic() > hired.deadline:
                hired.kill()
                yield from self._replace(hired, late=True)
        for hired in self._hired.values():
            if hired.ready and hired.job is None and (job := self._next_for(hired)):
                hired.give(job)

    def dismiss(self) -> None:
        """Let all go in good order."""
        for hired in self._hired.values():
            hired.dismiss() if hired.ready else hired.kill()
        for hired in self._hired.values():
            hired.wait()
        self._hired.clear()

    def stop(self) -> None:
        """End all at once, whatever they are at."""
        for hired in self._hired.values():
            hired.kill()
        for hired in self._hired.values():
            hired.wait()
        while self._opened:
            _close_parcel(self._opened.popleft())

    def _next_for(self, hired: Hired[ItemT]) -> Job[ItemT] | None:
        """What there is to do for one that is free; suspects are for those that have done nothing else."""
        if hired.only_suspects and (suspect := self._waiting.take_suspect(hired.role)):
            return suspect
        if not self._staged:
            return self._waiting.take()
        if hired.role is Role.OPENER:
            return self._waiting.take() if len(self._opened) < self._most_opened else None
        return self._opened.popleft() if self._opened else None

    def _hear(self, hired: Hired[ItemT]) -> Iterator[Done[ItemT]]:
        place = hired.role, hired.number
        for message, parcel in hired.messages():
            match message:
                case Ready():
                    hired.ready = True
                    del self._deaths_at_start[place]
                case At():
                    hired.enter(message.phase, message.position, self._clip_timeout)
                case Opened():
                    del self._deaths_between_clips[place]
                    yield from self._sort(hired, message, parcel)
                case Done():
                    hired.finish()
                    del self._deaths_between_clips[place]
                    yield message
                case Failed():
                    raise message.revive()

    def _sort(self, opener: Hired[ItemT], message: Opened, parcel: Parcel | None) -> Iterator[Done[ItemT]]:
        """See to what an opener has opened, and to what it could not."""
        job = opener.job
        if job is None:
            raise RuntimeError("an opener has opened what nobody gave it")
        opener.finish()
        items = job.task.items
        if parcel is not None:
            good = replace(job.task, items=tuple(items[position] for position in message.good))
            # That it can be opened is known now: what may break a worker is another matter.
            self._opened.append(replace(job, task=good, suspect=None, parcel=parcel))
        for position, error in message.bad:
            yield _given_up(self._waiting.part(job, (items[position],)), error)
        if message.too_much and len(items) == len(items[0].alone()) == 1:
            ((_, shortage),) = message.too_much
            yield _given_up(job, shortage)
        else:
            self._waiting.split_alone(job, [items[position] for position, _ in message.too_much])

    def _replace(self, hired: Hired[ItemT], *, late: bool) -> Iterator[Done[ItemT]]:
        """See to what a dead process had to do, and put another in its place if there is more."""
        status = hired.wait()
        role, number = hired.role, hired.number
        del self._hired[role, number]
        job, phase = hired.job, hired.phase
        if job is None or phase is None or phase is Phase.KEEP:
            self._count_death(hired, status)
            if job is not None:
                self._waiting.again(job)
        elif not job.suspect:
            self._waiting.split(job, role, phase, hired.position)
        elif hired.given > 1:
            self._waiting.again(job)  # those before it may have left the process broken: a fresh one is to judge
        else:
            oom_killed = count_oom_kills() > hired.oom_kills
            reason = blame_delay(phase, self._clip_timeout) if late else blame(status, phase, oom_killed=oom_killed)
            yield _given_up(job, reason)
        if self.has_work():
            fresh = self._hired[role, number] = Hired(role, number, self._threads)
            fresh.begin(self._work)

    def _count_death(self, hired: Hired[ItemT], status: int) -> None:
        """Note a death that no clip is to blame for, and stop when they go on."""
        place = hired.role, hired.number
        deaths, most, doing = (
            (self._deaths_between_clips, _DEATHS_BETWEEN_CLIPS, "between clips")
            if hired.ready
            else (self._deaths_at_start, _DEATHS_AT_START, "while it was starting")
        )
        deaths[place] += 1
        if deaths[place] >= most:
            raise EcmfError(
                f"{hired.role} {hired.number} ended {most} times in a row {doing} ({name_end(status)}); no clip is to "
                "blame\n  what it wrote to standard error may say why; where memory is short, ask for fewer workers"
            )


def _given_up(job: Job[ItemT], reason: ClipError) -> Done[ItemT]:
    return Done(job.task, {}, [(target, reason) for item in job.task.items for target in item.targets])


def _close_parcel(job: Job[ItemT]) -> None:
    if job.parcel is not None:
        job.parcel.close()


class LocalProcesses:
    """Runs workers as processes of this machine.

    Args:
        workers: How many; None is as many as the cores that this process may use hold.
        clip_timeout: Seconds that one clip may take to be read, and again to be worked on.
        threads: Threads of each worker's numerical libraries.
        openers: How many further processes open clips for the workers (Linux); 0: the workers do it themselves, which
            on a CPU is the faster way. The factory must be a `StagedFactory` then.
    """

    def __init__(
        self, workers: int | None = None, clip_timeout: float = 300.0, threads: int = 1, openers: int = 0
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"at least one worker is needed, not {workers}")
        if openers and not parcels.ARE_THERE:
            raise ValueError("openers need Linux: elsewhere let the workers open clips themselves (openers: 0)")
        self._workers = max(1, usable_cores() // threads) if workers is None else workers
        self._clip_timeout = clip_timeout
        self._threads = threads
        self._openers = openers

    def run(self, tasks: Iterable[Task[ItemT]], factory: StepFactory, keeper: Keeper[Any]) -> Iterator[Done[ItemT]]:
        """Work on the tasks; see `Engine`."""
        if self._openers and not isinstance(factory, StagedFactory):
            raise TypeError(f"{type(factory).__name__} cannot build openers, and {self._openers} are asked for")
        crew = Crew(Waiting(tasks), pickle.dumps((factory, keeper)), self._clip_timeout, self._threads)
        try:
            crew.hire(self._workers, self._openers)
            while crew.has_work():
                yield from crew.listen()
            crew.dismiss()
        finally:
            crew.stop()
