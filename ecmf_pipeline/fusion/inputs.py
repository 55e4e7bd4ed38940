"""Conversion of features, masks and labels given as lists, arrays or pandas objects.

Rows are identified by position, never by the index of a series.
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
"""Type of labels: class indices (also bools), indices given as floats, or names."""

_NUMBERS = "biuf"

_MAX_INDEX = 10.0**6


@dataclass(frozen=True, slots=True)
class Inputs:
    """The features of n clips in M modalities.

    Attributes:
        features: One float32 tensor for each modality, (n, D_m), or (n, T_m, D_m) at frame level with missing frames of
            NaN. Rows of missing modalities are undefined.
        present: Whether a clip has a modality, (n, M), bool.
    """

    features: tuple[Tensor, ...]
    present: Tensor

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, rows: Tensor | slice) -> Inputs:
        if isinstance(rows, slice):
            return Inputs(tuple(values[rows] for values in self.features), self.present[rows])
        features = tuple(values.index_select(0, rows) for values in self.features)  # 5 times faster than `[rows]`
        return Inputs(features, self.present.index_select(0, rows))


def read_inputs(
    features: Mapping[str, ArrayLike],
    masks: Mapping[str, ArrayLike] | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Convert the features of each modality to tensors on ``device``.

    A modality of a clip is missing if ``masks`` marks it, or if its row has a value that is not finite. At frame level,
    a frame with such a value is missing; the modality is missing if all frames are.

    Args:
        features: For each modality, (n, D), or (n, T, D) at frame level.
        masks: For each modality, whether a clip has it, (n,); modalities without a mask depend on their rows only.
        dims: Modalities and widths of a trained model; None accepts any.
        device: Device of the tensors.

    Raises:
        InputError: If a modality is unknown or absent, or its width differs from ``dims``.
        ValueError: If arrays differ in length, or have another shape.
    """
    names = list(features) if dims is None else list(dims)
    if not names:
        raise InputError("features are empty", "pass at least one modality, as name: array")
    if set(names) != set(features) or set(masks or {}) - set(names):
        raise InputError(
            f"got features of {sorted(features)} and masks of {sorted(masks or {})}, expected {sorted(names)}",
            "pass the modalities that the model was trained on; use a row of NaN for a clip without one",
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
                f"features of {name} have {values.shape[-1]} columns, the model expects {dims[name]}",
                "extract them with the encoder that the model was trained on, or train again",
            )
        table, has_modality = _mark_missing(values)
        if masks is not None and name in masks:
            has_modality &= read_mask(name, masks[name], len(values))
        tables.append(table)
        present.append(has_modality)
    if len({len(values) for values in tables}) > 1:
        raise ValueError(f"modalities differ in their number of clips: {[len(values) for values in tables]}")
    return Inputs(
        tuple(torch.from_numpy(values).to(device) for values in tables),
        torch.from_numpy(np.stack(present, axis=1)).to(device),
    )


def read_mask(name: str, mask: ArrayLike, clips: int) -> NDArray[np.bool_]:
    """Return whether each clip has a modality, (n,).

    Raises:
        ValueError: If there is not one value for each clip, or values are strings, of which "False" would be true.
    """
    values = np.asarray(mask)
    if values.shape != (clips,) or values.dtype.kind in "US":
        raise ValueError(f"the mask of {name} must be ({clips},) of bool, not {values.shape} of {values.dtype}")
    return values.astype(bool)


def _mark_missing(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mark missing values of (n, D) or (n, T, D), and return which rows have data, (n,); copy only if necessary."""
    finite = np.logical_and.reduce(np.isfinite(values), axis=-1)  # (n,) or (n, T)
    if values.ndim == 3 and np.isnan(values[~finite]).all():
        pass  # missing frames are already NaN: avoid copying a large array
    elif not finite.all():
        values = np.where(finite[..., None], values, np.float32(0 if values.ndim == 2 else np.nan))
    if not values.flags.writeable or min(values.strides) < 0:
        values = values.copy()  # torch accepts no read-only arrays and no negative strides
    return values, finite if finite.ndim == 1 else np.logical_or.reduce(finite, axis=1)


def encode_labels(
    labels: ArrayLike, label_names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Convert labels to indices (-1 for a missing label) and return them with the label names.

    Args:
        labels: Class indices from 0, (n,), with -1 for a missing label. C is the largest index plus one unless
            ``label_names`` is given: labels of 1 to 8 make nine classes. Whole floats and bools are indices too. Or
            names, with "" for a missing label. None, NaN and pandas' NA are missing labels in both cases.
        label_names: All labels in the order of their indices; None: the names that occur, sorted.

    Raises:
        InputError: If a label is not in ``label_names``, these contain a label twice, floats are not whole, or names
            and numbers are mixed.
        ValueError: If labels are not one-dimensional.
    """
    if label_names is not None and len(set(label_names)) < len(label_names):
        raise InputError(f"label_names {list(label_names)} contain a label twice", "list each label once")
    values = _column(labels)
    if values.dtype.kind in _NUMBERS:
        indices = _as_indices(values)
        names = tuple(label_names) if label_names is not None else tuple(map(str, range(indices.max(initial=-1) + 1)))
        if len(indices) and not -1 <= indices.min() <= indices.max() < len(names):
            raise InputError(
                f"label indices {indices.min()} to {indices.max()} are out of range for {len(names)} labels",
                "use indices from 0, or -1 for a missing label",
            )
        return indices, names
    label_strings = ["" if is_missing(value) else str(value) for value in values.tolist()]
    names = tuple(label_names) if label_names is not None else tuple(sorted(set(label_strings) - {""}))
    index = {name: position for position, name in enumerate(names)} | {"": -1}
    if unknown := sorted(set(label_strings) - set(index)):
        raise InputError(f"label {unknown[0]!r} is unknown", f"the labels are {', '.join(names)}")
    return np.array([index[word] for word in label_strings], dtype=np.int64), names


def _column(labels: ArrayLike) -> NDArray[Any]:
    """Return labels as an array, (n,): of floats if some numbers are missing, of objects if some names are missing."""
    # Without dtype=object, NumPy would convert None and NaN in a list of names to strings.
    values = np.asarray(labels if hasattr(labels, "dtype") else np.array(labels, dtype=object))
    if values.ndim != 1:
        raise ValueError(f"labels must be (n,), not {values.shape}")
    if values.dtype.kind != "O":
        return values
    known = [value for value in values.tolist() if not (is_missing(value) or value == "")]
    are_numbers = [isinstance(value, Real | np.bool_) for value in known]
    if not any(are_numbers):
        return values
    if not all(are_numbers):
        name, number = known[are_numbers.index(False)], known[are_numbers.index(True)]
        raise InputError(f"labels mix names and numbers: {name!r} and {number!r}", "use only names or only numbers")
    kind: type = float if any(isinstance(value, float | np.floating) for value in known) else int
    return np.array([-1 if is_missing(value) or value == "" else value for value in values.tolist()], dtype=kind)


def _as_indices(values: NDArray[Any]) -> NDArray[np.int64]:
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    indices = np.where(np.isnan(values), -1.0, values)
    if (wrong := (indices != np.round(indices)) | (np.abs(indices) > _MAX_INDEX)).any():
        raise InputError(f"label {indices[wrong][0]} is not a class index", "use integers from 0, or names as strings")
    return indices.astype(np.int64)


def label_type(labels: ArrayLike) -> LabelType:
    """Return the type of labels, which is also the type of predictions; see `encode_labels`."""
    kind = _column(labels).dtype.kind
    return "name" if kind not in _NUMBERS else "float" if kind == "f" else "index"


def decode_labels(classes: NDArray[np.int64], names: Sequence[str], kind: LabelType) -> NDArray[Any]:
    """Convert class indices to labels of a type, (n,) -> (n,); a missing class (-1) becomes -1, or "" for names."""
    if kind == "name":
        return np.array([*names, ""])[classes]  # -1 selects the last, ""
    return classes if kind == "index" else classes.astype(np.float64)
