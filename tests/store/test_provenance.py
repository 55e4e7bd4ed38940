"""Tests of provenance and library versions in a store."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.store import FeatureStore, StoreWriter, create_settings_group, make_current
from ecmf_pipeline.store.compact import compact
from ecmf_pipeline.store.format import part_names
from ecmf_pipeline.store.state import format_provenance, list_store
from ecmf_pipeline.store.verify import verify_store
from ecmf_pipeline.store.writer import pack_rows, unpack_rows

OLD, NEW = {"torch": "2.12.0", "av": "17.0"}, {"torch": "2.13.0", "av": "18.1.0"}
PROVENANCE = {"model": "a/b", "commit": "ab12" * 10, "preprocessing": {"resize": [2, 3]}, "versions": NEW}


@pytest.fixture
def versioned(row):
    """Return a function that creates a row with library versions."""
    return lambda clip_id, versions: replace(row(clip_id), versions=versions)


def part_attributes(store: FeatureStore) -> list[dict]:
    documents = [json.loads((store.folder / name / "zarr.json").read_text()) for name in part_names(store.folder)]
    return [document["attributes"] for document in documents]


def test_provenance_does_not_change_the_fingerprint_and_is_never_rewritten(root, settings):
    plain = create_settings_group(root.with_name("plain.zarr"), settings, dim=5, dtype="float16")
    fingerprint = create_settings_group(root, settings, dim=5, dtype="float16", provenance=PROVENANCE)
    before = (root / fingerprint / "zarr.json").read_bytes()
    assert fingerprint == plain
    create_settings_group(root, settings, dim=5, dtype="float16", provenance={"model": "other"})
    assert (root / fingerprint / "zarr.json").read_bytes() == before
    assert FeatureStore(root, fingerprint).provenance == PROVENANCE


def test_a_group_without_width_gets_provenance_with_its_first_features(root, settings):
    fingerprint = create_settings_group(root, settings, dim=None, dtype="float32")
    assert FeatureStore(root, fingerprint).provenance == {}
    create_settings_group(root, settings, dim=5, dtype="float16", provenance=PROVENANCE)
    assert FeatureStore(root, fingerprint).provenance == PROVENANCE


def test_each_part_records_the_versions_of_its_rows(root, write, versioned, row):
    store = write(
        root,
        [versioned("a", NEW), versioned("b", NEW)],
        [versioned("c", OLD), versioned("d", NEW)],
        [row("e")],
    )
    assert [part.get("versions") for part in part_attributes(store)] == [[NEW], [OLD, NEW], None]
    assert list(part_attributes(store)[0]["versions"][0]) == ["av", "torch"]
    assert store.versions() == [dict(sorted(NEW.items())), dict(sorted(OLD.items())), {}]


def test_compacting_keeps_known_and_unknown_versions(root, write, versioned, row):
    store = write(root, [versioned("a", OLD)], [row("b")], [versioned("c", NEW)], [versioned("d", OLD)])
    with StoreWriter(root, store.fingerprint) as writer:
        compact(writer, part_size=1024)
    (part,) = part_attributes(store)
    assert part["versions"] == [OLD, {}, NEW]
    assert not list(verify_store(root).damage)
    assert len(FeatureStore(root, store.fingerprint)) == 4


def test_a_store_without_provenance_is_read_and_compacted(root, write, row):
    store = write(root, [row("a")], [row("b")])
    assert (store.provenance, store.versions()) == ({}, [])
    with StoreWriter(root, store.fingerprint) as writer:
        compact(writer, part_size=1024)
    assert "versions" not in part_attributes(store)[0]


def test_packed_rows_keep_their_versions(versioned, row):
    rows = [versioned("a", OLD), row("b")]
    assert [each.versions for each in unpack_rows(pack_rows(rows))] == [OLD, {}]


@pytest.mark.parametrize("versions", ["torch", [["torch", "2"]]])
def test_versions_that_are_not_objects_raise_store_error(root, write, versioned, versions):
    store = write(root, [versioned("a", NEW)])
    path = store.folder / part_names(store.folder)[0] / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["versions"] = versions
    path.write_text(json.dumps(document))
    name = f"part-000000-{sha256_text(json.dumps(document['attributes']))[:8]}"  # as if another program had written it
    part = path.parent.rename(store.folder / name)
    with pytest.raises(StoreError, match="`versions`") as caught:
        FeatureStore(root, store.fingerprint)
    assert str(part) in caught.value.message


def test_provenance_that_is_not_an_object_raises_store_error(root, settings):
    fingerprint = create_settings_group(root, settings, dim=5, dtype="float16", provenance=PROVENANCE)
    path = root / fingerprint / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["provenance"] = "a/b"
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="`provenance`"):
        FeatureStore(root, fingerprint)


def test_list_store_includes_provenance_and_versions(root, settings, versioned):
    fingerprint = create_settings_group(root, settings, dim=5, dtype="float16", provenance=PROVENANCE)
    with StoreWriter(root, fingerprint) as writer:
        writer.append([versioned("a", NEW)])
    make_current(root, fingerprint)
    (holding,) = list_store(root)
    assert holding.versions == [dict(sorted(NEW.items()))]
    assert format_provenance(holding.provenance) == "model a/b, commit ab12ab12ab12, preprocessing.resize [2, 3]"
