"""What a store says of where its features come from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.store import FeatureStore, StoreWriter, create_settings_group, make_current
from ecmf_pipeline.store.compact import compact
from ecmf_pipeline.store.format import part_names
from ecmf_pipeline.store.state import in_words, list_store
from ecmf_pipeline.store.verify import verify_store
from ecmf_pipeline.store.writer import pack_rows, unpack_rows

OLD, NEW = {"torch": "2.12.0", "av": "17.0"}, {"torch": "2.13.0", "av": "18.1.0"}
PROVENANCE = {"model": "a/b", "commit": "ab12" * 10, "preprocessing": {"resize": [2, 3]}, "versions": NEW}


@pytest.fixture
def made(row):
    """Makes a row that was computed with certain versions."""
    return lambda clip_id, versions: replace(row(clip_id), versions=versions)


def parts(store: FeatureStore) -> list[dict]:
    documents = [json.loads((store.folder / name / "zarr.json").read_text()) for name in part_names(store.folder)]
    return [document["attributes"] for document in documents]


def test_a_group_keeps_what_it_was_made_with_and_its_fingerprint_is_the_same(root, settings):
    plain = create_settings_group(root.with_name("plain.zarr"), settings, dim=5, dtype="float16")
    key = create_settings_group(root, settings, dim=5, dtype="float16", provenance=PROVENANCE)
    before = (root / key / "zarr.json").read_bytes()
    assert key == plain
    create_settings_group(root, settings, dim=5, dtype="float16", provenance={"model": "other"})
    assert (root / key / "zarr.json").read_bytes() == before
    assert FeatureStore(root, key).provenance == PROVENANCE


def test_a_group_made_without_a_width_is_told_where_its_first_features_come_from(root, settings):
    key = create_settings_group(root, settings, dim=None, dtype="float32")
    assert FeatureStore(root, key).provenance == {}
    create_settings_group(root, settings, dim=5, dtype="float16", provenance=PROVENANCE)
    assert FeatureStore(root, key).provenance == PROVENANCE


def test_each_part_says_with_what_its_rows_were_computed(root, write, made, row):
    store = write(root, [made("a", NEW), made("b", NEW)], [made("c", OLD), made("d", NEW)], [row("e")])
    assert [part.get("versions") for part in parts(store)] == [[NEW], [OLD, NEW], None]
    assert list(parts(store)[0]["versions"][0]) == ["av", "torch"]
    assert store.versions() == [dict(sorted(NEW.items())), dict(sorted(OLD.items())), {}]


def test_compacting_keeps_all_of_them_and_that_some_are_unknown(root, write, made, row):
    store = write(root, [made("a", OLD)], [row("b")], [made("c", NEW)], [made("d", OLD)])
    with StoreWriter(root, store.fingerprint) as writer:
        compact(writer, part_size=1024)
    (part,) = parts(store)
    assert part["versions"] == [OLD, {}, NEW]
    assert not list(verify_store(root).damage)
    assert len(FeatureStore(root, store.fingerprint)) == 4


def test_a_store_without_provenance_is_read_and_stays_so(root, write, row):
    store = write(root, [row("a")], [row("b")])
    assert (store.provenance, store.versions()) == ({}, [])
    with StoreWriter(root, store.fingerprint) as writer:
        compact(writer, part_size=1024)
    assert "versions" not in parts(store)[0]


def test_what_a_killed_run_left_keeps_its_own_versions(made, row):
    rows = [made("a", OLD), row("b")]
    assert [each.versions for each in unpack_rows(pack_rows(rows))] == [OLD, {}]


@pytest.mark.parametrize("versions", ["torch", [["torch", "2"]]])
def test_versions_that_are_no_tables_are_damage(root, write, made, versions):
    store = write(root, [made("a", NEW)])
    path = store.folder / part_names(store.folder)[0] / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["versions"] = versions
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="which versions computed it"):
        FeatureStore(root, store.fingerprint)


def test_a_provenance_that_is_no_table_is_damage(root, settings):
    key = create_settings_group(root, settings, dim=5, dtype="float16", provenance=PROVENANCE)
    path = root / key / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["provenance"] = "a/b"
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="`provenance` is no table"):
        FeatureStore(root, key)


def test_a_listing_tells_all_of_it(root, settings, made):
    key = create_settings_group(root, settings, dim=5, dtype="float16", provenance=PROVENANCE)
    with StoreWriter(root, key) as writer:
        writer.append([made("a", NEW)])
    make_current(root, key)
    (holding,) = list_store(root)
    assert holding.versions == [dict(sorted(NEW.items()))]
    assert in_words(holding.provenance) == "model a/b, commit ab12ab12ab12, preprocessing.resize [2, 3]"
