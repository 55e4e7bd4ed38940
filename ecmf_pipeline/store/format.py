"""The store on disk: read and write settings groups, parts and their arrays."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import ShortRepr
from ecmf_pipeline.core.errors import MissingInput, StaleStore, StoreError
from ecmf_pipeline.core.files import StrPath, flush_folder, parse_json, sha256_text, write_atomic
from ecmf_pipeline.core.files import fingerprint as fingerprint_of

FORMAT = 2
"""Version of the format; raised if an older reader could misread new stores. Other versions are not read."""

_PLAIN_TYPES = {"float16", "float32", "float64", "int16", "int32", "int64"}
_LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}
_CRC_BYTES = 4


def damage_error(message: str) -> StoreError:
    """Return the error of a damaged store, with the command that lists the damage."""
    return StoreError(message, "list the damage and how to repair it", command="ecmf-pipe store verify")


def spool_folder(root: Path, fingerprint: str) -> Path:
    """Return the folder of finished batches that are not yet in a part.

    It is next to the store, because DVC would track it as an output inside the store.
    """
    return root.parent / f".{root.name}.spool" / fingerprint


def lock_path(root: Path) -> Path:
    """Return the path of the file that the single writer of a store locks."""
    return root.parent / f".{root.name}.lock"


def current_fingerprint(root: StrPath) -> str | None:
    """Return the fingerprint of the settings in use (of several, the first), or None if there is no store yet.

    Raises:
        StoreError: If the store is damaged or has another format.
    """
    return next(iter(current_fingerprints(root)), None)


def current_fingerprints(root: StrPath) -> list[str]:
    """Return the fingerprints of the settings in use, one for each encoder of the modality; none without a store.

    Raises:
        StoreError: If the store is damaged or has another format.
    """
    root = Path(root)
    if not (root / "zarr.json").is_file():
        return []
    attributes = group_attributes(root)
    version, current = attributes.get("ecmf_store"), attributes.get("current")
    names = [current] if isinstance(current, str) else current
    if not isinstance(version, int) or not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise damage_error(f"{root / 'zarr.json'} is damaged (no attribute `ecmf_store` or no attribute `current`)")
    if version > FORMAT:
        raise StoreError(
            f"{root} has format {version}, this version of ecmf-pipeline reads format {FORMAT}",
            "update ecmf-pipeline",
        )
    if version < FORMAT:
        raise StoreError(
            f"{root} has format {version}, this version of ecmf-pipeline reads format {FORMAT}",
            "remove it, then compute the features again",
            command=f"ecmf-pipe extract --modality {root.stem}",
        )
    return names


def has_fingerprint(root: StrPath, fingerprint: str) -> bool:
    """Return whether the store has a group for these settings."""
    return (Path(root) / fingerprint / "zarr.json").is_file()


def make_current(root: StrPath, fingerprint: str, in_use: Sequence[str] = ()) -> None:
    """Make these settings ones that later stages read.

    Args:
        root: The store.
        fingerprint: Fingerprint of the settings.
        in_use: Fingerprints of all encoders of the modality, in order. Those that are current already stay so.

    Raises:
        StoreError: If the store is damaged or has another format.
    """
    before = current_fingerprints(root)
    names = [name for name in in_use if name in before or name == fingerprint] or [fingerprint]
    if names != before:
        write_group(Path(root), {"ecmf_store": FORMAT, "current": names[0] if len(names) == 1 else names})


def create_settings_group(
    root: StrPath,
    settings: Mapping[str, Any],
    *,
    dim: int | None,
    dtype: str,
    columns: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Create the group that holds the parts of these settings, unless it exists.

    Several workers may call this at the same time: they write the same bytes.

    Args:
        root: The ``*.zarr`` folder of the modality; groups of other settings are left unchanged.
        settings: All settings that change the numbers, as plain JSON values.
        dim: D; None if it is unknown because no clip has an input of this modality.
        dtype: NumPy name of the stored type.
        columns: Names of the D columns, "" for a column without a name; None: no column has one. Like the provenance,
            they are not part of the fingerprint, and an existing group keeps those it has.
        provenance: Origin of the features, for people to read.

    Returns:
        The fingerprint of the settings, which is the name of the group.

    Raises:
        StaleStore: If the group exists with another D or type.
        StoreError: If the store is damaged or has another format.
        ValueError: If there is not one name for each column.
    """
    root = Path(root)
    current_fingerprint(root)  # raises if the store has another format
    fingerprint = fingerprint_of(settings)
    folder = root / fingerprint
    if has_fingerprint(root, fingerprint):
        stored = settings_attributes(folder)
        if dim is None or (stored["dim"], stored["dtype"]) == (dim, dtype):
            return fingerprint
        if stored["dim"] is not None:
            raise StaleStore(
                f"{folder} holds {stored['dim']} x {stored['dtype']} rows, the encoder now returns {dim} x {dtype}",
                "the settings must include what changed in the encoder; to compute the features again, remove the "
                "folder, also from .ecmf",
                command=f"rm -r {folder} && ecmf-pipe cache gc --all {folder}",
            )
    attributes: dict[str, Any] = {"fingerprint": fingerprint, "settings": dict(settings), "dim": dim}
    attributes["dtype"] = np.dtype(dtype).name
    if columns is not None and any(columns):
        if len(columns) != dim:
            raise ValueError(f"{len(columns)} names for {dim} columns")
        attributes["columns"] = list(columns)
    write_group(folder, attributes | ({"provenance": dict(provenance)} if provenance else {}))
    return fingerprint


_MAX_DIM = 2**20
"""Maximum width of features; the memory of a damaged width would not suffice."""


def group_attributes(folder: Path) -> dict[str, Any]:
    """Return the attributes of a Zarr group.

    Raises:
        MissingInput: If there is no such group.
        StoreError: If its document is damaged.
    """
    document = folder / "zarr.json"
    try:
        attributes: dict[str, Any] = parse_json(document.read_bytes())["attributes"]
    except FileNotFoundError as error:
        raise MissingInput(f"{folder} does not exist", "extract the features", command="ecmf-pipe extract") from error
    except (ValueError, KeyError, TypeError) as error:
        raise damage_error(f"{document} is damaged ({error})") from error
    if not isinstance(attributes, dict):
        raise damage_error(f"{document} is damaged (`attributes` is not an object)")
    return attributes


def settings_attributes(folder: Path) -> dict[str, Any]:
    """Return the attributes of a settings group; ``settings``, ``dim`` (int or None) and ``dtype`` are checked.

    Raises:
        MissingInput: If there is no such group.
        StoreError: If its document is damaged.
    """
    document = folder / "zarr.json"
    attributes = group_attributes(folder)
    dim, settings = attributes.get("dim"), attributes.get("settings")
    if not isinstance(settings, dict) or "dim" not in attributes:
        raise damage_error(f"{document} is damaged (no attribute `settings` or no attribute `dim`)")
    if dim is not None and not (isinstance(dim, int) and 0 < dim <= _MAX_DIM):
        raise damage_error(f"{document} is damaged (`dim` is {str(dim)[:20]})")
    try:
        fingerprint_of(settings)
    except ValueError as error:
        raise damage_error(f"{document} is damaged (`settings`: {error})") from error
    columns = attributes.get("columns", [""] * (dim or 0))
    if not (isinstance(columns, list) and len(columns) == (dim or 0) and all(isinstance(c, str) for c in columns)):
        raise damage_error(f"{document} is damaged (`columns` is not a list of {dim} names)")
    if not isinstance(attributes.get("provenance", {}), dict):
        raise damage_error(f"{document} is damaged (`provenance` is not an object)")
    try:
        np.dtype(attributes.get("dtype", ""))
    except TypeError as error:
        raise damage_error(f"{document} is damaged ({error})") from error
    return attributes


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Write the document of a Zarr group atomically."""
    document = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    write_atomic(folder / "zarr.json", json.dumps(document, indent=2, sort_keys=True) + "\n")
    flush_folder(folder)
    flush_folder(folder.parent)


@dataclass(frozen=True, slots=True, repr=False)
class FeatureRow(ShortRepr):
    """The features of one clip.

    Attributes:
        clip_id: The clip.
        digest: Digest of the input from which the features were computed.
        values: Features, (T, D), T at least 1.
        side: Other arrays with one entry per row of ``values`` (``times``, ``boxes``...), (T,) or (T, k).
        versions: Version of each library that computed the features, by name; empty if unknown.
    """

    clip_id: str
    digest: str
    values: NDArray[Any]
    side: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartAttributes:
    """The attributes of a part. Each of its entries is the features of one clip.

    Attributes:
        fingerprint: Fingerprint of the settings that computed the features.
        clip_id: The clip of each entry.
        digest: Digest of the input of each entry.
        length: Number of rows of each entry, at least 1.
        supersedes: Names of the parts that this one replaces; they do not count even if they still exist.
        versions: Each combination of library versions that computed some of the rows, in order of first use. An empty
            combination means rows of unknown versions; an empty sequence means that all are unknown.
        arrays: The `array_identity` of each array, by name; empty if unknown. `write_part` sets it.
    """

    fingerprint: str
    clip_id: Sequence[str]
    digest: Sequence[str]
    length: Sequence[int]
    supersedes: Sequence[str] = ()
    versions: Sequence[Mapping[str, str]] = ()
    arrays: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the attributes as written to ``zarr.json``."""
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
        if self.arrays:
            document["arrays"] = dict(self.arrays)
        return document


def distinct_versions(versions: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return each combination of versions once, in order of first use; an empty list if all are unknown (empty)."""
    distinct: list[dict[str, str]] = []
    for combination in versions:
        if dict(combination) not in distinct:
            distinct.append(dict(combination))
    return distinct if any(distinct) else []


def part_names(folder: Path) -> list[str]:
    """Return the names of the parts of a settings group, in order."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.name.startswith("part-") and entry.is_dir())
    except FileNotFoundError:
        return []


def part_number(name: str) -> int:
    """Return the number in the name of a part.

    Raises:
        StoreError: If it is not the name of a part.
    """
    try:
        return int(name.split("-")[1])
    except (IndexError, ValueError) as error:
        raise StoreError(f"{name} is not the name of a part", "remove that folder") from error


def read_attributes(folder: Path, fingerprint: str) -> PartAttributes:
    """Read the attributes of a part of the settings group ``fingerprint``.

    Raises:
        FileNotFoundError: If the part no longer exists, because it was merged into another.
        StoreError: If it is damaged or was computed with other settings.
    """
    try:
        attributes = group_attributes(folder)
    except MissingInput as error:
        if not folder.is_dir():
            raise FileNotFoundError(folder) from error
        raise damage_error(f"{folder / 'zarr.json'} does not exist") from error
    try:
        part = PartAttributes(
            attributes["fingerprint"],
            attributes["clip_id"],
            attributes["digest"],
            attributes["length"],
            attributes.get("supersedes", ()),
            attributes.get("versions", ()),
            attributes.get("arrays", {}),
        )
    except KeyError as error:
        raise damage_error(f"{folder} has no attribute {error}") from error
    if part.fingerprint != fingerprint:
        raise StoreError(
            f"{folder} was computed with other settings ({part.fingerprint})",
            "move that folder away: features of different settings must not be mixed",
            command="ecmf-pipe store verify",
        )
    # The name of a part ends with a hash of its attributes, so even one changed letter of a clip id is found.
    if not folder.name.endswith(_attributes_hash(attributes)):
        raise damage_error(
            f"the attributes of {folder} do not have the hash in its name: they were changed, or the folder was renamed"
        )
    if not len(part.clip_id) == len(part.digest) == len(part.length):
        raise damage_error(f"the attributes `clip_id`, `digest` and `length` of {folder} differ in length")
    if not isinstance(part.versions, list | tuple) or not all(isinstance(one, dict) for one in part.versions):
        raise damage_error(f"the attribute `versions` of {folder} is not a list of objects")
    return part


def _attributes_hash(attributes: Mapping[str, Any]) -> str:
    return sha256_text(json.dumps(attributes))[:8]


def array_identity(values: NDArray[Any], crc: int | None = None) -> str:
    """Return type, shape and CRC-32C of an array, such as ``float16 120x384 0a1b2c3d``; it identifies the array.

    Args:
        values: The array.
        crc: CRC-32C of its little-endian bytes; None: computed here.
    """
    if crc is None:
        crc = google_crc32c.value(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return f"{values.dtype.name} {'x'.join(map(str, values.shape))} {crc:08x}"


@dataclass(frozen=True)
class Parts:
    """The attributes of all parts of a settings group.

    Attributes:
        intact: Parts that count and can be read, in order.
        superseded: Parts that were merged into another but still exist.
        damaged: Parts with unreadable attributes, and the error of each.
    """

    intact: dict[str, PartAttributes] = field(default_factory=dict)
    superseded: list[str] = field(default_factory=list)
    damaged: dict[str, StoreError] = field(default_factory=dict)

    def newest(self) -> dict[str, str]:
        """Return the digest of the newest entry of each clip."""
        return {
            clip_id: digest
            for part in self.intact.values()
            for clip_id, digest in zip(part.clip_id, part.digest, strict=True)
        }

    def versions(self) -> list[dict[str, str]]:
        """Return the combinations of library versions that computed the rows; an empty one if some are unknown."""
        return distinct_versions(chain.from_iterable(part.versions or [{}] for part in self.intact.values()))


def read_parts(folder: Path, fingerprint: str) -> Parts:
    """Read the attributes of all parts of a settings group; damaged parts are collected, not raised."""
    parts = Parts()
    for name in part_names(folder):
        try:
            parts.intact[name] = read_attributes(folder / name, fingerprint)
        except StoreError as error:
            parts.damaged[name] = error
        except FileNotFoundError:
            continue  # merged into another part since the names were listed
    replaced = {old for part in parts.intact.values() for old in part.supersedes}
    parts.superseded.extend(name for name in parts.intact if name in replaced)
    for name in parts.superseded:
        del parts.intact[name]
    return parts


def array_names(folder: Path) -> list[str]:
    """Return the names of the arrays of a part, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def read_array(folder: Path, identity: str | None = None) -> NDArray[Any]:
    """Read one array of a part and check its CRC-32C.

    Args:
        folder: Folder of the array.
        identity: Its `array_identity` according to the part; None if unknown.

    Raises:
        FileNotFoundError: If the part no longer exists, because it was merged into another.
        StoreError: If the array is unreadable or its chunk is missing (Zarr would read a missing chunk as zeros).
    """
    try:
        values, crc = _read_chunk(folder)
    except Exception as error:  # of a damaged document, zarr raises errors of many types
        if not folder.parent.is_dir():
            raise FileNotFoundError(folder) from error
        if isinstance(error, FileNotFoundError):
            raise damage_error(f"{error.filename or folder} does not exist") from error
        raise damage_error(f"{folder} cannot be read ({error})") from error
    if identity is not None and (found := array_identity(values, crc)) != identity:
        raise damage_error(f"{folder} is another array ({found}) than the part was written with ({identity})")
    return values


def _read_chunk(folder: Path) -> tuple[NDArray[Any], int | None]:
    """Read an array of one chunk; return it and its CRC-32C, None if that was not computed."""
    document = parse_json((folder / "zarr.json").read_bytes())
    if not _is_plain(document):
        return _read_by_zarr(folder), None
    dtype = np.dtype(document["data_type"]).newbyteorder("<")
    shape = tuple(document["shape"])
    data = np.fromfile(folder.joinpath("c", *["0"] * len(shape)), np.uint8)
    expected = dtype.itemsize * int(np.prod(shape)) + _CRC_BYTES
    if len(data) != expected:
        raise ValueError(f"its chunk has {len(data)} of {expected} bytes")
    data, stored = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    crc = google_crc32c.value(data)
    if crc != int.from_bytes(stored.tobytes(), "little"):
        raise ValueError("its chunk has another CRC-32C than the stored one")
    values: NDArray[Any] = data.view(dtype).reshape(shape)
    return values, crc


def _is_plain(document: dict[str, Any]) -> bool:
    """Return whether an array has the one form that this package writes."""
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
    import zarr  # its import takes longer than a run with nothing to do

    array = zarr.open_array(folder, mode="r")
    if array.nchunks != 1:
        raise ValueError(f"it has {array.nchunks} chunks, arrays of a part have one")
    values = np.asarray(array[...])
    chunk = folder / array.metadata.encode_chunk_key((0,) * array.ndim)
    if not chunk.is_file():  # checked after reading: Zarr reads zeros if the part is moved away meanwhile
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(chunk))
    return values


def write_part(
    folder: Path, number: int, attributes: PartAttributes, arrays: Mapping[str, NDArray[Any]], *, staging: Path
) -> str:
    """Write a part atomically.

    Args:
        folder: The settings group.
        number: Position in the order of parts.
        attributes: Attributes of the part.
        arrays: ``values`` and the side arrays, each with one entry per row.
        staging: Folder on the same file system, in which the part is written before it is renamed into place.

    Returns:
        The name of the part, which depends on its number and its attributes.
    """
    import zarr  # its import takes longer than a run with nothing to do
    from zarr.codecs import Crc32cCodec

    identities = {array_name: array_identity(array) for array_name, array in arrays.items()}
    document = replace(attributes, arrays=identities).document()
    name = f"part-{number:06d}-{_attributes_hash(document)}"
    if (folder / name).is_dir():
        return name  # the same rows are already stored
    unfinished = staging / f"part-{uuid.uuid4().hex}"
    try:
        group = zarr.create_group(unfinished, attributes=document)
        for array_name, array in arrays.items():
            group.create_array(
                array_name,
                data=array,
                chunks=array.shape,
                compressors=[Crc32cCodec()],  # measured: ADR 4
                config={"write_empty_chunks": True},  # a missing chunk must mean damage, not "all zero"
            )
        _flush(unfinished)
        flush_folder(unfinished)
        unfinished.rename(folder / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # exists only if writing failed
    flush_folder(folder)
    return name


def _flush(folder: Path) -> None:
    """Flush all files and subfolders of a part to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            flush_folder(path)
