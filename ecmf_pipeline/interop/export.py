"""Export features for other programs: as a folder of npy files, like the baseline, or as one HDF5 file.

`feature_sources` reads both formats.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import validate_clip_id
from ecmf_pipeline.core.console import progress
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import exclusive_lock
from ecmf_pipeline.interop.file_formats import FileFormat, Level
from ecmf_pipeline.store import FeatureStore

UTTERANCES_PER_READ = 8192
SEQUENCES_PER_READ = 32
"""Clips per read of a store: large enough to read each part few times, small enough for memory."""

WriteClip = Callable[[str, NDArray[np.float32]], None]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The result of `export_features`.

    Attributes:
        clips: Number of exported clips.
        not_exported: Number of other clips in the store: not requested, or with features of an older input only.
    """

    clips: int
    not_exported: int


def export_features(
    store: FeatureStore,
    out: Path,
    *,
    file_format: FileFormat,
    level: Level,
    digests: Mapping[str, str] | None = None,
) -> ExportReport:
    """Export the features of a store as float32. If the export fails, ``out`` does not exist.

    Args:
        store: The feature store.
        out: The HDF5 file, or the folder of npy files. It must not exist, or be an empty folder.
        file_format: The format.
        level: One vector per clip, or all rows of a clip.
        digests: The digest of the valid row for each clip to export. None: the newest row of each clip.

    Raises:
        InputError: If ``out`` exists, or there is nothing to export.
        CorpusError: If a clip id is not a valid file name.
        StoreError: If the store is damaged.
        StoreBusy: If another export to the same path is running.
    """
    _check_output_path(out, store.root)
    newest = store.newest()
    requested = newest if digests is None else digests
    stored = store.clips_with_features(requested)
    # In the order of the store, so that each part is read at most twice.
    clip_ids = [clip_id for clip_id in newest if clip_id in stored]
    if not clip_ids:
        raise InputError(
            f"{store.root} holds no current features of the {len(requested)} clips",
            "extract them",
            command=f"ecmf-pipe extract --modality {store.root.stem}",
        )
    for clip_id in clip_ids:
        validate_clip_id(clip_id)
    rows = _utterances if level is Level.UTTERANCE else _sequences
    writer = _hdf5_writer if file_format is FileFormat.HDF5 else _npy_writer
    with _atomic_output(out) as unfinished, writer(unfinished, store, level) as write:
        for clip_id, values in progress(rows(store, clip_ids, requested), "export", total=len(clip_ids)):
            write(clip_id, values)
    return ExportReport(len(clip_ids), len(newest) - len(clip_ids))


def _utterances(
    store: FeatureStore, clip_ids: Sequence[str], digests: Mapping[str, str]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for batch in _batches(clip_ids, UTTERANCES_PER_READ):
        yield from zip(batch, store.load(batch, pool="mean", digests=digests).values, strict=True)


def _sequences(
    store: FeatureStore, clip_ids: Sequence[str], digests: Mapping[str, str]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for batch in _batches(clip_ids, SEQUENCES_PER_READ):
        sequences = store.load_sequences(batch, digests=digests)
        for clip_id, values, mask in zip(batch, sequences.values, sequences.mask, strict=True):
            yield clip_id, values[mask]


def _batches(clip_ids: Sequence[str], size: int) -> Iterator[list[str]]:
    remaining = iter(clip_ids)
    while batch := list(islice(remaining, size)):
        yield batch


@contextmanager
def _npy_writer(folder: Path, store: FeatureStore, level: Level) -> Iterator[WriteClip]:  # noqa: ARG001
    folder.mkdir()
    yield lambda clip_id, values: np.save(folder / f"{clip_id}.npy", values, allow_pickle=False)
    os.sync()  # once at the end: syncing each of 100,000 small files would take minutes


@contextmanager
def _hdf5_writer(path: Path, store: FeatureStore, level: Level) -> Iterator[WriteClip]:
    with h5py.File(path, "w") as file:
        file.attrs["fingerprint"] = store.fingerprint
        file.attrs["settings"] = json.dumps(store.settings, sort_keys=True, ensure_ascii=False)
        file.attrs["level"] = level.value
        yield lambda clip_id, values: file.create_dataset(clip_id, data=values)
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _check_output_path(out: Path, root: Path) -> None:
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise InputError(f"{out} already exists", "remove it, or use another --out")
    if out.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{out} is inside the feature store {root}", "use another --out")


@contextmanager
def _atomic_output(out: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``out`` on success and removed on failure.

    The next export to the same path removes the files of a killed export.
    """
    temporary = out.parent / f".{out.name}.partial"
    with exclusive_lock(temporary / "lock", str(out)):
        unfinished = temporary / "unfinished"
        _remove(unfinished)
        try:
            yield unfinished
            if out.is_dir():
                out.rmdir()  # empty; an HDF5 file cannot replace a folder
            unfinished.rename(out)
        finally:
            _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
