"""Signals to a run in a separate process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import Interrupted, ModelError
from ecmf_pipeline.runner.run import Interruption, release_on_signal
from tests.runner.doubling import Number, RunHarness


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.02)


def is_running(process: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def start_run(
    folder: Path, *, workers: int, openers: int = 0, seal_fault: str = "", late_fault: str = "sleep 0.1"
) -> Iterator[tuple[subprocess.Popen[str], RunHarness]]:
    """Start a run of 40 slow items as a session leader, and wait until its first batches are stored."""
    folder.mkdir()
    program = f"import sys; sys.path[:0] = {sys.path}; from tests.runner import doubling; doubling.main(*sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), str(workers), str(openers), seal_fault, late_fault],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        wait_for(lambda: process.poll() is not None or len(list((folder / "kept" / "b").glob("0*"))) >= 2)
        assert process.poll() is None, process.stderr.read()
        yield process, RunHarness(folder)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def check_sealed_once(harness: RunHarness) -> None:
    """Check that each sealed item is sealed once, and in both branches alike."""
    sealed = harness.results.sealed("a")
    assert sealed
    assert len(set(sealed)) == len(sealed) < 40
    assert harness.results.sealed("b") == [value for value in sealed if value % 7]


@pytest.mark.parametrize(("workers", "openers"), [(0, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_seals_complete_batches_and_prints_a_hint(tmp_path, workers, openers, number):
    with start_run(tmp_path / "run", workers=workers, openers=openers) as (process, harness):
        os.killpg(process.pid, number)
        begun = time.monotonic()
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - begun < 3
        assert "Interrupted: test: interrupted\nhint: " in errors
        check_sealed_once(harness)
        wait_for(lambda: not any(is_running(pid) for _, pid, _ in harness.opened()), 1.0)


def test_a_second_interruption_does_not_interrupt_sealing(tmp_path):
    with start_run(tmp_path / "run", workers=2, seal_fault="sleep 0.5") as (process, harness):
        os.killpg(process.pid, signal.SIGINT)
        wait_for((harness.folder / "sealing").exists)
        for _ in range(3):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.1)
        _, errors = process.communicate(timeout=20)
        assert "Interrupted: test: interrupted" in errors
        assert "stopping: " in errors
        check_sealed_once(harness)


def test_an_interruption_during_sealing_waits_for_the_part(tmp_path):
    harness = RunHarness(tmp_path / "run", seal_fault="once:signal SIGINT")
    with pytest.raises(Interrupted):
        harness.run([Number(value) for value in range(1, 13)], workers=0, batch_size=2, part_size=4)
    assert harness.results.parts("a") == [[[str(value), 2 * value] for value in (1, 2, 3, 4)]]
    assert harness.results.parts("b") == harness.results.parts("a")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_handlers_are_restored_after_an_interruption(tmp_path, number):
    harness = RunHarness(tmp_path / "run")
    before = signal.getsignal(number)
    items = [Number(value, open_fault=f"signal {number.name}" if value == 5 else "") for value in range(1, 7)]
    with pytest.raises(Interrupted) as caught:
        harness.run(items, workers=0)
    assert caught.value.hint
    assert harness.results.sealed("a") == [1, 2, 3]
    assert signal.getsignal(number) == before


def test_an_error_that_stops_the_run_is_raised_despite_a_later_interruption(tmp_path):
    harness = RunHarness(tmp_path / "run", seal_fault="signal SIGINT")
    with pytest.raises(ModelError):
        harness.run([*(Number(value) for value in (1, 2, 3)), Number(4, open_fault="raise ModelError")], workers=0)
    assert harness.results.sealed("a") == [1, 2, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="on other systems a worker exits when it next uses its connection")
@pytest.mark.parametrize(("workers", "openers"), [(2, 0), (1, 2)])
def test_workers_and_openers_exit_with_their_parent(tmp_path, workers, openers):
    """Includes processes in a long call that does not use the connection."""
    with start_run(tmp_path / "run", workers=workers, openers=openers, late_fault="sleep 60") as (process, harness):
        wait_for(lambda: sum(value > 12 for value, _, _ in harness.opened()) == 2)
        pids = {pid for _, pid, _ in harness.opened()} | harness.worker_processes()
        assert len(pids) == 2 + (openers > 0)
        assert all(is_running(pid) for pid in pids)
        process.kill()
        wait_for(lambda: not any(is_running(pid) for pid in pids), 1.0)


def test_a_signal_releases_the_blocking_call_and_then_runs_the_previous_handler() -> None:
    releases: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        outer = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), release_on_signal(lambda: releases.append("released")):
            signal.raise_signal(signal.SIGTERM)
        assert interruption.requested
        assert releases == ["released"]
        assert signal.getsignal(signal.SIGTERM) == outer
    assert signal.getsignal(signal.SIGTERM) == before
