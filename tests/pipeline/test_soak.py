"""Tests of `tools.soak`: short soak runs, and the detection of faults."""

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
    """Run the soak test with eGeMAPS only, which does not import torch; return the last line."""
    command = [sys.executable, "-m", "tools.soak", "--modality", "audio", "--clips", "16"]
    folders = ["--models", str(models), "--folder", str(folder)]
    done = subprocess.run([*command, *folders, *options], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_kills_cause_no_faults(repository, models, tmp_path):
    summary = soak(repository, models, tmp_path, "--kills", "10", "--seed", "3")
    assert summary.startswith("10 kills")
    assert "0 lost, 0 doubled, 0 torn" in summary
    assert re.search(r"\d+ rows to adopt", summary), "no run was killed between a batch and its part"


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_prints_how_to_continue(repository, models, tmp_path):
    assert soak(repository, models, tmp_path, "--kills", "3", "--signal", "INT").startswith("3 kills")


@pytest.mark.slow
def test_killed_shards_rerun_with_another_number_have_the_rows_of_one_run(repository, models, tmp_path):
    folders = ["--models", str(models), "--folder", str(tmp_path)]
    command = [sys.executable, "-m", "tools.soak.shards", "--kills", "3", "--clips", "16", "--seed", "5", *folders]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(": 0 faults")


class SmallStore:
    """A store of two parts with two clips each, and a quarantine table of one clip."""

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
def store(tmp_path) -> SmallStore:
    return SmallStore(tmp_path)


def faults_after(damage, store: SmallStore) -> dict[Fault, int]:
    """Damage a store and return the number of faults of each kind."""
    reference = Reference.read(store.root, store.quarantine)
    assert reference.compare_finished(store.root, store.quarantine) == []
    damage(store)
    return dict(count(reference.compare_finished(store.root, store.quarantine)))


def flip_bit(store: SmallStore) -> None:
    chunk = store.parts[0] / "values" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    chunk.write_bytes(data)


def remove_chunk(store: SmallStore) -> None:
    (store.parts[0] / "values" / "c" / "0" / "0").unlink()


def remove_part(store: SmallStore) -> None:
    shutil.rmtree(store.parts[1])


def copy_part(store: SmallStore) -> None:
    shutil.copytree(store.parts[0], store.parts[0].with_name(f"part-000009-{store.parts[0].name.rpartition('-')[2]}"))


def replace_values(store: SmallStore) -> None:
    shutil.rmtree(store.parts[0])
    with StoreWriter(store.root, store.fingerprint) as writer:
        writer.append([store.rows[0], replace(store.rows[1], values=store.rows[1].values + 1e-6)])


def replace_times(store: SmallStore) -> None:
    shutil.rmtree(store.parts[0])
    with StoreWriter(store.root, store.fingerprint) as writer:
        writer.append([store.rows[0], replace(store.rows[1], side={"times": np.arange(3.0) + 1})])


def add_row(store: SmallStore) -> None:
    with StoreWriter(store.root, store.fingerprint) as writer:
        writer.append([replace(store.rows[0], digest="other")])


def add_stray_file(store: SmallStore) -> None:
    (store.root / ".zarr.json.abc").write_text("{")


def remove_quarantine(store: SmallStore) -> None:
    store.quarantine.unlink()


@pytest.mark.parametrize(
    ("damage", "faults"),
    [
        (flip_bit, {Fault.TORN: 1, Fault.LOST: 2}),
        (remove_chunk, {Fault.TORN: 1, Fault.LOST: 2}),
        (remove_part, {Fault.LOST: 2}),
        (copy_part, {Fault.DOUBLED: 2}),
        (replace_values, {Fault.TORN: 1}),
        (replace_times, {Fault.TORN: 1}),
        (add_row, {Fault.FOREIGN: 1}),
        (add_stray_file, {Fault.FOREIGN: 1}),
        (remove_quarantine, {Fault.LOST: 1}),
    ],
)
def test_compare_finished_finds_each_fault(store, damage, faults):
    assert faults_after(damage, store) == faults


def test_a_torn_batch_is_a_fault(store):
    reference = Reference.read(store.root, store.quarantine)
    with StoreWriter(store.root, store.fingerprint) as writer:
        replace(writer.spool, pack=lambda _: b"truncated").keep("000000", [])
    assert count(read_contents(store.root, store.fingerprint).faults) == {Fault.TORN: 1}
    assert count(reference.compare_finished(store.root, store.quarantine)) == {Fault.TORN: 1}


def test_the_writer_removes_temporary_files_of_killed_processes(store):
    for folder in (store.root, store.root / store.fingerprint):
        (folder / ".zarr.json.abcdefgh").write_text("{")
    with StoreWriter(store.root, store.fingerprint):
        pass
    assert sorted(path.name for path in store.root.rglob(".*")) == []


def test_openings_are_counted_by_file(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    with Openings(tmp_path) as openings:
        assert not openings.any()
        for name in ("a.mp4", "a.mp4", "b.mp4", "a.mp4"):
            (tmp_path / name).read_bytes()
        assert openings.any()
        assert openings.take() == {"a": 3, "b": 1}
        assert openings.take() == {}
