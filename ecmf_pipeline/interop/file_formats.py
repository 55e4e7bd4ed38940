"""Formats of feature files. This module imports no heavy library, because the command line imports it."""

from __future__ import annotations

from enum import StrEnum


class FileFormat(StrEnum):
    """The format of feature files."""

    HDF5 = "hdf5"
    """One file, with one dataset per clip at its root."""
    NPY = "npy"
    """A folder of ``<clip_id>.npy`` files, as in the challenge's baseline."""


class Level(StrEnum):
    """The level of exported features."""

    UTTERANCE = "utt"
    """The mean of the rows of a clip, (D,)."""
    FRAME = "frm"
    """The rows of a clip, (T, D)."""
