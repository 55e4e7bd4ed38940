"""From RGB pictures of any size to a vision model's input, in torch alone.

torch resizes uint8 pictures with antialiasing as Pillow does, in coarser fixed point: one value in two hundred differs
by a grey level, one in a hundred thousand by two. It takes a tenth of the time of the processors of transformers, which
go through Pillow picture by picture.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ecmf_pipeline.encoders.pillow_resize import Filter, resize_as_pillow
from ecmf_pipeline.errors import ModelError

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
