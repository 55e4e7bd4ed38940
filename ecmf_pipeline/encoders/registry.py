"""Map the class of a config to its encoder.

Encoders import configs, never the reverse. The modules of encoders, and torch with them, are imported when the first
encoder or preparer is built. Planning imports none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.base import Encoder, Preparer
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.encoders.config import (
    AudioConfig,
    E5Config,
    EfficientNetConfig,
    EgemapsConfig,
    ImportedConfig,
    MiniXceptionConfig,
    TextConfig,
    VideoConfig,
    VisionConfig,
)


@dataclass(frozen=True, slots=True)
class Implementation:
    """Functions that build the encoder and the preparer of a config.

    Attributes:
        encoder: Loads the encoder for a config and a device.
        preparer: Loads only the preprocessing, for a config.
    """

    encoder: Callable[[Any, str], Encoder[Any]]
    preparer: Callable[[Any], Preparer[Any]]


def build_encoder(config: BaseEncoderConfig, device: str = "auto") -> Encoder[Any]:
    """Load the encoder of a config.

    Args:
        config: The params of the encoder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises:
        ModelError: If weights are missing, damaged or of another shape, or if the features are imported.
        ParamsError: If there is no such device.
    """
    return implementation(config).encoder(config, device)


def build_preparer(config: BaseEncoderConfig) -> Preparer[Any]:
    """Load only the preprocessing of an encoder.

    Raises:
        ModelError: If its files are missing or damaged, or if the features are imported.
    """
    return implementation(config).preparer(config)


@singledispatch
def implementation(config: BaseEncoderConfig) -> Implementation:
    """Return the implementation for the class of a config.

    ``@implementation.register`` adds a class: the decorated function takes a config of that class, imports its encoder,
    and returns an `Implementation`.
    """
    raise TypeError(f"no encoder is registered for {type(config).__name__}: use `implementation.register`")


@implementation.register
def _efficientnet(_: EfficientNetConfig) -> Implementation:
    from ecmf_pipeline.encoders.embedded.efficientnet import EfficientNetEncoder, build_efficientnet_preparer

    return Implementation(EfficientNetEncoder, build_efficientnet_preparer)


@implementation.register
def _mini_xception(_: MiniXceptionConfig) -> Implementation:
    from ecmf_pipeline.encoders.embedded.mini_xception import MiniXceptionEncoder, MiniXceptionPreparer

    return Implementation(MiniXceptionEncoder, MiniXceptionPreparer)


@implementation.register
def _egemaps(_: EgemapsConfig) -> Implementation:
    from ecmf_pipeline.encoders.embedded.egemaps import EgemapsEncoder, EgemapsPreparer

    # openSMILE runs on the CPU only, and its params are fixed.
    return Implementation(lambda config, _: EgemapsEncoder(config), lambda _: EgemapsPreparer())


@implementation.register
def _vision(_: VisionConfig) -> Implementation:
    from ecmf_pipeline.encoders.vision import VisionEncoder, build_vision_preparer

    return Implementation(VisionEncoder, build_vision_preparer)


@implementation.register
def _video(_: VideoConfig) -> Implementation:
    from ecmf_pipeline.encoders.vision import VideoEncoder, build_video_preparer

    return Implementation(VideoEncoder, build_video_preparer)


@implementation.register
def _audio(_: AudioConfig) -> Implementation:
    from ecmf_pipeline.encoders.audio import build_audio_encoder, build_audio_preparer

    return Implementation(build_audio_encoder, build_audio_preparer)


@implementation.register
def _text(_: TextConfig) -> Implementation:
    from ecmf_pipeline.encoders.text import TextEncoder, TextPreparer

    return Implementation(TextEncoder, TextPreparer)


@implementation.register
def _e5(_: E5Config) -> Implementation:
    from ecmf_pipeline.encoders.embedded.e5 import E5Encoder, E5Preparer

    return Implementation(E5Encoder, E5Preparer)


@implementation.register
def _imported(config: ImportedConfig) -> Implementation:
    raise ModelError(
        f"encoder {config.name!r} has imported features, which cannot be computed",
        "import the features",
        command=f"ecmf-pipe store import PATH --modality MODALITY --encoder {config.name}",
    )
