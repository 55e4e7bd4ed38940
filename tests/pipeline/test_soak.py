"""A small extraction, killed again and again; `python -m tools.soak` is the long version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.store import FeatureRow, StoreWriter, create_settings_group
from tools.soak.inspection import Fault, Reference, count, read_contents
from tools.soak.openings import Openings

SETTINGS = {"encoder": {"type": "test"}}


def soak(repository: Path, models: Path, folder: Path, *options: str) -> str:
    """Runs the soak on eGeMAPS alone, which needs no torch."""
    command = [sys.executable, "-m", "tools.soak", "--modality", "audio", "--clips", "16"]
    where = ["--models", str(models), "--folder", str(folder)]
    ended = subprocess.run([*command, *where, *options], cwd=repository, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()[-1]


@pytest.mark.slow
def test_twenty_kills_lose_double_and_tear_nothing(repository, models, tmp_path):
    summary = soak(repository, models, tmp_path, "--kills", "20", "--seed", "3")
    assert summary.startswith("20 kills")
    assert "0 lost, 0 doubled, 0 torn" in summary
    assert re.search(r"\d+ rows to take up", summary), "no kill fell between a batch and its part"


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_says_how_to_go_on(repository, models, tmp_path):
    assert soak(repository, models, tmp_path, "--kills", "3", "--signal", "INT").startswith("3 kills")


class Store:
    def __init__(self, folder: Path) -> None:
        self.root = folder / "features" / "audio.zarr"
        self.quarantine = folder / "audio.csv"
        self.fingerprint = create_settings_group(self.root, SETTINGS, dim=2, dtype="float32")
        self.rows = [
            FeatureRow(
                f"clip{number}", f"digest{number}", np.full((3, 2), number, np.float32), {"times": np.arange(3.0)}
            )
            for number in range(4)
        ]
        with StoreWriter(self.root, self.fingerprint) as writer:
            writer.append(self.rows[:2])
            writer.append(self.rows[2:])
        table = Quarantine(self.quarantine, stage="extract", modality=Modality.AUDIO.value)
        table.add("bad", "UnreadableMedia", "cut off", "digest")
        table.write()

    @property
    def parts(self) -> list[Path]:
        return sorted((self.root / self.fingerprint).glob("part-*"))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def found(store: Store, spoil) -> dict[Fault, int]:
    reference = Reference.read(store.root, store.quarantine)
    assert reference.compare_finished(store.root, store.quarantine) == []
    spoil(store)
    return dict(count(reference.compare_finished(store.root, store.quarantine)))


def flip_a_byte(store: Store) -> None:
    chunk = store.parts[0] / "values" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(data)


def remove_a_chunk(store: Store) -> None:
    (store.parts[0] / "values" / "c" / "0" / "0").unlink()


def remove_a_part(store: Store) -> None:
    shutil.rmtree(store.parts[1])


def copy_a_part(store: Store) -> None:
    shutil.copytree(store.parts[0], store.parts[0].with_name("part-000009-00000000"))


def replace_a_part(store: Store) -> None:
    shutil.rmtree(store.parts[0])
    with StoreWriter(store.root, store.fingerprint) as writer:
        writer.append([store.rows[0], replace(store.rows[1], values=store.rows[1].values + 1e-6)])


def other_times(store: Store) -> None:
    shutil.rmtree(store.parts[0])
    with StoreWriter(store.root, store.fingerprint) as writer:
        writer.append([store.rows[0], replace(store.rows[1], side={"times": np.arange(3.0) + 1})])


def add_a_row(store: Store) -> None:
    with StoreWriter(store.root, store.fingerprint) as writer:
        writer.append([replace(store.rows[0], digest="other")])


def leave_a_file(store: Store) -> None:
    (store.root / ".zarr.json.abc").write_text("{")


def lose_the_table(store: Store) -> None:
    store.quarantine.unlink()


@pytest.mark.parametrize(
    ("spoil", "faults"),
    [
        (flip_a_byte, {Fault.TORN: 1, Fault.LOST: 2}),
        (remove_a_chunk, {Fault.TORN: 1, Fault.LOST: 2}),
        (remove_a_part, {Fault.LOST: 2}),
        (copy_a_part, {Fault.DOUBLED: 2}),
        (replace_a_part, {Fault.TORN: 1}),
        (other_times, {Fault.TORN: 1}),
        (add_a_row, {Fault.FOREIGN: 1}),
        (leave_a_file, {Fault.FOREIGN: 1}),
        (lose_the_table, {Fault.LOST: 1}),
    ],
)
def test_the_soak_sees_what_is_wrong(store, spoil, faults):
    assert found(store, spoil) == faults


def test_a_torn_or_wrong_batch_is_seen(store):
    reference = Reference.read(store.root, store.quarantine)
    with StoreWriter(store.root, store.fingerprint) as writer:
        replace(writer.spool, pack=lambda _: b"half of it").keep("000000", [])
    assert count(read_contents(store.root, store.fingerprint).faults) == {Fault.TORN: 1}
    assert count(reference.compare_finished(store.root, store.quarantine)) == {Fault.TORN: 1}


def test_what_a_killed_process_was_writing_does_not_stay_in_the_store(store):
    for folder in (store.root, store.root / store.fingerprint):
        (folder / ".zarr.json.abcdefgh").write_text("{")
    with StoreWriter(store.root, store.fingerprint):
        pass
    assert sorted(path.name for path in store.root.rglob(".*")) == []


def test_openings_are_counted_by_clip(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    with Openings(tmp_path) as openings:
        assert not openings.any()
        for name in ("a.mp4", "a.mp4", "b.mp4", "a.mp4"):
            (tmp_path / name).read_bytes()
        assert openings.any()
        assert openings.take() == {"a": 3, "b": 1}
        assert openings.take() == {}
