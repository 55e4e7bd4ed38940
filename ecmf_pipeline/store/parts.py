"""Parts: immutable, each made aside and renamed into place."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import MissingInput, StoreError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.runner.spool import flush_folder
from ecmf_pipeline.store.format import VERIFY_HINT, group_attributes

_PLAIN_TYPES = {"float16", "float32", "float64", "int16", "int32", "int64"}
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}
_CRC_BYTES = 4
_BLOCK = 1 << 16
"""Elements that are widened at once: they stay in a core's cache between the steps."""


def read_whole(folder: Path) -> NDArray[Any]:
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
    has_crc = _CRC32C in document["codecs"]
    data = np.fromfile(folder.joinpath("c", *["0"] * len(shape)), np.uint8)
    expected = dtype.itemsize * int(np.prod(shape)) + _CRC_BYTES * has_crc
    if len(data) != expected:
        raise ValueError(f"its chunk has {len(data)} of {expected} bytes")
    if has_crc:
        data, stored = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
        if google_crc32c.value(data) != int.from_bytes(stored.tobytes(), "little"):
            raise ValueError("its chunk is not what was written: the CRC-32C differs")
    values: NDArray[Any] = data.view(dtype).reshape(shape)
    return values


def widen(values: NDArray[Any], out: NDArray[np.float32]) -> None:
    """Write features as float32.

    Args:
        values: Of any type.
        out: Where they go, of the same shape, contiguous.
    """
    if values.dtype != np.float16 or not values.flags.c_contiguous or _has_odd_ones(values):
        out[...] = values
        return
    halves, floats = values.reshape(-1).view(np.int16), out.reshape(-1)
    bits = floats.view(np.int32)
    for start in range(0, len(halves), _BLOCK):
        block = bits[start : start + _BLOCK]
        block[...] = halves[start : start + _BLOCK]  # the sign now fills the upper half
        np.left_shift(block, 13, out=block)  # 10 bits of mantissa become 23
        np.bitwise_and(block, np.int32(-0x7000_2000), out=block)  # sign, 5 bits of exponent, mantissa
        # The exponents' biases are 15 and 127; the product is exact, for subnormal numbers too.
        np.multiply(floats[start : start + _BLOCK], np.float32(2.0**112), out=floats[start : start + _BLOCK])


def _has_odd_ones(values: NDArray[Any]) -> bool:
    """Whether float16 values hold NaN or infinity (all bits of the exponent set)."""
    return bool(values.size) and int((values.view(np.uint16) << 1).max()) >= 0xF800


def _is_plain(document: dict[str, Any]) -> bool:
    """Whether an array has the one form that we write."""
    return bool(
        document["zarr_format"] == 3
        and document["node_type"] == "array"
        and document["data_type"] in _PLAIN_TYPES
        and document["chunk_grid"] == {"name": "regular", "configuration": {"chunk_shape": document["shape"]}}
        and document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and document["codecs"] in ([_LITTLE_ENDIAN], [_LITTLE_ENDIAN, _CRC32C])
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
            attributes.get("fingerprint", fingerprint),  # parts of format 1 do not say
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
        return read_whole(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not folder.parent.is_dir():
            raise FileNotFoundError(folder) from error
        if isinstance(error, FileNotFoundError):
            raise StoreError(f"{error.filename or folder} is missing", VERIFY_HINT) from error
        raise StoreError(f"{folder} cannot be read ({error})", VERIFY_HINT) from error


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
