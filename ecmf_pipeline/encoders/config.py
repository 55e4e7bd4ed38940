"""The params of every encoder. No torch here: planning a run that has nothing to do must not load it.

Adding an encoder is one subclass of `base.Encoder`, one config whose name joins the union `EncoderConfig`, and one
entry in params.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from ecmf_pipeline.clips import Modality
from ecmf_pipeline.encoders.base_config import (
    DEFAULT_TEXT_COLUMNS,
    MODELS,
    BaseEncoderConfig,
    Layers,
    TextColumn,
    TransformersConfig,
)
from ecmf_pipeline.encoders.picture_config import EfficientNetConfig, MiniXceptionConfig, VideoConfig, VisionConfig
from ecmf_pipeline.encoders.sound_config import AudioConfig, EgemapsConfig
from ecmf_pipeline.encoders.text_config import TextConfig, text_columns
from ecmf_pipeline.errors import ModelError

if TYPE_CHECKING:
    from ecmf_pipeline.encoders.base import Encoder, Preparer

__all__ = [
    "DEFAULT_TEXT_COLUMNS",
    "MODELS",
    "AudioConfig",
    "BaseEncoderConfig",
    "EfficientNetConfig",
    "EgemapsConfig",
    "EncoderConfig",
    "ImportedConfig",
    "Layers",
    "MiniXceptionConfig",
    "TextColumn",
    "TextConfig",
    "TransformersConfig",
    "VideoConfig",
    "VisionConfig",
    "settings_of_imported",
    "text_columns",
]


class ImportedConfig(BaseEncoderConfig):
    """Features that were computed elsewhere and come in by ``ecmf-pipe store import``; nothing is computed here.

    Attributes:
        name: What tells them from other imported features; empty: the name of the entry (see `named`).
        dtype: How they are stored. float16 takes half the space; its 11 bits end at 65504.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset(Modality)

    type: Literal["imported"] = "imported"
    name: str = ""
    dtype: Literal["float16", "float32"] = "float32"

    def named(self, name: str) -> Self:
        """The same, called after its entry unless it has a name of its own."""
        return self if self.name else self.model_copy(update={"name": name})

    def settings(self) -> dict[str, Any]:
        """The name and the stored type: nothing else of them is known here.

        Raises:
            ValueError: When it has no name yet.
        """
        if not self.name:
            raise ValueError("an imported encoder is told by its name: take the one that `named` returns")
        return {"type": self.type, "name": self.name, "dtype": self.dtype}

    def preparer(self) -> Preparer[Any]:
        """Imported features cannot be computed.

        Raises:
            ModelError: Always.
        """
        raise self._not_computed()

    def build(self, device: str = "auto") -> Encoder[Any]:  # noqa: ARG002
        """Imported features cannot be computed.

        Raises:
            ModelError: Always.
        """
        raise self._not_computed()

    def _not_computed(self) -> ModelError:
        return ModelError(
            f"{self.name!r} is a name for imported features: they cannot be computed here",
            f"run `ecmf-pipe store import PATH --modality MODALITY --encoder {self.name}`",
        )


def settings_of_imported(settings: Mapping[str, Any]) -> bool:
    """Whether a store's settings are those of imported features (of which nobody here knows the input)."""
    encoder = settings.get("encoder")
    return isinstance(encoder, Mapping) and encoder.get("type") == "imported"


EncoderConfig = Annotated[
    EfficientNetConfig
    | MiniXceptionConfig
    | EgemapsConfig
    | VisionConfig
    | VideoConfig
    | AudioConfig
    | TextConfig
    | ImportedConfig,
    Field(discriminator="type"),
]
"""One entry under ``encoders`` in params.yaml; ``type`` says which."""
