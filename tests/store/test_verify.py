"""Tests of verifying stores and moving damaged parts out of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from ecmf_pipeline.core.errors import MissingInput, StoreError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.store import FeatureStore, StoreWriter, make_current
from ecmf_pipeline.store.damage import Kind, damaged_folder
from ecmf_pipeline.store.format import PartAttributes, spool_folder, write_part
from ecmf_pipeline.store.verify import mend, verify_store
from ecmf_pipeline.store.writer import pack_rows


@pytest.fixture
def store(root, row, write) -> FeatureStore:
    """A store of three parts with four clips each."""
    return write(root, *([row(f"c{part}{clip}") for clip in range(4)] for part in range(3)))


def parts_of(store: FeatureStore) -> list[Path]:
    return sorted(store.folder.glob("part-*"))


def kinds(root: Path, **options: Any) -> list[Kind]:
    return [finding.kind for finding in verify_store(root, **options).findings]


def digest_lookup(digests: dict[str, str | None]) -> Callable[..., dict[str, str | None]]:
    """Return a digest lookup that always returns ``digests``."""
    return lambda _settings, _newest: digests


def flip_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def replace_array(folder: Path, values: np.ndarray) -> None:
    shutil.rmtree(folder)
    zarr.open_group(folder.parent, mode="a").create_array(
        folder.name,
        data=values,
        chunks=values.shape,
        compressors=[zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


def write_extra_part(store: FeatureStore, attributes: PartAttributes, values: np.ndarray) -> None:
    write_part(store.folder, 7, attributes, {"values": values}, staging=store.root.parent)


def test_an_intact_store_has_no_findings(store):
    verification = verify_store(store.root, digest_lookup(dict.fromkeys(store.newest(), "d")))
    assert verification.findings == []
    assert (verification.parts, verification.clips) == (3, 12)
    files = [path for part in parts_of(store) for path in part.rglob("*") if path.is_file()]
    assert verification.bytes == sum(path.stat().st_size for path in files)


DAMAGES: dict[str, tuple[Kind, Callable[[Path], object]]] = {
    "a flipped bit": (Kind.CORRUPTED_CHUNK, lambda part: flip_bit(part / "values/c/0/0", 33)),
    "a flipped bit of a side array": (Kind.CORRUPTED_CHUNK, lambda part: flip_bit(part / "times/c/0", 3)),
    "a missing chunk": (Kind.MISSING_CHUNK, lambda part: (part / "values/c/0/0").unlink()),
    "a truncated chunk": (
        Kind.TRUNCATED_CHUNK,
        lambda part: (part / "values/c/0/0").write_bytes((part / "values/c/0/0").read_bytes()[:50]),
    ),
    "an empty chunk": (Kind.TRUNCATED_CHUNK, lambda part: (part / "values/c/0/0").write_bytes(b"")),
    "a truncated document of an array": (
        Kind.ARRAY,
        lambda part: (part / "values/zarr.json").write_bytes((part / "values/zarr.json").read_bytes()[:100]),
    ),
    "a missing document of an array": (Kind.ARRAY, lambda part: (part / "times/zarr.json").unlink()),
    "a truncated document of a part": (
        Kind.ATTRIBUTES,
        lambda part: (part / "zarr.json").write_text('{"attributes": {'),
    ),
    "a missing part document": (Kind.ATTRIBUTES, lambda part: (part / "zarr.json").unlink()),
    "a changed letter of a clip id": (
        Kind.ATTRIBUTES,
        lambda part: (part / "zarr.json").write_text((part / "zarr.json").read_text().replace("c10", "c18")),
    ),
    "a missing attribute": (
        Kind.ATTRIBUTES,
        lambda part: edit_json(part / "zarr.json", lambda document: document["attributes"].pop("length")),
    ),
    "no values": (Kind.EMPTY, lambda part: shutil.rmtree(part / "values")),
    "too few rows": (Kind.SHAPE, lambda part: replace_array(part / "values", np.ones((11, 5), np.float16))),
    "a side array of another length": (
        Kind.SHAPE,
        lambda part: replace_array(part / "times", np.ones(13, np.float32)),
    ),
    "another width": (Kind.SHAPE, lambda part: replace_array(part / "values", np.ones((12, 6), np.float16))),
    "another type": (Kind.SHAPE, lambda part: replace_array(part / "values", np.ones((12, 5), np.float32))),
    "another array": (Kind.ARRAY, lambda part: replace_array(part / "values", np.ones((12, 5), np.float16))),
    "no side array": (Kind.ATTRIBUTES, lambda part: shutil.rmtree(part / "times")),
    "NaN": (Kind.NOT_FINITE, lambda part: replace_array(part / "values", np.full((12, 5), np.nan, np.float16))),
}


@pytest.mark.parametrize(("kind", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_moved_out_of_the_store(store, row, kind, damage):
    part = parts_of(store)[1]
    damage(part)
    verification = verify_store(store.root)
    (finding,) = verification.damage
    assert finding.kind is kind
    assert part in [finding.path, *finding.path.parents]
    assert finding.movable == part
    assert finding.clips in {4, None}
    assert finding.command == f"ecmf-pipe store verify --mend {store.root} && ecmf-pipe extract --modality face"
    moved = mend(verification, {})
    assert list(moved) == [part]
    assert moved[part].is_dir()
    assert damaged_folder(store.root) in moved[part].parents
    assert not verify_store(store.root).damage
    # Only the clips of that part are computed again.
    reopened = FeatureStore(store.root, store.fingerprint)
    assert {clip_id for clip_id in store.newest() if not reopened.holds(clip_id, "d")} == {"c10", "c11", "c12", "c13"}
    with StoreWriter(store.root, store.fingerprint) as writer:
        writer.append([row(clip_id) for clip_id in ("c10", "c11", "c12", "c13")])
    assert len(FeatureStore(store.root, store.fingerprint)) == 12


def test_a_part_of_other_settings_is_foreign(store):
    attributes = PartAttributes("0123456789ab", ["x"], ["d"], [1])
    write_extra_part(store, attributes, np.ones((1, 5), np.float16))
    (finding,) = verify_store(store.root).damage
    assert finding.kind is Kind.FOREIGN
    assert "0123456789ab" in finding.message
    assert finding.clips == 1


@pytest.mark.parametrize(("kind", "clips", "length"), [(Kind.EMPTY, [], []), (Kind.ATTRIBUTES, ["x"], [0])])
def test_a_part_without_rows_is_damage(store, kind, clips, length):
    part = parts_of(store)[2]
    document = PartAttributes(store.fingerprint, clips, ["d"] * len(clips), length).document()
    edit_json(part / "zarr.json", lambda whole: whole.update(attributes=document))
    part.rename(part.with_name(f"part-000009-{sha256_text(json.dumps(document))[:8]}"))
    assert kinds(store.root) == [kind]


def test_a_renamed_settings_group_is_foreign(store):
    store.folder.rename(store.root / "0123456789ab")
    assert kinds(store.root) == [Kind.ROOT, Kind.FOREIGN]
    moved = mend(verify_store(store.root), {})
    assert list(moved) == [store.root / "0123456789ab", store.root / "zarr.json"]


@pytest.mark.parametrize("text", ["", '{"attributes": 3}', '{"attributes": {"ecmf_store": 2}}'])
def test_mend_rewrites_a_damaged_root_document(store, text):
    (store.root / "zarr.json").write_text(text)
    verification = verify_store(store.root)
    assert [finding.kind for finding in verification.findings] == [Kind.ROOT]
    mend(verification, {})
    assert not verify_store(store.root).damage
    assert FeatureStore.open(store.root).newest() == store.newest()


def test_a_missing_or_dangling_root_document_is_damage(store):
    make_current(store.root, "0123456789ab")
    assert kinds(store.root) == [Kind.ROOT]
    (store.root / "zarr.json").unlink()
    assert kinds(store.root) == [Kind.ROOT]


@pytest.mark.parametrize("text", [None, "{", '{"attributes": {}}'])
def test_mend_rewrites_a_damaged_settings_document_if_params_have_the_settings(store, settings, text):
    document = store.folder / "zarr.json"
    before = document.read_text()
    document.unlink() if text is None else document.write_text(text)
    verification = verify_store(store.root)
    assert [finding.kind for finding in verification.damage] == [Kind.SETTINGS]
    assert mend(verification, {}) == {}
    assert kinds(store.root) == [Kind.SETTINGS]
    mend(verification, {store.fingerprint: settings})
    assert document.read_text() == before
    assert not verify_store(store.root).damage


def test_altered_settings_are_damage(store):
    edit_json(
        store.folder / "zarr.json", lambda document: document["attributes"]["settings"].update(media={"frames": 5})
    )
    assert kinds(store.root) == [Kind.SETTINGS]


def test_rows_that_do_not_match_the_manifest_are_notes(root, row, write):
    store = write(
        root, [row("same"), row("edited"), row("gone"), row("pending", digest="old")], [row("edited", digest="new")]
    )
    digests = {"same": "d", "edited": "new", "pending": "new", "muted": None}
    verification = verify_store(store.root, digest_lookup(digests))
    assert not verification.damage
    assert {finding.kind: finding.clips for finding in verification.findings} == {
        Kind.REPLACED: 1,
        Kind.OUTDATED: 1,
        Kind.ABSENT: 1,
    }
    command = next(finding.command for finding in verification.findings if finding.kind is Kind.REPLACED)
    assert command == f"ecmf-pipe store compact {root}"
    assert kinds(store.root) == []  # without a manifest every row counts


def test_duplicate_rows_are_a_note(store):
    part = parts_of(store)[0]
    shutil.copytree(part, part.with_name(part.name.replace("part-000000", "part-000009")))
    (finding,) = verify_store(store.root).findings
    assert (finding.kind, finding.clips) == (Kind.DUPLICATES, 4)


def test_arrays_without_a_checksum_are_a_note(store):
    part = parts_of(store)[0]
    values = zarr.open_array(part / "values", mode="r")[...]
    shutil.rmtree(part / "values")
    zarr.open_group(part).create_array("values", data=values, chunks=values.shape, compressors=None)
    (finding,) = verify_store(store.root).findings
    assert (finding.kind, finding.path, finding.movable) == (Kind.UNCHECKED, part / "values", None)


def test_superseded_parts_that_still_exist_are_a_note(store, row):
    first = parts_of(store)[0]
    rows = [row(f"c0{clip}") for clip in range(4)]
    attributes = PartAttributes(
        store.fingerprint, [row.clip_id for row in rows], ["d"] * 4, [3] * 4, supersedes=[first.name]
    )
    write_extra_part(store, attributes, np.concatenate([row.values for row in rows]).astype(np.float16))
    (finding,) = verify_store(store.root).findings
    assert (finding.kind, finding.path) == (Kind.SUPERSEDED, first)


def test_leftover_batches_are_a_note_and_damaged_ones_are_moved(store, row):
    spool = spool_folder(store.root, store.fingerprint)
    spool.mkdir(parents=True)
    (spool / "run.0.batch").write_bytes(pack_rows([row("x"), row("y")]))
    (finding,) = verify_store(store.root).findings
    assert (finding.kind, finding.clips) == (Kind.LEFTOVERS, 2)
    payload = pack_rows([row("z")])
    (spool / "run.1.batch").write_bytes(payload[: len(payload) // 2])
    verification = verify_store(store.root)
    assert [finding.kind for finding in verification.findings] == [Kind.BATCH, Kind.LEFTOVERS]
    with pytest.raises(StoreError) as caught, StoreWriter(store.root, store.fingerprint):
        pass
    assert caught.value.command == "ecmf-pipe store verify --mend"
    mend(verification, {})
    with StoreWriter(store.root, store.fingerprint) as writer:
        assert writer.adopted == 2
    assert kinds(store.root) == [Kind.SET_ASIDE]


def test_stray_files_are_a_note(store):
    (store.root / "notes").mkdir()
    (store.folder / ".DS_Store").touch()
    assert kinds(store.root) == [Kind.STRAY, Kind.STRAY]


def test_all_damage_is_found_at_once_and_each_part_is_moved_once(store):
    first, second, third = parts_of(store)
    flip_bit(first / "values/c/0/0", 1)
    flip_bit(first / "times/c/0", 1)
    (second / "zarr.json").unlink()
    (third / "times/c/0").unlink()
    verification = verify_store(store.root)
    assert len(verification.damage) == 4
    assert set(mend(verification, {})) == {first, second, third}


def test_moving_a_part_twice_overwrites_nothing(store):
    part = parts_of(store)[0]
    flip_bit(part / "values/c/0/0", 1)
    destination = mend(verify_store(store.root), {})[part]
    shutil.copytree(destination, part)
    assert mend(verify_store(store.root), {})[part] == destination.with_name(f"{destination.name}-2")


def test_a_store_of_a_later_format_raises_store_error(store):
    edit_json(store.root / "zarr.json", lambda document: document["attributes"].update(ecmf_store=99))
    with pytest.raises(StoreError, match="format 99") as caught:
        verify_store(store.root)
    assert caught.value.hint == "update ecmf-pipeline"


def test_a_missing_store_raises_missing_input(tmp_path):
    with pytest.raises(MissingInput):
        verify_store(tmp_path / "face.zarr")


def test_every_flipped_bit_is_found_or_harmless(root, row, write):
    """Some bits of documents have no meaning (fill value, white space); flipping them must not change the features."""
    store = write(root, [row("a", length=2), row("b", length=1)])
    expected = store.load(["a", "b"]).values
    for path in sorted(path for path in store.root.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for position in range(0, len(whole), 7):
            flip_bit(path, position)
            if not verify_store(root).damage:
                assert path.name == "zarr.json"
                reopened = FeatureStore.open(root)
                np.testing.assert_array_equal(reopened.load(["a", "b"]).values, expected)
                assert reopened.newest() == store.newest()
            path.write_bytes(whole)
