"""Signals to a whole run, in a process of its own."""

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

from ecmf_pipeline.core.errors import Interrupted
from ecmf_pipeline.runner.run import Interruption, hurried
from tests.runner.counting import Bench, Number


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def alive(process: int) -> bool:
    """Whether a process still runs; one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def running(
    folder: Path, *, workers: int, openers: int = 0, sealing: str = "", later: str = "sleep 0.1"
) -> Iterator[tuple[subprocess.Popen[str], Bench]]:
    """A run of 40 slow items that has kept its first batches, as the leader of a session, as from a terminal."""
    folder.mkdir()
    program = f"import sys; sys.path[:0] = {sys.path}; from tests.runner import counting; counting.main(*sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), str(workers), str(openers), sealing, later],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        wait_for(lambda: process.poll() is not None or len(list((folder / "kept" / "b").glob("0*"))) >= 2)
        assert process.poll() is None, process.stderr.read()
        yield process, Bench(folder)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def whole(bench: Bench) -> None:
    """What is sealed is sealed once, in both branches alike, and nothing that was kept is still lying about."""
    sealed = bench.drawer.sealed("a")
    assert sealed
    assert len(set(sealed)) == len(sealed) < 40
    assert bench.drawer.sealed("b") == [value for value in sealed if value % 7]


@pytest.mark.parametrize(("workers", "openers"), [(0, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_seals_what_is_complete_and_says_how_to_go_on(tmp_path, workers, openers, number):
    with running(tmp_path / "run", workers=workers, openers=openers) as (process, bench):
        os.killpg(process.pid, number)
        begun = time.monotonic()
        _, errors = process.communicate(timeout=20)
        assert time.monotonic() - begun < 3
        assert "Interrupted: test: interrupted; what was complete is kept, run the same command again" in errors
        whole(bench)
        wait_for(lambda: not any(alive(pid) for _, pid, _ in bench.diary()), 1.0)


def test_a_second_interruption_neither_tears_nor_loses_what_is_being_sealed(tmp_path):
    with running(tmp_path / "run", workers=2, sealing="sleep 0.5") as (process, bench):
        os.killpg(process.pid, signal.SIGINT)
        wait_for((bench.folder / "sealing").exists)
        for _ in range(3):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.1)
        _, errors = process.communicate(timeout=20)
        assert "Interrupted: test: interrupted" in errors
        assert "what is complete is being made permanent" in errors
        whole(bench)


def test_an_interruption_while_a_part_is_sealed_waits_for_it(tmp_path):
    bench = Bench(tmp_path / "run", sealing="once:signal SIGINT")
    with pytest.raises(Interrupted):
        bench.run([Number(value) for value in range(1, 13)], workers=0, batch_size=2, part_size=4)
    assert bench.drawer.parts("a") == [[[str(value), 2 * value] for value in (1, 2, 3, 4)]]
    assert bench.drawer.parts("b") == bench.drawer.parts("a")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_in_this_process_leaves_the_handlers_as_they_were(tmp_path, number):
    bench = Bench(tmp_path / "run")
    before = signal.getsignal(number)
    items = [Number(value, opening=f"signal {number.name}" if value == 5 else "") for value in range(1, 7)]
    with pytest.raises(Interrupted, match="run the same command again"):
        bench.run(items, workers=0)
    assert bench.drawer.sealed("a") == [1, 2, 3]
    assert signal.getsignal(number) == before


def test_a_bug_is_not_hidden_by_an_interruption_that_follows_it(tmp_path):
    bench = Bench(tmp_path / "run", sealing="signal SIGINT")
    with pytest.raises(KeyError):
        bench.run([*(Number(value) for value in (1, 2, 3)), Number(4, opening="raise KeyError")], workers=0)
    assert bench.drawer.sealed("a") == [1, 2, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker ends when it next looks at its line")
@pytest.mark.parametrize(("workers", "openers"), [(2, 0), (1, 2)])
def test_workers_and_openers_die_with_their_parent(tmp_path, workers, openers):
    """Also in the middle of something that never looks at the line to it."""
    with running(tmp_path / "run", workers=workers, openers=openers, later="sleep 60") as (process, bench):
        wait_for(lambda: sum(value > 12 for value, _, _ in bench.diary()) == 2)
        pids = {pid for _, pid, _ in bench.diary()} | bench.working()
        assert len(pids) == 2 + (openers > 0)
        assert all(alive(pid) for pid in pids)
        process.kill()
        wait_for(lambda: not any(alive(pid) for pid in pids), 1.0)


def test_a_signal_lets_go_of_what_is_waited_for_and_then_does_what_it_did() -> None:
    let_go: list[str] = []
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        own = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), hurried(lambda: let_go.append("now")):
            signal.raise_signal(signal.SIGTERM)
        assert interruption.asked
        assert let_go == ["now"]
        assert signal.getsignal(signal.SIGTERM) == own
    assert signal.getsignal(signal.SIGTERM) == before
