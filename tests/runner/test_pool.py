"""Workers that crash, hang or are killed."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import EcmfError
from ecmf_pipeline.runner import LocalProcesses, Task
from ecmf_pipeline.runner.pool import JobQueue
from ecmf_pipeline.runner.step import Phase
from ecmf_pipeline.runner.worker_process import Role
from tests.runner.doubling import BranchFiles, Factory, Number, RunHarness, numbers


@pytest.fixture(params=[0, 2], ids=["workers open", "two openers"])
def openers(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def harness(tmp_path: Path, openers: int) -> RunHarness:
    return RunHarness(tmp_path / "harness", openers=openers)


_REASONS = {"signal SIGSEGV": "WorkerCrashed", "sleep 60": "ClipTimeout"}


def count_attempts(harness: RunHarness, value: int) -> int:
    return sum(opened == value for opened, _, _ in harness.opened())


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("signal SIGSEGV", "WorkerCrashed", "SIGSEGV while the clip was being read"),
        ("signal SIGKILL", "WorkerKilled", "SIGKILL"),
        ("exit 3", "WorkerCrashed", "exit status 3"),
    ],
)
def test_a_clip_that_breaks_its_worker_twice_is_quarantined(harness, workers, fault, reason, message):
    report = harness.run(numbers(1, 2, 3, 4, 5, 6, n2=Number(2, open_fault=fault)), workers=workers)
    assert harness.results.sealed("a") == [1, 3, 4, 5, 6]
    assert harness.reasons("a") == harness.reasons("b") == {"2": reason}
    assert message in harness.messages()["2"]
    assert count_attempts(harness, 2) == 2
    assert report.done["a"] == 5


def test_a_clip_that_hangs_while_it_is_read_is_quarantined(harness):
    begun = time.monotonic()
    harness.run(numbers(1, 2, 3, n2=Number(2, open_fault="sleep 60")), workers=1, clip_timeout=0.5)
    assert time.monotonic() - begun < 10
    assert harness.results.sealed("a") == [1, 3]
    assert harness.reasons("a") == {"2": "ClipTimeout"}
    assert "0.5 s" in harness.messages()["2"]


def test_a_clip_that_hangs_while_it_is_computed_is_quarantined(harness):
    harness.run(numbers(1, 2, n2=Number(2, work_fault="sleep 60")), workers=1, clip_timeout=0.5)
    assert harness.results.sealed("a") == [1]
    assert harness.reasons("a") == {"2": "ClipTimeout"}


def test_the_timeout_of_a_batch_is_the_sum_of_its_clips(harness):
    slow = [Number(value, work_fault="sleep 0.4") for value in (1, 2, 3)]
    harness.run(slow, workers=1, clip_timeout=0.8)
    assert harness.results.sealed("a") == [1, 2, 3]
    assert {count_attempts(harness, value) for value in (1, 2, 3)} == {1}


def test_a_long_clip_may_take_longer(harness):
    slow = [Number(value, work_fault="sleep 1.2", extra_seconds=extra) for value, extra in ((1, 60.0), (2, 0.0))]
    harness.run(slow, workers=1, batch_size=1, clip_timeout=0.5)
    assert harness.results.sealed("a") == [1]
    assert harness.reasons("a") == {"2": "ClipTimeout"}


def test_only_the_crashing_clip_of_a_batch_is_quarantined(harness):
    harness.run(numbers(1, 2, 3, 4, 5, n2=Number(2, work_fault="signal SIGABRT")), workers=1)
    assert harness.results.sealed("a") == [1, 3, 4, 5]
    assert harness.reasons("a") == {"2": "WorkerCrashed"}
    assert "SIGABRT while the clip was being processed" in harness.messages()["2"]


def test_the_last_attempt_of_a_suspect_runs_in_a_fresh_worker(harness):
    harness.run(numbers(1, 2, 3, n3=Number(3, work_fault="signal SIGSEGV")), workers=1)
    assert harness.reasons("a") == {"3": "WorkerCrashed"}
    by_process: dict[int, list[int]] = {}
    for value, process, _ in harness.opened():
        by_process.setdefault(process, []).append(value)
    assert list(by_process.values())[-1] == [3]


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL"])
@pytest.mark.parametrize("phase", ["open_fault", "work_fault"])
def test_a_clip_that_breaks_its_worker_once_is_computed(harness, name, phase):
    faulty = Number(2, **{phase: f"once:signal {name}"})
    report = harness.run(numbers(1, 2, 3, 4, n2=faulty), workers=2)
    assert harness.results.sealed("a") == [1, 2, 3, 4]
    assert harness.reasons("a") == {}
    assert report.done["a"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["signal SIGSEGV", "sleep 60"])
@pytest.mark.parametrize("phase", ["open_fault", "work_fault"])
def test_a_branch_that_breaks_its_worker_does_not_affect_other_branches(harness, fault, phase):
    faulty = Number(2, fault_branch="b", **{phase: fault})
    report = harness.run(numbers(1, 2, 3, 4, 5, n2=faulty), workers=2, clip_timeout=0.7, part_size=9)
    assert harness.results.parts("a") == [[[str(value), 2 * value] for value in (1, 2, 3, 4, 5)]]
    assert harness.results.sealed("b") == [1, 3, 4, 5]
    assert (harness.reasons("a"), harness.reasons("b")) == ({}, {"2": _REASONS[fault]})
    assert report.done == {"a": 5, "b": 4}


def test_a_chunk_is_sealed_when_all_its_pieces_have_returned(harness):
    """The suspects of the first chunk return in more pieces than it has items."""
    items = [*(Number(value, fault_branch="b", open_fault="signal SIGSEGV") for value in (1, 2)), *numbers(3, 4, 5, 6)]
    harness.run(items, workers=1, batch_size=2, part_size=3)
    assert harness.results.parts("a") == [
        [[str(value), 2 * value] for value in part] for part in ((1, 2, 3), (4, 5, 6))
    ]
    assert harness.results.sealed("b") == [3, 4, 5, 6]


def test_task_names_stay_short_and_unique_after_many_splits():
    queue = JobQueue(Task(name, 0, tuple(map(Number, range(60)))) for name in ("000000-0000", "000000-0001"))
    names = []
    while job := queue.take():
        names.append(job.task.name)
        queue.split(job, Role.WORKER, Phase.OPEN, 0)
    assert queue.take_suspect(Role.OPENER) is None
    while job := queue.take_suspect(Role.WORKER):
        names.append(job.task.name)
        assert len(job.task.items) == 1
    assert len(names) == len(set(names)) == 2 * (60 + 60)
    assert max(map(len, names)) <= len("000000-0000-r0000")
    assert {name[:11] for name in names} == {"000000-0000", "000000-0001"}


def test_several_crashing_clips_of_one_batch_are_quarantined(harness):
    faulty = {f"n{value}": Number(value, open_fault="signal SIGSEGV") for value in (1, 3)}
    harness.run(numbers(1, 2, 3, 4, **faulty), workers=2, batch_size=4)
    assert harness.results.sealed("a") == [2, 4]
    assert set(harness.reasons("a")) == {"1", "3"}


def test_a_worker_killed_while_it_stores_a_batch_neither_loses_nor_duplicates_rows(tmp_path, openers):
    harness = RunHarness(tmp_path / "harness", keep_fault="once:signal SIGKILL", openers=openers)
    report = harness.run(numbers(1, 2, 3, 4), workers=2)
    assert harness.results.sealed("a") == [1, 2, 3, 4]
    assert report.done["a"] == 4
    assert harness.reasons("a") == {}


@pytest.mark.parametrize(
    ("name", "new_kills", "reason"),
    [("SIGKILL", 1, "OutOfMemory"), ("SIGKILL", 0, "WorkerKilled"), ("SIGSEGV", 1, "WorkerCrashed")],
)
def test_out_of_memory_kills_are_distinguished_from_other_kills(harness, monkeypatch, name, new_kills, reason):
    """The process compares the kernel's count before and after each job; the next test uses a real kill."""
    kills = itertools.count(7, new_kills)
    monkeypatch.setattr("ecmf_pipeline.runner.worker_process.count_oom_kills", lambda: next(kills))
    report = harness.run([Number(1, open_fault=f"signal {name}")], workers=1)
    assert harness.reasons("a") == {"1": reason}
    assert report.transient == ({"WorkerKilled": 2} if reason == "WorkerKilled" else {})


def test_a_clip_killed_by_the_kernel_for_memory_is_quarantined(harness, run_with_little_memory):
    program = f"""
import sys; sys.path[:0] = {sys.path}
from pathlib import Path
from tests.runner.doubling import RunHarness, Number
items = [Number(1), Number(2, open_fault="allocate all"), Number(3)]
RunHarness(Path({str(harness.folder)!r}), openers={harness.openers}).run(items, workers=1)
"""
    done = run_with_little_memory([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    assert harness.results.sealed("a") == [1, 3]
    assert harness.reasons("a") == {"2": "OutOfMemory"}
    assert count_attempts(harness, 2) == 2


def test_a_worker_killed_between_clips_is_replaced_without_losing_items(harness):
    """The worker is killed while it waits for its second task."""
    engine = LocalProcesses(1, 30.0, openers=harness.openers)
    tasks = [Task(f"{number}", 0, (Number(number),)) for number in (1, 2, 3)]
    done = []
    for finished in engine.run(iter(tasks), Factory(harness.folder), BranchFiles(harness.folder).spools):
        done.append(finished.task.name)
        assert finished.errors == []
        if len(done) == 1:
            (worker,) = harness.worker_processes()
            os.kill(worker, signal.SIGKILL)
    assert sorted(done) == ["1", "2", "3"]
    assert len(harness.worker_processes()) == 2


def test_workers_that_exit_during_startup_stop_the_run(tmp_path, openers):
    harness = RunHarness(tmp_path / "harness", start_fault="exit 9", openers=openers)
    with pytest.raises(EcmfError) as caught:
        harness.run(numbers(1, 2, 3), workers=1)
    assert "2 times in a row during startup (exit status 9)" in caught.value.message
    assert caught.value.hint
    assert harness.reasons("a") == {}


def test_a_worker_that_exits_once_during_startup_is_replaced(tmp_path, openers):
    harness = RunHarness(tmp_path / "harness", start_fault="once:exit 9", openers=openers)
    harness.run(numbers(1, 2, 3), workers=1)
    assert harness.results.sealed("a") == [1, 2, 3]


def test_a_worker_that_repeatedly_exits_while_it_stores_a_batch_stops_the_run(tmp_path, openers):
    harness = RunHarness(tmp_path / "harness", keep_fault="exit 7", openers=openers)
    with pytest.raises(EcmfError) as caught:
        harness.run(numbers(1), workers=1)
    assert "5 times in a row between clips (exit status 7)" in caught.value.message
    assert harness.reasons("a") == {}


def test_zero_workers_are_rejected():
    with pytest.raises(ValueError, match="workers"):
        LocalProcesses(0)


def test_startup_may_exceed_the_clip_timeout(tmp_path, openers):
    harness = RunHarness(tmp_path / "harness", start_fault="sleep 0.6", openers=openers)
    harness.run(numbers(1), workers=1, clip_timeout=0.3)
    assert harness.results.sealed("a") == [1]


@pytest.mark.slow
def test_suspects_do_not_delay_other_clips(harness):
    """The other worker continues while the suspect hangs again, alone."""
    items = [Number(1, open_fault="sleep 60"), *(Number(value, open_fault="sleep 0.3") for value in range(2, 12))]
    harness.run(items, workers=2, batch_size=1, clip_timeout=1.0)
    opened = [value for value, _, _ in harness.opened()]
    assert sorted(opened) == [1, 1, *range(2, 12)]
    assert opened.index(1, 1) < len(opened) - 2
    assert harness.results.sealed("a") == list(range(2, 12))


def test_a_run_works_outside_the_main_thread(harness):
    thread = threading.Thread(target=harness.run, args=[numbers(1, 2, 3)], kwargs={"workers": 1})
    thread.start()
    thread.join(30)
    assert harness.results.sealed("a") == [1, 2, 3]


def test_closing_the_results_stops_the_workers_at_once(harness):
    tasks = [
        Task(f"{number}", 0, (Number(number, open_fault="sleep 30" if number > 1 else ""),)) for number in (1, 2, 3)
    ]
    results = LocalProcesses(2, 60.0, openers=harness.openers).run(
        tasks, Factory(harness.folder), BranchFiles(harness.folder).spools
    )
    next(results)
    begun = time.monotonic()
    results.close()
    assert time.monotonic() - begun < 2
    for _, process, _ in harness.opened():
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_has_one_thread_a_process_group_and_the_highest_oom_score(harness):
    tasks = [Task("1", 0, (Number(1),)), Task("2", 0, (Number(2),))]
    engine = LocalProcesses(1, 60.0, threads=1, openers=harness.openers)
    for _ in engine.run(tasks, Factory(harness.folder), BranchFiles(harness.folder).spools):
        for process in harness.worker_processes() | {process for _, process, _ in harness.opened()}:
            proc = Path(f"/proc/{process}")
            assert b"OMP_NUM_THREADS=1" in (proc / "environ").read_bytes().split(b"\0")
            assert os.getpgid(process) == process
            assert (proc / "oom_score_adj").read_text() == "1000\n"
            assert "Threads:\t1\n" in (proc / "status").read_text()
        break


def test_a_worker_imports_no_heavy_library():
    """Imports delay the first clip, which matters in short runs."""
    import subprocess

    listed = "import sys, ecmf_pipeline.runner.worker; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert not loaded & {"numpy", "torch", "pydantic", "pandas", "zarr", "typer"}
    assert "ecmf_pipeline.runner.worker_process" in result.stdout.split()
