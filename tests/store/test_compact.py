"""Tests of merging parts and dropping superfluous rows."""

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
from ecmf_pipeline.store.damage import Kind
from ecmf_pipeline.store.format import part_names, read_attributes, spool_folder
from ecmf_pipeline.store.state import RowState
from ecmf_pipeline.store.verify import verify_store
from ecmf_pipeline.store.writer import pack_rows


def digest_lookup(digests: dict[str, str | None]) -> Callable[..., dict[str, str | None]]:
    return lambda _settings, _newest: digests


def run_compact(store: FeatureStore, present: Any = None, *, part_size: int = 8, **options: Any) -> Compaction:
    with StoreWriter(store.root, store.fingerprint) as writer:
        return compact(writer, present or (lambda *_: None), part_size=part_size, **options)


def part_sizes(store: FeatureStore) -> list[int]:
    return [len(read_attributes(store.folder / name, store.fingerprint).clip_id) for name in part_names(store.folder)]


def stored_rows(store: FeatureStore) -> dict[tuple[str, str], tuple[bytes, bytes]]:
    """Return the bytes of values and times of all rows, by clip and digest."""
    rows = [store.row(clip_id, digest) for clip_id, digests in store.digests().items() for digest in digests]
    return {(row.clip_id, row.digest): (row.values.tobytes(), row.side["times"].tobytes()) for row in rows}


def reopened(store: FeatureStore) -> FeatureStore:
    return FeatureStore(store.root, store.fingerprint)


def file_contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_small_parts_are_merged_in_order_up_to_part_size(root, row, write):
    batches = [
        [row(f"c{part}{clip}", length=1 + clip) for clip in range(count)]
        for part, count in enumerate([3, 3, 3, 8, 1, 2])
    ]
    store = write(root, *batches)
    before = stored_rows(store)
    compaction = run_compact(store)
    assert compaction.parts == (6, 4)
    assert part_sizes(store) == [6, 3, 8, 3]
    assert stored_rows(reopened(store)) == before
    assert reopened(store).newest() == store.newest()
    assert list(reopened(store).newest()) == [row.clip_id for batch in batches for row in batch]
    assert verify_store(root).findings == []
    assert compaction.bytes[1] == sum(
        path.stat().st_size for path in store.folder.glob("part-*/**/*") if path.is_file()
    )
    assert compaction.written < compaction.bytes[1]
    first = part_names(store.folder)[0]
    assert first.startswith("part-000001-")  # the last number of those that it replaces
    assert len(read_attributes(store.folder / first, store.fingerprint).supersedes) == 2


def test_nothing_changes_if_parts_are_merged_or_too_large(root, row, write):
    store = write(root, *([row(f"c{part}{clip}") for clip in range(5)] for part in range(3)))
    before = file_contents(root)
    compaction = run_compact(store)
    assert file_contents(root) == before
    assert (compaction.parts, compaction.written) == ((3, 3), 0)
    run_compact(store, part_size=10)
    before = file_contents(root)
    run_compact(store, part_size=10)
    assert file_contents(root) == before


def test_parts_are_not_merged_beyond_the_maximum_bytes(root, row, write, monkeypatch):
    monkeypatch.setattr(module, "MAX_PART_BYTES", 2 * 3 * 5 * 2)
    store = write(root, *([row(f"c{part}")] for part in range(5)))
    run_compact(store)
    assert part_sizes(store) == [2, 2, 1]


def test_rows_of_earlier_inputs_are_dropped_if_current_ones_exist(root, row, write):
    store = write(
        root,
        [row("a", digest="old"), row("b", digest="old"), row("c", digest="new"), row("e")],
        [row("a", digest="new"), row("c", digest="old")],
        [row("d")],
    )
    compaction = run_compact(store, digest_lookup({"a": "new", "b": "new", "c": "new", "d": None}))
    # The current input of b has no features yet, d has no input and e is no longer in the manifest: their rows stay.
    assert set(stored_rows(reopened(store))) == {("a", "new"), ("b", "old"), ("c", "new"), ("d", "d"), ("e", "d")}
    assert compaction.dropped == {RowState.REPLACED: 2}
    assert part_sizes(store) == [5]


def test_without_a_manifest_rows_of_earlier_inputs_are_kept(root, row, write):
    store = write(root, [row("a", digest="1")], [row("a", digest="2")], [row("b")], [row("a", digest="3")])
    before = stored_rows(store)
    run_compact(store, part_size=2)
    assert stored_rows(reopened(store)) == before
    assert reopened(store).digests()["a"] == ["1", "2", "3"]


def test_rows_of_absent_clips_are_dropped_only_on_request(root, row, write):
    store = write(root, [row("a"), row("gone")], [row("lost")])
    present = digest_lookup({"a": "d"})
    run_compact(store, present)
    assert len(reopened(store)) == 3
    compaction = run_compact(store, present, drop_absent=True)
    assert compaction.dropped == {RowState.ABSENT: 2}
    assert set(reopened(store).newest()) == {"a"}
    run_compact(store, digest_lookup({}), drop_absent=True)
    assert part_sizes(store) == []
    assert verify_store(root).findings == []


def test_dropped_rows_can_be_added_again(root, row, write):
    """The new part must not get a name that a merged part supersedes."""
    store = write(root, [row("a")], [row("b")], [row("c")])
    run_compact(store, digest_lookup({"a": "d"}), drop_absent=True)
    for clip_id in ("b", "c"):
        with StoreWriter(root, store.fingerprint) as writer:
            writer.append([row(clip_id)])
    assert set(reopened(store).newest()) == {"a", "b", "c"}


def test_duplicates_are_dropped_without_a_manifest(root, row, write):
    store = write(root, [row("a"), row("b")], [row("a", digest="2")])
    first = store.folder / part_names(store.folder)[0]
    shutil.copytree(first, first.with_name(first.name.replace("part-000000", "part-000005")))
    before = reopened(store)
    assert before.newest()["a"] == "d"
    compaction = run_compact(store)
    assert compaction.dropped == {RowState.DUPLICATE: 2}
    assert reopened(store).newest() == before.newest()
    assert stored_rows(reopened(store)) == stored_rows(store)


def test_a_part_of_duplicates_is_removed_and_the_other_left_unchanged(root, row, write):
    store = write(root, [row(f"c{clip}") for clip in range(8)])
    first = store.folder / part_names(store.folder)[0]
    second = shutil.copytree(first, first.with_name(first.name.replace("part-000000", "part-000005")))
    before = file_contents(second)
    run_compact(store)
    assert not first.exists()
    assert file_contents(second) == before


def test_parts_with_different_side_arrays_are_not_merged(root, row, write):
    def without_times(clip_id: str) -> FeatureRow:
        whole = row(clip_id)
        return FeatureRow(whole.clip_id, whole.digest, whole.values)

    store = write(root, [row("a")], [row("b")], [without_times("c")], [without_times("d")], [row("e")])
    run_compact(store)
    assert part_sizes(store) == [2, 2, 1]
    assert reopened(store).row("b").side["times"].tolist() == [0, 1, 2]
    assert reopened(store).row("d").side == {}


def test_parts_with_the_same_number_keep_their_order(root, row, write):
    store = write(root, [row("a", digest="1")], [row("a", digest="2")], [row("a", digest="3")], [row("b")])
    for name in part_names(store.folder)[1:3]:
        (store.folder / name).rename(store.folder / f"part-000001-{name[-8:]}")
    before = reopened(store)
    run_compact(store, part_size=2)
    assert reopened(store).digests() == before.digests()


def test_compacting_a_damaged_store_changes_nothing(root, row, write):
    store = write(root, [row("a")], [row("b")])
    chunk = store.folder / part_names(store.folder)[1] / "values/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    before = file_contents(root)
    with pytest.raises(StoreError) as caught:
        run_compact(store)
    assert Kind.CORRUPTED_CHUNK.value in caught.value.message
    assert str(chunk) in caught.value.message
    assert caught.value.command == f"ecmf-pipe store verify --mend {root}"
    assert file_contents(root) == before


def test_batches_of_killed_runs_are_adopted_first(root, row, write):
    store = write(root, [row("a")])
    spool = spool_folder(root, store.fingerprint)
    spool.mkdir(parents=True)
    (spool / "dead.0.batch").write_bytes(pack_rows([row("b")]))
    run_compact(store)
    assert set(reopened(store).newest()) == {"a", "b"}
    assert part_sizes(store) == [2]


def test_an_open_reader_keeps_working(root, row, write):
    store = write(root, *([row(f"c{part}{clip}", length=1 + clip) for clip in range(2)] for part in range(6)))
    clip_ids = list(store.newest())
    other_reader = FeatureStore(root, store.fingerprint)
    pooled, frames, single = store.load(clip_ids), store.load_sequences(clip_ids), store.row("c31")
    run_compact(store)
    np.testing.assert_array_equal(store.load(clip_ids).values, pooled.values)
    np.testing.assert_array_equal(other_reader.load(clip_ids).values, pooled.values)
    other_reader = FeatureStore(root, store.fingerprint)
    run_compact(store, part_size=12)
    np.testing.assert_array_equal(other_reader.load_sequences(clip_ids).values, frames.values)
    np.testing.assert_array_equal(store.row("c31").values, single.values)


def test_readers_find_every_row_once_at_every_step(root, row, write, monkeypatch):
    store = write(root, *([row(f"c{part}")] for part in range(9)))
    open_reader, expected = FeatureStore(root, store.fingerprint), stored_rows(store)
    steps = []

    def check_readers(step: str) -> None:
        assert stored_rows(reopened(store)) == expected
        open_reader.refresh()
        assert stored_rows(open_reader) == expected
        steps.append(step)

    def check_around(name: str) -> None:
        original = getattr(module, name)

        def call(*positional: Any, **named: Any) -> Any:
            check_readers(f"before {name}")
            result = original(*positional, **named)
            check_readers(f"after {name}")
            return result

        monkeypatch.setattr(module, name, call)

    check_around("_write_merged")
    check_around("_remove")
    run_compact(store, part_size=3)
    assert steps.count("after _write_merged") == 3
    assert steps.count("after _remove") == 9


def test_drop_settings_removes_features_and_spool(root, row, write):
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


KILL_STRIDE = "3"
"""Number of file operations between the kills; the test was also run once with 1."""

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


@pytest.mark.slow
def test_a_kill_at_any_step_loses_and_duplicates_nothing(tmp_path, row, write, repository, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # only the process is killed, so flushing is not needed
    digests: dict[str, str | None] = {"edited": "new", **{f"c{number}": "d" for number in range(7)}}
    rows: list[Sequence[FeatureRow]] = [[row("edited", digest="old"), row("c0")], [row("edited", digest="new")]]
    rows += [[row(f"c{number}")] for number in range(1, 7)]
    store = write(tmp_path / "whole" / "face.zarr", *rows)
    first = store.folder / part_names(store.folder)[2]
    shutil.copytree(first, first.with_name(f"part-000009-{first.name[-8:]}"))  # a duplicate
    store = reopened(store)
    expected = stored_rows(store)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, str(tmp_path), store.fingerprint, KILL_STRIDE],
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
        killed_store = FeatureStore(folder / "face.zarr", store.fingerprint)
        present = stored_rows(killed_store)
        assert {key: present.get(key) for key in expected if key[1] != "old"} == {
            key: value for key, value in expected.items() if key[1] != "old"
        }
        assert killed_store.load(list(digests), digests=digests).present.all()  # type: ignore[arg-type]
        assert all(len(digests) <= len(store.digests()[clip_id]) for clip_id, digests in killed_store.digests().items())
        states.add((len(part_names(killed_store.folder)), len(verify_store(killed_store.root).findings)))
        assert not verify_store(killed_store.root).damage
        run_compact(killed_store, digest_lookup(digests), part_size=4)
        assert stored_rows(reopened(killed_store)) == {key: value for key, value in expected.items() if key[1] != "old"}
        assert part_sizes(killed_store) == [4, 4]
        assert verify_store(killed_store.root).findings == []
        assert not (folder / ".face.zarr.spool").exists()
    assert len(states) > 5  # the kills left many different states


@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("123")), min_size=1, max_size=4), max_size=7
    ),
    present=st.none() | st.dictionaries(st.sampled_from("abcdef"), st.none() | st.sampled_from("1234")),
    part_size=st.integers(1, 9),
)
def test_compacted_stores_read_the_same(tmp_path_factory, row, write, batches, present, part_size):
    root = tmp_path_factory.mktemp("store") / "face.zarr"
    store = write(root, *([row(clip, digest=digest, length=1) for clip, digest in batch] for batch in batches))
    before, newest = stored_rows(store), store.newest()
    run_compact(store, lambda *_: present, part_size=part_size)
    after = reopened(store)
    digests = {clip: digest for clip, digest in (present or {}).items() if digest is not None}
    assert after.clips_with_features(digests) == store.clips_with_features(digests)
    kept = stored_rows(after)
    assert kept.items() <= before.items()
    for (clip, digest), values in before.items():
        replaced = clip in digests and digest != digests[clip] and store.holds(clip, digests[clip])
        assert ((clip, digest) in kept) is not replaced
        assert values is not None
    assert {clip: digest for clip, digest in after.newest().items() if clip not in digests} == {
        clip: digest for clip, digest in newest.items() if clip not in digests
    }
    assert all(size <= part_size for size in part_sizes(after)) or max(map(len, batches)) > part_size
