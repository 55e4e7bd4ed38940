"""The one long loop, on this process and on workers."""

from __future__ import annotations

import errno
import time
from collections import Counter
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import InputError, ModelError, TooManyQuarantined
from ecmf_pipeline.runner.quarantine import Quarantine
from tests.runner.counting import Bench, Number, numbers


@pytest.fixture
def bench(tmp_path: Path, openers: int) -> Bench:
    return Bench(tmp_path / "bench", openers=openers)


@pytest.fixture(params=[(0, 0), (2, 0), (2, 2)], ids=["in this process", "two workers", "two openers and two workers"])
def processes(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture
def workers(processes: tuple[int, int]) -> int:
    return processes[0]


@pytest.fixture
def openers(processes: tuple[int, int]) -> int:
    return processes[1]


def test_everything_is_worked_on_once_and_sealed_in_order_whoever_works(tmp_path):
    items = [*numbers(*range(1, 15)), Number(-1, opening="raise UnreadableMedia"), *numbers(15, 16)]
    found = []
    for workers, openers in ((0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (1, 3), (2, 2)):
        bench = Bench(tmp_path / f"{workers} {openers}", openers=openers)
        report = bench.run(items, workers=workers)
        found.append((bench.drawer.parts("a"), bench.drawer.parts("b"), bench.reasons("a"), bench.reasons("b")))
        assert report.done == Counter(a=16, b=14)
        assert sorted(value for value, _, _ in bench.diary()) == [-1, *range(1, 17)]
        assert not list((bench.folder / "kept").glob("*/*"))
        closed = {int(path.name.removeprefix("closed ")) for path in bench.folder.glob("closed *")}
        assert closed >= {worker for _, _, worker in bench.diary()}
    assert all(each == found[0] for each in found)
    assert [[row[1] for row in part] for part in found[0][0]] == [
        [2, 4, 6, 8, 10, 12],
        [14, 16, 18, 20, 22, 24],
        [26, 28, 30, 32],
    ]


@pytest.mark.parametrize("openers", [0, 2])
def test_no_more_workers_start_than_there_are_batches_and_none_for_nothing(bench, openers):
    bench.run(numbers(1, 2), workers=4)
    assert {worker for _, _, worker in bench.diary()} == {100 if openers else 0}
    begun = time.monotonic()
    assert bench.run([], workers=4).done == Counter()
    assert time.monotonic() - begun < 0.1


def test_a_bad_item_costs_itself(bench, workers):
    items = [Number(1), Number(-1, opening="raise UnreadableMedia"), Number(7), Number(2)]
    report = bench.run(items, workers=workers)
    assert bench.drawer.sealed("a") == [1, 7, 2]
    assert bench.drawer.sealed("b") == [1, 2]
    assert report.reasons == {"a": Counter(UnreadableMedia=1), "b": Counter(UnreadableMedia=1, NoFaceFound=1)}
    (entry,) = Quarantine(bench.tables["a"].path, stage="extract", modality="a")
    assert (entry.clip_id, entry.reason, entry.message, entry.digest) == (
        "-1",
        "UnreadableMedia",
        "negative",
        "digest -1",
    )


def test_a_branch_that_yields_nothing_seals_nothing(bench, workers):
    report = bench.run(numbers(7, 14), workers=workers)
    assert report.done == Counter(a=2)
    assert not (bench.folder / "parts" / "b").exists()


@pytest.mark.parametrize("openers", [0, 1])
def test_too_many_bad_items_stop_the_run_with_what_was_done_sealed(bench):
    late = "await kept/b/000000-0000; sleep 0.1; raise UnreadableMedia"  # an opener would be ahead of what is kept
    bad = [Number(-n, opening=late) for n in (1, 2, 3)]
    items = [*numbers(1, 2, 3), *bad, *numbers(4, 5, 6, 8)]
    with pytest.raises(TooManyQuarantined, match=r"3 of 10 clips are bad \(quarantined: UnreadableMedia 3\)"):
        bench.run(items, workers=1, share=0.25)
    assert bench.drawer.sealed("a") == [1, 2, 3]
    assert set(bench.reasons("a")) == {"-1", "-2", "-3"}


def test_a_bug_stops_the_run_loudly_with_what_was_done_sealed(bench, workers):
    items = [*numbers(1, 2, 3), Number(4, opening="sleep 0.5"), Number(5, opening="raise KeyError"), Number(6)]
    with pytest.raises(KeyError, match="a bug") as caught:
        bench.run(items, workers=workers)
    assert bench.drawer.sealed("a") == [1, 2, 3]
    assert bench.reasons("a") == {}
    if workers:
        (note,) = caught.value.__notes__
        assert 'raise KeyError("a bug")' in note
        assert "in misbehave" in note


def test_a_step_that_forgets_a_target_is_a_bug(bench, workers):
    with pytest.raises(RuntimeError, match="said nothing about 2 of its targets"):
        bench.run([Number(1, working="silent")], workers=workers)


@pytest.mark.parametrize("openers", [0, 2])
def test_an_error_keeps_its_attributes_and_one_that_cannot_be_pickled_its_name(bench):
    with pytest.raises(InputError) as caught:
        bench.run([Number(1, working="raise InputError")], workers=1)
    assert (caught.value.message, caught.value.hint) == ("what", "how to mend it")
    with pytest.raises(RuntimeError, match="Stubborn: onetwo"):
        bench.run([Number(1, working="raise Stubborn")], workers=1)


def test_a_step_that_cannot_be_built_stops_the_run_with_its_own_error(tmp_path, workers, openers):
    with pytest.raises(ModelError, match="no weights") as caught:
        Bench(tmp_path / "bench", starting="model error", openers=openers).run(numbers(1, 2, 3), workers=workers)
    assert caught.value.hint == "fetch them"


def test_a_full_disk_stops_the_run_with_the_file_named_and_what_was_kept_sealed(tmp_path, workers, openers):
    bench = Bench(tmp_path / "bench", full_at="000000-0001", openers=openers)
    items = [Number(value, opening="sleep 0.2" if value == 4 else "") for value in range(1, 13)]
    with pytest.raises(OSError, match="No space left on device") as caught:
        bench.run(items, workers=workers)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.endswith("000000-0001")
    assert bench.drawer.sealed("a")[:3] == [1, 2, 3]
    assert not {4, 5, 6} & set(bench.drawer.sealed("a"))


def test_memory_that_runs_out_costs_the_clip_that_needs_it(bench, workers):
    items = numbers(
        1, 2, 3, 4, 5, 6, n2=Number(2, opening="raise MemoryError"), n5=Number(5, working="raise MemoryError")
    )
    bench.run(items, workers=workers)
    assert bench.drawer.sealed("a") == [1, 3, 4, 6]
    assert bench.reasons("a") == {"2": "OutOfMemory", "5": "OutOfMemory"}
    assert "while the clip alone was being read (8 TB)" in bench.messages()["2"]


@pytest.mark.parametrize("when", ["opening", "working"])
def test_a_branch_that_runs_out_of_memory_costs_itself(bench, workers, when):
    report = bench.run(numbers(1, 2, 3, 4, n2=Number(2, at="b", **{when: "raise MemoryError"})), workers=workers)
    assert bench.drawer.sealed("a") == [1, 2, 3, 4]
    assert bench.drawer.sealed("b") == [1, 3, 4]
    assert (bench.reasons("a"), bench.reasons("b")) == ({}, {"2": "OutOfMemory"})
    assert report.done == Counter(a=4, b=3)


def test_an_item_is_given_up_for_memory_only_when_no_other_takes_any(bench, workers):
    """What could not be opened beside the others is opened again when they are through."""
    bench.run(numbers(1, 2, 3, n2=Number(2, opening="once:raise MemoryError")), workers=workers)
    assert [value for value, _, _ in bench.diary()] == [1, 2, 3, 2]
    assert bench.drawer.parts("a") == [[["1", 2], ["2", 4], ["3", 6]]]
    assert bench.reasons("a") == {}


def test_a_bug_is_not_hidden_by_parts_that_cannot_be_sealed_and_these_cost_no_other(tmp_path):
    bench = Bench(tmp_path / "bench", unsealable=("a0", "b1"))
    items = [*numbers(1, 2, 3), Number(4, opening="raise UnreadableMedia"), Number(5, opening="raise KeyError")]
    with pytest.raises(KeyError, match="a bug") as caught:
        bench.run(items, workers=0, batch_size=1, part_size=8)
    (note,) = caught.value.__notes__
    assert note.endswith("OSError: [Errno 28] No space left on device: 'a0'")
    assert bench.drawer.sealed("b") == [1, 2, 3]
    assert bench.reasons("a") == bench.reasons("b") == {"4": "UnreadableMedia"}
    assert len(list((bench.folder / "kept" / "a").iterdir())) == 3  # for the next run


def test_a_part_that_cannot_be_sealed_stops_the_run_and_costs_no_other(tmp_path, workers, openers):
    """The second part is complete first, or in flight: what is complete of it is sealed."""
    bench = Bench(tmp_path / "bench", unsealable=("a0",), openers=openers)
    with pytest.raises(OSError, match="No space left on device: 'a0'"):
        bench.run([Number(1, opening="sleep 1"), *numbers(2, 3, 4, 5, 6)], workers=workers, batch_size=1, part_size=3)
    assert bench.drawer.sealed("b")[:3] == [1, 2, 3]
    assert bench.drawer.sealed("a") == ([4, 5, 6] if workers else [])


def test_an_interruption_does_not_hide_that_a_part_cannot_be_sealed(tmp_path):
    bench = Bench(tmp_path / "bench", unsealable=("a0",))
    with pytest.raises(OSError, match="No space left on device: 'a0'"):
        bench.run([*numbers(1, 2, 3), Number(4, opening="signal SIGINT")], workers=0)


def test_what_the_next_run_may_find_well_is_counted(bench, workers):
    items = [Number(1), *(Number(value, opening="raise FileUnreachable") for value in (2, 3)), Number(7)]
    report = bench.run([*items, Number(-1, opening="raise UnreadableMedia")], workers=workers)
    assert report.transient == Counter(FileUnreachable=4)
    assert set(report.transient) == {"FileUnreachable"}


def test_a_batch_that_is_too_much_at_once_is_done_one_by_one(bench, workers):
    bench.run(numbers(1, 2, 3, n2=Number(2, working="greedy")), workers=workers)
    assert bench.drawer.sealed("a") == [1, 2, 3]
    assert bench.reasons("a") == {}
