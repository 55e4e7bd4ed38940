"""The one long loop."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from ecmf_pipeline.errors import Interrupted, NoFaceFound, TooManyQuarantined, UnreadableMedia
from ecmf_pipeline.quarantine import Quarantine
from ecmf_pipeline.runner import Outcome, Run, RunConfig, RunReport, Step, Target


class Doubling(Step[int, int, int]):
    """Doubles numbers; negative ones cannot be opened, multiples of seven have no result in branch `b`."""

    def __init__(self) -> None:
        self.committed: dict[str, list[list[int]]] = {"a": [], "b": []}
        self.at: dict[int, Exception | int] = {}

    def targets(self, item):
        return [Target(str(item), branch, f"digest {item}") for branch in ("a", "b")]

    def open(self, item):
        if item < 0:
            raise UnreadableMedia("negative")
        event = self.at.get(item)
        if isinstance(event, int):
            os.kill(os.getpid(), event)
        elif event is not None:
            raise event
        return item * 2

    def work(self, batch):
        return [
            Outcome(target, NoFaceFound("seven") if target.branch == "b" and item % 7 == 0 else doubled)
            for item, doubled in batch
            for target in self.targets(item)
        ]

    def commit(self, branch, rows):
        self.committed[branch].append(list(rows))


@pytest.fixture
def step() -> Doubling:
    return Doubling()


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Quarantine]:
    return {name: Quarantine(tmp_path / f"{name}.csv", stage="extract", modality=name) for name in ("a", "b")}


def run(step, tables, items, *, share=0.5, batch_size=3, part_size=4) -> RunReport:
    return Run(step, tables, RunConfig(batch_size, part_size, share), RunReport())(items, "test")


def test_everything_is_worked_on_once_and_committed_in_parts(step, tables):
    report = run(step, tables, list(range(1, 7)))
    assert [row for part in step.committed["a"] for row in part] == [2, 4, 6, 8, 10, 12]
    assert all(len(part) >= 4 for part in step.committed["a"][:-1])
    assert report.done == Counter(a=6, b=6)


def test_a_bad_item_costs_itself(step, tables):
    report = run(step, tables, [1, -1, 7, 2])
    assert [row for part in step.committed["a"] for row in part] == [2, 14, 4]
    assert [row for part in step.committed["b"] for row in part] == [2, 4]
    assert report.reasons == {"a": Counter(UnreadableMedia=1), "b": Counter(UnreadableMedia=1, NoFaceFound=1)}
    (entry,) = Quarantine(tables["a"].path, stage="extract", modality="a")
    assert (entry.clip_id, entry.reason, entry.message, entry.digest) == (
        "-1",
        "UnreadableMedia",
        "negative",
        "digest -1",
    )


def test_too_many_bad_items_stop_the_run_with_what_was_done_committed(step, tables):
    with pytest.raises(TooManyQuarantined, match=r"3 of 10 clips are bad \(quarantined: UnreadableMedia 3\)"):
        run(step, tables, [1, 2, 3, -1, -2, -3, 4, 5, 6, 8], share=0.25)
    assert [row for part in step.committed["a"] for row in part] == [2, 4, 6]


def test_a_bug_stops_the_run_loudly_with_what_was_done_committed(step, tables):
    step.at[5] = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        run(step, tables, [1, 2, 3, 4, 5, 6])
    assert [row for part in step.committed["a"] for row in part] == [2, 4, 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_commits_what_is_complete_and_says_how_to_go_on(step, tables, number):
    step.at[5] = int(number)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="run the same command again"):
        run(step, tables, [1, 2, 3, 4, 5, 6])
    assert [row for part in step.committed["a"] for row in part] == [2, 4, 6]
    assert signal.getsignal(number) == before
