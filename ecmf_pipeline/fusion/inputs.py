"""Features, masks and labels that callers hand in, whatever they keep them in: lists, arrays or pandas' series.

Rows are told apart by their position alone, never by the index of a series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ecmf_pipeline.core.arrays import is_missing
from ecmf_pipeline.core.errors import InputError

LabelType = Literal["index", "float", "name"]
"""Labels are class indices (bools are), indices that were handed in as floats, or names."""

_NUMBERS = "biuf"

_LARGEST_INDEX = 10.0**6


@dataclass(frozen=True, slots=True)
class Inputs:
    """The features of n clips in M modalities.

    Attributes:
        features: One tensor a modality, (n, D_m), or (n, T_m, D_m) at frame level, where missing frames are NaN;
            float32. Rows of missing modalities mean nothing.
        present: Whether a clip has a modality, (n, M), bool.
    """

    features: tuple[Tensor, ...]
    present: Tensor

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, rows: Tensor | slice) -> Inputs:
        if isinstance(rows, slice):
            return Inputs(tuple(values[rows] for values in self.features), self.present[rows])
        features = tuple(values.index_select(0, rows) for values in self.features)  # a fifth of the time of `[rows]`
        return Inputs(features, self.present.index_select(0, rows))


def read_inputs(
    features: Mapping[str, ArrayLike],
    masks: Mapping[str, ArrayLike] | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Turn the features of each modality into tensors on ``device``.

    A modality of a clip is missing where ``masks`` says so, and where its row holds a value that is not finite. At
    frame level such a frame is missing, and the modality where no frame is left.

    Args:
        features: For each modality, (n, D), or (n, T, D) at frame level.
        masks: For each modality, whether a clip has it, (n,); modalities left out are judged by their rows alone.
        dims: The modalities a trained model expects, with their widths; None takes what comes.
        device: Where the tensors go.

    Raises:
        InputError: When a modality is unknown or absent, or has another width than ``dims`` says.
        ValueError: When arrays differ in length, or are of no shape as above.
    """
    names = list(features) if dims is None else list(dims)
    if not names:
        raise InputError("there are no features", "hand in at least one modality, as name: array")
    if set(names) != set(features) or set(masks or {}) - set(names):
        raise InputError(
            f"features of {sorted(features)}, masks of {sorted(masks or {})}, where {sorted(names)} are expected",
            "hand in the modalities the model was trained on; a clip that lacks one has a row of NaN",
        )
    tables, present = [], []
    for name in names:
        values = np.asarray(features[name], dtype=np.float32)  # (n, D) or (n, T, D)
        if values.ndim not in (2, 3):
            raise ValueError(f"features of {name} must be (n, D) or (n, T, D), not {values.shape}")
        if len(values) and not values.size:
            raise ValueError(f"features of {name} are {values.shape}: T and D must not be 0; leave the modality out")
        if dims is not None and values.shape[-1] != dims[name]:
            raise InputError(
                f"features of {name} are {values.shape[-1]} wide where the model expects {dims[name]}",
                "extract them with the encoder the model was trained on, or train again",
            )
        table, here = _known(values)
        if masks is not None and name in masks:
            here &= read_mask(name, masks[name], len(values))
        tables.append(table)
        present.append(here)
    if len({len(values) for values in tables}) > 1:
        raise ValueError(f"modalities differ in their number of clips: {[len(values) for values in tables]}")
    return Inputs(
        tuple(torch.from_numpy(values).to(device) for values in tables),
        torch.from_numpy(np.stack(present, axis=1)).to(device),
    )


def read_mask(name: str, mask: ArrayLike, clips: int) -> NDArray[np.bool_]:
    """Whether each clip has a modality, (n,).

    Raises:
        ValueError: When there is not one value a clip, or they are words, of which "False" would be true.
    """
    given = np.asarray(mask)
    if given.shape != (clips,) or given.dtype.kind in "US":
        raise ValueError(f"the mask of {name} must be ({clips},) of bool, not {given.shape} of {given.dtype}")
    return given.astype(bool)


def _known(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What is finite of (n, D) or (n, T, D), and which rows hold anything, (n,); copied only if need be."""
    finite = np.logical_and.reduce(np.isfinite(values), axis=-1)  # (n,) or (n, T)
    if values.ndim == 3 and np.isnan(values[~finite]).all():
        pass  # frames that are missing are marked so already: sequences are large, and not copied without need
    elif not finite.all():
        values = np.where(finite[..., None], values, np.float32(0 if values.ndim == 2 else np.nan))
    if not values.flags.writeable or min(values.strides) < 0:
        values = values.copy()  # torch takes no array that is read-only, or runs backwards
    return values, finite if finite.ndim == 1 else np.logical_or.reduce(finite, axis=1)


def encode_labels(
    labels: ArrayLike, label_names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as indices (-1 where there is none) and the names they stand for.

    Args:
        labels: Class indices, (n,), from 0 up, with -1 for none: C is the largest of them plus one, if no
            ``label_names`` say otherwise, so that labels of 1 to 8 make nine classes. Floats that are whole, and bools,
            are indices too. Or names, with "" for none. None, NaN and pandas' NA are none in either.
        label_names: All labels in the order of their indices; None names those that occur, sorted.

    Raises:
        InputError: When a label is not among ``label_names``, these name one twice, floats are not whole, or names and
            numbers are mixed.
        ValueError: When labels are not one column.
    """
    if label_names is not None and len(set(label_names)) < len(label_names):
        raise InputError(f"label_names {list(label_names)} name a label twice", "name each label once")
    values = _column(labels)
    if values.dtype.kind in _NUMBERS:
        indices = _whole(values)
        names = tuple(label_names) if label_names is not None else tuple(map(str, range(indices.max(initial=-1) + 1)))
        if len(indices) and not -1 <= indices.min() <= indices.max() < len(names):
            raise InputError(f"label indices {indices.min()} to {indices.max()} where {len(names)} labels are known")
        return indices, names
    words = ["" if is_missing(value) else str(value) for value in values.tolist()]
    names = tuple(label_names) if label_names is not None else tuple(sorted(set(words) - {""}))
    index = {name: position for position, name in enumerate(names)} | {"": -1}
    if unknown := sorted(set(words) - set(index)):
        raise InputError(f"label {unknown[0]!r} is unknown", f"the labels are {', '.join(names)}")
    return np.array([index[word] for word in words], dtype=np.int64), names


def _column(labels: ArrayLike) -> NDArray[Any]:
    """Labels as an array, (n,); of floats if they are numbers of which some are missing, of objects if names are."""
    # NumPy would turn a list of names and None, or NaN, into names alone.
    values = np.asarray(labels if hasattr(labels, "dtype") else np.array(labels, dtype=object))
    if values.ndim != 1:
        raise ValueError(f"labels must be (n,), not {values.shape}")
    if values.dtype.kind != "O":
        return values
    known = [value for value in values.tolist() if not (is_missing(value) or value == "")]
    numbers = [isinstance(value, Real | np.bool_) for value in known]
    if not any(numbers):
        return values
    if not all(numbers):
        word = known[numbers.index(False)]
        raise InputError(
            f"labels mix names and numbers: {word!r} and {known[numbers.index(True)]!r}", "use one of them"
        )
    kind: type = float if any(isinstance(value, float | np.floating) for value in known) else int
    return np.array([-1 if is_missing(value) or value == "" else value for value in values.tolist()], dtype=kind)


def _whole(values: NDArray[Any]) -> NDArray[np.int64]:
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    found = np.where(np.isnan(values), -1.0, values)
    if (wrong := (found != np.round(found)) | (np.abs(found) > _LARGEST_INDEX)).any():
        raise InputError(
            f"label {found[wrong][0]} is not a class index", "hand in whole numbers from 0 up, or names as strings"
        )
    return found.astype(np.int64)


def label_type(labels: ArrayLike) -> LabelType:
    """What labels are, and predictions of them are to be; see `encode_labels`."""
    kind = _column(labels).dtype.kind
    return "name" if kind not in _NUMBERS else "float" if kind == "f" else "index"


def as_given(classes: NDArray[np.int64], names: Sequence[str], kind: LabelType) -> NDArray[Any]:
    """Class indices as labels of a type, (n,) -> (n,); where there is none (-1), that is -1, or "" among names."""
    if kind == "name":
        return np.array([*names, ""])[classes]  # -1 takes the last, ""
    return classes if kind == "index" else classes.astype(np.float64)
