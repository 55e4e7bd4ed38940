"""Merging parts and dropping superfluous rows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group
from ecmf_pipeline.store import compact as module
from ecmf_pipeline.store.compact import Compaction, compact, drop_settings
from ecmf_pipeline.store.format import part_names, read_attributes, spool_folder
from ecmf_pipeline.store.state import RowState
from ecmf_pipeline.store.verify import verify_store
from ecmf_pipeline.store.writer import pack_rows


def says(digests: dict[str, str | None]) -> Callable[..., dict[str, str | None]]:
    return lambda _settings, _newest: digests


def compacted(store: FeatureStore, present: Any = None, *, part_size: int = 8, **options: Any) -> Compaction:
    with StoreWriter(store.root, store.fingerprint) as writer:
        return compact(writer, present or (lambda *_: None), part_size=part_size, **options)


def sizes(store: FeatureStore) -> list[int]:
    return [len(read_attributes(store.folder / name, store.fingerprint).clip_id) for name in part_names(store.folder)]


def content(store: FeatureStore) -> dict[tuple[str, str], tuple[bytes, bytes]]:
    """All rows of a store, byte by byte."""
    rows = [store.row(clip_id, digest) for clip_id, held in store.digests().items() for digest in held]
    return {(row.clip_id, row.digest): (row.values.tobytes(), row.side["times"].tobytes()) for row in rows}


def reopened(store: FeatureStore) -> FeatureStore:
    return FeatureStore(store.root, store.fingerprint)


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_small_parts_are_merged_in_order_up_to_the_size(root, row, write):
    batches = [
        [row(f"c{part}{clip}", length=1 + clip) for clip in range(count)]
        for part, count in enumerate([3, 3, 3, 8, 1, 2])
    ]
    store = write(root, *batches)
    before = content(store)
    done = compacted(store)
    assert done.parts == (6, 4)
    assert sizes(store) == [6, 3, 8, 3]
    assert content(reopened(store)) == before
    assert reopened(store).newest() == store.newest()
    assert list(reopened(store).newest()) == [row.clip_id for batch in batches for row in batch]
    assert verify_store(root).findings == []
    assert done.bytes[1] == sum(path.stat().st_size for path in store.folder.glob("part-*/**/*") if path.is_file())
    assert done.written < done.bytes[1]
    first = part_names(store.folder)[0]
    assert first.startswith("part-000001-")  # the last number of those that it replaces
    assert len(read_attributes(store.folder / first, store.fingerprint).supersedes) == 2


def test_a_second_run_and_large_parts_change_nothing(root, row, write):
    store = write(root, *([row(f"c{part}{clip}") for clip in range(5)] for part in range(3)))
    before = files(root)
    done = compacted(store)
    assert files(root) == before
    assert (done.parts, done.written) == ((3, 3), 0)
    compacted(store, part_size=10)
    before = files(root)
    compacted(store, part_size=10)
    assert files(root) == before


def test_parts_are_not_merged_beyond_a_size_in_bytes(root, row, write, monkeypatch):
    monkeypatch.setattr(module, "MAX_PART_BYTES", 2 * 3 * 5 * 2)
    store = write(root, *([row(f"c{part}")] for part in range(5)))
    compacted(store)
    assert sizes(store) == [2, 2, 1]


def test_superseded_rows_are_dropped_where_the_manifest_tells(root, row, write):
    store = write(
        root,
        [row("a", digest="old"), row("b", digest="old"), row("c", digest="new"), row("e")],
        [row("a", digest="new"), row("c", digest="old")],
        [row("d")],
    )
    done = compacted(store, says({"a": "new", "b": "new", "c": "new", "d": None}))
    # b's present input is not computed yet, d has none, e is gone: what they have stays.
    assert set(content(reopened(store))) == {("a", "new"), ("b", "old"), ("c", "new"), ("d", "d"), ("e", "d")}
    assert done.dropped == {RowState.REPLACED: 2}
    assert sizes(store) == [5]


def test_without_a_manifest_former_rows_stay_and_the_newest_stays_newest(root, row, write):
    store = write(root, [row("a", digest="1")], [row("a", digest="2")], [row("b")], [row("a", digest="3")])
    before = content(store)
    compacted(store, part_size=2)
    assert content(reopened(store)) == before
    assert reopened(store).digests()["a"] == ["1", "2", "3"]


def test_rows_of_absent_clips_are_dropped_only_on_demand(root, row, write):
    store = write(root, [row("a"), row("gone")], [row("lost")])
    present = says({"a": "d"})
    compacted(store, present)
    assert len(reopened(store)) == 3
    done = compacted(store, present, drop_absent=True)
    assert done.dropped == {RowState.ABSENT: 2}
    assert set(reopened(store).newest()) == {"a"}
    compacted(store, says({}), drop_absent=True)
    assert sizes(store) == []
    assert verify_store(root).findings == []


def test_what_was_dropped_can_come_back(root, row, write):
    """Its part must not have a name that a merged one supersedes."""
    store = write(root, [row("a")], [row("b")], [row("c")])
    compacted(store, says({"a": "d"}), drop_absent=True)
    for clip_id in ("b", "c"):
        with StoreWriter(root, store.fingerprint) as writer:
            writer.append([row(clip_id)])
    assert set(reopened(store).newest()) == {"a", "b", "c"}


def test_duplicates_are_dropped_always(root, row, write):
    store = write(root, [row("a"), row("b")], [row("a", digest="2")])
    first = store.folder / part_names(store.folder)[0]
    shutil.copytree(first, first.with_name(first.name.replace("part-000000", "part-000005")))
    before = reopened(store)
    assert before.newest()["a"] == "d"
    done = compacted(store)
    assert done.dropped == {RowState.DUPLICATE: 2}
    assert reopened(store).newest() == before.newest()
    assert content(reopened(store)) == content(store)


def test_a_part_with_nothing_but_duplicates_is_removed_and_the_other_not_touched(root, row, write):
    store = write(root, [row(f"c{clip}") for clip in range(8)])
    first = store.folder / part_names(store.folder)[0]
    second = shutil.copytree(first, first.with_name(first.name.replace("part-000000", "part-000005")))
    before = files(second)
    compacted(store)
    assert not first.exists()
    assert files(second) == before


def test_parts_with_other_arrays_beside_the_values_are_not_merged(root, row, write):
    def without_times(clip_id: str) -> FeatureRow:
        whole = row(clip_id)
        return FeatureRow(whole.clip_id, whole.digest, whole.values)

    store = write(root, [row("a")], [row("b")], [without_times("c")], [without_times("d")], [row("e")])
    compacted(store)
    assert sizes(store) == [2, 2, 1]
    assert reopened(store).row("b").side["times"].tolist() == [0, 1, 2]
    assert reopened(store).row("d").side == {}


def test_parts_of_one_number_stay_in_order(root, row, write):
    store = write(root, [row("a", digest="1")], [row("a", digest="2")], [row("a", digest="3")], [row("b")])
    for name in part_names(store.folder)[1:3]:
        (store.folder / name).rename(store.folder / f"part-000001-{name[-8:]}")
    before = reopened(store)
    compacted(store, part_size=2)
    assert reopened(store).digests() == before.digests()


def test_a_damaged_store_is_not_touched(root, row, write):
    store = write(root, [row("a")], [row("b")])
    chunk = store.folder / part_names(store.folder)[1] / "values/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    before = files(root)
    with pytest.raises(StoreError, match=r"(?s)corrupted chunk.*verify --mend") as caught:
        compacted(store)
    assert "nothing was changed" in str(caught.value)
    assert files(root) == before


def test_what_killed_runs_left_is_taken_up_first(root, row, write):
    store = write(root, [row("a")])
    spool = spool_folder(root, store.fingerprint)
    spool.mkdir(parents=True)
    (spool / "dead.0.batch").write_bytes(pack_rows([row("b")]))
    compacted(store)
    assert set(reopened(store).newest()) == {"a", "b"}
    assert sizes(store) == [2]


def test_a_reader_that_was_opened_before_goes_on(root, row, write):
    store = write(root, *([row(f"c{part}{clip}", length=1 + clip) for clip in range(2)] for part in range(6)))
    clip_ids = list(store.newest())
    fresh = FeatureStore(root, store.fingerprint)
    whole, frames, one = store.load(clip_ids), store.load_sequences(clip_ids), store.row("c31")
    compacted(store)
    np.testing.assert_array_equal(store.load(clip_ids).values, whole.values)
    np.testing.assert_array_equal(FeatureStore.load(fresh, clip_ids).values, whole.values)
    fresh = FeatureStore(root, store.fingerprint)
    compacted(store, part_size=12)
    np.testing.assert_array_equal(fresh.load_sequences(clip_ids).values, frames.values)
    np.testing.assert_array_equal(store.row("c31").values, one.values)


def test_a_reader_sees_every_row_once_at_every_step(root, row, write, monkeypatch):
    store = write(root, *([row(f"c{part}")] for part in range(9)))
    old, expected = FeatureStore(root, store.fingerprint), content(store)
    steps = []

    def look(step: str) -> None:
        assert content(reopened(store)) == expected
        old.refresh()
        assert content(old) == expected
        steps.append(step)

    def watched(name: str) -> None:
        original = getattr(module, name)

        def call(*positional: Any, **named: Any) -> Any:
            look(f"before {name}")
            answer = original(*positional, **named)
            look(f"after {name}")
            return answer

        monkeypatch.setattr(module, name, call)

    watched("_write")
    watched("_remove")
    compacted(store, part_size=3)
    assert steps.count("after _write") == 3
    assert steps.count("after _remove") == 9


def test_features_of_other_settings_are_removed_whole(root, row, write):
    store = write(root, [row("a")])
    other = create_settings_group(root, {"encoder": {"type": "other"}}, dim=5, dtype="float16")
    with StoreWriter(root, other) as writer:
        writer.append([row("a")])
    (spool_folder(root, other)).mkdir(parents=True, exist_ok=True)
    with StoreWriter(root, store.fingerprint) as writer:
        drop_settings(writer, other)
    assert not (root / other).exists()
    assert not spool_folder(root, other).exists()
    assert set(reopened(store).newest()) == {"a"}


STRIDE = "3"
"""How many changes of files lie between the kills; 1 was run by hand."""

KILLED_AT_EACH_STEP = """
import os, shutil, signal, sys
from pathlib import Path
from ecmf_pipeline.store import StoreWriter
from ecmf_pipeline.store.compact import compact

folder, fingerprint = Path(sys.argv[1]), sys.argv[2]
present = lambda settings, newest: {"edited": "new", **{clip: "d" for clip in newest if clip != "edited"}}
os.fsync = lambda descriptor: None
STEPS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}

def compact_until(step, root):
    left = step
    def count(event, arguments):
        nonlocal left
        if event in STEPS and str(folder) in str(arguments[0]) and (event != "open" or arguments[2] & os.O_CREAT):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    with StoreWriter(root, fingerprint) as writer:
        compact(writer, present, part_size=4)

step = 0
while True:
    step += int(sys.argv[3])
    shutil.copytree(folder / "whole", folder / f"{step}")
    child = os.fork()
    if child == 0:
        compact_until(step, folder / f"{step}" / "face.zarr")
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_killed_at_any_step_nothing_is_lost_or_doubled_and_a_second_run_finishes(
    tmp_path, row, write, repository, monkeypatch
):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the machine goes on, only the process dies
    digests: dict[str, str | None] = {"edited": "new", **{f"c{number}": "d" for number in range(7)}}
    rows: list[Sequence[FeatureRow]] = [[row("edited", digest="old"), row("c0")], [row("edited", digest="new")]]
    rows += [[row(f"c{number}")] for number in range(1, 7)]
    store = write(tmp_path / "whole" / "face.zarr", *rows)
    first = store.folder / part_names(store.folder)[2]
    shutil.copytree(first, first.with_name(f"part-000009-{first.name[-8:]}"))  # a duplicate
    store = reopened(store)
    expected = content(store)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, str(tmp_path), store.fingerprint, STRIDE],
        cwd=repository,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    runs = sorted((path for path in tmp_path.iterdir() if path.name != "whole"), key=lambda path: int(path.name))
    assert len(runs) > 20
    states = set()
    for folder in runs:
        left = FeatureStore(folder / "face.zarr", store.fingerprint)
        present = content(left)
        assert {key: present.get(key) for key in expected if key[1] != "old"} == {
            key: value for key, value in expected.items() if key[1] != "old"
        }
        assert left.load(list(digests), digests=digests).present.all()  # type: ignore[arg-type]
        assert all(len(held) <= len(store.digests()[clip_id]) for clip_id, held in left.digests().items())
        states.add((len(part_names(left.folder)), len(verify_store(left.root).findings)))
        assert not verify_store(left.root).damage
        compacted(left, says(digests), part_size=4)
        assert content(reopened(left)) == {key: value for key, value in expected.items() if key[1] != "old"}
        assert sizes(left) == [4, 4]
        assert verify_store(left.root).findings == []
        assert not (folder / ".face.zarr.spool").exists()
    assert len(states) > 5  # it was killed in many different states


@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("123")), min_size=1, max_size=4), max_size=7
    ),
    present=st.none() | st.dictionaries(st.sampled_from("abcdef"), st.none() | st.sampled_from("1234")),
    part_size=st.integers(1, 9),
)
def test_whatever_is_compacted_reads_the_same(tmp_path_factory, row, write, batches, present, part_size):
    root = tmp_path_factory.mktemp("store") / "face.zarr"
    store = write(root, *([row(clip, digest=digest, length=1) for clip, digest in batch] for batch in batches))
    before, newest = content(store), store.newest()
    compacted(store, lambda *_: present, part_size=part_size)
    after = reopened(store)
    digests = {clip: digest for clip, digest in (present or {}).items() if digest is not None}
    assert after.held(digests) == store.held(digests)
    kept = content(after)
    assert kept.items() <= before.items()
    for (clip, digest), values in before.items():
        replaced = clip in digests and digest != digests[clip] and store.holds(clip, digests[clip])
        assert ((clip, digest) in kept) is not replaced
        assert values is not None
    assert {clip: digest for clip, digest in after.newest().items() if clip not in digests} == {
        clip: digest for clip, digest in newest.items() if clip not in digests
    }
    assert all(size <= part_size for size in sizes(after)) or max(map(len, batches)) > part_size
