"""What every torch encoder shares: the device, and forward passes packed across clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ecmf_pipeline.errors import ParamsError


def pick_device(device: str) -> torch.device:
    """The torch device that ``device`` names.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises:
        ParamsError: When this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ParamsError(f"device {device!r} is not one that torch knows", "auto, cpu, cuda or cuda:<n>") from error
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ParamsError(f"device {device!r} is not on this machine", "set the device to auto or cpu")
    return picked


def rows_of_clips(
    clips: Sequence[torch.Tensor], forward: Callable[[torch.Tensor], torch.Tensor], batch_size: int
) -> list[NDArray[np.float32]]:
    """Run frames of several clips through a model, in batches that ignore where one clip ends and the next begins.

    Args:
        clips: Frames of each clip, (T, C, S, S), all of one shape and type; T may differ and be 0.
        forward: From frames (B, C, S, S) to rows (B, D).
        batch_size: B.

    Returns:
        The rows of each clip, (T, D).
    """
    if not clips:
        return []
    frames = torch.cat(list(clips))  # (sum of T, C, S, S)
    rows = torch.cat([forward(batch) for batch in torch.split(frames, batch_size)]).float().cpu().numpy()
    ends = np.cumsum([len(clip) for clip in clips])
    return [part.copy() for part in np.split(rows, ends[:-1])]
