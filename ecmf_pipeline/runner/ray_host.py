"""The actor of a worker or opener in a Ray cluster: it runs the same process as the engine of one machine.

The process is a child of the actor, on the same node. Timeouts and crashes of clips are therefore detected there, by
`WorkerProcess`. Arrays of opened items travel through Ray's object store, from the node of the opener to that of the
worker.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ecmf_pipeline import __version__
from ecmf_pipeline.core.errors import EcmfError, InputError, MissingInput
from ecmf_pipeline.runner import shared_arrays
from ecmf_pipeline.runner.shared_arrays import Layout, SharedArrays
from ecmf_pipeline.runner.step import Task
from ecmf_pipeline.runner.worker_process import (
    BatchLost,
    Death,
    Event,
    Job,
    ProcessFailed,
    Role,
    WorkerProcess,
)

_FETCH_TIMEOUT = 120.0  # seconds
_MAX_WAIT = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class HostPlan:
    """What an actor needs to start its process.

    Attributes:
        project: Working directory of the run.
        version: Version of this package in the run.
        markers: Files that the run has just written; if one is missing, the node does not share the file system.
        needs: Files and folders that must exist on the node, for example the corpus.
        search_path: Folders of modules, after those of the node.
        threads: Threads of the numerical libraries of the process.
        clip_timeout: Seconds that one clip may take in each phase.
        hides_gpus: Whether the process must not see GPUs, since Ray reserves none for it.
    """

    project: Path
    version: str
    markers: Sequence[Path]
    needs: Sequence[Path]
    search_path: Sequence[str]
    threads: int
    clip_timeout: float
    hides_gpus: bool


class ProcessHost:
    """An actor with one worker or opener process.

    Args:
        role: Role of the process.
        number: Its number among the processes of the role.
        plan: How to start it.
    """

    def __init__(self, role: Role, number: int, plan: HostPlan) -> None:
        self._role = role
        self._number = number
        self._plan = plan
        self._process: WorkerProcess[Any] | None = None

    def check(self) -> EcmfError | None:
        """Check that this node can run the process, and enter the project; return the error if it cannot."""
        plan, node = self._plan, f"node {_node_name()}"
        if __version__ != plan.version:
            return InputError(
                f"{node} has version {__version__} of ecmf-pipeline, the run has {plan.version}",
                "install the same version on all nodes",
            )
        shared = "all nodes must share a file system that holds the project and the corpus, under the same paths"
        for path in (plan.project, *plan.markers, *(plan.project / path for path in plan.needs)):
            if not path.exists():
                missing = path.parent if path in plan.markers and not path.parent.exists() else path
                return MissingInput(f"{node}: {missing} does not exist", shared)
        os.chdir(plan.project)
        sys.path += [folder for folder in plan.search_path if folder not in sys.path]
        if plan.hides_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return None

    def start(self, work: bytes) -> Event:
        """Start a process, and wait until it is ready.

        Args:
            work: The factory and the spools, pickled.
        """
        self.close()
        self._process = WorkerProcess(self._role, self._number, self._plan.threads, self._plan.clip_timeout)
        self._process.begin(work)
        event, _ = self._next_event(self._process)
        self._process.ready = not isinstance(event, Death)
        return event

    def do(self, task: Task[Any], layout: Layout | None, opened: Sequence[Any]) -> tuple[Event, Any]:
        """Let the process do a task.

        Args:
            task: The task.
            layout: Layout of its opened items; None if it has none.
            opened: The reference of the opened items, if it has any. It is in a list so that Ray does not replace it by
                its value, whose loss then is an error of this call.

        Returns:
            The event that ended the task; and the opened items, (bytes,) uint8, if this is an opener.
        """
        process = self._process
        if process is None:
            raise RuntimeError("this actor has not started a process")
        arrays = None
        if layout is not None:
            import ray

            try:
                arrays = shared_arrays.copy(memoryview(ray.get(opened[0], timeout=_FETCH_TIMEOUT)), layout)
            except ray.exceptions.RayError:  # the node that held them
                return BatchLost(), None
        process.give(Job(task, arrays=arrays))
        event, packed = self._next_event(process)
        process.finish()
        if packed is None:
            return event, None
        import numpy as np  # Ray stores arrays without a conversion

        with closing(packed):
            return event, np.frombuffer(shared_arrays.view(packed), np.uint8)

    def close(self) -> None:
        """Let the process exit normally."""
        if self._process is not None:
            self._process.close()
            self._process.wait()
            self._process = None

    def _next_event(self, process: WorkerProcess[Any]) -> tuple[Event, SharedArrays | None]:
        """Wait for the next event of the process."""
        while True:
            wait([process.connection], min(_MAX_WAIT, max(0.0, process.deadline - time.monotonic())))
            for event, arrays in process.events():
                if isinstance(event, Death):
                    self._process = None
                if isinstance(event, ProcessFailed):
                    event = _with_node(event)
                return event, arrays if isinstance(arrays, SharedArrays) else None


def _with_node(failed: ProcessFailed) -> ProcessFailed:
    """Name the node in an error of this package, for example of weights that are missing there."""
    error = failed.restore()
    if not isinstance(error, EcmfError):
        return failed
    error.message = f"node {_node_name()}: {error.message}"
    return replace(ProcessFailed.from_error(error), trace=failed.trace)


def _node_name() -> str:
    import ray

    return f"{os.uname().nodename} ({ray.util.get_node_ip_address()})"
