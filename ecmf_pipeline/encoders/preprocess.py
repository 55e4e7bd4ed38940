"""Convert RGB pictures of any size to the input of a vision model, like the image processor of the model.

Pillow resizes, as in the processors of transformers, so the results are bit-identical. The other steps are read from
the settings of the processor, applied to all pictures of a clip at once, and checked against the processor.
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
from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer, view_pictures
from ecmf_pipeline.encoders.base_config import ModelSource
from ecmf_pipeline.encoders.inference import Inference, load_pretrained, read_model_json

Filter = Literal["bilinear", "bicubic"]
"""A resampling filter, with antialiasing."""

_TOLERANCE = 4.0
"""Accepted difference from the processor of the model in grey levels; another crop or padding differs by tens."""

_RESAMPLE: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}
"""Maps Pillow's filter numbers to torch's filter names."""

_DINOV3 = {"DINOv3ViTImageProcessor", "DINOv3ViTImageProcessorFast"}
"""Processors that need torchvision."""

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
    """Settings of the preprocessing of a vision model.

    Attributes:
        resize: Target (height, width); or the target of the shorter side, keeping proportions; or None.
        resample: The filter, antialiased.
        crop: Height and width of the centre crop after resizing; None for no crop.
        mean: Subtracted from each channel of grey levels 0-255.
        std: Divisor of the channels after that.
        arithmetic: The library that resizes: ``pillow``; or ``torch``, which is several times as fast and differs by
            one grey level in 1 of 300 pixels.
    """

    resize: tuple[int, int] | int | None
    resample: Filter
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    arithmetic: Literal["pillow", "torch"] = "pillow"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def with_resolution(self, resolution: int) -> Preprocessing:
        """Return a copy for square input of another size; the crop keeps its share of the picture."""
        square = (resolution, resolution)
        if not isinstance(self.resize, int):
            return replace(self, resize=square, crop=None if self.crop is None else square)
        crop_side = min(self.crop) if self.crop else self.resize
        return replace(self, resize=round(self.resize * resolution / crop_side), crop=square)

    def resize_pictures(self, pictures: NDArray[np.uint8]) -> torch.Tensor:
        """Resize and crop pictures.

        Args:
            pictures: RGB, uint8 (T, H, W, 3).

        Returns:
            uint8 (T, 3, h, w) on the CPU.
        """
        target = None if self.resize is None else _target_size(pictures.shape[1], pictures.shape[2], self.resize)
        if target and self.arithmetic == "pillow":
            pictures = resize_as_pillow(pictures, target, self.resample)
        frames = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)  # channels last is faster
        if target and self.arithmetic == "torch":
            frames = F.interpolate(frames, target, mode=self.resample, antialias=True)
        return frames if self.crop is None else _centre_crop(frames, self.crop)

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """Scale grey levels to the input range of the model, on the device of the frames.

        Args:
            frames: uint8 (B, 3, h, w).

        Returns:
            float32 (B, 3, h, w).
        """
        mean = torch.tensor(self.mean, device=frames.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=frames.device).view(1, -1, 1, 1)
        return (frames.float() - mean) / std

    def check_against(self, processor: Any) -> None:
        """Check that the image processor of a model does nothing else.

        Args:
            processor: Pillow-backed image processor of transformers.

        Raises:
            ModelError: If the two differ by more than rounding on two test pictures.
        """
        # Small and smooth pictures, one wide and one tall, with different sides.
        waves = np.sin(np.arange(90 * 70 * 3).reshape(90, 70, 3) / 37.0)
        wide = (127.5 + 127.5 * waves).astype(np.uint8)
        for picture in (wide, np.ascontiguousarray(wide.transpose(1, 0, 2))):
            expected = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0], np.float32)
            expected = expected.reshape(-1, *expected.shape[-3:])[0]  # the only frame of a video
            actual = self.normalise(self.resize_pictures(picture[None]))[0].numpy()
            if (
                actual.shape != expected.shape
                or (np.abs(actual - expected).max(axis=(1, 2)) > _TOLERANCE / np.array(self.std)).any()
            ):
                raise ModelError(
                    f"image processor {type(processor).__name__} does more than resize, crop and normalise",
                    "choose another model",
                )


def resize_as_pillow(pictures: NDArray[np.uint8], size: tuple[int, int], resample: Filter) -> NDArray[np.uint8]:
    """Resize each picture with Pillow, columns first.

    Up to Pillow 12 a single call gives the same result. From 13 on Pillow resizes the rows of some shapes first, which
    rounds differently, by up to nine grey levels.

    Args:
        pictures: RGB, uint8 (T, H, W, 3).
        size: Target height and width.
        resample: The filter.

    Returns:
        uint8 (T, *size, 3).
    """
    height, width = size
    method = Image.Resampling[resample.upper()]
    resized = np.empty((len(pictures), height, width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        image = Image.fromarray(picture)
        resized[index] = np.asarray(image.resize((width, image.height), method).resize((width, height), method))
    return resized


def load_preprocessing(source: ModelSource, resolution: int | None = None) -> Preprocessing:
    """Read the settings of the image processor of a model.

    Args:
        source: Location of the model.
        resolution: Side of the square input; None: as in the processor.

    Raises:
        ModelError: If there is no processor, or if `Preprocessing` does not support one of its steps.
    """
    values = read_model_json(source, "preprocessor_config.json") or {}
    if values.get("image_processor_type") in _DINOV3:
        preprocessing = _read_dinov3(values)
    else:
        processor = load_pretrained(
            source, lambda name, **options: AutoImageProcessor.from_pretrained(name, backend="pil", **options)
        )
        preprocessing = read_preprocessing(processor)
    if resolution is not None:
        return preprocessing.with_resolution(resolution)
    if isinstance(preprocessing.resize, int) and preprocessing.crop is None:
        raise ModelError(
            f"the image processor of {source.name} returns pictures of different sizes",
            "set the resolution of the encoder in params.yaml",
        )
    return preprocessing


def read_preprocessing(processor: Any, *, check: bool = True) -> Preprocessing:
    """Read the settings of an image processor of transformers.

    Args:
        processor: Pillow-backed image processor, or an object with its attributes.
        check: Whether to compare the result with the processor on test pictures.

    Raises:
        ModelError: If `Preprocessing` does not support one of its steps.
    """
    if hasattr(processor, "max_num_patches"):
        raise ModelError(
            f"image processor {type(processor).__name__} returns pictures of different sizes",
            "choose a checkpoint with a fixed input size",
        )
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    resample = _RESAMPLE.get(int(processor.resample)) if processor.do_resize else "bilinear"
    if resample is None:
        raise ModelError(f"resampling filter {processor.resample} is not supported", "choose another vision model")
    crops = bool(getattr(processor, "do_center_crop", False))
    preprocessing = Preprocessing(
        resize=_parse_size(processor.size) if processor.do_resize else None,
        resample=resample,
        crop=(processor.crop_size["height"], processor.crop_size["width"]) if crops else None,
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
    )
    if check:
        preprocessing.check_against(processor)
    return preprocessing


def _read_dinov3(values: dict[str, Any]) -> Preprocessing:
    """Read the settings of DINOv3's processor, whose class needs torchvision.

    The processor resizes in floating point; this rounds to grey levels, a difference of less than one level.
    """
    stored = {name: values[name] for name in _DINOV3_DEFAULTS if values.get(name) is not None}
    processor = SimpleNamespace(**{**_DINOV3_DEFAULTS, **stored})
    if processor.do_center_crop and not processor.crop_size:
        raise ModelError(
            "preprocessor_config.json sets do_center_crop without crop_size", "fetch the complete files of the model"
        )
    return read_preprocessing(processor, check=False)


def _parse_size(size: Any) -> tuple[int, int] | int:
    sides = {key: int(value) for key, value in dict(size).items() if value is not None}
    if sides.keys() == {"height", "width"}:
        return sides["height"], sides["width"]
    if sides.keys() == {"shortest_edge"}:
        return sides["shortest_edge"]
    raise ModelError(f"picture size {sides} is not supported", "choose a vision model with a fixed input size")


def _target_size(height: int, width: int, resize: tuple[int, int] | int) -> tuple[int, int]:
    if isinstance(resize, tuple):
        return resize
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def _centre_crop(frames: torch.Tensor, crop: tuple[int, int]) -> torch.Tensor:
    height, width = frames.shape[-2:]
    if height < crop[0] or width < crop[1]:  # like transformers, pad smaller pictures with black
        rows, columns = max(crop[0] - height, 0), max(crop[1] - width, 0)
        frames = F.pad(frames, ((columns + 1) // 2, columns // 2, (rows + 1) // 2, rows // 2))
        height, width = frames.shape[-2:]
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    return frames[..., top : top + crop[0], left : left + crop[1]]


class PicturePreparer(Preparer[Any]):
    """Preprocessing of frames, or of the crops of a face track: resizing and cropping.

    Attributes:
        preprocessing: Sizes and value range.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def describe(self) -> dict[str, Any]:
        """Return the preprocessing."""
        return self.preprocessing.to_dict()

    def prepare(self, view: Any) -> NDArray[np.uint8]:
        """Return pictures of the input size of the network, uint8 (T, 3, S, S)."""
        prepared: NDArray[np.uint8] = self.preprocessing.resize_pictures(view_pictures(view)).numpy()
        return np.ascontiguousarray(prepared)


class PictureEncoder(Encoder[Any]):
    """An encoder that returns one row for each frame, or for each crop of a face track.

    Attributes:
        preparer: Converts pictures of any size to the input size of the network.
        inference: Device, precision and batches of the network.
    """

    preparer: PicturePreparer
    inference: Inference

    def encode_prepared(self, prepared: Sequence[NDArray[np.uint8]]) -> list[Encoding]:
        """Encode prepared frames, or crops of face tracks: (T, D) for each clip."""
        rows = self.inference.rows_of_clips(prepared, self._forward)
        return [Encoding(clip_rows, np.arange(len(clip_rows))) for clip_rows in rows]

    @abstractmethod
    def _forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Map prepared pictures on the device, uint8 (B, 3, S, S), to rows (B, D)."""
