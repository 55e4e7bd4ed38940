"""Opener processes, which open items for the workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import EcmfError, ModelError
from ecmf_pipeline.runner import Done, LocalProcesses, Task, shared_arrays
from tests.runner.doubling import (
    BranchFiles,
    DoublingStep,
    Factory,
    Number,
    RunHarness,
    count_shared_arrays,
    numbers,
    read_lines,
)

pytestmark = pytest.mark.skipif(not shared_arrays.ARE_SUPPORTED, reason="openers need Linux")


@pytest.fixture
def harness(tmp_path: Path) -> RunHarness:
    return RunHarness(tmp_path / "harness", openers=1)


def step_calls(harness: RunHarness) -> list[tuple[int, int, int]]:
    """Return for each call of the step: its number of items, the items opened so far, the shared arrays held."""
    return [tuple(map(int, line.split()[:3])) for line in read_lines(harness.folder / "worked")]  # type: ignore[misc]


def run(harness: RunHarness, tasks: int, *, workers: int, openers: int, work_fault: str = "") -> Iterator[Done[Number]]:
    all_tasks = [Task(f"{number:03d}", 0, (Number(number, work_fault=work_fault),)) for number in range(1, tasks + 1)]
    engine = LocalProcesses(workers, 60.0, openers=openers)
    return engine.run(all_tasks, Factory(harness.folder), BranchFiles(harness.folder).spools)  # type: ignore[return-value]


def test_openers_open_and_workers_compute(harness):
    harness.run(numbers(1, 2, 3, 4, 5, 6, 7), workers=2)
    assert {worker for _, _, worker in harness.opened()} == {100}
    assert harness.worker_processes().isdisjoint({process for _, process, _ in harness.opened()})
    assert sorted(count for count, _, _ in step_calls(harness)) == [1, 3, 3]


@pytest.mark.parametrize(("workers", "openers"), [(1, 1), (1, 3), (2, 1)])
def test_openers_wait_for_slow_workers(harness, workers, openers):
    list(run(harness, 24, workers=workers, openers=openers, work_fault="sleep 0.02"))
    # At most two batches for each worker wait, each opener holds one, and each worker computes one.
    limit = 2 * workers + openers + workers
    ahead = [opened - begun for begun, (_, opened, _) in enumerate(step_calls(harness))]
    assert len(ahead) == 24
    assert max(ahead) <= limit
    assert max(ahead) > 1  # openers work in advance


def test_no_process_holds_more_shared_arrays_than_it_needs(harness):
    before = count_shared_arrays()
    held_by_main_process, held_by_openers = [], []
    for _ in run(harness, 30, workers=1, openers=2):
        held_by_main_process.append(count_shared_arrays() - before)
        held_by_openers += [count_shared_arrays(process) for process in {process for _, process, _ in harness.opened()}]
    assert max(held_by_main_process) <= 4
    assert held_by_openers
    assert max(held_by_openers) <= 1
    assert {clips_with_features for _, _, clips_with_features in step_calls(harness)} == {1}  # only the current batch
    assert count_shared_arrays() == before


def test_shared_arrays_are_released_when_the_run_is_closed_or_fails(harness):
    before = count_shared_arrays()
    results = run(harness, 30, workers=1, openers=2, work_fault="sleep 0.05")
    next(results)
    results.close()
    with pytest.raises(ModelError):
        harness.run(
            [*numbers(1, 2, 3, 4), Number(5, work_fault="raise ModelError"), Number(6)], workers=1, batch_size=1
        )
    assert count_shared_arrays() == before


def test_shared_arrays_of_a_killed_worker_are_released(harness):
    before = count_shared_arrays()
    for number, _ in enumerate(run(harness, 8, workers=1, openers=1)):
        if number in (0, 4):
            for process in harness.worker_processes():
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    assert count_shared_arrays() == before
    assert len(harness.worker_processes()) >= 2


def test_a_killed_opener_is_replaced_without_losing_items(harness):
    done = []
    for finished in run(harness, 12, workers=1, openers=1, work_fault="sleep 0.02"):
        assert {error.reason for _, error in finished.errors} <= {"NoFaceFound"}  # item 7
        done.append(finished.task.items[0].value)
        if len(done) == 1:
            (opener,) = {process for _, process, _ in harness.opened()}
            os.kill(opener, signal.SIGKILL)
    assert sorted(done) == list(range(1, 13))
    assert len({process for _, process, _ in harness.opened()}) == 2


def test_an_item_that_breaks_openers_never_reaches_a_worker(harness):
    """A video that crashes the decoder must not force a worker to load its models again."""
    faulty = {"n2": Number(2, open_fault="signal SIGSEGV"), "n5": Number(5, open_fault="sleep 60")}
    harness.run(numbers(1, 2, 3, 4, 5, 6, **faulty), workers=1, clip_timeout=0.7)
    assert harness.reasons("a") == {"2": "WorkerCrashed", "5": "ClipTimeout"}
    assert len(harness.worker_processes()) == 1
    assert all(worker >= 100 for _, _, worker in harness.opened())


def test_an_item_that_broke_a_worker_is_opened_and_computed_by_a_fresh_worker(harness):
    harness.run(numbers(1, 2, 3, n2=Number(2, work_fault="once:signal SIGSEGV")), workers=1)
    assert harness.results.sealed("a") == [1, 2, 3]
    opened_by = [(value, worker) for value, _, worker in harness.opened()]
    assert opened_by == [(1, 100), (2, 100), (3, 100), (1, 0), (2, 0), (3, 0)]


def test_a_suspect_that_opens_when_retried_is_computed_normally(harness):
    harness.run(numbers(1, 2, 3, n2=Number(2, open_fault="once:signal SIGSEGV")), workers=1)
    assert harness.results.sealed("a") == [1, 2, 3]
    assert {worker for _, _, worker in harness.opened()} == {100}


def test_openers_that_exit_during_startup_stop_the_run(tmp_path):
    harness = RunHarness(tmp_path / "harness", openers=1, opener_start_fault="exit 9")
    with pytest.raises(EcmfError) as caught:
        harness.run(numbers(1, 2, 3), workers=1)
    assert "opener 0 exited 2 times" in caught.value.message
    assert "exit status 9" in caught.value.message
    assert caught.value.hint
    assert harness.reasons("a") == {}


def test_an_error_while_building_an_opener_stops_the_run(tmp_path):
    harness = RunHarness(tmp_path / "harness", openers=1, opener_start_fault="raise ModelError")
    with pytest.raises(ModelError) as caught:
        harness.run(numbers(1, 2, 3), workers=1)
    assert (caught.value.message, caught.value.hint) == ("no detector", "fetch it")


@pytest.mark.parametrize("branch", ["", "b"])
def test_an_item_whose_opened_view_cannot_be_pickled_is_quarantined(harness, branch):
    bad = Number(2, open_fault="open unpicklable", fault_branch=branch)
    harness.run(numbers(1, 2, 3, 4, n2=bad), workers=1)
    assert harness.results.sealed("a") == ([1, 2, 3, 4] if branch else [1, 3, 4])
    assert harness.results.sealed("b") == [1, 3, 4]
    assert harness.reasons("b") == {"2": "UnexpectedError"}


def test_a_batch_that_exceeds_memory_is_opened_in_pieces(tmp_path):
    """Includes the last item, which runs out of memory although it is alone."""
    harness = RunHarness(tmp_path / "harness", openers=1, opener_start_fault="memory for one item")
    harness.run([Number(value, fault_branch="b") for value in (1, 2, 3)], workers=1)
    assert harness.results.sealed("a") == harness.results.sealed("b") == [1, 2, 3]
    assert [value for value, _, _ in harness.opened()] == [1, 2, 3, 1, 1, 2, 2, 3, 3]


@dataclass(frozen=True)
class WithoutOpeners:
    """A factory without a method ``opener``."""

    folder: Path

    def __call__(self, worker: int) -> DoublingStep:
        return DoublingStep(self.folder, worker)


def test_openers_need_memory_files_and_a_factory_with_an_opener_method(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="WithoutOpeners"):
        list(LocalProcesses(1, openers=2).run([], WithoutOpeners(tmp_path), BranchFiles(tmp_path).spools))
    monkeypatch.setattr(shared_arrays, "ARE_SUPPORTED", False)
    with pytest.raises(ValueError, match="openers: 0"):
        LocalProcesses(1, openers=2)
