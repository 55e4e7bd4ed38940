"""Runs on a Ray cluster: two nodes on this machine, one of which is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Modality
from ecmf_pipeline.core.errors import EcmfError, InputError, MissingInput, ModelError
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.encoders.config import EgemapsConfig
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.run import extract, open_writers, plan_branch
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner.config import EngineConfig
from ecmf_pipeline.runner.pool import JobQueue, WorkerPool
from ecmf_pipeline.runner.ray_engine import RayEngine, Shares, choose_shares
from ecmf_pipeline.runner.step import Phase, Task
from ecmf_pipeline.runner.worker_process import Death, Job, PoolProcess, Ready, Role
from ecmf_pipeline.settings.params import branch_settings
from tests.runner.doubling import BranchFiles, Factory, Number, RunHarness, numbers, read_lines

RAY = EngineConfig(kind="ray", cpus=0.5, opener_cpus=0.25, wait=60.0)


@pytest.fixture(autouse=True)
def no_standing_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


# --- without Ray


def test_ray_that_is_not_installed_is_wrong_input(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError) as caught:
        RayEngine(RAY)
    assert caught.value.exit_code == 2
    assert caught.value.command == 'pip install "ecmf-pipeline[ray]"'


@pytest.mark.parametrize("address", ["ray://head:10001", "http://127.0.0.1:8265", "head", ":6379", "head:port"])
def test_an_address_that_is_not_host_and_port_is_wrong_input(address, monkeypatch):
    with pytest.raises(InputError, match="host:port"):
        RayEngine(RAY.model_copy(update={"address": address}))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match="host:port"):
        RayEngine(RAY.model_copy(update={"address": "head:6379"}))


def test_a_single_gpu_of_one_machine_is_wrong_input():
    with pytest.raises(InputError, match="cuda:1"):
        RayEngine(RAY, device="cuda:1")


@pytest.mark.slow
def test_no_cluster_at_the_address_is_wrong_input_after_a_short_wait(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    engine = RayEngine(RAY.model_copy(update={"address": address}))
    begun = time.monotonic()
    with pytest.raises(InputError, match=address):
        RunHarness(tmp_path / "harness").run(numbers(1), workers=1, engine=engine)
    assert time.monotonic() - begun < 20


def test_the_local_engine_does_not_import_ray():
    program = "import sys, ecmf_pipeline.runner.ray_engine; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


CPU_NODE, GPU_NODE = {"CPU": 16.0}, {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("changes", "nodes", "uses_gpus", "expected"),
    [
        ({"cpus": 1}, [CPU_NODE, {"CPU": 3.5}, {}], True, Shares(19, 0, 0)),
        ({"cpus": 4}, [CPU_NODE, CPU_NODE], True, Shares(8, 0, 0)),
        ({"cpus": 1}, [GPU_NODE, GPU_NODE], True, Shares(8, 24, 1)),
        ({"cpus": 1}, [GPU_NODE, CPU_NODE], False, Shares(32, 0, 0)),
        ({"cpus": 1, "gpus": 0.5}, [GPU_NODE], True, Shares(8, 8, 0.5)),
        ({"cpus": 1, "gpus": 0.4}, [GPU_NODE], True, Shares(8, 8, 0.4)),
        ({"cpus": 1, "gpus": 2, "opener_cpus": 2}, [GPU_NODE], True, Shares(2, 7, 2)),
        ({"cpus": 1, "gpus": 1}, [CPU_NODE], True, Shares(1, 16, 1)),  # waits for a node with a GPU
        ({"workers": 64, "openers": 3}, [CPU_NODE], True, Shares(64, 3, 0)),
    ],
)
def test_workers_and_openers_fill_the_nodes(changes, nodes, uses_gpus, expected):
    config = EngineConfig(kind="ray", **changes)
    assert choose_shares(config, nodes, uses_gpus=uses_gpus, can_open=True) == expected
    without = choose_shares(config, nodes, uses_gpus=uses_gpus, can_open=False)
    assert without == Shares(expected.workers, 0, expected.gpus)


class ScriptedProcess(PoolProcess[Number]):
    """A process whose machine is lost each time it gets a certain item."""

    def __init__(self, role: Role, number: int, fatal: int, log: list[list[int]]) -> None:
        super().__init__(role, number)
        self._fatal = fatal
        self._log = log
        self._events: list[Any] = []

    def begin(self, work: bytes) -> None:
        self._events = [Ready()]

    def _send(self, job: Job[Number]) -> None:
        from ecmf_pipeline.runner import Done

        values = [item.value for item in job.task.items]
        self._log.append(values)
        self._events = [Death(-9, lost=True) if self._fatal in values else Done(job.task, {}, [])]

    def events(self) -> Iterator[tuple[Any, None]]:
        events, self._events = self._events, []
        yield from ((event, None) for event in events)

    def close(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self) -> int:
        return 0


class ScriptedHost:
    """Starts scripted processes."""

    log_hint = ""

    def __init__(self, fatal: int) -> None:
        self.log: list[list[int]] = []
        self._fatal = fatal

    def launch(self, role: Role, number: int) -> ScriptedProcess:
        return ScriptedProcess(role, number, self._fatal, self.log)

    def wait(self, processes: Any) -> None: ...


def test_a_clip_that_always_takes_its_machine_down_is_quarantined():
    """Three losses of the batch, then three of the clip alone."""
    host = ScriptedHost(fatal=2)
    tasks = [Task("000000-0000", 0, (Number(1), Number(2))), Task("000000-0001", 0, (Number(3),))]
    pool = WorkerPool(JobQueue(iter(tasks)), b"", host, 1.0)
    done = list(pool.run(2, 0))
    assert sorted(item.value for one in done for item in one.task.items) == [1, 2, 3]
    errors = {target.clip_id: error.reason for one in done for target, error in one.errors}
    assert errors == {"2": "WorkerKilled"}
    assert host.log.count([1, 2]) == 3
    assert host.log.count([2]) == 3
    names = [one.task.name for one in done]
    assert len(names) == len(set(names))


def test_a_job_that_is_lost_is_done_again_under_another_name():
    """The lost process may still be running, and store a batch of the old name later."""
    queue = JobQueue(iter([Task("000000-0000", 0, (Number(1), Number(2)))]))
    job = queue.take()
    assert job is not None
    renamed = queue.rename(job)
    assert renamed.task.items == job.task.items
    assert renamed.task.name not in {job.task.name, queue.rename(job).task.name}
    queue.split(renamed, Role.WORKER, Phase.OPEN, 0)
    suspect = queue.take_suspect(Role.WORKER)
    assert suspect is not None
    assert (queue.rename(suspect).suspect, queue.rename(suspect).losses) == (Role.WORKER, 1)


# --- with two nodes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of a head without CPUs and two nodes."""
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    signal.signal(signal.SIGTERM, handler)
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def ray_engine(cluster: Any) -> RayEngine:
    return RayEngine(RAY, clip_timeout=2.0)


def parts(harness: RunHarness) -> dict[str, list[bytes]]:
    """Return the bytes of the sealed parts, by branch."""
    return {
        branch: [path.read_bytes() for path in sorted((harness.folder / "parts" / branch).glob("*"))]
        for branch in ("a", "b")
    }


@pytest.mark.slow
def test_faults_have_the_same_result_as_with_the_local_engine(tmp_path, ray_engine):
    faulty = {
        "n2": Number(2, open_fault="signal SIGSEGV"),
        "n5": Number(5, work_fault="sleep 60"),
        "n8": Number(8, work_fault="raise KeyError"),
        "n9": Number(9, work_fault="once:exit 3"),
        "n11": Number(11, open_fault="raise UnreadableMedia"),
    }
    items = numbers(*range(1, 13), **faulty)
    local, remote = RunHarness(tmp_path / "local"), RunHarness(tmp_path / "remote")
    local.run(items, workers=2, clip_timeout=2.0)
    remote.run(items, workers=2, engine=ray_engine)
    assert parts(remote) == parts(local)
    assert remote.reasons("a") == local.reasons("a")
    assert remote.reasons("a") == {
        "2": "WorkerCrashed",
        "5": "ClipTimeout",
        "8": "UnexpectedError",
        "11": "UnreadableMedia",
    }
    assert remote.reasons("b") == local.reasons("b")
    assert not [*remote.folder.rglob(".engine-*")]


@pytest.mark.slow
def test_openers_are_other_actors_than_workers(tmp_path, cluster):
    faulty = {"n2": Number(2, open_fault="signal SIGSEGV"), "n5": Number(5, work_fault="once:signal SIGKILL")}
    items = numbers(*range(1, 10), **faulty)
    local, remote = RunHarness(tmp_path / "local", openers=1), RunHarness(tmp_path / "remote")
    local.run(items, workers=1)
    engine = RayEngine(RAY.model_copy(update={"workers": 1, "openers": 2}), clip_timeout=30.0, can_open=True)
    remote.run(items, workers=1, engine=engine)
    assert parts(remote) == parts(local)
    assert remote.reasons("a") == local.reasons("a") == {"2": "WorkerCrashed"}
    openers = {process for _, process, worker in remote.opened() if worker >= 100}
    assert openers.isdisjoint(remote.worker_processes())
    assert {worker for value, _, worker in remote.opened() if value != 5} <= {0, 100, 101}


@pytest.mark.slow
def test_features_have_the_same_bytes_as_with_the_local_engine(tmp_path, make_clip, cluster, monkeypatch):
    """Openers read the clips; paths are relative to the project, as in a stage."""
    for number in range(6):
        make_clip(tmp_path / "corpus" / f"{number}.mp4", video=False, audio_seconds=0.3 + number / 10)
    monkeypatch.chdir(tmp_path)
    engine = RayEngine(
        RAY.model_copy(update={"workers": 2, "openers": 1}), can_open=True, needs=[Path("corpus")], clip_timeout=60.0
    )
    stores = {name: extract_audio(Path(name), one) for name, one in {"local": None, "ray": engine}.items()}
    assert stores["ray"] == stores["local"]
    assert any(path.parts[0].startswith("part-") for path in stores["ray"])


def extract_audio(folder: Path, engine: RayEngine | None) -> dict[Path, bytes]:
    """Extract the clips in ``corpus`` and return the files of the features."""
    encoder, media, faces = EgemapsConfig(), MediaConfig(), FaceConfig()
    clips = []
    for path in sorted(Path("corpus").iterdir()):
        digest = sha256_file(path)
        clips.append(Clip(ClipId(path.stem), path.name, digest, has_audio=True, file_digest=digest))
    settings = branch_settings(Modality.AUDIO, encoder, media, faces)
    root = folder / "audio.zarr"
    with open_writers({Modality.AUDIO: settings}, lambda _: root) as writers:
        branch = plan_branch(
            Modality.AUDIO,
            clips,
            {},
            encoder=encoder,
            settings=settings,
            root=root,
            quarantine_path=folder / "audio.csv",
        )
        extract(
            [branch],
            clips,
            {},
            writers=writers,
            corpus_root=Path("corpus"),
            media=media,
            faces=faces,
            config=ExtractConfig(batch_size=2, workers=1, device="cpu"),
            engine=engine,
        )
        features = root / branch.fingerprint
        return {path.relative_to(features): path.read_bytes() for path in features.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_node_without_the_corpus_is_named(tmp_path, cluster):
    harness = RunHarness(tmp_path / "harness")
    engine = RayEngine(RAY, needs=[tmp_path / "corpus"])
    with pytest.raises(MissingInput) as caught:
        harness.run(numbers(1, 2, 3), workers=1, engine=engine)
    assert str(tmp_path / "corpus") in caught.value.message
    assert caught.value.message.startswith(f"node {os.uname().nodename}")
    assert caught.value.hint


@pytest.mark.slow
def test_a_node_without_the_weights_is_named(tmp_path, ray_engine):
    harness = RunHarness(tmp_path / "harness", start_fault="model error")
    with pytest.raises(ModelError) as caught:
        harness.run(numbers(1, 2, 3), workers=1, engine=ray_engine)
    assert caught.value.message.startswith(f"node {os.uname().nodename}")
    assert caught.value.message.endswith("no weights")
    assert caught.value.hint == "fetch them"


@pytest.mark.slow
def test_a_worker_without_room_ends_the_run_after_a_wait(tmp_path, cluster):
    engine = RayEngine(RAY.model_copy(update={"gpus": 1.0, "wait": 1.0}))
    with pytest.raises(EcmfError, match=r"0\.5 CPUs and 1 GPUs"):
        RunHarness(tmp_path / "harness").run(numbers(1), workers=1, engine=engine)


@pytest.mark.slow
def test_closing_the_results_stops_the_processes(tmp_path, ray_engine):
    harness = RunHarness(tmp_path / "harness")
    tasks = [Task(f"{number}", 0, (Number(number, open_fault="sleep 30" if number > 1 else ""),)) for number in (1, 2)]
    results = ray_engine.run(tasks, Factory(harness.folder), BranchFiles(harness.folder).spools)
    next(results)
    results.close()
    processes = {process for _, process, _ in harness.opened()}
    deadline = time.monotonic() + 5
    while processes and time.monotonic() < deadline:
        processes = {process for process in processes if Path(f"/proc/{process}").exists()}
        time.sleep(0.05)
    assert not processes


@pytest.mark.slow
@pytest.mark.parametrize("openers", [0, 2])
def test_a_killed_node_neither_loses_nor_doubles_rows(tmp_path, cluster, openers):
    """All workers are computing a batch when the node of one of them is killed; the last tests of this cluster."""
    local, remote = RunHarness(tmp_path / "local"), RunHarness(tmp_path / "remote")
    local.run(numbers(*range(1, 41)), workers=2, part_size=10)
    cluster.add_node(num_cpus=1)
    workers = {"workers": 4, "openers": openers, "cpus": 0.25}
    engine = RayEngine(RAY.model_copy(update=workers), clip_timeout=30.0, can_open=True)

    def kill_node() -> None:
        while not (remote.folder / "worked").exists() or len(remote.worker_processes()) < 4:
            time.sleep(0.02)
        worker = min(remote.worker_processes())
        raylets = ancestors(worker)
        (node,) = (one for one in cluster.worker_nodes if one.all_processes["raylet"][0].process.pid in raylets)
        cluster.remove_node(node, allow_graceful=False)
        while Path(f"/proc/{worker}").exists():  # it ends when it notices the end of its node
            time.sleep(0.02)
        (remote.folder / "killed").touch()

    thread = threading.Thread(target=kill_node, daemon=True)
    thread.start()
    items = [Number(value, work_fault="await killed") for value in range(1, 41)]
    report = remote.run(items, workers=1, part_size=10, engine=engine)
    thread.join(10)
    assert (remote.folder / "killed").exists()
    n_computed = sum(int(line.split()[0]) for line in read_lines(remote.folder / "worked"))
    assert n_computed > len(items)  # lost batches were computed again
    assert parts(remote) == parts(local)
    assert report.done == {"a": 40, "b": 35}
    assert remote.reasons("a") == {}


def ancestors(process: int) -> set[int]:
    """Return the ids of the ancestors of a process."""
    found: set[int] = set()
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        found.add(process)
    return found
