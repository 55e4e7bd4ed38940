"""The pool of worker and opener processes, and what happens when one of them breaks.

Each process reports what it begins before it begins it, so a death has a suspect: the clip that was being opened or,
while a batch was being worked on, each of its clips. A suspect is tried once more, each of its pieces (`Item.alone`)
alone in a fresh process of the role that broke; only a piece that breaks one a second time is given up. The others of
its batch go on.

Without openers, a worker opens what it works on. With openers, these open batch after batch, which wait for the next
idle worker, and go on while it works: about two batches a worker wait at most, and one more in the hands of each
opener. What broke an opener never reaches a worker until it has been opened; what broke a worker is opened and worked
on by a fresh one, as it would be without openers. A batch that was given to a worker and not begun is opened again.
"""

from __future__ import annotations

import pickle
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, Generic

from ecmf_pipeline.core.errors import ClipError, ClipTimeout, EcmfError, OutOfMemory, WorkerCrashed, WorkerKilled
from ecmf_pipeline.runner import shared_arrays
from ecmf_pipeline.runner.machine import count_oom_kills, usable_cores
from ecmf_pipeline.runner.shared_arrays import SharedArrays
from ecmf_pipeline.runner.step import Done, ItemT, Phase, Spool, StepFactory, Task
from ecmf_pipeline.runner.worker_process import At, Failed, Job, Opened, Ready, Role, WorkerProcess

_KILLED_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM)
_DEATHS_AT_START = 2
_DEATHS_BETWEEN_CLIPS = 5
_LONGEST_WAIT = 1.0  # seconds
_BATCHES_AHEAD = 2

_Place = tuple[Role, int]


class LocalProcesses:
    """Runs workers as processes of this machine.

    Args:
        workers: How many; None is as many as the cores that this process may use hold.
        clip_timeout: Seconds that one clip may take to be read, and again to be worked on.
        threads: Threads of each worker's numerical libraries.
        openers: How many further processes open clips for the workers (Linux); 0: the workers open them themselves,
            which is faster on a CPU.
    """

    def __init__(
        self, workers: int | None = None, clip_timeout: float = 300.0, threads: int = 1, openers: int = 0
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"at least one worker is needed, not {workers}")
        if openers and not shared_arrays.ARE_SUPPORTED:
            raise ValueError("openers need Linux: elsewhere let the workers open clips themselves (openers: 0)")
        self._workers = max(1, usable_cores() // threads) if workers is None else workers
        self._clip_timeout = clip_timeout
        self._threads = threads
        self._openers = openers

    def run(
        self, tasks: Iterable[Task[ItemT]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[ItemT]]:
        """Work on the tasks; see `Engine`."""
        if self._openers and not hasattr(factory, "opener"):
            raise TypeError(f"{type(factory).__name__} cannot build openers, and {self._openers} are asked for")
        pool = WorkerPool(JobQueue(tasks), pickle.dumps((factory, spools)), self._clip_timeout, self._threads)
        try:
            pool.start(self._workers, self._openers)
            while pool.has_work():
                yield from pool.poll()
            pool.close()
        finally:
            pool.stop()


class JobQueue(Generic[ItemT]):
    """The jobs that no process has."""

    def __init__(self, tasks: Iterable[Task[ItemT]]) -> None:
        self._tasks = iter(tasks)
        self._first: deque[Job[ItemT]] = deque()
        self._suspects: dict[Role, deque[Job[ItemT]]] = {role: deque() for role in Role}
        self._pieces: Counter[str] = Counter()

    def count(self, most: int) -> int:
        """Count the jobs, up to ``most``."""
        suspects = sum(map(len, self._suspects.values()))
        missing = most - len(self._first) - suspects
        self._first.extend(Job(task) for task in islice(self._tasks, max(0, missing)))
        return min(most, len(self._first) + suspects)

    def take_suspect(self, role: Role) -> Job[ItemT] | None:
        """Return the next job that may have broken a process of this role, if there is one."""
        return self._suspects[role].popleft() if self._suspects[role] else None

    def take(self) -> Job[ItemT] | None:
        """Return the next of the other jobs, if there is one."""
        if not self._first:
            self._first.extend(Job(task) for task in islice(self._tasks, 1))
        return self._first.popleft() if self._first else None

    def put_back(self, job: Job[ItemT]) -> None:
        """Take back a job that was cut short and is not to blame."""
        (self._suspects[job.suspect] if job.suspect else self._first).appendleft(job)

    def split(self, job: Job[ItemT], role: Role, phase: Phase, position: int) -> None:
        """Take back a job that broke its process: the suspected items piece by piece, the others together.

        While items were opened, the one at ``position`` is suspected; while they were worked on, each is.
        """
        items = job.task.items
        suspected, others = items, items[:0]
        if phase is Phase.OPEN:
            suspected, others = items[position : position + 1], items[:position] + items[position + 1 :]
        pieces = [self.part(job, (piece,)) for item in suspected for piece in item.alone()]
        self._suspects[role].extend(replace(piece, suspect=role) for piece in pieces)
        if others:
            self._first.appendleft(self.part(job, others))

    def split_alone(self, job: Job[ItemT], items: Iterable[ItemT]) -> None:
        """Take back some of a job's items, each piece by itself, to be next."""
        self._first.extendleft([self.part(job, (piece,)) for item in items for piece in item.alone()][::-1])

    def part(self, job: Job[ItemT], items: tuple[ItemT, ...]) -> Job[ItemT]:
        """Make a job of some items of another. Its name stays short, however often it breaks: files are named so."""
        root = job.root or job.task.name
        self._pieces[root] += 1
        return Job(Task(f"{root}-r{self._pieces[root]:04d}", job.task.chunk, items), root=root)


class WorkerPool(Generic[ItemT]):
    """The workers and openers of one run; ``work`` is the pickled factory and spools that they work with."""

    def __init__(self, queue: JobQueue[ItemT], work: bytes, clip_timeout: float, threads: int) -> None:
        self._queue = queue
        self._work = work
        self._clip_timeout = clip_timeout
        self._threads = threads
        self._processes: dict[_Place, WorkerProcess[ItemT]] = {}
        self._opened: deque[Job[ItemT]] = deque()  # with their arrays
        self._has_openers = False
        self._most_opened = 0
        self._deaths_at_start: Counter[_Place] = Counter()
        self._deaths_between_clips: Counter[_Place] = Counter()

    def start(self, workers: int, openers: int) -> None:
        """Start the processes, of each role as many as there are jobs for at most."""
        self._has_openers = openers > 0
        self._most_opened = _BATCHES_AHEAD * workers
        # All are started before the first is told to begin, so that their interpreters load side by side.
        for role, most in ((Role.OPENER, openers), (Role.WORKER, workers)):
            for number in range(self._queue.count(most)):
                self._processes[role, number] = WorkerProcess(role, number, self._threads)
        for process in self._processes.values():
            process.begin(self._work)

    def has_work(self) -> bool:
        """Return whether any job is still to be done, or being done."""
        return bool(self._queue.count(1) or self._opened or any(process.job for process in self._processes.values()))

    def poll(self) -> Iterator[Done[ItemT]]:
        """Wait until something happens, handle it, and give jobs to the idle."""
        nearest = min(process.deadline for process in self._processes.values()) - time.monotonic()
        wait([process.connection for process in self._processes.values()], min(_LONGEST_WAIT, max(0.0, nearest)))
        for process in list(self._processes.values()):
            yield from self._handle_messages(process)
            if process.gone:
                yield from self._replace(process, late=False)
            elif time.monotonic() > process.deadline:
                process.kill()
                yield from self._replace(process, late=True)
        for process in self._processes.values():
            if process.ready and process.job is None and (job := self._next_job(process)):
                process.give(job)

    def close(self) -> None:
        """Let all processes end by themselves."""
        for process in self._processes.values():
            process.connection.close() if process.ready else process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def stop(self) -> None:
        """End all processes at once, whatever they are doing."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        for job in self._opened:
            if job.arrays is not None:
                job.arrays.close()
        self._opened.clear()

    def _next_job(self, process: WorkerProcess[ItemT]) -> Job[ItemT] | None:
        """Return the next job for an idle process; suspects are for those that have done nothing else."""
        if process.only_suspects and (suspect := self._queue.take_suspect(process.role)):
            return suspect
        if not self._has_openers:
            return self._queue.take()
        if process.role is Role.OPENER:
            return self._queue.take() if len(self._opened) < self._most_opened else None
        return self._opened.popleft() if self._opened else None

    def _handle_messages(self, process: WorkerProcess[ItemT]) -> Iterator[Done[ItemT]]:
        place = process.role, process.number
        for message, arrays in process.messages():
            match message:
                case Ready():
                    process.ready = True
                    del self._deaths_at_start[place]
                case At():
                    process.enter(message.phase, message.position, self._clip_timeout)
                case Opened():
                    del self._deaths_between_clips[place]
                    yield from self._handle_opened(process, message, arrays)
                case Done():
                    process.finish()
                    del self._deaths_between_clips[place]
                    yield message
                case Failed():
                    raise message.revive()

    def _handle_opened(
        self, opener: WorkerProcess[ItemT], message: Opened, arrays: SharedArrays | None
    ) -> Iterator[Done[ItemT]]:
        """Queue what an opener has opened, and return what it could not open."""
        job = opener.job
        if job is None:
            raise RuntimeError("an opener has opened a batch that it was not given")
        opener.finish()
        items = job.task.items
        if arrays is not None:
            good = replace(job.task, items=tuple(items[position] for position in message.good))
            # No suspect any more: it can be opened, and whether it breaks a worker is another matter.
            self._opened.append(replace(job, task=good, suspect=None, arrays=arrays))
        for position, error in message.bad:
            yield _failed(self._queue.part(job, (items[position],)), error)
        if message.too_much and len(items) == len(items[0].alone()) == 1:
            ((_, shortage),) = message.too_much
            yield _failed(job, shortage)
        else:
            self._queue.split_alone(job, [items[position] for position, _ in message.too_much])

    def _replace(self, process: WorkerProcess[ItemT], *, late: bool) -> Iterator[Done[ItemT]]:
        """Deal with the job of a dead process, and start another in its place if there is more to do."""
        status = process.wait()
        role, number = process.role, process.number
        del self._processes[role, number]
        job, phase = process.job, process.phase
        if job is None or phase is None or phase is Phase.KEEP:
            self._count_death(process, status)
            if job is not None:
                self._queue.put_back(job)
        elif not job.suspect:
            self._queue.split(job, role, phase, process.position)
        elif process.jobs_given > 1:
            self._queue.put_back(job)  # those before it may have left the process broken: a fresh one is to judge
        elif late:
            cause = f"not {phase.value} within {self._clip_timeout:g} s, also when it was tried alone"
            yield _failed(job, ClipTimeout(cause))
        else:
            oom_killed = count_oom_kills() > process.oom_kills
            yield _failed(job, failure_cause(status, phase, oom_killed=oom_killed))
        if self.has_work():
            fresh = self._processes[role, number] = WorkerProcess(role, number, self._threads)
            fresh.begin(self._work)

    def _count_death(self, process: WorkerProcess[ItemT], status: int) -> None:
        """Note a death that no clip is to blame for, and stop the run after several in a row."""
        place = process.role, process.number
        deaths, most, doing = (
            (self._deaths_between_clips, _DEATHS_BETWEEN_CLIPS, "between clips")
            if process.ready
            else (self._deaths_at_start, _DEATHS_AT_START, "while it was starting")
        )
        deaths[place] += 1
        if deaths[place] >= most:
            raise EcmfError(
                f"{process.role} {process.number} ended {most} times in a row {doing} ({_end_of(status)}); no clip is "
                "to blame\n  what it wrote to standard error may say why; where memory is short, ask for fewer workers"
            )


def failure_cause(status: int, phase: Phase, *, oom_killed: bool) -> ClipError:
    """The reason for setting aside a clip that broke its worker; `oom_killed`: the kernel has meanwhile killed some."""
    found = f"{_end_of(status)} while the clip was being {phase.value}, also when it was tried alone"
    if -status == signal.SIGKILL and oom_killed:
        return OutOfMemory(f"the kernel ran out of memory: {found}")
    return WorkerKilled(found) if -status in _KILLED_FROM_OUTSIDE else WorkerCrashed(found)


def _end_of(status: int) -> str:
    """Name an exit status: by the signal's name, as a rule."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"


def _failed(job: Job[ItemT], reason: ClipError) -> Done[ItemT]:
    return Done(job.task, {}, [(target, reason) for item in job.task.items for target in item.targets])
