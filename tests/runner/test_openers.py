"""Openers: processes that open for the workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import EcmfError, ModelError
from ecmf_pipeline.runner import Done, LocalProcesses, Task, shared_arrays
from tests.runner.counting import Bench, Doubling, Drawer, Factory, Number, count_shared, numbers, read_lines

pytestmark = pytest.mark.skipif(not shared_arrays.ARE_SUPPORTED, reason="openers need Linux")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "bench", openers=1)


def worked(bench: Bench) -> list[tuple[int, int, int]]:
    """For each call of the step: how many items it was given, how many were opened, how many it held."""
    return [tuple(map(int, line.split()[:3])) for line in read_lines(bench.folder / "worked")]  # type: ignore[misc]


def run(bench: Bench, tasks: int, *, workers: int, openers: int, working: str = "") -> Iterator[Done[Number]]:
    given = [Task(f"{number:03d}", 0, (Number(number, working=working),)) for number in range(1, tasks + 1)]
    engine = LocalProcesses(workers, 60.0, openers=openers)
    return engine.run(given, Factory(bench.folder), Drawer(bench.folder).spools)  # type: ignore[return-value]


def test_openers_open_and_workers_work(bench):
    bench.run(numbers(1, 2, 3, 4, 5, 6, 7), workers=2)
    assert {who for _, _, who in bench.diary()} == {100}
    assert bench.working().isdisjoint({process for _, process, _ in bench.diary()})
    assert sorted(count for count, _, _ in worked(bench)) == [1, 3, 3]


@pytest.mark.parametrize(("workers", "openers"), [(1, 1), (1, 3), (2, 1)])
def test_openers_do_not_run_away_from_slow_workers(bench, workers, openers):
    list(run(bench, 24, workers=workers, openers=openers, working="sleep 0.02"))
    # Two batches a worker wait, each opener may have one more in its hands, and each worker works on one.
    most = 2 * workers + openers + workers
    ahead = [opened - begun for begun, (_, opened, _) in enumerate(worked(bench))]
    assert len(ahead) == 24
    assert max(ahead) <= most
    assert max(ahead) > 1  # they do go ahead


def test_no_process_holds_more_shared_arrays_than_it_needs(bench):
    before = count_shared()
    held_here, held_by_openers = [], []
    for _ in run(bench, 30, workers=1, openers=2):
        held_here.append(count_shared() - before)
        held_by_openers += [count_shared(process) for process in {process for _, process, _ in bench.diary()}]
    assert max(held_here) <= 4
    assert held_by_openers
    assert max(held_by_openers) <= 1
    assert {held for _, _, held in worked(bench)} == {1}  # what it works on, and nothing of before
    assert count_shared() == before


def test_nothing_is_held_when_the_results_are_closed_or_a_bug_ends_the_run(bench):
    before = count_shared()
    results = run(bench, 30, workers=1, openers=2, working="sleep 0.05")
    next(results)
    results.close()
    with pytest.raises(KeyError):
        bench.run([*numbers(1, 2, 3, 4), Number(5, working="raise KeyError"), Number(6)], workers=1, batch_size=1)
    assert count_shared() == before


def test_nothing_is_held_of_what_was_opened_for_a_worker_that_died(bench):
    before = count_shared()
    for number, _ in enumerate(run(bench, 8, workers=1, openers=1)):
        if number in (0, 4):
            for process in bench.working():
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    assert count_shared() == before
    assert len(bench.working()) >= 2


def test_an_opener_that_is_killed_is_replaced_and_nothing_is_lost(bench):
    done = []
    for finished in run(bench, 12, workers=1, openers=1, working="sleep 0.02"):
        assert {error.reason for _, error in finished.errors} <= {"NoFaceFound"}  # that of 7
        done.append(finished.task.items[0].value)
        if len(done) == 1:
            (opener,) = {process for _, process, _ in bench.diary()}
            os.kill(opener, signal.SIGKILL)
    assert sorted(done) == list(range(1, 13))
    assert len({process for _, process, _ in bench.diary()}) == 2


def test_what_breaks_an_opener_never_comes_near_a_worker(bench):
    """No model is loaded a second time for a film that a decoder cannot bear."""
    odd = {"n2": Number(2, opening="signal SIGSEGV"), "n5": Number(5, opening="sleep 60")}
    bench.run(numbers(1, 2, 3, 4, 5, 6, **odd), workers=1, clip_timeout=0.7)
    assert bench.reasons("a") == {"2": "WorkerCrashed", "5": "ClipTimeout"}
    assert len(bench.working()) == 1
    assert all(who >= 100 for _, _, who in bench.diary())


def test_what_breaks_a_worker_is_done_whole_by_a_fresh_one(bench):
    bench.run(numbers(1, 2, 3, n2=Number(2, working="once:signal SIGSEGV")), workers=1)
    assert bench.drawer.sealed("a") == [1, 2, 3]
    assert [(value, who) for value, _, who in bench.diary()] == [(1, 100), (2, 100), (3, 100), (1, 0), (2, 0), (3, 0)]


def test_a_suspect_that_opens_well_alone_is_worked_on_like_any_other(bench):
    bench.run(numbers(1, 2, 3, n2=Number(2, opening="once:signal SIGSEGV")), workers=1)
    assert bench.drawer.sealed("a") == [1, 2, 3]
    assert {who for _, _, who in bench.diary()} == {100}


def test_openers_that_die_as_they_start_stop_the_run(tmp_path):
    bench = Bench(tmp_path / "bench", openers=1, opener_starting="exit 9")
    with pytest.raises(EcmfError, match=r"opener 0 ended 2 times in a row while it was starting \(exit status 9\)"):
        bench.run(numbers(1, 2, 3), workers=1)
    assert bench.reasons("a") == {}


def test_an_opener_that_cannot_be_built_stops_the_run_with_its_own_error(tmp_path):
    bench = Bench(tmp_path / "bench", openers=1, opener_starting="raise ModelError")
    with pytest.raises(ModelError, match="no detector"):
        bench.run(numbers(1, 2, 3), workers=1)


def test_a_batch_that_finds_no_room_is_opened_piece_by_piece(tmp_path):
    """Also where the last opened item finds no more room than the first."""
    bench = Bench(tmp_path / "bench", openers=1, opener_starting="no room for several")
    bench.run([Number(value, at="b") for value in (1, 2, 3)], workers=1)
    assert bench.drawer.sealed("a") == bench.drawer.sealed("b") == [1, 2, 3]
    assert [value for value, _, _ in bench.diary()] == [1, 2, 3, 1, 1, 2, 2, 3, 3]


@dataclass(frozen=True)
class Unstaged:
    scratch: Path

    def __call__(self, worker: int) -> Doubling:
        return Doubling(self.scratch, worker)


def test_openers_need_a_factory_that_builds_them_and_memory_files(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="Unstaged cannot build openers, and 2 are asked for"):
        list(LocalProcesses(1, openers=2).run([], Unstaged(tmp_path), Drawer(tmp_path).spools))
    monkeypatch.setattr(shared_arrays, "ARE_SUPPORTED", False)
    with pytest.raises(ValueError, match="openers: 0"):
        LocalProcesses(1, openers=2)
