"""Writing features for other programs: the baseline's folders of npy files, or one HDF5 file.

`feature_sources` reads both back.
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
from ecmf_pipeline.core.files import exclusive
from ecmf_pipeline.interop.file_formats import FileFormat, Level
from ecmf_pipeline.store import FeatureStore

UTTERANCES_AT_ONCE = 8192
SEQUENCES_AT_ONCE = 32
"""Clips read from a store together: enough that its parts are read few times, few enough for memory."""

Write = Callable[[str, NDArray[np.float32]], None]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written.

    Attributes:
        left_out: Clips of the store that were not asked for, or only with features of an older input.
    """

    clips: int
    left_out: int


def export_features(
    store: FeatureStore,
    out: Path,
    *,
    file_format: FileFormat,
    level: Level,
    digests: Mapping[str, str] | None = None,
) -> ExportReport:
    """Write the features of a store as float32. ``out`` is there whole in the end, or not at all.

    Args:
        store: The features.
        out: The HDF5 file, or the folder of npy files; must not exist (an empty folder may).
        file_format: Which of the two.
        level: One vector a clip, or all its rows.
        digests: The clips, each with the digest of the row that counts; None for the newest of all.

    Raises:
        InputError: When there is something at ``out`` already, or nothing to write.
        CorpusError: When a clip's id cannot be a file's name.
        StoreError: When the store is damaged.
        StoreBusy: When another export to the same place is running.
    """
    _refuse_bad_place(out, store.root)
    newest = store.newest()
    wanted = newest if digests is None else digests
    held = store.held(wanted)
    clip_ids = [clip_id for clip_id in newest if clip_id in held]  # the store's order: each part is read at most twice
    if not clip_ids:
        raise InputError(
            f"{store.root} holds no features of what the {len(wanted)} clips are now",
            f"run `ecmf-pipe extract --modality {store.root.stem}` first",
        )
    for clip_id in clip_ids:
        validate_clip_id(clip_id)
    rows = _utterances if level is Level.UTTERANCE else _sequences
    writer = _hdf5_writer if file_format is FileFormat.HDF5 else _npy_writer
    with _whole_or_absent(out) as unfinished, writer(unfinished, store, level) as write:
        for clip_id, values in progress(rows(store, clip_ids, wanted), "export", total=len(clip_ids)):
            write(clip_id, values)
    return ExportReport(len(clip_ids), len(newest) - len(clip_ids))


def _utterances(
    store: FeatureStore, clip_ids: Sequence[str], digests: Mapping[str, str]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for some in _batches(clip_ids, UTTERANCES_AT_ONCE):
        yield from zip(some, store.load(some, pool="mean", digests=digests).values, strict=True)


def _sequences(
    store: FeatureStore, clip_ids: Sequence[str], digests: Mapping[str, str]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for some in _batches(clip_ids, SEQUENCES_AT_ONCE):
        sequences = store.load_sequences(some, digests=digests)
        for clip_id, values, mask in zip(some, sequences.values, sequences.mask, strict=True):
            yield clip_id, values[mask]


def _batches(clip_ids: Sequence[str], size: int) -> Iterator[list[str]]:
    rest = iter(clip_ids)
    while some := list(islice(rest, size)):
        yield some


@contextmanager
def _npy_writer(folder: Path, store: FeatureStore, level: Level) -> Iterator[Write]:  # noqa: ARG001
    folder.mkdir()
    yield lambda clip_id, values: np.save(folder / f"{clip_id}.npy", values, allow_pickle=False)
    os.sync()  # once for all: to wait for each of 100,000 small files would take minutes


@contextmanager
def _hdf5_writer(path: Path, store: FeatureStore, level: Level) -> Iterator[Write]:
    with h5py.File(path, "w") as file:
        file.attrs["fingerprint"] = store.fingerprint
        file.attrs["settings"] = json.dumps(store.settings, sort_keys=True, ensure_ascii=False)
        file.attrs["level"] = level.value
        yield lambda clip_id, values: file.create_dataset(clip_id, data=values)
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _refuse_bad_place(out: Path, root: Path) -> None:
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise InputError(f"{out} is there already", "remove it first, or give another --out")
    if out.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{out} would stand in the store itself", "give another --out")


@contextmanager
def _whole_or_absent(out: Path) -> Iterator[Path]:
    """A path beside ``out`` that is renamed to it when the block ends well; nothing is left when it does not.

    What a killed export left is removed by the next one to the same place.
    """
    aside = out.parent / f".{out.name}.partial"
    with exclusive(aside / "lock", str(out)):
        unfinished = aside / "unfinished"
        _remove(unfinished)
        try:
            yield unfinished
            if out.is_dir():
                out.rmdir()  # it was empty; an HDF5 file could not take its place
            unfinished.rename(out)
        finally:
            _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
