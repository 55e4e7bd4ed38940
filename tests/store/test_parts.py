"""Tests of parts: the files on disk, and reading damaged ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from ecmf_pipeline.core.errors import StoreError
from ecmf_pipeline.store import FeatureRow, FeatureStore
from ecmf_pipeline.store.format import array_identity, part_number, read_array


def values_chunk(part: Path) -> Path:
    return part / "values" / "c" / "0" / "0"


def flip_bit(part: Path) -> None:
    data = bytearray(values_chunk(part).read_bytes())
    data[7] ^= 1
    values_chunk(part).write_bytes(data)


def truncate_chunk(part: Path) -> None:
    values_chunk(part).write_bytes(values_chunk(part).read_bytes()[:-9])


def empty_chunk(part: Path) -> None:
    values_chunk(part).write_bytes(b"")


def extend_chunk(part: Path) -> None:
    values_chunk(part).write_bytes(values_chunk(part).read_bytes() + b"\0" * 4)


def write_too_few_rows(part: Path) -> None:
    shutil.rmtree(part / "values")
    values = np.ones((2, 5), np.float16)
    zarr.open_group(part).create_array("values", data=values, chunks=values.shape, compressors=None)


def write_other_width(part: Path) -> None:
    shutil.rmtree(part / "values")
    values = np.ones((3, 6), np.float16)
    zarr.open_group(part).create_array("values", data=values, chunks=values.shape, compressors=None)


def write_several_chunks(part: Path) -> None:
    shutil.rmtree(part / "values")
    values = np.ones((3, 5), np.float16)
    zarr.open_group(part).create_array("values", data=values, chunks=(1, 5), compressors=None)


@pytest.mark.parametrize(
    "damage",
    [
        lambda part: values_chunk(part).unlink(),
        lambda part: shutil.rmtree(part / "values"),
        lambda part: (part / "values" / "zarr.json").write_text("{"),
        lambda part: (part / "values" / "zarr.json").write_text("{}"),
        flip_bit,
        truncate_chunk,
        empty_chunk,
        extend_chunk,
        write_too_few_rows,
        write_other_width,
        write_several_chunks,
    ],
    ids=["chunk", "array", "no json", "no array", "bit", "cut", "empty", "longer", "rows", "width", "chunks"],
)
@pytest.mark.parametrize("value", [None, 0.0], ids=["values", "zeros"])
def test_reading_a_damaged_array_raises_an_error_with_its_part(root, row, write, damage, value):
    store = write(root, [row("a", value=value)], [row("b", value=value)])
    part = next(store.folder.glob("part-000000-*"))
    damage(part)
    for read in (store.load, store.load_sequences, lambda clip_ids: store.row(*clip_ids)):
        with pytest.raises(StoreError, match=part.name) as caught:
            read(["a"])
        assert caught.value.command == "ecmf-pipe store verify"
    assert store.load(["b"]).present.all()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"attributes": {}}',
        '{"attributes": {"clip_id": ["a"], "digest": ["d"], "length": [1]}}',
        '{"attributes": {"fingerprint": "FINGERPRINT", "clip_id": ["a"], "digest": [], "length": [1]}}',
        None,
    ],
)
def test_damaged_attributes_of_a_part_raise_an_error_with_its_name(root, row, write, text):
    store = write(root, [row("a")])
    document = next(store.folder.glob("part-*")) / "zarr.json"
    if text is None:
        document.unlink()
    else:
        document.write_text(text.replace("FINGERPRINT", store.fingerprint))
    with pytest.raises(StoreError, match=document.parent.name):
        FeatureStore.open(root)


def test_a_part_of_other_settings_raises_store_error(root, row, write):
    store = write(root, [row("a")])
    part = next(store.folder.glob("part-*"))
    document = json.loads((part / "zarr.json").read_text())
    document["attributes"]["fingerprint"] = "0123456789ab"
    (part / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError) as caught:
        FeatureStore.open(root)
    assert str(part) in caught.value.message
    assert "0123456789ab" in caught.value.message


def test_zeros_are_written_to_the_chunk(root, row, write):
    store = write(root, [row("a", value=0)])
    part = next(store.folder.glob("part-*"))
    assert values_chunk(part).stat().st_size == 3 * 5 * 2 + 4
    assert (store.load(["a"]).values == 0).all()


def test_a_part_has_three_files_and_two_per_side_array(root, row, write):
    store = write(root, [row(f"c{i}") for i in range(50)])
    part = next(store.folder.glob("part-*"))
    assert sorted(str(path.relative_to(part)) for path in part.rglob("*") if path.is_file()) == [
        "times/c/0",
        "times/zarr.json",
        "values/c/0/0",
        "values/zarr.json",
        "zarr.json",
    ]


@pytest.mark.parametrize(
    "codecs",
    [
        {"compressors": None},
        {"compressors": [zarr.codecs.ZstdCodec()]},
        {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
        {"compressors": [zarr.codecs.BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=2)]},
    ],
    ids=["none", "zstd", "zstd+crc", "blosc"],
)
def test_arrays_with_other_codecs_are_read_by_zarr(root, codecs):
    values = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float16)
    zarr.create_array(root, data=values, chunks=values.shape, **codecs)
    np.testing.assert_array_equal(read_array(root), values)
    chunk = root / "c" / "0" / "0"
    chunk.unlink()
    with pytest.raises(StoreError, match="does not exist") as caught:
        read_array(root)
    assert str(chunk) in caught.value.message


def test_zarr_reads_a_store_without_this_package(root, row, write, settings):
    store = write(root, [row("a", length=2, value=1), row("b", length=3, value=2)])
    group = zarr.open_group(root, mode="r")
    assert group.attrs["ecmf_store"] == 2
    current = group[group.attrs["current"]]
    (part,) = [member for name, member in current.members() if name.startswith("part-")]
    assert dict(part.attrs) == {
        "fingerprint": store.fingerprint,
        "clip_id": ["a", "b"],
        "digest": ["d", "d"],
        "length": [2, 3],
        "arrays": {name: array_identity(part[name][...]) for name in ("times", "values")},
    }
    assert part["values"][:, 0].tolist() == [1, 1, 2, 2, 2]
    assert dict(current.attrs) == {
        "fingerprint": store.fingerprint,
        "settings": settings,
        "dim": 5,
        "dtype": "float16",
    }


def test_the_same_rows_give_the_same_bytes(tmp_path, row, write):
    def bytes_of(folder: Path) -> dict[str, bytes]:
        write(folder / "face.zarr", [row(f"c{i}") for i in range(7)], [row("c9")])
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.zarr/**/*") if path.is_file()
        }

    first = bytes_of(tmp_path / "first")
    assert len(first) == 12
    assert first == bytes_of(tmp_path / "second")


def test_part_number_raises_store_error_for_other_names():
    assert part_number("part-000012-5c1d0e9a") == 12
    with pytest.raises(StoreError, match="part-x"):
        part_number("part-x")


def test_append_of_invalid_rows_raises_an_error_with_the_clip(root, write):
    for invalid in (
        FeatureRow("a", "d", np.zeros((2, 4), np.float32)),
        FeatureRow("a", "d", np.zeros((0, 5), np.float32)),
        FeatureRow("a", "d", np.full((1, 5), np.nan, np.float32)),
        FeatureRow("a", "d", np.full((1, 5), 1e6, np.float32)),  # overflows float16
    ):
        with pytest.raises(ValueError, match=r"^a: "):
            write(root, [invalid])
        assert not list(root.rglob("part-*"))
