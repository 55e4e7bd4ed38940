"""Writing a store."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.errors import StoreBusy, StoreError
from ecmf_pipeline.runner.step import Spool
from ecmf_pipeline.store import (
    FeatureStore,
    StoreWriter,
    create_settings_group,
    current_fingerprint,
)
from ecmf_pipeline.store.format import part_names, part_number, read_attributes, spool_folder
from ecmf_pipeline.store.writer import pack_rows

START = """
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
    """Runs code in a process of its own, with ``root``, ``fingerprint`` and ``rows(names)``."""

    with ExitStack() as processes:

        def start(code: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", START + code, str(root), fingerprint]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            return processes.enter_context(subprocess.Popen(command, cwd=repository, **pipes))

        yield start


def entries(store: FeatureStore) -> Counter[tuple[str, str]]:
    """How often each clip and digest stand in the parts themselves."""
    found: Counter[tuple[str, str]] = Counter()
    for name in part_names(store.folder):
        part = read_attributes(store.folder / name, store.fingerprint)
        found.update(zip(part.clip_id, part.digest, strict=True))
    return found


def beside(root: Path) -> list[str]:
    """The names of all files beside a store, but for its lock."""
    return sorted(path.name for path in root.parent.rglob("*") if path.is_file() and root not in path.parents)[1:]


def test_each_append_is_one_part_and_rows_that_are_there_are_left_out(root, fingerprint, row):
    with StoreWriter(root, fingerprint) as writer:
        writer.append([row("a", value=1), row("b", value=1)])
        writer.append([row("b", value=2), row("c", value=2), row("c", value=3), row("a", digest="new", value=4)])
        writer.append([row("a", value=9)])
        writer.append([])
    store = FeatureStore.open(root)
    assert entries(store) == {("a", "d"): 1, ("b", "d"): 1, ("c", "d"): 1, ("a", "new"): 1}
    assert store.load(["a", "b", "c"]).values[:, 0].tolist() == [4, 1, 3]
    assert [part_number(name) for name in part_names(store.folder)] == [0, 1]


def test_the_first_part_makes_its_settings_current(root, fingerprint, row):
    with StoreWriter(root, fingerprint) as writer:
        assert current_fingerprint(root) is None
        writer.append([row("a")])
        assert current_fingerprint(root) == fingerprint


def test_appending_touches_no_old_byte(root, row, write):
    write(root, [row("a"), row("b")])
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}
    write(root, [row("c")])
    assert all((path.read_bytes(), path.stat().st_mtime_ns) == known for path, known in before.items())


def test_chunks_are_numbered_after_what_was_there_whichever_is_sealed_first(root, row, write):
    store = write(root, [row("a")], [row("b")])
    with StoreWriter(root, store.fingerprint) as writer:
        for number in (2, 0, 1):
            writer.spool.keep(f"{number}", [row(f"c{number}")])
            assert writer.seal(number, [f"{number}"], [f"c{number}"]) == 1
    store.refresh()
    assert [part_number(name) for name in part_names(store.folder)] == [0, 1, 2, 3, 4]
    assert list(entries(store)) == [("a", "d"), ("b", "d"), ("c0", "d"), ("c1", "d"), ("c2", "d")]


def test_a_sealed_part_depends_neither_on_the_order_of_batches_nor_on_how_clips_were_batched(tmp_path, row, write):
    clip_ids = ["a", "b", "c", "d", "e"]

    def seal(folder: Path, batches: dict[str, str]) -> dict[str, bytes]:
        store = write(folder / "face.zarr")
        with StoreWriter(store.root, store.fingerprint) as writer:
            for task, names in batches.items():
                pickle.loads(pickle.dumps(writer.spool)).keep(task, [row(name) for name in names])
            assert writer.seal(0, [*batches], clip_ids) == 4
            assert list(writer.spool.folder.glob("*.batch")) == []
        return {str(path.relative_to(folder)): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}

    one = seal(tmp_path / "1", {"0": "ab", "1": "de"})
    assert one == seal(tmp_path / "2", {"1": "ed", "0": "ba"})
    assert one == seal(tmp_path / "3", {"0": "a", "0.1": "b", "2": "ed"})
    attributes = read_attributes(next((tmp_path / "1").rglob("part-*")), one_fingerprint(tmp_path / "1"))
    assert attributes.clip_id == ["a", "b", "d", "e"]


def one_fingerprint(folder: Path) -> str:
    fingerprint = current_fingerprint(folder / "face.zarr")
    assert fingerprint is not None
    return fingerprint


def test_a_batch_that_is_gone_is_never_missed_in_silence(root, fingerprint, row):
    with StoreWriter(root, fingerprint) as writer:
        writer.spool.keep("t", [row("a")])
        with pytest.raises(StoreError, match=r"finished batches are gone \(u\)"):
            writer.seal(0, ["t", "u"], ["a", "b"])
    assert part_names(root / fingerprint) == []
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 1  # what was there still counts
    assert len(FeatureStore(root, fingerprint)) == 1


def test_what_a_killed_run_left_of_other_settings_does_not_put_them_to_use(root, fingerprint, row):
    with StoreWriter(root, fingerprint) as writer:
        writer.append([row("a")])
    other = create_settings_group(root, {"other": 1}, dim=5, dtype="float16")
    Spool(spool_folder(root, other), pack_rows).keep("t", [row("a")])
    with StoreWriter(root, other) as writer:
        assert writer.adopted == 1
    assert current_fingerprint(root) == fingerprint


def test_nothing_is_left_beside_a_store_but_its_lock(root, fingerprint, row):
    with StoreWriter(root, fingerprint) as writer:
        writer.spool.keep("t", [row("a")])
        writer.seal(0, ["t"], ["a"])
    assert beside(root) == []
    assert not spool_folder(root, fingerprint).exists()


def test_what_a_killed_run_kept_is_taken_up_once(root, fingerprint, other_process):
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
        assert beside(root) == []
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 0
    store = FeatureStore.open(root)
    assert entries(store) == {(name, "d"): 1 for name in "abcd"}
    assert store.load("abcd").present.all()


@pytest.mark.parametrize("moment", ["format._flush", "format.Path.rename", "format.flush_folder"])
def test_a_run_killed_while_it_seals_loses_and_doubles_nothing(root, fingerprint, other_process, moment):
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
    assert beside(root) == []
    assert entries(FeatureStore.open(root)) == {("a", "d"): 1, ("b", "d"): 1}


def test_a_run_killed_between_the_part_and_its_batches_doubles_nothing(root, fingerprint, other_process):
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
    assert beside(root) == []
    assert entries(FeatureStore.open(root)) == {("a", "d"): 1, ("b", "d"): 1}


def test_a_batch_of_a_worker_that_outlived_its_run_is_left_for_the_next(root, fingerprint, row):
    orphan = Spool(spool_folder(root, fingerprint), pack_rows)
    with StoreWriter(root, fingerprint) as writer:
        orphan.keep("0", [row("a")])
        writer.spool.keep("0", [row("b")])
        assert writer.seal(0, ["0"], ["a", "b"]) == 1
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 1
    assert FeatureStore.open(root).load("ab").present.all()


def test_a_damaged_batch_is_named(root, fingerprint, row):
    payload = bytearray(pack_rows([row("a")]))
    payload[len(payload) // 2] ^= 1
    spool = Spool(spool_folder(root, fingerprint), lambda _: bytes(payload))
    spool.keep("0", [row("a")])
    with pytest.raises(StoreError, match=rf"{spool.run}\.0\.batch"), StoreWriter(root, fingerprint):
        pass
    with pytest.raises(StoreError):  # and the lock was given back
        StoreWriter(root, fingerprint).__enter__()


def test_batches_wait_where_their_store_was_removed(root, fingerprint, row, write):
    Spool(spool_folder(root, fingerprint), pack_rows).keep("0", [row("a")])
    (root / fingerprint / "zarr.json").unlink()
    with StoreWriter(root, fingerprint) as writer:
        assert writer.adopted == 0
    with pytest.raises(StoreError, match="was removed"), StoreWriter(root, fingerprint) as writer:
        writer.append([row("b")])
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


def test_a_second_writer_is_told_who_writes_until_that_one_is_killed(root, fingerprint, other_process, row):
    writing = other_process("""
with StoreWriter(root, fingerprint):
    print("ready", flush=True)
    sys.stdin.read()
""")
    assert writing.stdout.readline() == "ready\n"
    with pytest.raises(StoreBusy) as caught:
        StoreWriter(root, fingerprint).__enter__()
    assert f"process {writing.pid} on {os.uname().nodename}" in str(caught.value)
    assert "face.zarr" in str(caught.value)
    FeatureStore(root, fingerprint)  # reading needs no lock
    writing.kill()
    writing.wait()
    with StoreWriter(root, fingerprint) as writer:
        writer.append([row("a")])
        with pytest.raises(StoreBusy, match=str(os.getpid())):
            StoreWriter(root, fingerprint).__enter__()


def test_two_processes_that_write_in_turns_lose_and_double_nothing(root, other_process):
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
    assert entries(FeatureStore.open(root)) == dict.fromkeys(expected, 1)
    assert beside(root) == []


def test_arrays_beside_the_values_keep_their_type(root, fingerprint, row):
    one = row("a", length=2)
    boxes = np.arange(8, dtype=np.int16).reshape(2, 4)
    rows = [type(one)("a", "d", one.values, {"boxes": boxes, "scores": np.array([0.5, 1.0])})]
    with StoreWriter(root, fingerprint) as writer:
        writer.spool.keep("0", rows)
        writer.seal(0, ["0"], ["a"])
    side = FeatureStore.open(root).row("a").side
    assert side["boxes"].dtype == np.int16
    np.testing.assert_array_equal(side["boxes"], boxes)
    assert (side["scores"].dtype, side["scores"].tolist()) == (np.float64, [0.5, 1.0])
