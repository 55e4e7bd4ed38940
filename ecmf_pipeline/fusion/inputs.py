"""From arrays with holes to tensors with a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ecmf_pipeline.errors import InputError


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
