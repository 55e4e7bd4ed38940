"""Where features come from, for people to read: it has no part in the fingerprint."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ecmf_pipeline import __version__
from ecmf_pipeline.clips import Modality
from ecmf_pipeline.encoders.base import Encoder
from ecmf_pipeline.encoders.config import BaseEncoderConfig
from ecmf_pipeline.encoders.joined import JoinedEncoder
from ecmf_pipeline.encoders.joined_config import JoinedConfig
from ecmf_pipeline.media import MediaConfig, resolved_reader

UNKNOWN = "unknown"
"""The version of a library that is not installed as a package."""

_READERS = {"decord": ("av", "decord"), "pyav": ("av",)}
"""Where decord's pictures are wanted, PyAV looks into the file first, and may read it itself."""

_OF_FACES = ("mediapipe", "opencv-contrib-python")


def library_versions(modality: Modality, encoder: BaseEncoderConfig, media: MediaConfig) -> dict[str, str]:
    """Versions of what computes a modality's features here, by the package's name, sorted.

    Args:
        modality: Which.
        encoder: Its encoder.
        media: How clips are read.
    """
    libraries = {"numpy", *encoder.libraries()}
    if modality in {Modality.GLOBAL, Modality.FACE}:
        libraries.update(_READERS[resolved_reader(media)])
    if modality is Modality.FACE:
        libraries.update(_OF_FACES)
    if modality is Modality.AUDIO:
        libraries.add("av")
    return dict(sorted({"ecmf-pipeline": __version__, **{name: _version(name) for name in libraries}}.items()))


def provenance_of(config: BaseEncoderConfig, encoder: Encoder[Any], versions: dict[str, str]) -> dict[str, Any]:
    """What a settings group says of where its features come from.

    Args:
        config: The encoder's params.
        encoder: The same, loaded.
        versions: Of `library_versions`.
    """
    return {**_origin(config, encoder), "versions": versions}


def _origin(config: BaseEncoderConfig, encoder: Encoder[Any]) -> dict[str, Any]:
    if isinstance(config, JoinedConfig) and isinstance(encoder, JoinedEncoder):
        return {"members": [_origin(*pair) for pair in zip(config.members, encoder.members, strict=True)]}
    return {**config.origin(), **encoder.provenance}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN
