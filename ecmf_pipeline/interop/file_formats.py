"""Kinds of feature files; light, since the command line imports it."""

from __future__ import annotations

from enum import StrEnum


class FileFormat(StrEnum):
    """The kinds of feature files."""

    HDF5 = "hdf5"
    """One file, one dataset a clip at its root."""
    NPY = "npy"
    """A folder of ``<clip_id>.npy``, as the challenge's baseline has them."""


class Level(StrEnum):
    """What stands there of a clip."""

    UTTERANCE = "utt"
    """The mean of its rows, (D,)."""
    FRAME = "frm"
    """Its rows, (T, D)."""
