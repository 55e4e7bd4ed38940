"""Which encoder the class of a config describes.

Encoders import configs, never the other way round. Their modules, and torch with them, are loaded by the first encoder
or preparer that is built: planning loads none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.base import Encoder, Preparer
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.encoders.config import (
    AudioConfig,
    EfficientNetConfig,
    EgemapsConfig,
    ImportedConfig,
    JoinedConfig,
    MiniXceptionConfig,
    TextConfig,
    VideoConfig,
    VisionConfig,
)


@dataclass(frozen=True, slots=True)
class Implementation:
    """What computes the features that a config describes.

    Attributes:
        encoder: Loads the encoder for a config and a device.
        preparer: Loads what comes before its network alone, for a config.
    """

    encoder: Callable[[Any, str], Encoder[Any]]
    preparer: Callable[[Any], Preparer[Any]]


def build_encoder(config: BaseEncoderConfig, device: str = "auto") -> Encoder[Any]:
    """Load the encoder that a config describes.

    Args:
        config: Its params.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.

    Raises:
        ModelError: When weights are missing, damaged or of another shape, or the features are imported ones.
        ParamsError: When there is no such device.
    """
    return implementation(config).encoder(config, device)


def build_preparer(config: BaseEncoderConfig) -> Preparer[Any]:
    """Load what comes before an encoder's network, alone.

    Raises:
        ModelError: When what it needs is missing or damaged, or the features are imported ones.
    """
    return implementation(config).preparer(config)


@singledispatch
def implementation(config: BaseEncoderConfig) -> Implementation:
    """Look up what computes the features of a config, by its class.

    ``@implementation.register`` adds a class: the decorated function takes a config of it, imports its encoder, and
    returns both as an `Implementation`.
    """
    raise TypeError(f"{type(config).__name__} has no encoder: register one with `implementation.register`")


@implementation.register
def _efficientnet(_: EfficientNetConfig) -> Implementation:
    from ecmf_pipeline.encoders.embedded.efficientnet import EfficientNetEncoder, efficientnet_preparer

    return Implementation(EfficientNetEncoder, efficientnet_preparer)


@implementation.register
def _mini_xception(_: MiniXceptionConfig) -> Implementation:
    from ecmf_pipeline.encoders.embedded.mini_xception import MiniXceptionEncoder, MiniXceptionPreparer

    return Implementation(MiniXceptionEncoder, MiniXceptionPreparer)


@implementation.register
def _egemaps(_: EgemapsConfig) -> Implementation:
    from ecmf_pipeline.encoders.embedded.egemaps import EgemapsEncoder, EgemapsPreparer

    # openSMILE knows the CPU alone, and there is nothing to choose
    return Implementation(lambda config, _: EgemapsEncoder(config), lambda _: EgemapsPreparer())


@implementation.register
def _vision(_: VisionConfig) -> Implementation:
    from ecmf_pipeline.encoders.vision import VisionEncoder, vision_preparer

    return Implementation(VisionEncoder, vision_preparer)


@implementation.register
def _video(_: VideoConfig) -> Implementation:
    from ecmf_pipeline.encoders.vision import VideoEncoder, video_preparer

    return Implementation(VideoEncoder, video_preparer)


@implementation.register
def _audio(_: AudioConfig) -> Implementation:
    from ecmf_pipeline.encoders.audio import audio_encoder, audio_preparer

    return Implementation(audio_encoder, audio_preparer)


@implementation.register
def _text(_: TextConfig) -> Implementation:
    from ecmf_pipeline.encoders.text import TextEncoder, TextPreparer

    return Implementation(TextEncoder, TextPreparer)


@implementation.register
def _joined(_: JoinedConfig) -> Implementation:
    from ecmf_pipeline.encoders.base import JoinedEncoder, JoinedPreparer

    def encoder(config: JoinedConfig, device: str) -> Encoder[Any]:
        members = []
        with ExitStack() as exits:  # closes those that have loaded when one does not
            for member in config.members:
                members.append(build_encoder(member, device))
                exits.callback(members[-1].close)
            exits.pop_all()
        return JoinedEncoder(config, members)

    def preparer(config: JoinedConfig) -> Preparer[Any]:
        return JoinedPreparer([build_preparer(member) for member in config.members])

    return Implementation(encoder, preparer)


@implementation.register
def _imported(config: ImportedConfig) -> Implementation:
    raise ModelError(
        f"{config.name!r} is a name for imported features: they cannot be computed here",
        f"run `ecmf-pipe store import PATH --modality MODALITY --encoder {config.name}`",
    )
