"""From RGB pictures of any size to a vision model's input, as the image processor that comes with the model does it.

Pillow resizes, as it does for the processors of transformers: the same grey levels to the byte. What else they do is
read from their settings, done for all pictures of a clip at once, and checked against the processor itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer, pictures_of
from ecmf_pipeline.encoders.base_config import ModelSource
from ecmf_pipeline.encoders.inference import Inference, load_part, read_json_of_model

Filter = Literal["bilinear", "bicubic"]
"""A resampling filter, with antialiasing."""

_TOLERANCE = 4.0
"""Grey levels by which this may differ from a model's own processor; any other crop or padding differs by tens."""

_RESAMPLE: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}
"""Pillow's number of a filter, and torch's name for it."""

_DINOV3 = {"DINOv3ViTImageProcessor", "DINOv3ViTImageProcessorFast"}
"""Processors that exist for torchvision alone."""

_DINOV3_DEFAULTS = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "size": {"height": 224, "width": 224},
    "crop_size": None,
    "resample": 2,
    "rescale_factor": 1 / 255,
    "image_mean": IMAGENET_DEFAULT_MEAN,
    "image_std": IMAGENET_DEFAULT_STD,
}
"""Attributes of ``DINOv3ViTImageProcessor`` (image_processing_dinov3_vit.py)."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a vision model wants its pictures.

    Attributes:
        resize: Target (height, width); or the target of the shorter side, keeping proportions; or None.
        resample: The filter, antialiased.
        crop: Height and width of the centre that is cut out after resizing; None for no crop.
        mean: Subtracted from each channel of grey levels 0-255.
        std: What the channels are then divided by.
        arithmetic: Whose: ``pillow``; or ``torch``, several times as fast, a grey level off in one of 300 places.
    """

    resize: tuple[int, int] | int | None
    resample: Filter
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
        target = None if self.resize is None else _target(pictures.shape[1], pictures.shape[2], self.resize)
        if target and self.arithmetic == "pillow":
            pictures = resize_as_pillow(pictures, target, self.resample)
        frames = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)  # channels last: the fast way
        if target and self.arithmetic == "torch":
            frames = F.interpolate(frames, target, mode=self.resample, antialias=True)
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


def resize_as_pillow(pictures: NDArray[np.uint8], size: tuple[int, int], resample: Filter) -> NDArray[np.uint8]:
    """Resize each picture by Pillow, its columns first.

    A single call does the same up to Pillow 12; from 13 on it takes the rows of some shapes first, which rounds
    differently, by up to nine grey levels.

    Args:
        pictures: RGB, uint8 (T, H, W, 3).
        size: Target height and width.
        resample: The filter.

    Returns:
        uint8 (T, *size, 3).
    """
    height, width = size
    by = Image.Resampling[resample.upper()]
    resized = np.empty((len(pictures), height, width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        image = Image.fromarray(picture)
        resized[index] = np.asarray(image.resize((width, image.height), by).resize((width, height), by))
    return resized


def load_preprocessing(source: ModelSource, resolution: int | None = None) -> Preprocessing:
    """Read what a model's own image processor does.

    Args:
        source: The model.
        resolution: Side of the square that the model is to see; None: as the processor says.

    Raises:
        ModelError: When there is none, or when it does something that `Preprocessing` cannot.
    """
    values = read_json_of_model(source, "preprocessor_config.json") or {}
    if values.get("image_processor_type") in _DINOV3:
        preprocessing = _of_dinov3(values)
    else:
        processor = load_part(
            source, lambda name, **where: AutoImageProcessor.from_pretrained(name, backend="pil", **where)
        )
        preprocessing = read_preprocessing(processor)
    if resolution is not None:
        return preprocessing.at(resolution)
    if isinstance(preprocessing.resize, int) and preprocessing.crop is None:
        raise ModelError(
            f"the pictures that {source.name} prepares have no one size", "set the encoder's resolution in params.yaml"
        )
    return preprocessing


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
    resample = _RESAMPLE.get(int(processor.resample)) if processor.do_resize else "bilinear"
    if resample is None:
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


def _of_dinov3(values: dict[str, Any]) -> Preprocessing:
    """What DINOv3's processor does, whose class cannot be loaded without torchvision.

    It resizes in floating point, where this rounds to grey levels: less than one of them apart.
    """
    given = {name: values[name] for name in _DINOV3_DEFAULTS if values.get(name) is not None}
    stand_in = SimpleNamespace(**{**_DINOV3_DEFAULTS, **given})
    if stand_in.do_center_crop and not stand_in.crop_size:
        raise ModelError("DINOv3's image processor is to crop, but names no size", "the files are incomplete")
    return read_preprocessing(stand_in, check=False)


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


class PicturePreparer(Preparer[Any]):
    """Resizes and crops frames, or the crops of a face track.

    Attributes:
        preprocessing: How.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def described(self) -> dict[str, Any]:
        """How pictures become the network's input."""
        return self.preprocessing.values()

    def prepare(self, view: Any) -> NDArray[np.uint8]:
        """Pictures of the network's size, uint8 (T, 3, S, S)."""
        prepared: NDArray[np.uint8] = self.preprocessing.resized(pictures_of(view)).numpy()
        return np.ascontiguousarray(prepared)


class PictureEncoder(Encoder[Any]):
    """An encoder that gives one row a frame, or a crop of a face track.

    Attributes:
        preparer: From pictures of any size to those that the network takes.
        inference: Where and how the network runs.
    """

    preparer: PicturePreparer
    inference: Inference

    def encode_prepared(self, prepared: Sequence[NDArray[np.uint8]]) -> list[Encoding]:
        """Encode prepared frames (or the crops of face tracks): (T, D) a clip."""
        rows = self.inference.rows_of_clips(prepared, self._forward)
        return [Encoding(own, np.arange(len(own))) for own in rows]

    @abstractmethod
    def _forward(self, frames: torch.Tensor) -> torch.Tensor:
        """From prepared pictures on the device, uint8 (B, 3, S, S), to rows (B, D)."""
