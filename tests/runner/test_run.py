"""Runs in this process, with workers, and with openers."""

from __future__ import annotations

import errno
import time
from collections import Counter
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import EcmfError, InputError, ModelError, TooManyQuarantined
from ecmf_pipeline.runner.quarantine import Quarantine, program_version
from tests.runner.doubling import Number, RunHarness, numbers


@pytest.fixture
def harness(tmp_path: Path, openers: int) -> RunHarness:
    return RunHarness(tmp_path / "harness", openers=openers)


@pytest.fixture(params=[(0, 0), (2, 0), (2, 2)], ids=["in process", "two workers", "two openers and two workers"])
def processes(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture
def workers(processes: tuple[int, int]) -> int:
    return processes[0]


@pytest.fixture
def openers(processes: tuple[int, int]) -> int:
    return processes[1]


def test_each_item_is_computed_once_and_sealed_in_order_with_any_processes(tmp_path):
    items = [*numbers(*range(1, 15)), Number(-1, open_fault="raise UnreadableMedia"), *numbers(15, 16)]
    outcomes = []
    for workers, openers in ((0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (1, 3), (2, 2)):
        harness = RunHarness(tmp_path / f"{workers} {openers}", openers=openers)
        report = harness.run(items, workers=workers)
        parts, reasons = harness.results.parts, harness.reasons
        outcomes.append((parts("a"), parts("b"), reasons("a"), reasons("b")))
        assert report.done == Counter(a=16, b=14)
        assert sorted(value for value, _, _ in harness.opened()) == [-1, *range(1, 17)]
        assert not list((harness.folder / "kept").glob("*/*"))
        closed = {int(path.name.removeprefix("closed ")) for path in harness.folder.glob("closed *")}
        assert closed >= {worker for _, _, worker in harness.opened()}
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert [[row[1] for row in part] for part in outcomes[0][0]] == [
        [2, 4, 6, 8, 10, 12],
        [14, 16, 18, 20, 22, 24],
        [26, 28, 30, 32],
    ]


@pytest.mark.parametrize("openers", [0, 2])
def test_at_most_one_worker_for_each_batch_starts_and_none_without_items(harness, openers):
    harness.run(numbers(1, 2), workers=4)
    assert {worker for _, _, worker in harness.opened()} == {100 if openers else 0}
    begun = time.monotonic()
    assert harness.run([], workers=4).done == Counter()
    assert time.monotonic() - begun < 0.1


def test_only_the_bad_item_is_quarantined(harness, workers):
    items = [Number(1), Number(-1, open_fault="raise UnreadableMedia"), Number(7), Number(2)]
    report = harness.run(items, workers=workers)
    assert harness.results.sealed("a") == [1, 7, 2]
    assert harness.results.sealed("b") == [1, 2]
    assert report.reasons == {"a": Counter(UnreadableMedia=1), "b": Counter(UnreadableMedia=1, NoFaceFound=1)}
    (entry,) = Quarantine(harness.tables["a"].path, stage="extract", modality="a")
    assert (entry.clip_id, entry.reason, entry.message, entry.digest) == (
        "-1",
        "UnreadableMedia",
        "negative",
        "digest -1",
    )


def test_a_branch_without_rows_writes_no_part(harness, workers):
    report = harness.run(numbers(7, 14), workers=workers)
    assert report.done == Counter(a=2)
    assert not (harness.folder / "parts" / "b").exists()


@pytest.mark.parametrize("openers", [0, 1])
def test_too_many_bad_items_stop_the_run_after_sealing_finished_batches(harness, monkeypatch):
    monkeypatch.setattr("ecmf_pipeline.runner.quarantine.ALLOWED_OF_FEW", 0)
    # Openers work in advance: the fault must wait until the first batch is stored.
    late_fault = "await kept/b/000000-0000; sleep 0.1; raise UnreadableMedia"
    bad = [Number(-n, open_fault=late_fault) for n in (1, 2, 3)]
    items = [*numbers(1, 2, 3), *bad, *numbers(4, 5, 6, 8)]
    with pytest.raises(TooManyQuarantined) as caught:
        harness.run(items, workers=1, share=0.25)
    assert "3 of 10 clips" in caught.value.message
    assert "UnreadableMedia 3" in caught.value.message
    assert harness.results.sealed("a") == [1, 2, 3]
    assert set(harness.reasons("a")) == {"-1", "-2", "-3"}


@pytest.mark.parametrize(
    "fault", ["raise KeyError", "raise UnpicklableError", "raise UnpicklableClipError", "raise Panic"]
)
@pytest.mark.parametrize("when", ["open_fault", "work_fault"])
def test_an_unexpected_exception_quarantines_only_its_item(harness, workers, when, fault):
    report = harness.run(numbers(1, 2, 3, 4, 5, 6, n2=Number(2, **{when: fault})), workers=workers)
    assert harness.results.sealed("a") == harness.results.sealed("b") == [1, 3, 4, 5, 6]
    assert harness.reasons("a") == harness.reasons("b") == {"2": "UnexpectedError"}
    assert report.done == Counter(a=5, b=5)
    opened = Counter(value for value, _, _ in harness.opened())
    assert set(opened.values()) == {1}  # nothing is decoded again
    if fault == "raise KeyError":
        (entry,) = harness.tables["a"]
        assert entry.message.startswith("KeyError: 'a bug' (at runner/doubling.py:")
        assert " inject_fault, called by " in entry.message
        assert entry.program == program_version()
        assert entry.may_be_bug


@pytest.mark.parametrize("when", ["open_fault", "work_fault"])
def test_an_unexpected_exception_of_a_branch_does_not_affect_other_branches(harness, workers, when):
    harness.run(numbers(1, 2, 3, 4, n2=Number(2, fault_branch="b", **{when: "raise KeyError"})), workers=workers)
    assert harness.results.sealed("a") == [1, 2, 3, 4]
    assert harness.results.sealed("b") == [1, 3, 4]
    assert (harness.reasons("a"), harness.reasons("b")) == ({}, {"2": "UnexpectedError"})


@pytest.mark.parametrize("fault", ["raise ModelError", "raise full disk"])
@pytest.mark.parametrize("when", ["open_fault", "work_fault"])
def test_an_error_without_an_item_to_blame_stops_the_run_after_sealing_finished_batches(harness, workers, when, fault):
    late = Number(5, **{when: f"await kept/b/000000-0000; sleep 0.1; {fault}"})
    with pytest.raises((ModelError, OSError)) as caught:
        harness.run([*numbers(1, 2, 3, 4), late, Number(6)], workers=workers)
    assert harness.results.sealed("a") == [1, 2, 3]
    assert harness.reasons("a") == {}
    if fault == "raise full disk":
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "temporary file")
    if workers:
        assert "in inject_fault" in caught.value.__notes__[0]


def test_a_failed_device_costs_only_the_item_that_broke_it(tmp_path):
    """After such a failure all calls of the process fail, so the other items need a fresh process."""
    harness = RunHarness(tmp_path / "harness")
    harness.run(numbers(1, 2, 3, 4, 5, 6, n2=Number(2, work_fault="break device")), workers=1)
    assert harness.results.sealed("a") == [1, 3, 4, 5, 6]
    assert harness.reasons("a") == {"2": "WorkerCrashed"}


@pytest.mark.parametrize("when", ["open_fault", "work_fault"])
def test_a_program_that_fails_at_every_item_stops_the_run(harness, workers, when):
    items = [Number(value, **{when: "raise KeyError"}) for value in range(1, 81)]
    with pytest.raises(EcmfError) as caught:
        harness.run(items, workers=workers, batch_size=4)
    assert type(caught.value) is EcmfError
    assert "KeyError: 'a bug'" in caught.value.message
    assert any("in inject_fault" in note for note in caught.value.__notes__)
    assert 32 <= len(harness.reasons("a")) <= 40
    harness.run([*items, Number(99)][32:60], workers=workers, batch_size=4)  # the next run tries others


def test_many_unexpected_errors_after_a_success_do_not_stop_the_run(harness, workers):
    late_fault = "await kept/b/000000-0000; sleep 0.02; raise KeyError"
    items = [Number(1), *(Number(value, open_fault=late_fault) for value in range(2, 42)), Number(50)]
    harness.run(items, workers=workers, batch_size=1, part_size=60)
    assert harness.results.sealed("a") == [1, 50]
    assert len(harness.reasons("a")) == 40


def test_targets_without_an_outcome_are_quarantined(harness, workers):
    harness.run(numbers(1, 2, 3, 4, n4=Number(4, work_fault="return nothing")), workers=workers)
    assert harness.results.sealed("a") == [1, 2, 3]
    assert harness.reasons("a") == harness.reasons("b") == {"4": "UnexpectedError"}


def test_an_item_whose_row_cannot_be_serialised_is_quarantined(harness, workers):
    report = harness.run(numbers(1, 2, 3, 4, n2=Number(2, work_fault="return unserialisable")), workers=workers)
    assert harness.results.sealed("a") == [1, 3, 4]
    assert harness.results.sealed("b") == [1, 2, 3, 4]
    assert harness.reasons("a") == {"2": "UnexpectedError"}
    assert report.done == Counter(a=3, b=4)


@pytest.mark.parametrize("openers", [0, 2])
def test_errors_from_workers_keep_attributes(harness):
    with pytest.raises(InputError) as caught:
        harness.run([Number(1, work_fault="raise InputError")], workers=1)
    assert (caught.value.message, caught.value.hint) == ("wrong input", "fix the input")


def test_an_error_while_building_the_step_stops_the_run(tmp_path, workers, openers):
    with pytest.raises(ModelError) as caught:
        RunHarness(tmp_path / "harness", start_fault="model error", openers=openers).run(
            numbers(1, 2, 3), workers=workers
        )
    assert (caught.value.message, caught.value.hint) == ("no weights", "fetch them")


def test_a_full_disk_stops_the_run_with_the_file_name_and_seals_stored_batches(tmp_path, workers, openers):
    harness = RunHarness(tmp_path / "harness", disk_full_at="000000-0001", openers=openers)
    items = [Number(value, open_fault="sleep 0.2" if value == 4 else "") for value in range(1, 13)]
    with pytest.raises(OSError, match="000000-0001") as caught:
        harness.run(items, workers=workers)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.endswith("000000-0001")
    assert harness.results.sealed("a")[:3] == [1, 2, 3]
    assert not {4, 5, 6} & set(harness.results.sealed("a"))


def test_an_item_that_runs_out_of_memory_is_quarantined(harness, workers):
    items = numbers(
        1, 2, 3, 4, 5, 6, n2=Number(2, open_fault="raise MemoryError"), n5=Number(5, work_fault="raise MemoryError")
    )
    harness.run(items, workers=workers)
    assert harness.results.sealed("a") == [1, 3, 4, 6]
    assert harness.reasons("a") == {"2": "OutOfMemory", "5": "OutOfMemory"}
    assert "8 TB" in harness.messages()["2"]


@pytest.mark.parametrize("when", ["open_fault", "work_fault"])
def test_a_branch_that_runs_out_of_memory_does_not_affect_other_branches(harness, workers, when):
    report = harness.run(
        numbers(1, 2, 3, 4, n2=Number(2, fault_branch="b", **{when: "raise MemoryError"})), workers=workers
    )
    assert harness.results.sealed("a") == [1, 2, 3, 4]
    assert harness.results.sealed("b") == [1, 3, 4]
    assert (harness.reasons("a"), harness.reasons("b")) == ({}, {"2": "OutOfMemory"})
    assert report.done == Counter(a=4, b=3)


def test_an_item_that_runs_out_of_memory_is_retried_alone(harness, workers):
    """An item that runs out of memory is opened again after the other items have released theirs."""
    harness.run(numbers(1, 2, 3, n2=Number(2, open_fault="once:raise MemoryError")), workers=workers)
    assert [value for value, _, _ in harness.opened()] == [1, 2, 3, 2]
    assert harness.results.parts("a") == [[["1", 2], ["2", 4], ["3", 6]]]
    assert harness.reasons("a") == {}


def test_an_error_that_stops_the_run_is_raised_even_if_parts_cannot_be_sealed(tmp_path):
    harness = RunHarness(tmp_path / "harness", unsealable=("a0", "b1"))
    items = [*numbers(1, 2, 3), Number(4, open_fault="raise UnreadableMedia"), Number(5, open_fault="raise ModelError")]
    with pytest.raises(ModelError, match="no detector") as caught:
        harness.run(items, workers=0, batch_size=1, part_size=8)
    (note,) = caught.value.__notes__
    assert note.endswith("OSError: [Errno 28] No space left on device: 'a0'")
    assert harness.results.sealed("b") == [1, 2, 3]
    assert harness.reasons("a") == harness.reasons("b") == {"4": "UnreadableMedia"}
    assert len(list((harness.folder / "kept" / "a").iterdir())) == 3  # the next run recovers these batches


def test_a_part_that_cannot_be_sealed_stops_the_run_and_other_parts_are_sealed(tmp_path, workers, openers):
    """The second part is complete earlier, or in flight; its complete batches are sealed."""
    harness = RunHarness(tmp_path / "harness", unsealable=("a0",), openers=openers)
    with pytest.raises(OSError, match="No space left on device: 'a0'"):
        harness.run(
            [Number(1, open_fault="sleep 1"), *numbers(2, 3, 4, 5, 6)], workers=workers, batch_size=1, part_size=3
        )
    assert harness.results.sealed("b")[:3] == [1, 2, 3]
    assert harness.results.sealed("a") == ([4, 5, 6] if workers else [])


def test_a_part_that_cannot_be_sealed_is_reported_after_an_interruption(tmp_path):
    harness = RunHarness(tmp_path / "harness", unsealable=("a0",))
    with pytest.raises(OSError, match="No space left on device: 'a0'"):
        harness.run([*numbers(1, 2, 3), Number(4, open_fault="signal SIGINT")], workers=0)


def test_transient_failures_are_counted_by_reason(harness, workers):
    items = [Number(1), *(Number(value, open_fault="raise FileUnreachable") for value in (2, 3)), Number(7)]
    report = harness.run([*items, Number(-1, open_fault="raise UnreadableMedia")], workers=workers)
    assert report.transient == Counter(FileUnreachable=4)
    assert set(report.transient) == {"FileUnreachable"}


def test_a_batch_that_exceeds_memory_is_computed_item_by_item(harness, workers):
    harness.run(numbers(1, 2, 3, n2=Number(2, work_fault="out of memory unless alone")), workers=workers)
    assert harness.results.sealed("a") == [1, 2, 3]
    assert harness.reasons("a") == {}
