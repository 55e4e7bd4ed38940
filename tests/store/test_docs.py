"""Tests of docs/reference/formats.md: its example reader, names, hashes and attributes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.store import FeatureStore, create_settings_group, make_current
from ecmf_pipeline.store.format import FORMAT, PartAttributes, part_names, write_part

MAX_READER_LINES = 20


@pytest.fixture(scope="module")
def page(repository) -> str:
    return (repository / "docs" / "reference" / "formats.md").read_text()


@pytest.fixture(scope="module")
def read_store(page) -> Callable[..., Any]:
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert "ecmf_pipeline" not in code
    assert sum(bool(line.strip()) for line in code.splitlines()) <= MAX_READER_LINES
    namespace: dict[str, Any] = {}
    exec(compile(code, "docs/reference/formats.md", "exec"), namespace)
    return namespace["read_store"]


@pytest.fixture
def store(root, row, write) -> FeatureStore:
    """A store with clips of several lengths, newer rows of some clips, and two superseded parts that still exist."""
    store = write(
        root,
        [row(f"c{number}", length=1 + number % 3) for number in range(7)],
        [row("c1", digest="new", length=2), row("c7")],
        [row("c8", value=0), row("c2", digest="new")],
        [row("c9", length=1), row("c1", digest="newest", length=1)],
    )
    old = part_names(store.folder)[1:3]
    rows = [row("c1", digest="new", length=2), row("c7"), row("c8", value=0), row("c2", digest="new", value=7)]
    attributes = PartAttributes(
        store.fingerprint,
        [one.clip_id for one in rows],
        [one.digest for one in rows],
        [len(one.values) for one in rows],
        old,
    )
    values = np.concatenate([one.values for one in rows]).astype(np.float16)
    write_part(store.folder, 2, attributes, {"values": values}, staging=root.parent)
    return FeatureStore.open(root)


@pytest.mark.parametrize(
    "digests",
    [
        None,
        {f"c{number}": "d" for number in range(10)},
        {**{f"c{number}": "d" for number in range(10)}, "c1": "new", "c2": "new", "c3": "gone"},
        {},
    ],
)
def test_the_documented_reader_returns_the_same_features(read_store, store, digests):
    clip_ids = ["c9", "absent", *(f"c{number}" for number in range(9)), "c9"]
    expected = store.load(clip_ids, digests=digests)
    assert expected.present.any() or digests == {}
    np.testing.assert_allclose(read_store(str(store.root), clip_ids, digests), expected.values, atol=1e-6)
    if digests is None:
        assert expected.values[4].tolist() == [7] * 5  # c2, from the superseding part


def test_the_documented_reader_reads_an_empty_store(read_store, root, settings):
    make_current(root, create_settings_group(root, settings, dim=None, dtype="float32"))
    assert read_store(str(root), ["a"]).shape == (1, 0)


def test_the_documented_reader_reads_one_of_several_encoders(read_store, store, settings):
    other = create_settings_group(store.root, {**settings, "frames": 3}, dim=None, dtype="float32")
    make_current(store.root, other, [store.fingerprint, other])
    expected = store.load(["c0", "c9"]).values
    np.testing.assert_allclose(
        read_store(str(store.root), ["c0", "c9"], fingerprint=store.fingerprint), expected, atol=1e-6
    )
    with pytest.raises(AssertionError, match=other):
        read_store(str(store.root), ["c0", "c9"])


def test_the_documented_reader_raises_on_a_missing_chunk(read_store, store):
    part = store.folder / part_names(store.folder)[0]
    shutil.rmtree(part / "values" / "c")
    with pytest.raises(AssertionError, match=part.name):
        read_store(str(store.root), ["c0"])


def test_names_are_hashed_as_documented(store, settings):
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert store.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()[:12]
    for name in part_names(store.folder):
        attributes = json.loads((store.folder / name / "zarr.json").read_text())["attributes"]
        keys = ["fingerprint", "clip_id", "digest", "length", "supersedes", "arrays"]
        ordered = json.dumps({key: attributes[key] for key in keys if key in attributes})
        assert name.rpartition("-")[2] == hashlib.sha256(ordered.encode()).hexdigest()[:8]


def test_codecs_and_files_are_as_documented(page, store):
    assert f"feature store format {FORMAT}" in page
    part = store.folder / part_names(store.folder)[0]
    document = json.loads((part / "values" / "zarr.json").read_text())
    assert [codec["name"] for codec in document["codecs"]] == ["bytes", "crc32c"]
    assert document["chunk_grid"]["configuration"]["chunk_shape"] == document["shape"]
    assert (part / "values" / "c" / "0" / "0").is_file()
    assert (part / "times" / "c" / "0").is_file()


def test_every_written_attribute_is_documented(page, store):
    folders = [store.root, store.folder, *(store.folder / name for name in part_names(store.folder))]
    for folder in folders:
        for attribute in json.loads((folder / "zarr.json").read_text())["attributes"]:
            assert f"| `{attribute}` |" in page
