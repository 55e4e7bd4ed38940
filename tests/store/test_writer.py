"""Tests of writing a store."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.errors import StoreBusy, StoreError
from ecmf_pipeline.runner.step import Spool
from ecmf_pipeline.store import (
    FeatureRow,
    FeatureStore,
    StoreWriter,
    create_settings_group,
    current_fingerprint,
)
from ecmf_pipeline.store.format import part_names, part_number, read_attributes, spool_folder
from ecmf_pipeline.store.writer import pack_rows

PREAMBLE = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from ecmf_pipeline.core.errors import StoreBusy
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, format
root, fingerprint = Path(sys.argv[1]), sys.argv[2]
def rows(names): return [FeatureRow(name, "d", np.ones((2, 5), np.float32)) for name in names]
"""


@pytest.fixture
def other_process(root, fingerprint, repository):
    """Return a function that runs code in another process, with ``root``, ``fingerprint`` and ``rows(names)``."""

    with ExitStack() as processes:

        def start(code: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", PREAMBLE + code, str(root), fingerprint]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            return processes.enter_context(subprocess.Popen(command, cwd=repository, **pipes))

        yield start


def entry_counts(store: FeatureStore) -> Counter[tuple[str, str]]:
    """Count the entries of each clip and digest over all parts."""
    counts: Counter[tuple[str, str]] = Counter()
    for name in part_names(store.folder):
        part = read_attributes(store.folder / name, store.fingerprint)
        counts.update(zip(part.clip_id, part.digest, strict=True))
    return counts


def files_beside(root: Path) -> list[str]:
    """Return the names of all files next to a store, except its lock."""
    return sorted(path.name for path in root.parent.rglob("*") if path.is_file() and root not in path.parents)[1:]


def test_each_append_writes_one_part_and_skips_stored_rows(root, fingerprint, row):
    with StoreWriter(root, fingerprint) as writer:
        writer.append([row("a", value=1), row("b", value=1)])
        writer.append([row("b", value=2), row("c", value=2), row("c", value=3), row("a", digest="new", value=4)])
        writer.append([row("a", value=9)])
        writer.append([])
    store = FeatureStore.open(root)
    assert entry_counts(store) == {("a", "d"): 1, ("b", "d"): 1, ("c", "d"): 1, ("a", "new"): 1}
    assert store.load(["a", "b", "c"]).values[:, 0].tolist() == [4, 1, 3]
    assert [part_number(name) for name in part_names(store.folder)] == [0, 1]


def test_the_first_part_makes_its_settings_current(root, fingerprint, row):
    with StoreWriter(root, fingerprint) as writer:
        assert current_fingerprint(root) is None
        writer.append([row("a")])
        assert current_fingerprint(root) == fingerprint


def test_appending_leaves_existing_files_unchanged(root, row, write):
    write(root, [row("a"), row("b")])
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}
    write(root, [row("c")])
    assert all((path.read_bytes(), path.stat().st_mtime_ns) == known for path, known in before.items())


def test_parts_are_numbered_by_chunk_after_existing_parts_in_any_order_of_sealing(root, row, write):
    store = write(root, [row("a")], [row("b")])
    with StoreWriter(root, store.fingerprint) as writer:
        for number in (2, 0, 1):
            writer.spool.keep(f"{number}", [row(f"c{number}")])
            assert writer.seal(number, [f"{number}"], [f"c{number}"]) == 1
    store.refresh()
    assert [part_number(name) for name in part_names(store.folder)] == [0, 1, 2, 3, 4]
    assert list(entry_counts(store)) == [("a", "d"), ("b", "d"), ("c0", "d"), ("c1", "d"), ("c2", "d")]


def test_a_sealed_part_does_not_depend_on_batching(tmp_path, row, write):
    clip_ids = ["a", "b", "c", "d", "e"]

    def seal(folder: Path, batches: dict[str, str]) -> dict[str, bytes]:
        store = write(folder / "face.zarr")
        with StoreWriter(store.root, store.fingerprint) as writer:
            for task, names in batches.items():
                pickle.loads(pickle.dumps(writer.spool)).keep(task, [row(name) for name in names])
            assert writer.seal(0, [*batches], clip_ids) == 4
            assert list(writer.spool.folder.glob("*.batch")) == []
        return {str(path.relative_to(folder)): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}

    files = seal(tmp_path / "1", {"0": "ab", "1": "de"})
    assert files == seal(tmp_path / "2", {"1": "ed", "0": "ba"})
    assert files == seal(tmp_path / "3", {"0": "a", "0.1": "b", "2": "ed"})
    fingerprint = current_fingerprint(tmp_path / "1" / "face.zarr")
    assert fingerprint is not None
    attributes = read_attributes(next((tmp_path / "1").rglob("part-*")), fingerprint)
    assert attributes.clip_id == ["a", "b", "d", "e"]


def test_sealing_a_missing_batch_raises_store_error(root, fingerprint, row):
    with StoreWriter(root, fingerprint) as writer:
        writer.spool.keep("t", [row("a")])
        with pytest.raises(StoreError, match=r"\(u\)"):
            writer.seal(0, ["t", "u"], ["a", "b"])
    assert part_names(root / fingerprint) == []
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 1  # the other batch is still in the spool
    assert len(FeatureStore(root, fingerprint)) == 1


def test_adopting_batches_of_other_settings_keeps_the_current_settings(root, fingerprint, row):
    with StoreWriter(root, fingerprint) as writer:
        writer.append([row("a")])
    other = create_settings_group(root, {"other": 1}, dim=5, dtype="float16")
    Spool(spool_folder(root, other), pack_rows).keep("t", [row("a")])
    with StoreWriter(root, other) as writer:
        assert writer.adopted == 1
    assert current_fingerprint(root) == fingerprint


def test_only_the_lock_is_left_beside_a_store(root, fingerprint, row):
    with StoreWriter(root, fingerprint) as writer:
        writer.spool.keep("t", [row("a")])
        writer.seal(0, ["t"], ["a"])
    assert files_beside(root) == []
    assert not spool_folder(root, fingerprint).exists()


def test_batches_of_a_killed_run_are_adopted_once(root, fingerprint, other_process):
    killed = other_process("""
with StoreWriter(root, fingerprint) as writer:
    writer.spool.keep("0", rows(["a", "b"]))
    writer.seal(0, ["0"], ["a", "b"])
    writer.spool.keep("1", rows(["b", "c"]))
    writer.spool.keep("2", rows(["d"]))
    os.kill(os.getpid(), signal.SIGKILL)
""")
    assert killed.wait() == -9
    torn = spool_folder(root, fingerprint) / ".0123.3.batch.abc"
    torn.write_bytes(b"half a bat")
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 2
        assert files_beside(root) == []
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 0
    store = FeatureStore.open(root)
    assert entry_counts(store) == {(name, "d"): 1 for name in "abcd"}
    assert store.load(list("abcd")).present.all()


@pytest.mark.parametrize("moment", ["format._flush", "format.Path.rename", "format.flush_folder"])
def test_a_run_killed_while_sealing_loses_and_duplicates_nothing(root, fingerprint, other_process, moment):
    killed = other_process(f"""
with StoreWriter(root, fingerprint) as writer:
    writer.spool.keep("0", rows(["a", "b"]))
    {moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    writer.seal(0, ["0"], ["a", "b"])
""")
    assert killed.wait() == -9
    assert part_names(root / fingerprint) == []
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 2
    assert files_beside(root) == []
    assert entry_counts(FeatureStore.open(root)) == {("a", "d"): 1, ("b", "d"): 1}


def test_a_run_killed_before_removing_its_batches_duplicates_nothing(root, fingerprint, other_process):
    killed = other_process("""
with StoreWriter(root, fingerprint) as writer:
    writer.spool.keep("0", rows(["a", "b"]))
    type(writer.spool).drop = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    writer.seal(0, ["0"], ["a", "b"])
""")
    assert killed.wait() == -9
    assert len(part_names(root / fingerprint)) == 1
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 0
    assert files_beside(root) == []
    assert entry_counts(FeatureStore.open(root)) == {("a", "d"): 1, ("b", "d"): 1}


def test_a_batch_of_an_orphaned_worker_is_adopted_by_the_next_run(root, fingerprint, row):
    orphan = Spool(spool_folder(root, fingerprint), pack_rows)
    with StoreWriter(root, fingerprint) as writer:
        orphan.keep("0", [row("a")])
        writer.spool.keep("0", [row("b")])
        assert writer.seal(0, ["0"], ["a", "b"]) == 1
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 1
    assert FeatureStore.open(root).load(list("ab")).present.all()


def test_a_damaged_batch_raises_an_error_with_its_path(root, fingerprint, row):
    payload = bytearray(pack_rows([row("a")]))
    payload[len(payload) // 2] ^= 1
    spool = Spool(spool_folder(root, fingerprint), lambda _: bytes(payload))
    spool.keep("0", [row("a")])
    with pytest.raises(StoreError, match=rf"{spool.run}\.0\.batch") as caught, StoreWriter(root, fingerprint):
        pass
    assert caught.value.command == "ecmf-pipe store verify --mend"
    with pytest.raises(StoreError) as again:
        StoreWriter(root, fingerprint).__enter__()
    assert type(again.value) is StoreError  # not StoreBusy: the lock was released


def test_batches_of_a_removed_store_are_kept(root, fingerprint, row, write):
    Spool(spool_folder(root, fingerprint), pack_rows).keep("0", [row("a")])
    (root / fingerprint / "zarr.json").unlink()
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 0
    with pytest.raises(StoreError, match="was removed") as caught, StoreWriter(root, fingerprint) as writer:
        writer.append([row("b")])
    assert str(root / fingerprint) in caught.value.message
    assert write(root).load(["a"]).present.all()


@pytest.mark.parametrize("at", ["_flush", "flush_folder"])
def test_a_full_disk_leaves_no_part_and_keeps_the_batches(root, fingerprint, row, monkeypatch, at):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with StoreWriter(root, fingerprint) as writer:
        writer.spool.keep("0", [row("a")])
        with monkeypatch.context() as patch:
            patch.setattr(f"ecmf_pipeline.store.format.{at}", full)
            with pytest.raises(OSError, match="No space"):
                writer.seal(0, ["0"], ["a"])
        assert part_names(root / fingerprint) == []
        assert [path.suffix for path in writer.spool.folder.iterdir()] == [".batch"]
        assert writer.seal(0, ["0"], ["a"]) == 1


def test_two_writers_at_once_fail_with_store_busy(root, fingerprint, other_process, row):
    other_writer = other_process("""
with StoreWriter(root, fingerprint):
    print("ready", flush=True)
    sys.stdin.read()
""")
    assert other_writer.stdout.readline() == "ready\n"
    with pytest.raises(StoreBusy) as caught:
        StoreWriter(root, fingerprint).__enter__()
    assert f"process {other_writer.pid} on {os.uname().nodename}" in str(caught.value)
    assert "face.zarr" in caught.value.message
    FeatureStore(root, fingerprint)  # reading needs no lock
    other_writer.kill()
    other_writer.wait()
    with StoreWriter(root, fingerprint) as writer:
        writer.append([row("a")])
        with pytest.raises(StoreBusy, match=str(os.getpid())):
            StoreWriter(root, fingerprint).__enter__()


def test_two_processes_writing_alternately_lose_and_duplicate_nothing(root, other_process):
    code = """
for number in range(8):
    while True:
        try:
            with StoreWriter(root, fingerprint) as writer:
                writer.spool.keep("0", rows([f"both{number}", f"%s{number}"]))
                writer.seal(0, ["0"], [f"%s{number}", f"both{number}"])
            break
        except StoreBusy:
            time.sleep(0.001)
"""
    processes = [other_process(code % (name, name)) for name in ("one", "two")]
    assert [process.wait() for process in processes] == [0, 0]
    expected = {(f"{name}{number}", "d") for name in ("both", "one", "two") for number in range(8)}
    assert entry_counts(FeatureStore.open(root)) == dict.fromkeys(expected, 1)
    assert files_beside(root) == []


def test_side_arrays_keep_their_type(root, fingerprint, row):
    boxes = np.arange(8, dtype=np.int16).reshape(2, 4)
    rows = [replace(row("a", length=2), side={"boxes": boxes, "scores": np.array([0.5, 1.0])})]
    with StoreWriter(root, fingerprint) as writer:
        writer.spool.keep("0", rows)
        writer.seal(0, ["0"], ["a"])
    side = FeatureStore.open(root).row("a").side
    assert side["boxes"].dtype == np.int16
    np.testing.assert_array_equal(side["boxes"], boxes)
    assert (side["scores"].dtype, side["scores"].tolist()) == (np.float64, [0.5, 1.0])


@pytest.mark.parametrize(
    "values",
    [np.zeros((0, 5)), np.zeros((2, 4)), np.zeros(5), np.full((2, 5), np.nan), np.full((2, 5), 70_000.0)],
    ids=["no rows", "another width", "one dimension", "NaN", "out of the range of float16"],
)
def test_unusable_features_are_not_written(root, fingerprint, row, values):
    with StoreWriter(root, fingerprint) as writer:
        with pytest.raises(ValueError, match=r"^bad: "):
            writer.append([row("a"), FeatureRow("bad", "d", values.astype(np.float32))])
        writer.append([row("a")])
    assert FeatureStore(root, fingerprint).newest() == {"a": "d"}
