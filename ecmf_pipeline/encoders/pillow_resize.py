"""Pillow's antialiased resizing, byte for byte, in half its time.

Models were trained on pictures that Pillow resized. Its arithmetic (src/libImaging/Resample.c) is fixed-point: columns
first, then rows, weights rounded to 22 bits, grey levels rounded after either. Here the weighted sums are products of
narrow matrices in float32, which is fast but 30 bits are needed to be sure of the last: the few sums that fall too
close to the border between two grey levels are done again in integers.

Of pictures that become flatter than they were, or are very tall, Pillow 13 does some rows first, as none before it did,
on which models were trained (python-pillow/Pillow pull request 9549): columns come first here whatever its version.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

Filter = Literal["bilinear", "bicubic"]

_REACH = {"bilinear": 1.0, "bicubic": 2.0}
"""How far a filter reaches, in pixels of the smaller of the two scales."""
_FRACTION_BITS = 22
_ONE = 1 << _FRACTION_BITS
_BAND = 8
"""Target pixels whose sums are one matrix product: with more, more of the matrix is zeros (measured: 8 is fastest)."""
_DOUBT = 2.0**-11
"""Grey levels by which a float32 sum of 8-bit values under 22-bit weights is surely off by less."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """One direction of a resize.

    Attributes:
        first: Where the pixels of the source begin that the window is made of.
        last: And where they end.
        bands: Target pixels from and to, the source pixels they are made of from and to (counted from ``first``), and
            their weights, float32 (targets, sources).
        starts: Each target pixel's first source pixel, counted from ``first``, (n,).
        weights: Its weights in units of 2^-22, int64 (n, taps), zero beyond its last source pixel.
    """

    first: int
    last: int
    bands: tuple[tuple[int, int, int, int, torch.Tensor], ...]
    starts: NDArray[np.int64]
    weights: NDArray[np.int64]


def resize_as_pillow(
    pictures: NDArray[np.uint8], size: tuple[int, int], window: tuple[int, int, int, int], resample: Filter
) -> NDArray[np.uint8]:
    """What ``Image.resize(size, resample)`` gives, and of it what is inside a window.

    Args:
        pictures: RGB, uint8 (T, H, W, 3).
        size: Target height and width.
        window: Top, left, height and width of what is kept of the target; it lies inside.
        resample: Pillow's filter.

    Returns:
        uint8 (T, window height, window width, 3).
    """
    top, left, height, width = window
    columns = _axis(pictures.shape[2], size[1], left, width, resample)
    rows = _axis(pictures.shape[1], size[0], top, height, resample)
    resized = np.empty((len(pictures), height, width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        part = picture[rows.first : rows.last, columns.first : columns.last]
        # Sums run down the first axis, where three colours of a whole line lie side by side.
        lines = _weighted(cv2.transpose(part), columns)  # (width, rows, 3)
        resized[index] = _weighted(cv2.transpose(lines), rows)  # (height, width, 3)
    return resized


def _weighted(pixels: NDArray[np.uint8], axis: _Axis) -> NDArray[np.uint8]:
    """Resize along the first axis: from uint8 (N, M, 3) to uint8 (n, M, 3)."""
    flat = pixels.reshape(len(pixels), -1)
    source = torch.from_numpy(flat).float()  # (N, 3M)
    sums = torch.empty(len(axis.starts), flat.shape[1])  # (n, 3M)
    for start, stop, first, last, weights in axis.bands:
        torch.mm(weights, source[first:last], out=sums[start:stop])
    levels = sums.round()
    # compared and cast by NumPy, which is several times as fast at it as torch
    doubtful = np.flatnonzero(sums.sub_(levels).abs_().numpy() > 0.5 - _DOUBT)
    rounded: NDArray[np.uint8] = levels.clamp_(0, 255).numpy().astype(np.uint8)
    if len(doubtful):
        rounded.reshape(-1)[doubtful] = _in_integers(flat, axis, *np.divmod(doubtful, flat.shape[1]))
    return rounded.reshape(len(axis.starts), *pixels.shape[1:])


def _in_integers(
    pixels: NDArray[np.uint8], axis: _Axis, targets: NDArray[np.int64], places: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The sums at some targets, (k,), and places of a line, (k,), as Pillow does them."""
    weights = axis.weights[targets]  # (k, taps)
    sources = axis.starts[targets][:, None] + np.arange(weights.shape[1])  # (k, taps)
    values = pixels[np.minimum(sources, len(pixels) - 1), places[:, None]].astype(np.int64)
    sums = (weights * values).sum(axis=1) + _ONE // 2
    levels: NDArray[np.int64] = np.clip(sums >> _FRACTION_BITS, 0, 255)
    return levels


@lru_cache(maxsize=64)  # a corpus has few picture sizes
def _axis(length: int, target: int, start: int, count: int, resample: Filter) -> _Axis:
    """How ``count`` pixels from ``start`` on, of a line resized from ``length`` to ``target``, are made."""
    scale = length / target
    stretch = max(scale, 1.0)
    reach = _REACH[resample] * stretch
    centres = (np.arange(start, start + count) + 0.5) * scale
    starts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + reach + 0.5).astype(np.int64), length)
    sources = starts[:, None] + np.arange(int((ends - starts).max()))  # (n, taps)
    weights = _kernel((sources - centres[:, None] + 0.5) / stretch, resample)
    weights[sources >= ends[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    fixed = np.trunc(weights * _ONE + np.copysign(0.5, weights)).astype(np.int64)
    first, last = int(starts.min()), int(ends.max())
    bands = []
    for begin in range(0, count, _BAND):
        end = min(begin + _BAND, count)
        low, high = int(starts[begin:end].min()), int(ends[begin:end].max())
        dense = np.zeros((end - begin, high - low + fixed.shape[1]))
        np.put_along_axis(dense, sources[begin:end] - low, fixed[begin:end] / _ONE, axis=1)
        band = torch.from_numpy(np.ascontiguousarray(dense[:, : high - low], np.float32))
        bands.append((begin, end, low - first, high - first, band))
    return _Axis(first, last, tuple(bands), starts - first, fixed)


def _kernel(x: NDArray[np.float64], resample: Filter) -> NDArray[np.float64]:
    """The triangle, or the cubic with a = -0.5, around 0."""
    x = np.abs(x)
    if resample == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
