"""From RGB pictures of any size to a vision model's input, in torch alone.

torch resizes uint8 pictures with antialiasing as Pillow does, in coarser fixed point: one value in two hundred differs
by a grey level, one in a hundred thousand by two. It takes a tenth of the time of the processors of transformers, which
go through Pillow picture by picture.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ModelError

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


_TOLERANCE = 4.0
"""Grey levels by which resizing may differ from Pillow's; any other crop or padding differs by tens."""

_RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Pillow's number of a filter, and torch's name for it."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a vision model wants its pictures.

    Attributes:
        resize: Target (height, width); or the target of the shorter side, keeping proportions; or None.
        resample: ``bilinear`` or ``bicubic``, both antialiased.
        crop: Height and width of the centre that is cut out after resizing; None for no crop.
        mean: Subtracted from each channel of grey levels 0-255.
        std: What the channels are then divided by.
        arithmetic: Whose: ``pillow`` to the byte; or ``torch``, five times as fast, a grey level off in one of 300
            places.
    """

    resize: tuple[int, int] | int | None
    resample: str
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    arithmetic: Literal["pillow", "torch"] = "pillow"

    def values(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def at(self, resolution: int) -> Preprocessing:
        """The same for squares of another size: the crop keeps its share of the picture."""
        square = (resolution, resolution)
        if not isinstance(self.resize, int):
            return replace(self, resize=square, crop=None if self.crop is None else square)
        cut = min(self.crop) if self.crop else self.resize
        return replace(self, resize=round(self.resize * resolution / cut), crop=square)

    def resized(self, pictures: NDArray[np.uint8]) -> torch.Tensor:
        """Resize and crop.

        Args:
            pictures: RGB, uint8 (T, H, W, 3).

        Returns:
            uint8 (T, 3, h, w) on the CPU.
        """
        if self.resize is None:
            frames = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
            return frames if self.crop is None else _centre(frames, self.crop)
        target = _target(pictures.shape[1], pictures.shape[2], self.resize)
        if self.arithmetic == "torch":
            frames = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)  # channels last: the fast way
            frames = F.interpolate(frames, target, mode=self.resample, antialias=True)
        else:
            inside = (min(target[0], self.crop[0]), min(target[1], self.crop[1])) if self.crop else target
            window = ((target[0] - inside[0]) // 2, (target[1] - inside[1]) // 2, *inside)
            resized = resize_as_pillow(pictures, target, window, cast("Filter", self.resample))
            frames = torch.from_numpy(resized).permute(0, 3, 1, 2)
        return frames if self.crop is None else _centre(frames, self.crop)

    def normalised(self, frames: torch.Tensor) -> torch.Tensor:
        """Bring grey levels to the model's range, on the frames' own device.

        Args:
            frames: uint8 (B, 3, h, w).

        Returns:
            float32 (B, 3, h, w).
        """
        mean = torch.tensor(self.mean, device=frames.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=frames.device).view(1, -1, 1, 1)
        return (frames.float() - mean) / std

    def check_against(self, processor: Any) -> None:
        """Make sure that this is all that a model's own image processor does.

        Args:
            processor: Pillow-backed image processor of transformers.

        Raises:
            ModelError: When the two differ by more than rounding on two test pictures.
        """
        # small and smooth, one wide and one tall, no two sides alike
        waves = np.sin(np.arange(90 * 70 * 3).reshape(90, 70, 3) / 37.0)
        wide = (127.5 + 127.5 * waves).astype(np.uint8)
        for picture in (wide, np.ascontiguousarray(wide.transpose(1, 0, 2))):
            theirs = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0], np.float32)
            theirs = theirs.reshape(-1, *theirs.shape[-3:])[0]  # of a video the one frame
            ours = self.normalised(self.resized(picture[None]))[0].numpy()
            if (
                ours.shape != theirs.shape
                or (np.abs(ours - theirs).max(axis=(1, 2)) > _TOLERANCE / np.array(self.std)).any()
            ):
                raise ModelError(
                    f"{type(processor).__name__} does more than resize, crop and normalise",
                    "this model's preprocessing is not supported: choose another model",
                )


def read_preprocessing(processor: Any, *, check: bool = True) -> Preprocessing:
    """Read what an image processor of transformers does.

    Args:
        processor: Pillow-backed image processor, or what has its attributes.
        check: Whether it is tried on test pictures.

    Raises:
        ModelError: When it does something that `Preprocessing` cannot.
    """
    if hasattr(processor, "max_num_patches"):
        raise ModelError(
            f"{type(processor).__name__} gives pictures of no one size", "choose a checkpoint with a fixed input size"
        )
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    resample = _RESAMPLE.get(int(processor.resample), "") if processor.do_resize else "bilinear"
    if not resample:
        raise ModelError(f"resampling filter {processor.resample} is not supported", "choose another vision model")
    crops = bool(getattr(processor, "do_center_crop", False))
    preprocessing = Preprocessing(
        resize=_size(processor.size) if processor.do_resize else None,
        resample=resample,
        crop=(processor.crop_size["height"], processor.crop_size["width"]) if crops else None,
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
    )
    if check:
        preprocessing.check_against(processor)
    return preprocessing


def _size(size: Any) -> tuple[int, int] | int:
    named = {key: int(value) for key, value in dict(size).items() if value is not None}
    if named.keys() == {"height", "width"}:
        return named["height"], named["width"]
    if named.keys() == {"shortest_edge"}:
        return named["shortest_edge"]
    raise ModelError(f"picture size {named} is not supported", "choose a vision model with a fixed input size")


def _target(height: int, width: int, resize: tuple[int, int] | int) -> tuple[int, int]:
    if isinstance(resize, tuple):
        return resize
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def _centre(frames: torch.Tensor, crop: tuple[int, int]) -> torch.Tensor:
    height, width = frames.shape[-2:]
    if height < crop[0] or width < crop[1]:  # as transformers: black around what is too small
        rows, columns = max(crop[0] - height, 0), max(crop[1] - width, 0)
        frames = F.pad(frames, ((columns + 1) // 2, columns // 2, (rows + 1) // 2, rows // 2))
        height, width = frames.shape[-2:]
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    return frames[..., top : top + crop[0], left : left + crop[1]]
