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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, Generic

from ecmf_pipeline.core.errors import ClipError, ClipTimeout, EcmfError, OutOfMemory, WorkerCrashed, WorkerKilled
from ecmf_pipeline.runner import shared_arrays
from ecmf_pipeline.runner.machine import count_oom_kills, usable_cores
from ecmf_pipeline.runner.shared_arrays import SharedArrays
from ecmf_pipeline.runner.step import Done, ItemT, Phase, Spool, StepFactory, Task, extra_seconds
from ecmf_pipeline.runner.worker_process import Job, Opened, PhaseStarted, ProcessFailed, Ready, Role, WorkerProcess

_KILLED_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM)
_DEATHS_AT_START = 2
_DEATHS_BETWEEN_CLIPS = 5
_MAX_WAIT = 1.0  # seconds
_MAX_BATCHES_AHEAD = 2

_Place = tuple[Role, int]


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
        if self._openers and not hasattr(factory, "opener"):
            raise TypeError(f"{type(factory).__name__} has no method opener(), which {self._openers} openers need")
        pool = WorkerPool(JobQueue(tasks), pickle.dumps((factory, spools)), self._clip_timeout, self._threads)
        try:
            pool.start(self._workers, self._openers)
            while pool.has_work():
                yield from pool.poll()
            pool.close()
        finally:
            pool.stop()


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
        clip_timeout: Seconds that one clip may take in each phase.
        threads: Threads of the numerical libraries of each process.
    """

    def __init__(self, queue: JobQueue[ItemT], work: bytes, clip_timeout: float, threads: int) -> None:
        self._queue = queue
        self._work = work
        self._clip_timeout = clip_timeout
        self._threads = threads
        self._processes: dict[_Place, WorkerProcess[ItemT]] = {}
        self._opened: deque[Job[ItemT]] = deque()  # with shared arrays
        self._has_openers = False
        self._max_opened = 0
        self._deaths_at_start: Counter[_Place] = Counter()
        self._deaths_between_clips: Counter[_Place] = Counter()

    def start(self, workers: int, openers: int) -> None:
        """Start the processes of each role, at most one for each job."""
        self._has_openers = openers > 0
        self._max_opened = _MAX_BATCHES_AHEAD * workers
        # All start before the first gets its role: their interpreters then load in parallel.
        for role, limit in ((Role.OPENER, openers), (Role.WORKER, workers)):
            for number in range(self._queue.count(limit)):
                self._processes[role, number] = WorkerProcess(role, number, self._threads)
        for process in self._processes.values():
            process.begin(self._work)

    def has_work(self) -> bool:
        """Return whether any job is unfinished."""
        return bool(self._queue.count(1) or self._opened or any(process.job for process in self._processes.values()))

    def poll(self) -> Iterator[Done[ItemT]]:
        """Wait for events, handle them, and give jobs to idle processes."""
        nearest = min(process.deadline for process in self._processes.values()) - time.monotonic()
        wait([process.connection for process in self._processes.values()], min(_MAX_WAIT, max(0.0, nearest)))
        for process in list(self._processes.values()):
            yield from self._handle_messages(process)
            if process.exited:
                yield from self._replace(process, timed_out=False)
            elif time.monotonic() > process.deadline:
                process.kill()
                yield from self._replace(process, timed_out=True)
        for process in self._processes.values():
            if process.ready and process.job is None and (job := self._next_job(process)):
                process.give(job)

    def close(self) -> None:
        """Let all processes exit normally."""
        for process in self._processes.values():
            process.connection.close() if process.ready else process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def stop(self) -> None:
        """Kill all processes at once."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        for job in self._opened:
            if job.arrays is not None:
                job.arrays.close()
        self._opened.clear()

    def _next_job(self, process: WorkerProcess[ItemT]) -> Job[ItemT] | None:
        """Return the next job for an idle process; a suspect goes only to a process that ran no other jobs."""
        if process.had_only_suspects and (suspect := self._queue.take_suspect(process.role)):
            return suspect
        if not self._has_openers:
            return self._queue.take()
        if process.role is Role.OPENER:
            return self._queue.take() if len(self._opened) < self._max_opened else None
        return self._opened.popleft() if self._opened else None

    def _handle_messages(self, process: WorkerProcess[ItemT]) -> Iterator[Done[ItemT]]:
        place = process.role, process.number
        for message, arrays in process.messages():
            match message:
                case Ready():
                    process.ready = True
                    del self._deaths_at_start[place]
                case PhaseStarted():
                    process.start_phase(message.phase, message.position, self._clip_timeout)
                case Opened():
                    del self._deaths_between_clips[place]
                    yield from self._handle_opened(process, message, arrays)
                case Done():
                    process.finish()
                    del self._deaths_between_clips[place]
                    yield message
                case ProcessFailed():
                    raise message.restore()

    def _handle_opened(
        self, opener: WorkerProcess[ItemT], message: Opened, arrays: SharedArrays | None
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

    def _replace(self, process: WorkerProcess[ItemT], *, timed_out: bool) -> Iterator[Done[ItemT]]:
        """Handle the job of a dead process, and start a new process in its place if work remains."""
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
            self._queue.put_back(job)  # earlier jobs may have corrupted the process: retry in a fresh one
        elif timed_out:
            allowed = self._clip_timeout + max(map(extra_seconds, job.task.items))
            cause = f"not {phase.value} within {allowed:g} s, also when tried alone"
            yield _fail_job(job, ClipTimeout(cause, limit=self._clip_timeout))
        else:
            oom_killed = count_oom_kills() > process.oom_kills
            yield _fail_job(job, failure_cause(status, phase, oom_killed=oom_killed))
        if self.has_work():
            fresh = self._processes[role, number] = WorkerProcess(role, number, self._threads)
            fresh.begin(self._work)

    def _count_death(self, process: WorkerProcess[ItemT], status: int) -> None:
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
                "see its output above; if memory is short, use fewer workers",
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
