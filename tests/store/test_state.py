"""Tests of the summary of a store."""

from __future__ import annotations

import shutil

import pytest

from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.store import StoreWriter, create_settings_group, make_current
from ecmf_pipeline.store.compact import compact
from ecmf_pipeline.store.format import spool_folder
from ecmf_pipeline.store.state import encoder_name, list_store


def test_each_settings_group_is_summarized(root, row, write):
    store = write(root, [row("a", length=2), row("b", digest="old")], [row("b", length=4, digest="new"), row("gone")])
    other = create_settings_group(root, {"encoder": {"type": "other"}}, dim=None, dtype="float32")
    (spool_folder(root, other)).mkdir(parents=True)
    (spool_folder(root, other) / "dead.0.batch").touch()
    holdings = {
        holding.fingerprint: holding
        for holding in list_store(root, lambda *_: {"a": "d", "b": "new", "c": "d", "muted": None})
    }
    first = holdings[store.fingerprint]
    assert (first.encoder, first.is_current, first.dim, first.dtype) == ("test", True, 5, "float16")
    assert (first.clips, first.rows, first.parts, first.damaged, first.leftovers) == (3, 2 + 3 + 4 + 3, 2, 0, 0)
    assert first.bytes == sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())
    assert (first.present, first.wanted) == (2, 3)
    second = holdings[other]
    assert (second.encoder, second.is_current, second.dim, second.parts, second.leftovers) == (
        "other",
        False,
        None,
        0,
        1,
    )
    make_current(root, other)
    assert {holding.fingerprint for holding in list_store(root) if holding.is_current} == {other}


def test_coverage_is_unknown_without_a_manifest(root, row, write):
    write(root, [row("a")])
    (holding,) = list_store(root)
    assert (holding.present, holding.wanted) == (None, None)


def test_damaged_groups_are_summarized_too(root, row, write):
    store = write(root, [row("a")], [row("b")])
    next(store.folder.glob("part-000001-*/zarr.json")).write_text("{")
    (root / "zarr.json").write_text("{")
    (holding,) = list_store(root)
    assert (holding.clips, holding.parts, holding.damaged, holding.is_current) == (1, 1, 1, False)
    (store.folder / "zarr.json").write_text("{")
    (holding,) = list_store(root)
    assert (holding.encoder, holding.dim, holding.dtype, holding.clips) == ("unknown", None, "", 1)


def test_superseded_parts_do_not_count(root, row, write):
    store = write(root, [row("a")], [row("b")])
    first = next(store.folder.glob("part-000000-*"))
    shutil.copytree(first, root.parent / first.name)
    with StoreWriter(root, store.fingerprint) as writer:
        compact(writer, part_size=8)
    (root.parent / first.name).rename(first)  # as if `compact` had been killed before it removed the part
    (holding,) = list_store(root)
    assert (holding.clips, holding.rows, holding.parts) == (2, 6, 1)


def test_an_empty_folder_has_no_groups_and_a_missing_one_is_an_error(tmp_path):
    assert list(list_store(tmp_path)) == []
    with pytest.raises(MissingInput):
        list(list_store(tmp_path / "audio.zarr"))


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        ({"type": "mini_xception", "weights": {"sha256": "0"}}, "mini_xception"),
        ({"type": "transformers_vision", "weights": {"model": "openai/clip-vit", "commit": "0"}}, "clip-vit"),
        ({"type": "transformers_text", "weights": {"files": {}}}, "transformers_text"),
        ({"type": "imported", "name": "hubert"}, "hubert (imported)"),
        (None, "unknown"),
    ],
)
def test_encoder_name_is_short(encoder, name):
    assert encoder_name({"encoder": encoder}) == name
