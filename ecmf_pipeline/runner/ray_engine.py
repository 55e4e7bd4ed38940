"""An engine whose workers run on the nodes of a Ray cluster.

The queue, retries and quarantine are those of the engine of one machine (`WorkerPool`); only the processes are behind
actors (`ray_host`). Ray restarts the actors of a lost node on other nodes as soon as there is room. Their jobs go back
to the queue, so that other workers do them meanwhile. This module imports Ray only if the engine is used.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline import __version__
from ecmf_pipeline.core.errors import EcmfError, InputError
from ecmf_pipeline.runner.config import EngineConfig
from ecmf_pipeline.runner.machine import usable_cores
from ecmf_pipeline.runner.pool import JobQueue, WorkerPool, check_opener_method
from ecmf_pipeline.runner.ray_host import HostPlan, ProcessHost
from ecmf_pipeline.runner.shared_arrays import Layout
from ecmf_pipeline.runner.step import Done, ItemT, Phase, Spool, StepFactory, Task
from ecmf_pipeline.runner.worker_process import (
    Death,
    Event,
    Job,
    Opened,
    OpenedItems,
    PoolProcess,
    Role,
)

_CONNECT_TIMEOUT = 20.0
_CLOSE_TIMEOUT = 5.0
_MAX_WAIT = 1.0
_ADDRESS_VARIABLE = "RAY_ADDRESS"
_INSIDE = "run the command inside the cluster, for example with `ray job submit`, which sets RAY_ADDRESS to host:port"


@dataclass(frozen=True, slots=True)
class Shares:
    """The processes of a run, and the resources that Ray reserves for each.

    Attributes:
        workers: Number of workers.
        openers: Number of openers.
        gpus: GPUs of each worker.
    """

    workers: int
    openers: int
    gpus: float


class RayEngine:
    """An engine of Ray actors; it starts when it gets tasks.

    Args:
        config: The cluster, and the resources of each process.
        clip_timeout: Seconds that one clip may take to be read, and again to be computed.
        device: Device of the models: with ``cpu``, no GPUs are reserved.
        can_open: Whether openers may open the items.
        needs: Files and folders that must exist on each node.

    Raises:
        InputError: If Ray is not installed, or the address of the cluster has a wrong form.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        clip_timeout: float = 300.0,
        device: str = "cpu",
        can_open: bool = False,
        needs: Sequence[Path] = (),
    ) -> None:
        if not _is_installed():
            raise InputError(
                "the engine ray needs the package ray, which is not installed",
                "install it, or set engine.kind: local",
                command='pip install "ecmf-pipeline[ray]"',
            )
        self._address = os.environ.get(_ADDRESS_VARIABLE) or config.address
        if self._address is not None:
            _split_address(self._address)
        if device.startswith("cuda:"):
            raise InputError(f"device {device} names one GPU of one machine", "set device: cuda; Ray assigns the GPUs")
        self._config = config
        self._clip_timeout = clip_timeout
        self._device = device
        self._can_open = can_open
        self._needs = needs

    def run(
        self, tasks: Iterable[Task[ItemT]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[ItemT]]:
        """Run the tasks; see `Engine`.

        Raises:
            InputError: If the cluster cannot be reached, or a node lacks the project, a needed file or this package.
            EcmfError: If no node has room for a worker, or nodes are lost again and again.
        """
        with _connected(self._address), _markers(spools) as markers:
            shares = self._choose_shares()
            check_opener_method(factory, shares.openers)
            plan = HostPlan(
                project=Path.cwd(),
                version=__version__,
                markers=markers,
                needs=self._needs,
                search_path=[path or str(Path.cwd()) for path in sys.path],
                threads=max(1, int(self._config.cpus)),
                clip_timeout=self._clip_timeout,
                hides_gpus=not shares.gpus,
            )
            host = _RayHosts(plan, self._config, shares.gpus)
            pool = WorkerPool(JobQueue(tasks), pickle.dumps((factory, spools)), host, self._clip_timeout)
            yield from pool.run(shares.workers, shares.openers)

    def _choose_shares(self) -> Shares:
        """Choose the processes for the present nodes of the cluster."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        shares = choose_shares(self._config, nodes, uses_gpus=self._device != "cpu", can_open=self._can_open)
        if self._address is None and not any(_room(node, self._config.cpus, shares.gpus) for node in nodes):
            raise InputError(
                f"this machine has less than {_describe(self._config.cpus, shares.gpus)} for a worker",
                "lower engine.cpus and engine.gpus, or set the address of a cluster",
            )
        return shares


def choose_shares(
    config: EngineConfig, nodes: Sequence[Mapping[str, float]], *, uses_gpus: bool, can_open: bool
) -> Shares:
    """Choose the numbers of workers and openers.

    Args:
        config: Numbers and resources that are set.
        nodes: CPU and GPU of each node.
        uses_gpus: Whether the models run on GPUs if there are any.
        can_open: Whether openers may open the items.
    """
    has_gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
    gpus = (1.0 if uses_gpus and has_gpus else 0.0) if config.gpus is None else config.gpus
    room = [_room(node, config.cpus, gpus) for node in nodes]
    workers = config.workers or max(1, sum(room))  # one, if it must wait for its node
    if not can_open:
        return Shares(workers, 0, gpus)
    openers = config.openers
    if openers is None:
        left = [node.get("CPU", 0) - config.cpus * count for node, count in zip(nodes, room, strict=True)]
        openers = max(1, sum(int(cpus / config.opener_cpus) for cpus in left)) if gpus else 0
    return Shares(workers, openers, gpus)


def _room(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Count the workers that fit on a node; a worker with part of a GPU gets it from a single one."""
    count = int(node.get("CPU", 0) / cpus)
    if not gpus:
        return count
    of_gpus = int(node.get("GPU", 0)) * int(1 / gpus) if gpus < 1 else int(node.get("GPU", 0) / gpus)
    return min(count, of_gpus)


def _describe(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("ray") is not None
    except ValueError:  # a module without a specification
        return False


def _split_address(address: str) -> tuple[str, int] | None:
    """Return host and port; None for ``auto``.

    Raises:
        InputError: If the address has another form.
    """
    if address == "auto":
        return None
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise InputError(f"the address of the Ray cluster, {address}, is not host:port", _INSIDE)
    return host.strip("[]"), int(port)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, unless the program is connected already.

    Raises:
        InputError: If the cluster cannot be reached.
    """
    if address is not None:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # Ray tries 20 times, 40 seconds each
    import ray

    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to the authors of Ray
            ray.init(address="local", num_cpus=usable_cores(), include_dashboard=False, **quiet)
        else:
            _check_reachable(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start on this machine"
        detail = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{where} ({detail})", "start the cluster, or correct RAY_ADDRESS or engine.address"
        ) from error
    finally:
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, before)  # Ray's handler ends the program at once
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Connect to the port; Ray itself waits much longer.

    Raises:
        OSError: If nothing listens there.
    """
    if place := _split_address(address):
        socket.create_connection(place, _CONNECT_TIMEOUT).close()


@contextmanager
def _markers(spools: Mapping[str, Spool[Any]]) -> Iterator[list[Path]]:
    """Write an empty file into each spool, which nodes with the same file system can see."""
    name = f".engine-{uuid.uuid4().hex}"  # `SpoolWriter` removes hidden files of killed runs
    markers = [folder.absolute() / name for folder in {spool.folder for spool in spools.values()}]
    try:
        for marker in markers:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
        yield markers
    finally:
        for marker in markers:
            marker.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class RemoteArrays:
    """Opened items in the object store of the cluster, which frees them with the last reference.

    Attributes:
        layout: Positions of the objects in the bytes.
        reference: Ray's reference to the bytes.
    """

    layout: Layout
    reference: Any

    def close(self) -> None:
        """Do nothing; see `OpenedItems`."""


class _RayHosts:
    """The actors of one run; a `Host`."""

    def __init__(self, plan: HostPlan, config: EngineConfig, gpus: float) -> None:
        self._plan = plan
        self._config = config
        self._gpus = gpus
        self._actors: dict[tuple[Role, int], Any] = {}
        self._worker_seen = time.monotonic()

    @property
    def log_hint(self) -> str:
        """See `Host`."""
        return "see its output in the logs of Ray (`ray logs`)"

    def launch(self, role: Role, number: int) -> RayProcess[Any]:
        """Create an actor, or return the one that had the ended process; Ray restarts it if its node was lost."""
        import ray

        if (role, number) not in self._actors:
            is_worker = role is Role.WORKER
            self._actors[role, number] = (
                ray.remote(ProcessHost)
                .options(
                    num_cpus=self._config.cpus if is_worker else self._config.opener_cpus,
                    num_gpus=self._gpus if is_worker else 0,
                    scheduling_strategy="SPREAD",
                    max_restarts=-1,
                    max_task_retries=0,
                )
                .remote(role, number, self._plan)
            )
        return RayProcess(role, number, self._actors[role, number])

    def wait(self, processes: Sequence[RayProcess[Any]]) -> None:
        """See `Host`.

        Raises:
            EcmfError: If the cluster has had no worker for ``engine.wait`` seconds.
        """
        import ray

        calls = [process.call for process in processes if process.call is not None]
        if calls:
            ray.wait(calls, num_returns=1, timeout=_MAX_WAIT)
            finished, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
            for process in processes:
                process.has_result = process.call in finished
        now = time.monotonic()
        if any(process.role is Role.WORKER and (process.has_room or process.has_result) for process in processes):
            self._worker_seen = now
        elif now - self._worker_seen > self._config.wait:
            raise EcmfError(
                f"for {self._config.wait:g} s, no node of the Ray cluster had room for a worker "
                f"({_describe(self._config.cpus, self._gpus)})",
                "see `ray status`; lower engine.cpus, engine.gpus or engine.openers, or raise engine.wait",
            )


class RayProcess(PoolProcess[ItemT]):
    """A worker or opener behind an actor.

    Attributes:
        call: Ray's reference to the result of the call in progress; None if there is none.
        has_result: Whether its result has arrived.
        has_room: Whether Ray has placed the actor on a node.
    """

    def __init__(self, role: Role, number: int, actor: Any) -> None:
        super().__init__(role, number)
        self.call: Any = None
        self.has_result = False
        self.has_room = False
        self._actor = actor
        self._work = b""
        self._opened: Any = None

    def begin(self, work: bytes) -> None:
        """See `PoolProcess`."""
        self._work = work
        self.call = self._actor.check.options(max_task_retries=-1).remote()  # waits until Ray has restarted the actor

    def events(self) -> Iterator[tuple[Event, OpenedItems | None]]:
        """See `PoolProcess`.

        Raises:
            EcmfError: If the node of the actor cannot run the process.
        """
        import ray

        if not self.has_result:
            return
        call, self.call, self.has_result = self.call, None, False
        opened, self._opened = self._opened, None
        try:
            result = ray.get(call)
        except ray.exceptions.OutOfMemoryError:
            yield Death(-signal.SIGKILL, Phase.WORK if self.job else None, oom_killed=True), None
            return
        except ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                detail = str(error).strip().rpartition("\n")[2]
                hint = "install the same version of ecmf-pipeline on all nodes"
                raise InputError(f"a node of the Ray cluster cannot start a worker: {detail}", hint) from error
            yield Death(-signal.SIGKILL, lost=True), None
            return
        if not self.has_room:
            if result is not None:
                raise result
            self.has_room = True
            self.call = self._actor.start.remote(self._work)
        elif not self.ready:
            yield result, None
        else:
            event = result
            layout = event.layout if isinstance(event, Opened) else None
            yield event, RemoteArrays(layout, opened) if layout else None

    def _send(self, job: Job[ItemT]) -> None:
        do = self._actor.do.options(num_returns=2)
        if isinstance(job.arrays, RemoteArrays):
            self.call, self._opened = do.remote(job.task, job.arrays.layout, [job.arrays.reference])
        else:
            self.call, self._opened = do.remote(job.task, None, [])

    def close(self) -> None:
        """See `PoolProcess`."""
        self.call = self._actor.close.remote() if self.ready else None

    def kill(self) -> None:
        """See `PoolProcess`."""
        import ray

        self.call = None
        ray.kill(self._actor)

    def wait(self) -> int:
        """See `PoolProcess`."""
        import ray

        if self.call is not None:
            ray.wait([self.call], timeout=_CLOSE_TIMEOUT)
        self.kill()
        return 0
