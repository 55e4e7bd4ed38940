"""Workers that crash, hang or are killed."""

from __future__ import annotations

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
from tests.runner.counting import Bench, Drawer, Factory, Number, numbers


@pytest.fixture(params=[0, 2], ids=["workers open", "two openers"])
def openers(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def bench(tmp_path: Path, openers: int) -> Bench:
    return Bench(tmp_path / "bench", openers=openers)


_REASONS = {"signal SIGSEGV": "WorkerCrashed", "sleep 60": "ClipTimeout"}


def tries(bench: Bench, value: int) -> int:
    return sum(opened == value for opened, _, _ in bench.diary())


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("opening", "reason", "message"),
    [
        ("signal SIGSEGV", "WorkerCrashed", "SIGSEGV while the clip was being read"),
        ("signal SIGKILL", "WorkerKilled", "SIGKILL while the clip was being read"),
        ("exit 3", "WorkerCrashed", "exit status 3 while the clip was being read"),
    ],
)
def test_a_clip_that_breaks_its_worker_twice_costs_itself(bench, workers, opening, reason, message):
    report = bench.run(numbers(1, 2, 3, 4, 5, 6, n2=Number(2, opening=opening)), workers=workers)
    assert bench.drawer.sealed("a") == [1, 3, 4, 5, 6]
    assert bench.reasons("a") == bench.reasons("b") == {"2": reason}
    assert message in bench.messages()["2"]
    assert tries(bench, 2) == 2
    assert report.done["a"] == 5


def test_a_clip_that_hangs_costs_itself(bench):
    begun = time.monotonic()
    bench.run(numbers(1, 2, 3, n2=Number(2, opening="sleep 60")), workers=1, clip_timeout=0.5)
    assert time.monotonic() - begun < 10
    assert bench.drawer.sealed("a") == [1, 3]
    assert bench.reasons("a") == {"2": "ClipTimeout"}
    assert "not read within 0.5 s" in bench.messages()["2"]


def test_a_clip_that_hangs_while_it_is_worked_on_costs_itself(bench):
    bench.run(numbers(1, 2, n2=Number(2, working="sleep 60")), workers=1, clip_timeout=0.5)
    assert bench.drawer.sealed("a") == [1]
    assert bench.reasons("a") == {"2": "ClipTimeout"}


def test_a_batch_may_take_as_long_as_its_clips_together(bench):
    slow = [Number(value, working="sleep 0.4") for value in (1, 2, 3)]
    bench.run(slow, workers=1, clip_timeout=0.8)
    assert bench.drawer.sealed("a") == [1, 2, 3]
    assert {tries(bench, value) for value in (1, 2, 3)} == {1}


def test_of_a_batch_that_crashed_its_worker_only_the_culprit_is_given_up(bench):
    bench.run(numbers(1, 2, 3, 4, 5, n2=Number(2, working="signal SIGABRT")), workers=1)
    assert bench.drawer.sealed("a") == [1, 3, 4, 5]
    assert bench.reasons("a") == {"2": "WorkerCrashed"}
    assert "SIGABRT while the clip was being worked on" in bench.messages()["2"]


def test_the_last_word_on_a_suspect_is_had_in_a_worker_that_did_nothing_before(bench):
    bench.run(numbers(1, 2, 3, n3=Number(3, working="signal SIGSEGV")), workers=1)
    assert bench.reasons("a") == {"3": "WorkerCrashed"}
    by_process: dict[int, list[int]] = {}
    for value, process, _ in bench.diary():
        by_process.setdefault(process, []).append(value)
    assert list(by_process.values())[-1] == [3]


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL"])
@pytest.mark.parametrize("when", ["opening", "working"])
def test_a_clip_that_breaks_its_worker_only_once_loses_nothing(bench, name, when):
    odd = Number(2, **{when: f"once:signal {name}"})
    report = bench.run(numbers(1, 2, 3, 4, n2=odd), workers=2)
    assert bench.drawer.sealed("a") == [1, 2, 3, 4]
    assert bench.reasons("a") == {}
    assert report.done["a"] == 4


@pytest.mark.parametrize("how", ["signal SIGSEGV", "sleep 60"])
@pytest.mark.parametrize("when", ["opening", "working"])
def test_a_branch_that_breaks_its_worker_costs_itself(bench, how, when):
    odd = Number(2, at="b", **{when: how})
    report = bench.run(numbers(1, 2, 3, 4, 5, n2=odd), workers=2, clip_timeout=0.7, part_size=9)
    assert bench.drawer.parts("a") == [[[str(value), 2 * value] for value in (1, 2, 3, 4, 5)]]
    assert bench.drawer.sealed("b") == [1, 3, 4, 5]
    assert (bench.reasons("a"), bench.reasons("b")) == ({}, {"2": _REASONS[how]})
    assert report.done == {"a": 5, "b": 4}


def test_chunks_are_sealed_when_all_of_them_is_back_also_in_pieces(bench):
    """The first chunk's suspects come back in more pieces than it has items."""
    items = [*(Number(value, at="b", opening="signal SIGSEGV") for value in (1, 2)), *numbers(3, 4, 5, 6)]
    bench.run(items, workers=1, batch_size=2, part_size=3)
    assert bench.drawer.parts("a") == [[[str(value), 2 * value] for value in part] for part in ((1, 2, 3), (4, 5, 6))]
    assert bench.drawer.sealed("b") == [3, 4, 5, 6]


def test_names_stay_short_and_their_own_however_many_clips_of_a_batch_break():
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


def test_several_that_break_in_one_batch_are_each_found(bench):
    odd = {f"n{value}": Number(value, opening="signal SIGSEGV") for value in (1, 3)}
    bench.run(numbers(1, 2, 3, 4, **odd), workers=2, batch_size=4)
    assert bench.drawer.sealed("a") == [2, 4]
    assert set(bench.reasons("a")) == {"1", "3"}


def test_a_worker_killed_while_it_keeps_loses_and_doubles_nothing(tmp_path, openers):
    bench = Bench(tmp_path / "bench", keeping="once:signal SIGKILL", openers=openers)
    report = bench.run(numbers(1, 2, 3, 4), workers=2)
    assert bench.drawer.sealed("a") == [1, 2, 3, 4]
    assert report.done["a"] == 4
    assert bench.reasons("a") == {}


@pytest.mark.parametrize(
    ("name", "meanwhile", "reason"),
    [("SIGKILL", 1, "OutOfMemory"), ("SIGKILL", 0, "WorkerKilled"), ("SIGSEGV", 1, "WorkerCrashed")],
)
def test_the_kernels_as_out_of_memory_is_told_from_other_kills(bench, monkeypatch, name, meanwhile, reason):
    """By the kernel's count before and after; that it counts, a real kill shows below."""
    monkeypatch.setattr("ecmf_pipeline.runner.worker_process.count_oom_kills", lambda: 7)
    monkeypatch.setattr("ecmf_pipeline.runner.pool.count_oom_kills", lambda: 7 + meanwhile)
    report = bench.run([Number(1, opening=f"signal {name}")], workers=1)
    assert bench.reasons("a") == {"1": reason}
    assert report.transient == ({"WorkerKilled": 2} if reason == "WorkerKilled" else {})


def test_a_kill_by_the_kernel_for_as_out_of_memory_costs_the_clip_that_ate_it(bench, little_memory):
    program = f"""
import sys; sys.path[:0] = {sys.path}
from pathlib import Path
from tests.runner.counting import Bench, Number
items = [Number(1), Number(2, opening="eat all"), Number(3)]
Bench(Path({str(bench.folder)!r}), openers={bench.openers}).run(items, workers=1)
"""
    done = little_memory([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    assert bench.drawer.sealed("a") == [1, 3]
    assert bench.reasons("a") == {"2": "OutOfMemory"}
    assert tries(bench, 2) == 2


def test_a_worker_killed_between_clips_is_replaced_and_nothing_is_lost(bench):
    """Two tasks, handed out one by one; the worker is killed while it waits for the second."""
    engine = LocalProcesses(1, 30.0, openers=bench.openers)
    tasks = [Task(f"{number}", 0, (Number(number),)) for number in (1, 2, 3)]
    done = []
    for finished in engine.run(iter(tasks), Factory(bench.folder), Drawer(bench.folder).spools):
        done.append(finished.task.name)
        assert finished.errors == []
        if len(done) == 1:
            (worker,) = bench.working()
            os.kill(worker, signal.SIGKILL)
    assert sorted(done) == ["1", "2", "3"]
    assert len(bench.working()) == 2


def test_workers_that_die_as_they_start_stop_the_run(tmp_path, openers):
    bench = Bench(tmp_path / "bench", starting="exit 9", openers=openers)
    with pytest.raises(EcmfError, match=r"2 times in a row while it was starting \(exit status 9\)"):
        bench.run(numbers(1, 2, 3), workers=1)
    assert bench.reasons("a") == {}


def test_a_worker_that_dies_once_as_it_starts_is_replaced(tmp_path, openers):
    bench = Bench(tmp_path / "bench", starting="once:exit 9", openers=openers)
    bench.run(numbers(1, 2, 3), workers=1)
    assert bench.drawer.sealed("a") == [1, 2, 3]


def test_a_worker_that_dies_again_and_again_while_it_keeps_stops_the_run(tmp_path, openers):
    bench = Bench(tmp_path / "bench", keeping="exit 7", openers=openers)
    with pytest.raises(EcmfError, match=r"5 times in a row between clips \(exit status 7\)"):
        bench.run(numbers(1), workers=1)
    assert bench.reasons("a") == {}


def test_no_worker_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one worker"):
        LocalProcesses(0)


def test_starting_may_take_longer_than_a_clip(tmp_path, openers):
    bench = Bench(tmp_path / "bench", starting="sleep 0.6", openers=openers)
    bench.run(numbers(1), workers=1, clip_timeout=0.3)
    assert bench.drawer.sealed("a") == [1]


def test_suspects_do_not_hold_up_the_others(bench):
    """While the suspect hangs once more, alone, the other worker goes on with the rest."""
    items = [Number(1, opening="sleep 60"), *(Number(value, opening="sleep 0.3") for value in range(2, 12))]
    bench.run(items, workers=2, batch_size=1, clip_timeout=1.0)
    opened = [value for value, _, _ in bench.diary()]
    assert sorted(opened) == [1, 1, *range(2, 12)]
    assert opened.index(1, 1) < len(opened) - 2
    assert bench.drawer.sealed("a") == list(range(2, 12))


def test_it_works_off_the_main_thread_too(bench):
    thread = threading.Thread(target=bench.run, args=[numbers(1, 2, 3)], kwargs={"workers": 1})
    thread.start()
    thread.join(30)
    assert bench.drawer.sealed("a") == [1, 2, 3]


def test_closing_the_results_ends_the_workers_at_once(bench):
    tasks = [Task(f"{number}", 0, (Number(number, opening="sleep 30" if number > 1 else ""),)) for number in (1, 2, 3)]
    results = LocalProcesses(2, 60.0, openers=bench.openers).run(
        tasks, Factory(bench.folder), Drawer(bench.folder).spools
    )
    next(results)
    begun = time.monotonic()
    results.close()
    assert time.monotonic() - begun < 2
    for _, process, _ in bench.diary():
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_has_one_thread_its_own_group_and_ends_first_when_memory_runs_out(bench):
    tasks = [Task("1", 0, (Number(1),)), Task("2", 0, (Number(2),))]
    engine = LocalProcesses(1, 60.0, threads=1, openers=bench.openers)
    for _ in engine.run(tasks, Factory(bench.folder), Drawer(bench.folder).spools):
        for process in bench.working() | {process for _, process, _ in bench.diary()}:
            proc = Path(f"/proc/{process}")
            assert b"OMP_NUM_THREADS=1" in (proc / "environ").read_bytes().split(b"\0")
            assert os.getpgid(process) == process
            assert (proc / "oom_score_adj").read_text() == "1000\n"
            assert "Threads:\t1\n" in (proc / "status").read_text()
        break


def test_a_worker_imports_little():
    """All of it must be there before the first clip of a short run: no numpy, no pydantic, nothing heavy."""
    import subprocess

    listed = "import sys, ecmf_pipeline.runner.worker; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert not loaded & {"numpy", "torch", "pydantic", "pandas", "zarr", "typer"}
    assert "ecmf_pipeline.runner.worker_process" in result.stdout.split()
