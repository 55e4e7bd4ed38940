"""A pool of worker and opener processes with timeouts, crash detection and retries.

Each process reports a phase before it starts it. If the process dies, the suspect is the clip that was being opened or,
during computation, each clip of the batch. Each piece of a suspect (`Item.alone`) is retried alone in a fresh process
of the same role. A piece that breaks a second process is quarantined; the other clips of the batch continue.

Without openers, a worker opens the items of its batch. With openers, opened batches wait in a queue for the next idle
worker: at most two for each worker, and one more in each opener. A clip that broke an opener reaches a worker only
after it has been opened. A clip that broke a worker is opened and computed by a fresh worker, as without openers.
A batch that was delivered to a worker and not started is opened again.
"""

from __future__ import annotations

import pickle
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, Generic, Protocol, TypeVar

from ecmf_pipeline.core.errors import ClipError, ClipTimeout, EcmfError, OutOfMemory, WorkerCrashed, WorkerKilled
from ecmf_pipeline.runner import shared_arrays
from ecmf_pipeline.runner.machine import usable_cores
from ecmf_pipeline.runner.step import Done, ItemT, Phase, Spool, StepFactory, Task, extra_seconds
from ecmf_pipeline.runner.worker_process import (
    BatchLost,
    Death,
    Event,
    Job,
    Opened,
    OpenedItems,
    PoolProcess,
    ProcessFailed,
    Ready,
    Role,
    WorkerProcess,
)

_KILLED_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM)
_DEATHS_AT_START = 2
_DEATHS_BETWEEN_CLIPS = 5
_LOSSES_OF_A_JOB = 3
_LOSSES_IN_A_ROW = 5
_MAX_WAIT = 1.0  # seconds
_MAX_BATCHES_AHEAD = 2

_Place = tuple[Role, int]
ProcessT = TypeVar("ProcessT", bound="PoolProcess[Any]")


class LocalProcesses:
    """An engine whose workers are processes of this machine.

    Args:
        workers: Number of workers; None: the number of usable cores divided by ``threads``.
        clip_timeout: Seconds that one clip may take to be read, and again to be computed.
        threads: Threads of the numerical libraries of each worker.
        openers: Number of additional processes that open clips for the workers (Linux only); 0: the workers open them,
            which is faster on a CPU.
    """

    def __init__(
        self, workers: int | None = None, clip_timeout: float = 300.0, threads: int = 1, openers: int = 0
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        if openers and not shared_arrays.ARE_SUPPORTED:
            raise ValueError("openers need Linux; set openers: 0 on other systems")
        self._workers = max(1, usable_cores() // threads) if workers is None else workers
        self._clip_timeout = clip_timeout
        self._threads = threads
        self._openers = openers

    def run(
        self, tasks: Iterable[Task[ItemT]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[ItemT]]:
        """Run the tasks; see `Engine`."""
        check_opener_method(factory, self._openers)
        pool = WorkerPool(JobQueue(tasks), pickle.dumps((factory, spools)), self, self._clip_timeout)
        yield from pool.run(self._workers, self._openers)

    @property
    def log_hint(self) -> str:
        """See `Host`."""
        return "see its output above"

    def launch(self, role: Role, number: int) -> WorkerProcess[Any]:
        """See `Host`."""
        return WorkerProcess(role, number, self._threads, self._clip_timeout)

    def wait(self, processes: Sequence[WorkerProcess[Any]]) -> None:
        """See `Host`."""
        nearest = min(process.deadline for process in processes) - time.monotonic()
        wait([process.connection for process in processes], min(_MAX_WAIT, max(0.0, nearest)))


def check_opener_method(factory: StepFactory, openers: int) -> None:
    """Raise TypeError if a run with openers has a factory that builds none."""
    if openers and not hasattr(factory, "opener"):
        raise TypeError(f"{type(factory).__name__} has no method opener(), which {openers} openers need")


class Host(Protocol[ProcessT]):
    """The machine or the cluster that runs the processes of a pool."""

    @property
    def log_hint(self) -> str:
        """The hint to the output of a process that has ended."""

    def launch(self, role: Role, number: int) -> ProcessT:
        """Start a process, also in place of one that has ended."""

    def wait(self, processes: Sequence[ProcessT]) -> None:
        """Wait for the next event of some processes, at most about a second."""


class JobQueue(Generic[ItemT]):
    """The jobs that no process is working on."""

    def __init__(self, tasks: Iterable[Task[ItemT]]) -> None:
        self._tasks = iter(tasks)
        self._jobs: deque[Job[ItemT]] = deque()
        self._suspects: dict[Role, deque[Job[ItemT]]] = {role: deque() for role in Role}
        self._piece_counts: Counter[str] = Counter()

    def count(self, limit: int) -> int:
        """Count the jobs, up to ``limit``."""
        suspects = sum(map(len, self._suspects.values()))
        missing = limit - len(self._jobs) - suspects
        self._jobs.extend(Job(task) for task in islice(self._tasks, max(0, missing)))
        return min(limit, len(self._jobs) + suspects)

    def take_suspect(self, role: Role) -> Job[ItemT] | None:
        """Return the next job that may have broken a process of this role; None if there is none."""
        return self._suspects[role].popleft() if self._suspects[role] else None

    def take(self) -> Job[ItemT] | None:
        """Return the next job that is not a suspect; None if there is none."""
        if not self._jobs:
            self._jobs.extend(Job(task) for task in islice(self._tasks, 1))
        return self._jobs.popleft() if self._jobs else None

    def put_back(self, job: Job[ItemT]) -> None:
        """Requeue a job that was interrupted without its fault."""
        (self._suspects[job.suspect] if job.suspect else self._jobs).appendleft(job)

    def rename(self, job: Job[ItemT]) -> Job[ItemT]:
        """Return a job, to be done again, under another name.

        The process that had it may still be running on a machine that cannot be reached, and store a batch of the old
        name later.
        """
        return replace(self.make_part(job, job.task.items), suspect=job.suspect, losses=job.losses + 1)

    def split(self, job: Job[ItemT], role: Role, phase: Phase, position: int) -> None:
        """Requeue a job that broke its process: suspected items in pieces, the others together.

        If the process was opening items, the item at ``position`` is the suspect; otherwise all items are.
        """
        items = job.task.items
        suspected, others = items, items[:0]
        if phase is Phase.OPEN:
            suspected, others = items[position : position + 1], items[:position] + items[position + 1 :]
        pieces = [self.make_part(job, (piece,)) for item in suspected for piece in item.alone()]
        self._suspects[role].extend(replace(piece, suspect=role) for piece in pieces)
        if others:
            self._jobs.appendleft(self.make_part(job, others))

    def split_into_pieces(self, job: Job[ItemT], items: Iterable[ItemT]) -> None:
        """Requeue some items of a job at the front, each piece alone."""
        self._jobs.extendleft([self.make_part(job, (piece,)) for item in items for piece in item.alone()][::-1])

    def make_part(self, job: Job[ItemT], items: tuple[ItemT, ...]) -> Job[ItemT]:
        """Make a job from some items of another job; its name, which is a file name, does not grow with each split."""
        root = job.root or job.task.name
        self._piece_counts[root] += 1
        return Job(Task(f"{root}-r{self._piece_counts[root]:04d}", job.task.chunk, items), root=root)


class WorkerPool(Generic[ItemT]):
    """The workers and openers of one run.

    Args:
        queue: The jobs to do.
        work: The factory and the spools, pickled.
        host: Starts the processes.
        clip_timeout: Seconds that one clip may take in each phase.
    """

    def __init__(self, queue: JobQueue[ItemT], work: bytes, host: Host[Any], clip_timeout: float) -> None:
        self._queue = queue
        self._work = work
        self._host = host
        self._clip_timeout = clip_timeout
        self._processes: dict[_Place, PoolProcess[ItemT]] = {}
        self._opened: deque[Job[ItemT]] = deque()  # with opened items
        self._has_openers = False
        self._max_opened = 0
        self._deaths_at_start: Counter[_Place] = Counter()
        self._deaths_between_clips: Counter[_Place] = Counter()
        self._losses: Counter[_Place] = Counter()

    def run(self, workers: int, openers: int) -> Iterator[Done[ItemT]]:
        """Yield the results of all jobs; the processes end with the generator."""
        try:
            self._start(workers, openers)
            while self._has_work():
                yield from self._poll()
            self._close()
        finally:
            self._stop()

    def _start(self, workers: int, openers: int) -> None:
        """Start the processes of each role, at most one for each job."""
        self._has_openers = openers > 0
        self._max_opened = _MAX_BATCHES_AHEAD * workers
        # All start before the first gets its role: their interpreters then load in parallel. Workers are first, so that
        # openers do not take their room in a cluster.
        for role, limit in ((Role.WORKER, workers), (Role.OPENER, openers)):
            for number in range(self._queue.count(limit)):
                self._processes[role, number] = self._host.launch(role, number)
        for process in self._processes.values():
            process.begin(self._work)

    def _has_work(self) -> bool:
        """Return whether any job is unfinished."""
        return bool(self._queue.count(1) or self._opened or any(process.job for process in self._processes.values()))

    def _poll(self) -> Iterator[Done[ItemT]]:
        """Wait for events, handle them, and give jobs to idle processes."""
        self._host.wait([*self._processes.values()])
        for process in list(self._processes.values()):
            for event, arrays in process.events():
                yield from self._handle(process, event, arrays)
        for process in self._processes.values():
            if process.ready and process.job is None and (job := self._next_job(process)):
                process.give(job)

    def _close(self) -> None:
        """Let all processes exit normally."""
        for process in self._processes.values():
            process.close()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def _stop(self) -> None:
        """Kill all processes at once."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        for job in self._opened:
            if job.arrays is not None:
                job.arrays.close()
        self._opened.clear()

    def _next_job(self, process: PoolProcess[ItemT]) -> Job[ItemT] | None:
        """Return the next job for an idle process; a suspect goes only to a process that ran no other jobs."""
        if process.had_only_suspects and (suspect := self._queue.take_suspect(process.role)):
            return suspect
        if not self._has_openers:
            return self._queue.take()
        if process.role is Role.OPENER:
            return self._queue.take() if len(self._opened) < self._max_opened else None
        return self._opened.popleft() if self._opened else None

    def _handle(self, process: PoolProcess[ItemT], event: Event, arrays: OpenedItems | None) -> Iterator[Done[ItemT]]:
        place = process.role, process.number
        match event:
            case Ready():
                process.ready = True
                del self._deaths_at_start[place]
            case Opened():
                self._forget_deaths(place)
                yield from self._handle_opened(process, event, arrays)
            case Done():
                process.finish()
                self._forget_deaths(place)
                yield event
            case BatchLost():
                job = process.job
                process.finish()
                if job is not None:
                    yield from self._requeue_lost(job)
            case Death():
                yield from self._replace(process, event)
            case ProcessFailed():
                raise event.restore()

    def _forget_deaths(self, place: _Place) -> None:
        del self._deaths_between_clips[place]
        del self._losses[place]

    def _handle_opened(
        self, opener: PoolProcess[ItemT], message: Opened, arrays: OpenedItems | None
    ) -> Iterator[Done[ItemT]]:
        """Queue the opened items of an opener, and yield the failures."""
        job = opener.job
        if job is None:
            raise RuntimeError("an opener returned a batch without having a job")
        opener.finish()
        items = job.task.items
        if arrays is not None:
            opened_task = replace(job.task, items=tuple(items[position] for position in message.good))
            # Opening succeeded: the job is no longer a suspect of the opener.
            self._opened.append(replace(job, task=opened_task, suspect=None, arrays=arrays))
        for position, error in message.bad:
            yield _fail_job(self._queue.make_part(job, (items[position],)), error)
        if message.retries and len(items) == len(items[0].alone()) == 1:
            ((_, error),) = message.retries
            yield _fail_job(job, error)
        else:
            self._queue.split_into_pieces(job, [items[position] for position, _ in message.retries])

    def _replace(self, process: PoolProcess[ItemT], death: Death) -> Iterator[Done[ItemT]]:
        """Handle the job of a dead process, and start a new process in its place if work remains."""
        role, number = process.role, process.number
        del self._processes[role, number]
        job, phase = process.job, death.phase
        if death.lost:
            self._count_loss(process)
            if job is not None:
                yield from self._requeue_lost(job)
        elif job is None or phase is None or phase is Phase.KEEP:
            self._count_death(process, death.status)
            if job is not None:
                self._queue.put_back(job)
        elif not job.suspect:
            self._queue.split(job, role, phase, death.position)
        elif process.jobs_given > 1:
            self._queue.put_back(job)  # earlier jobs may have corrupted the process: retry in a fresh one
        elif death.timed_out:
            allowed = self._clip_timeout + max(map(extra_seconds, job.task.items))
            cause = f"not {phase.value} within {allowed:g} s, also when tried alone"
            yield _fail_job(job, ClipTimeout(cause, limit=self._clip_timeout))
        else:
            yield _fail_job(job, failure_cause(death.status, phase, oom_killed=death.oom_killed))
        if self._has_work():
            fresh = self._processes[role, number] = self._host.launch(role, number)
            fresh.begin(self._work)

    def _requeue_lost(self, job: Job[ItemT]) -> Iterator[Done[ItemT]]:
        """Requeue a job that was lost with its machine; one that is lost repeatedly may be the cause."""
        if job.losses + 1 < _LOSSES_OF_A_JOB:
            self._queue.put_back(self._queue.rename(job))
        elif job.suspect is None:
            self._queue.split(job, Role.WORKER, Phase.WORK, 0)
        else:
            yield _fail_job(job, WorkerKilled(f"lost with its machine {_LOSSES_OF_A_JOB} times, also when tried alone"))

    def _count_loss(self, process: PoolProcess[ItemT]) -> None:
        """Count the loss of a process with its machine, and stop the run after several in a row."""
        place = process.role, process.number
        self._losses[place] += 1
        if self._losses[place] >= _LOSSES_IN_A_ROW:
            raise EcmfError(
                f"{process.role} {process.number} was lost {_LOSSES_IN_A_ROW} times in a row together with its machine",
                f"{self._host.log_hint}; if memory is short, use fewer workers on each machine",
            )

    def _count_death(self, process: PoolProcess[ItemT], status: int) -> None:
        """Count a death that no clip caused, and stop the run after several in a row."""
        place = process.role, process.number
        deaths, limit, moment = (
            (self._deaths_between_clips, _DEATHS_BETWEEN_CLIPS, "between clips")
            if process.ready
            else (self._deaths_at_start, _DEATHS_AT_START, "during startup")
        )
        deaths[place] += 1
        if deaths[place] >= limit:
            raise EcmfError(
                f"{process.role} {process.number} exited {limit} times in a row {moment} ({_format_status(status)})",
                f"{self._host.log_hint}; if memory is short, use fewer workers",
            )


def failure_cause(status: int, phase: Phase, *, oom_killed: bool) -> ClipError:
    """Return the reason for quarantining a clip that broke its worker.

    Args:
        status: Exit status of the process, or minus the signal that ended it.
        phase: The phase in which it ended.
        oom_killed: Whether the kernel has killed processes for lack of memory since the job started.
    """
    ending = f"{_format_status(status)} while the clip was being {phase.value}, also when tried alone"
    if -status == signal.SIGKILL and oom_killed:
        return OutOfMemory(f"the kernel ran out of memory: {ending}")
    return WorkerKilled(ending) if -status in _KILLED_FROM_OUTSIDE else WorkerCrashed(ending)


def _format_status(status: int) -> str:
    """Format an exit status, with the name of the signal if there is one."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"


def _fail_job(job: Job[ItemT], reason: ClipError) -> Done[ItemT]:
    return Done(job.task, {}, [(target, reason) for item in job.task.items for target in item.targets])
