"""Rows and the parts that hold them: immutable, each made aside and renamed into place."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import DTypeLike, NDArray

from ecmf_pipeline.core.errors import MissingInput, StoreError
from ecmf_pipeline.core.files import flush_folder, sha256_text
from ecmf_pipeline.store.format import VERIFY_HINT, group_attributes

_PLAIN_TYPES = {"float16", "float32", "float64", "int16", "int32", "int64"}
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}
_CRC_BYTES = 4


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """The features of one clip.

    Attributes:
        clip_id: The clip.
        digest: Digest of the input they were computed from.
        values: Features, (T, D), T at least 1.
        side: Further arrays with one entry a row (``times``, ``boxes``...), (T,) or (T, k).
        versions: Version of each library that computed them, by name; empty where nobody knows.
    """

    clip_id: str
    digest: str
    values: NDArray[Any]
    side: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def can_hold(values: NDArray[Any], dtype: DTypeLike) -> bool:
    """Whether features are finite, and stay so in the type they are stored in."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(dtype)).all())


def checked(row: FeatureRow, dim: int, dtype: DTypeLike) -> NDArray[Any]:
    """A row's features in the type they are stored in, (T, D).

    Raises:
        ValueError: When their shape does not fit, or they hold a NaN or overflow the type.
    """
    if row.values.ndim != 2 or row.values.shape[1] != dim or len(row.values) == 0:
        raise ValueError(f"{row.clip_id}: features are {row.values.shape}, the store takes (T >= 1, {dim})")
    if not can_hold(row.values, dtype):
        raise ValueError(f"{row.clip_id}: features hold NaN or exceed {np.dtype(dtype)}")
    return row.values.astype(dtype)


def pack_rows(rows: Sequence[FeatureRow]) -> bytes:
    """Rows as the bytes of one ``npz`` file; all must have the same arrays beside their values."""
    about = [[row.clip_id, row.digest, len(row.values), dict(row.versions)] for row in rows]
    arrays: dict[str, Any] = {"values": np.concatenate([row.values for row in rows])}
    for name in rows[0].side:
        arrays[f"side.{name}"] = np.concatenate([np.asarray(row.side[name]) for row in rows])
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def unpack_rows(payload: bytes) -> list[FeatureRow]:
    """The rows that `pack_rows` packed.

    Raises:
        StoreError: When the bytes are damaged (every array in them has a CRC-32).
    """
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("about").tobytes())
        values = arrays.pop("values")
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise StoreError(f"a finished batch is damaged ({error})") from error
    rows, start = [], 0
    for clip_id, digest, length, versions in about:
        span = slice(start, start + length)
        side = {name.removeprefix("side."): array[span] for name, array in arrays.items()}
        rows.append(FeatureRow(clip_id, digest, values[span], side, versions))
        start += length
    return rows


@dataclass(frozen=True, slots=True)
class PartAttributes:
    """What a part says of its rows.

    Attributes:
        fingerprint: Of the settings its features were computed with.
        clip_id: The clip of each entry.
        digest: Digest of the input of each entry.
        length: How many rows each entry has, at least 1.
        supersedes: Names of parts that this one replaces: where they still stand, they do not count.
        versions: With which versions of which libraries its rows were computed: each combination once, as they come;
            an empty one stands for rows of which nobody knows. Nothing at all: nobody knows of any.
    """

    fingerprint: str
    clip_id: Sequence[str]
    digest: Sequence[str]
    length: Sequence[int]
    supersedes: Sequence[str] = ()
    versions: Sequence[Mapping[str, str]] = ()

    def document(self) -> dict[str, Any]:
        """The attributes as they stand in ``zarr.json``."""
        document: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "clip_id": list(self.clip_id),
            "digest": list(self.digest),
            "length": list(self.length),
        }
        if self.supersedes:
            document["supersedes"] = list(self.supersedes)
        if self.versions:
            document["versions"] = [dict(sorted(versions.items())) for versions in self.versions]
        return document


def all_versions(versions: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Each combination of versions once, in the order in which they come; none where all are unknown.

    Args:
        versions: Of rows, or of parts; empty where nobody knows.
    """
    distinct: list[dict[str, str]] = []
    for one in versions:
        if dict(one) not in distinct:
            distinct.append(dict(one))
    return distinct if any(distinct) else []


def part_names(folder: Path) -> list[str]:
    """The names of a settings group's parts, in their order."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.name.startswith("part-") and entry.is_dir())
    except FileNotFoundError:
        return []


def part_number(name: str) -> int:
    """The number in a part's name.

    Raises:
        StoreError: When it is not a part's name.
    """
    try:
        return int(name.split("-")[1])
    except (IndexError, ValueError) as error:
        raise StoreError(f"{name} is not the name of a part", "remove that folder") from error


def read_attributes(folder: Path, fingerprint: str) -> PartAttributes:
    """Read what a part says of its rows.

    Args:
        folder: The part.
        fingerprint: Of the settings group it stands in.

    Raises:
        FileNotFoundError: When the part is gone (it was merged into another meanwhile).
        StoreError: When it is damaged, or was made with other settings.
    """
    try:
        attributes = group_attributes(folder)
    except MissingInput as error:
        if not folder.is_dir():
            raise FileNotFoundError(folder) from error
        raise StoreError(f"{folder / 'zarr.json'} is missing", VERIFY_HINT) from error
    try:
        part = PartAttributes(
            attributes["fingerprint"],
            attributes["clip_id"],
            attributes["digest"],
            attributes["length"],
            attributes.get("supersedes", ()),
            attributes.get("versions", ()),
        )
    except KeyError as error:
        raise StoreError(f"{folder} has no attribute {error}", VERIFY_HINT) from error
    if part.fingerprint != fingerprint:
        raise StoreError(
            f"{folder} was made with other settings ({part.fingerprint})",
            "features of different settings must not mix: move that folder away (see `ecmf-pipe store verify`)",
        )
    if not len(part.clip_id) == len(part.digest) == len(part.length):
        raise StoreError(f"{folder} names clips, digests and lengths of different number", VERIFY_HINT)
    if not isinstance(part.versions, list | tuple) or not all(isinstance(one, dict) for one in part.versions):
        raise StoreError(f"{folder} does not say by tables which versions computed it", VERIFY_HINT)
    return part


@dataclass(frozen=True)
class Parts:
    """What the parts of a settings group say of their rows.

    Attributes:
        sound: Those that count and can be read, in order.
        superseded: Those that were merged into another and still stand.
        damaged: Those whose attributes cannot be read, and why.
    """

    sound: dict[str, PartAttributes] = field(default_factory=dict)
    superseded: list[str] = field(default_factory=list)
    damaged: dict[str, StoreError] = field(default_factory=dict)

    def newest(self) -> dict[str, str]:
        """For each clip, the digest of its newest row."""
        return {
            clip_id: digest
            for part in self.sound.values()
            for clip_id, digest in zip(part.clip_id, part.digest, strict=True)
        }

    def versions(self) -> list[dict[str, str]]:
        """The combinations of library versions that computed the rows; an empty one where some are unknown."""
        return all_versions(chain.from_iterable(part.versions or [{}] for part in self.sound.values()))

    def without(self, names: Iterable[str]) -> Parts:
        """The same but for some parts that count."""
        gone = set(names)
        sound = {name: part for name, part in self.sound.items() if name not in gone}
        return Parts(sound, self.superseded, self.damaged)


def read_parts(folder: Path, fingerprint: str) -> Parts:
    """Read the attributes of all parts of a settings group; damaged ones hinder nothing.

    Args:
        folder: The settings group.
        fingerprint: Of its settings.
    """
    parts = Parts()
    for name in part_names(folder):
        try:
            parts.sound[name] = read_attributes(folder / name, fingerprint)
        except StoreError as error:
            parts.damaged[name] = error
        except FileNotFoundError:
            continue  # merged into another since we saw its name
    replaced = {old for part in parts.sound.values() for old in part.supersedes}
    parts.superseded.extend(name for name in parts.sound if name in replaced)
    for name in parts.superseded:
        del parts.sound[name]
    return parts


def array_names(folder: Path) -> list[str]:
    """The arrays of a part."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def read_array(folder: Path) -> NDArray[Any]:
    """Read one array of a part whole, its bytes checked by their CRC-32C.

    Raises:
        FileNotFoundError: When the part is gone (it was merged into another meanwhile).
        StoreError: When it cannot be read, or its chunk is missing (which Zarr itself would read as zeros).
    """
    try:
        return _read_chunk(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not folder.parent.is_dir():
            raise FileNotFoundError(folder) from error
        if isinstance(error, FileNotFoundError):
            raise StoreError(f"{error.filename or folder} is missing", VERIFY_HINT) from error
        raise StoreError(f"{folder} cannot be read ({error})", VERIFY_HINT) from error


def _read_chunk(folder: Path) -> NDArray[Any]:
    """Read an array of one chunk.

    Raises:
        FileNotFoundError: When its document or its chunk is not there (Zarr itself would read zeros).
        OSError, ValueError, KeyError, TypeError: When it is damaged.
    """
    document = json.loads((folder / "zarr.json").read_bytes())
    if not _is_plain(document):
        return _read_by_zarr(folder)
    dtype = np.dtype(document["data_type"]).newbyteorder("<")
    shape = tuple(document["shape"])
    data = np.fromfile(folder.joinpath("c", *["0"] * len(shape)), np.uint8)
    expected = dtype.itemsize * int(np.prod(shape)) + _CRC_BYTES
    if len(data) != expected:
        raise ValueError(f"its chunk has {len(data)} of {expected} bytes")
    data, stored = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if google_crc32c.value(data) != int.from_bytes(stored.tobytes(), "little"):
        raise ValueError("its chunk is not what was written: the CRC-32C differs")
    values: NDArray[Any] = data.view(dtype).reshape(shape)
    return values


def _is_plain(document: dict[str, Any]) -> bool:
    """Whether an array has the one form that we write."""
    return bool(
        document["zarr_format"] == 3
        and document["node_type"] == "array"
        and document["data_type"] in _PLAIN_TYPES
        and document["chunk_grid"] == {"name": "regular", "configuration": {"chunk_shape": document["shape"]}}
        and document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and document["codecs"] == [_LITTLE_ENDIAN, _CRC32C]
        and not document.get("storage_transformers")
    )


def _read_by_zarr(folder: Path) -> NDArray[Any]:
    import zarr  # takes longer to load than a run with nothing to do

    array = zarr.open_array(folder, mode="r")
    if array.nchunks != 1:
        raise ValueError(f"it has {array.nchunks} chunks, the arrays of a part have one")
    values = np.asarray(array[...])
    chunk = folder / array.metadata.encode_chunk_key((0,) * array.ndim)
    if not chunk.is_file():  # asked afterwards: a part that is moved away while it is read must not read as zeros
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(chunk))
    return values


def write_part(
    folder: Path, number: int, attributes: PartAttributes, arrays: Mapping[str, NDArray[Any]], *, aside: Path
) -> str:
    """Write a part, whole or not at all.

    Args:
        folder: The settings group it goes into.
        number: Its place in the order of parts.
        attributes: What it says of its rows.
        arrays: ``values`` and those beside it, one entry a row each.
        aside: A folder on the same file system in which it is made.

    Returns:
        Its name, which follows from its number and its rows.
    """
    import zarr  # takes longer to load than a run with nothing to do
    from zarr.codecs import Crc32cCodec

    document = attributes.document()
    name = f"part-{number:06d}-{sha256_text(json.dumps(document))[:8]}"
    if (folder / name).is_dir():
        return name  # the very same rows stand there already
    unfinished = aside / f"part-{uuid.uuid4().hex}"
    try:
        group = zarr.create_group(unfinished, attributes=document)
        for array_name, array in arrays.items():
            group.create_array(
                array_name,
                data=array,
                chunks=array.shape,
                compressors=[Crc32cCodec()],  # measured: ADR 4
                config={"write_empty_chunks": True},  # a chunk that is not there was lost, and is not "all zero"
            )
        _flush(unfinished)
        flush_folder(unfinished)
        unfinished.rename(folder / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # there is something only where the above failed
    flush_folder(folder)
    return name


def _flush(folder: Path) -> None:
    """Hand every file of a part to the disk before the part is renamed into place."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            flush_folder(path)
