"""A store on disk: one group for each fingerprint of settings, the immutable parts in it, and the names beside it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import MissingInput, StaleStore, StoreError
from ecmf_pipeline.core.files import fingerprint as fingerprint_of
from ecmf_pipeline.core.files import flush_folder, sha256_text, write_atomic

FORMAT = 2
"""Version of the format; raised when another reader could misread what is written. No other version is read."""

VERIFY_HINT = "`ecmf-pipe store verify` says what is damaged and how to mend it"

_PLAIN_TYPES = {"float16", "float32", "float64", "int16", "int32", "int64"}
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}
_CRC_BYTES = 4


def spool_folder(root: Path, fingerprint: str) -> Path:
    """Where finished batches wait for their part: beside the store, for DVC must not take them for an output."""
    return root.parent / f".{root.name}.spool" / fingerprint


def lock_path(root: Path) -> Path:
    """What the one writer of a store holds."""
    return root.parent / f".{root.name}.lock"


def current_fingerprint(root: Path) -> str | None:
    """The fingerprint of the settings in use, or None when there is no store yet.

    Raises:
        StoreError: When it is damaged, or has another format.
    """
    if not (root / "zarr.json").is_file():
        return None
    attributes = group_attributes(root)
    version, current = attributes.get("ecmf_store"), attributes.get("current")
    if not isinstance(version, int) or not isinstance(current, str):
        raise StoreError(f"{root / 'zarr.json'} is damaged (it does not say `ecmf_store` or `current`)", VERIFY_HINT)
    if version != FORMAT:
        again = f"remove it and run `ecmf-pipe extract --modality {root.stem}`"
        raise StoreError(
            f"{root} has format {version}, this version reads {FORMAT}",
            "update ecmf-pipeline" if version > FORMAT else again,
        )
    return current


def has_fingerprint(root: Path, fingerprint: str) -> bool:
    """Whether there is a store of these settings."""
    return (root / fingerprint / "zarr.json").is_file()


def make_current(root: Path, fingerprint: str) -> None:
    """Name the store of these settings the one that later stages read.

    Raises:
        StoreError: When the store is damaged, or has another format.
    """
    if current_fingerprint(root) != fingerprint:
        write_group(root, {"ecmf_store": FORMAT, "current": fingerprint})


def create_settings_group(
    root: Path,
    settings: Mapping[str, Any],
    *,
    dim: int | None,
    dtype: str,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Make the group that holds the parts of these settings, unless it is there.

    Several workers may do so at once: they write the same bytes.

    Args:
        root: The ``*.zarr`` folder of the modality; groups of other settings in it stay as they are.
        settings: All that changes the numbers, as plain JSON values.
        dim: D; None where no clip has such an input, so that nobody knows it yet.
        dtype: NumPy name of the stored type.
        provenance: Where the features come from, for people to read: it has no part in the fingerprint. A group that
            is there keeps what it says.

    Returns:
        The settings' fingerprint, which is the group's name.

    Raises:
        StaleStore: When the group was made for another D or type.
        StoreError: When the store is damaged, or has another format.
    """
    current_fingerprint(root)  # refuses another format
    fingerprint = fingerprint_of(settings)
    folder = root / fingerprint
    if has_fingerprint(root, fingerprint):
        known = settings_attributes(folder)
        if dim is None or (known["dim"], known["dtype"]) == (dim, dtype):
            return fingerprint
        if known["dim"] is not None:
            raise StaleStore(
                f"{folder} holds {known['dim']} x {known['dtype']} rows, the encoder now gives {dim} x {dtype}",
                "its settings must name what changed; remove the folder to compute it anew",
            )
    attributes = {"fingerprint": fingerprint, "settings": dict(settings), "dim": dim, "dtype": np.dtype(dtype).name}
    write_group(folder, attributes | ({"provenance": dict(provenance)} if provenance else {}))
    return fingerprint


def group_attributes(folder: Path) -> dict[str, Any]:
    """The attributes of a Zarr group.

    Raises:
        MissingInput: When there is no such group.
        StoreError: When it is damaged.
    """
    try:
        document = json.loads((folder / "zarr.json").read_bytes())
        attributes: dict[str, Any] = document["attributes"]
    except FileNotFoundError as error:
        raise MissingInput(f"{folder} is missing", "run `ecmf-pipe extract`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / 'zarr.json'} is damaged ({error})", VERIFY_HINT) from error
    if not isinstance(attributes, dict):
        raise StoreError(f"{folder / 'zarr.json'} is damaged (its attributes are no table)", VERIFY_HINT)
    return attributes


def settings_attributes(folder: Path) -> dict[str, Any]:
    """The attributes of a settings group: ``settings``, ``dim`` (an int or None) and ``dtype`` stand there.

    Raises:
        MissingInput: When there is no such group.
        StoreError: When it is damaged.
    """
    attributes = group_attributes(folder)
    dim, settings = attributes.get("dim"), attributes.get("settings")
    if not isinstance(settings, dict) or not (dim is None or isinstance(dim, int)) or "dim" not in attributes:
        raise StoreError(f"{folder / 'zarr.json'} is damaged (no `settings` or no `dim`)", VERIFY_HINT)
    if not isinstance(attributes.get("provenance", {}), dict):
        raise StoreError(f"{folder / 'zarr.json'} is damaged (its `provenance` is no table)", VERIFY_HINT)
    try:
        np.dtype(attributes.get("dtype", ""))
    except TypeError as error:
        raise StoreError(f"{folder / 'zarr.json'} is damaged ({error})", VERIFY_HINT) from error
    return attributes


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write a Zarr group's document, whole or not at all."""
    document = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    write_atomic(folder / "zarr.json", json.dumps(document, indent=2, sort_keys=True) + "\n")
    flush_folder(folder)
    flush_folder(folder.parent)


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
    """Each combination of versions once, in the order in which they come; none where all are unknown (empty)."""
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
    """Read what a part of the settings group ``fingerprint`` says of its rows.

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


def read_parts(folder: Path, fingerprint: str) -> Parts:
    """Read the attributes of all parts of a settings group; damaged ones hinder nothing."""
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
    """Read an array of one chunk; raises OSError, ValueError, KeyError or TypeError where it is damaged."""
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
