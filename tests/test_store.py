"""Feature stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from ecmf_pipeline.errors import MissingInput, StaleStore, StoreError
from ecmf_pipeline.store import FeatureRow, FeatureStore, current_fingerprint

SETTINGS = {"encoder": {"type": "test"}, "media": {"frames": 4}}


def row(clip_id: str, *, length: int = 3, dim: int = 5, digest: str = "d", value: float | None = None) -> FeatureRow:
    rng = np.random.default_rng(abs(hash((clip_id, digest))) % 2**32)
    values = rng.normal(size=(length, dim)) if value is None else np.full((length, dim), value)
    return FeatureRow(clip_id, digest, values.astype(np.float32), {"times": np.arange(length, dtype=np.float32)})


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "face.zarr", SETTINGS, dim=5, dtype="float16")


def test_features_come_back_in_the_order_asked_for(store):
    rows = [row(f"c{i}", length=1 + i % 4, value=i) for i in range(10)]
    store.append(rows[:6])
    store.append(rows[6:])
    asked = ["c7", "absent", "c2", "c9", "c0"]
    features = FeatureStore.open(store.root).load(asked)
    assert features.present.tolist() == [True, False, True, True, True]
    assert features.values[:, 0].tolist()[2:] == [2, 9, 0]
    assert np.isnan(features.values[1]).all()


def test_pooling_happens_at_read_time(store):
    one = row("a", length=4)
    store.append([one])
    stored = one.values.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(store.load(["a"]).values[0], stored.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(store.load(["a"], pool="max").values[0], stored.max(axis=0))
    both = np.concatenate([stored.mean(axis=0), stored.std(axis=0)])
    np.testing.assert_allclose(store.load(["a"], pool="mean_std").values[0], both, atol=1e-5)


def test_a_row_comes_back_with_what_is_kept_beside_it(store):
    store.append([row("a"), row("b", length=2)])
    found = store.row("b")
    assert found.values.shape == (2, 5)
    assert found.side["times"].tolist() == [0, 1]
    with pytest.raises(KeyError):
        store.row("c")


def test_a_changed_clip_is_not_held_and_its_new_row_counts(store):
    store.append([row("a", digest="old", value=1)])
    assert store.holds("a", "old")
    assert not store.holds("a", "new")
    assert not store.load(["a"], digests={"a": "new"}).present[0]
    store.append([row("a", digest="new", value=2)])
    assert store.load(["a"], digests={"a": "new"}).values[0, 0] == 2
    assert store.load(["a"], digests={"a": "old"}).values[0, 0] == 1
    assert store.load(["a"]).values[0, 0] == 2


def test_other_settings_are_another_store_and_the_first_is_kept(store):
    store.append([row("a", value=1)])
    other = FeatureStore.create(store.root, {**SETTINGS, "more": 1}, dim=5, dtype="float16")
    assert len(other) == 0
    assert current_fingerprint(store.root) == other.fingerprint
    again = FeatureStore.create(store.root, SETTINGS, dim=5, dtype="float16")
    assert again.load(["a"]).values[0, 0] == 1
    with pytest.raises(StaleStore, match=r"params\.yaml changed"):
        FeatureStore.open(store.root, "0123456789ab")


def test_the_same_settings_with_another_width_are_refused(store):
    with pytest.raises(StaleStore):
        FeatureStore.create(store.root, SETTINGS, dim=6, dtype="float16")


def test_an_absent_store_says_what_to_do(tmp_path):
    with pytest.raises(MissingInput, match="extract --modality face"):
        FeatureStore.open(tmp_path / "face.zarr")


@pytest.mark.parametrize(
    "bad",
    [
        FeatureRow("a", "d", np.zeros((2, 4), np.float32)),
        FeatureRow("a", "d", np.zeros((0, 5), np.float32)),
        FeatureRow("a", "d", np.full((1, 5), np.nan, np.float32)),
        FeatureRow("a", "d", np.full((1, 5), 1e6, np.float32)),  # beyond float16
    ],
)
def test_what_cannot_be_kept_is_refused_and_leaves_no_part(store, bad):
    with pytest.raises(ValueError, match="a: features"):
        store.append([bad])
    assert not list(store.folder.glob("part-*"))


def test_the_same_rows_give_the_same_bytes(tmp_path):
    def write(folder: Path) -> dict[str, bytes]:
        made = FeatureStore.create(folder / "face.zarr", SETTINGS, dim=5, dtype="float16")
        made.append([row(f"c{i}", value=i) for i in range(7)])
        made.append([row("c9", value=9)])
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert write(tmp_path / "first") == write(tmp_path / "second")


def test_appending_touches_no_old_byte(store):
    store.append([row("a"), row("b")])
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.root.rglob("*") if path.is_file()}
    FeatureStore.create(store.root, SETTINGS, dim=5, dtype="float16").append([row("c")])
    assert all((path.read_bytes(), path.stat().st_mtime_ns) == known for path, known in before.items())


def test_two_writers_lose_nothing(store):
    other = FeatureStore.create(store.root, SETTINGS, dim=5, dtype="float16")
    store.append([row("a")])
    other.append([row("b")])
    assert FeatureStore.open(store.root).load(["a", "b"]).present.all()


def test_a_writer_killed_in_the_middle_leaves_no_part_and_its_rest_is_removed(store, repository):
    code = f"""
import os, signal
import numpy as np
from pathlib import Path
import ecmf_pipeline.store as module
module._flush = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
store = module.FeatureStore({str(store.root)!r} and Path({str(store.root)!r}), {store.fingerprint!r})
store.append([module.FeatureRow("a", "d", np.ones((2, 5), np.float32))])
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=repository, check=False)
    assert killed.returncode == -9
    assert len(list(store.root.parent.glob(".face.zarr.*"))) == 1
    reopened = FeatureStore.create(store.root, SETTINGS, dim=5, dtype="float16")
    assert len(reopened) == 0
    assert list(store.root.parent.iterdir()) == [store.root]


def test_a_living_writer_keeps_what_it_is_writing(store):
    aside = store.root.parent / f".face.zarr.{os.getpid()}.abc"
    aside.mkdir()
    FeatureStore.create(store.root, SETTINGS, dim=5, dtype="float16")
    assert aside.is_dir()


def test_damage_is_named(store):
    store.append([row("a")])
    part = next(store.folder.glob("part-*"))
    (part / "values" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=part.name):
        store.load(["a"])
    (part / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore.open(store.root)


def test_plain_zarr_can_read_it(store):
    store.append([row("a", length=2, value=1), row("b", length=3, value=2)])
    root = zarr.open_group(store.root, mode="r")
    group = root[root.attrs["current"]]
    (part,) = [member for name, member in group.members() if name.startswith("part-")]
    assert part.attrs["clip_id"] == ["a", "b"]
    assert part["values"][:, 0].tolist() == [1, 1, 2, 2, 2]
    assert json.loads((store.folder / "zarr.json").read_text())["attributes"]["settings"] == SETTINGS


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_whatever_is_appended_is_read_back(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("store") / "x.zarr"
    made = FeatureStore.create(root, SETTINGS, dim=2, dtype="float32")
    expected: dict[str, np.ndarray] = {}
    names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
    for number in range(data.draw(st.integers(1, 3))):
        batch = data.draw(st.lists(names, min_size=1, max_size=5, unique=True))
        rows = []
        for name in batch:
            values = np.full((data.draw(st.integers(1, 4)), 2), data.draw(st.floats(-1e3, 1e3, width=32)), np.float32)
            rows.append(FeatureRow(name, f"d{number}", values))
            expected[name] = values[0]
        made.append(rows)
    order = data.draw(st.permutations(sorted(expected)))
    loaded = FeatureStore.open(root).load(order)
    assert loaded.present.all()
    np.testing.assert_allclose(loaded.values, np.stack([expected[name] for name in order]), rtol=1e-5)
