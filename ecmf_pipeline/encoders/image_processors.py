"""Which preprocessing a vision model comes with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor
from transformers.utils import cached_file
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import read_text
from ecmf_pipeline.encoders.preprocess import Preprocessing, read_preprocessing
from ecmf_pipeline.encoders.pretrained import load_part
from ecmf_pipeline.encoders.weights import ModelSource

_DINOV3 = {"DINOv3ViTImageProcessor", "DINOv3ViTImageProcessorFast"}
"""Processors that exist for torchvision alone."""


def load_preprocessing(source: ModelSource, resolution: int | None = None) -> Preprocessing:
    """Read what a model's own image processor does.

    Args:
        source: The model.
        resolution: Side of the square that the model is to see; None: as the processor says.

    Raises:
        ModelError: When there is none, or when it does something that `Preprocessing` cannot.
    """
    values = _processor_values(source)
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


def _processor_values(source: ModelSource) -> dict[str, Any]:
    found = load_part(
        source,
        lambda model, **where: cached_file(
            model, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False, **where
        ),
    )
    values: dict[str, Any] = json.loads(read_text(Path(found))) if found else {}
    return values


def _of_dinov3(values: dict[str, Any]) -> Preprocessing:
    """What DINOv3's processor does, whose class cannot be loaded without torchvision.

    It resizes in floating point, where this rounds to grey levels: less than one of them apart.
    """
    stand_in = _Dinov3Processor(values)
    if stand_in.do_center_crop and not values.get("crop_size"):
        raise ModelError("DINOv3's image processor is to crop, but names no size", "the files are incomplete")
    return read_preprocessing(stand_in, check=False)


class _Dinov3Processor:
    """Attributes of ``DINOv3ViTImageProcessor``, its defaults included (image_processing_dinov3_vit.py)."""

    def __init__(self, values: dict[str, Any]) -> None:
        given = {name: value for name, value in values.items() if value is not None}
        self.do_resize = bool(given.get("do_resize", True))
        self.do_center_crop = bool(given.get("do_center_crop", False))
        self.do_rescale = bool(given.get("do_rescale", True))
        self.do_normalize = bool(given.get("do_normalize", True))
        self.size = given.get("size", {"height": 224, "width": 224})
        self.crop_size = given.get("crop_size")
        self.resample = int(given.get("resample", 2))
        self.rescale_factor = float(given.get("rescale_factor", 1 / 255))
        self.image_mean = given.get("image_mean", IMAGENET_DEFAULT_MEAN)
        self.image_std = given.get("image_std", IMAGENET_DEFAULT_STD)
