"""The params of several encoders that serve one modality together. No torch here, as in `config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from ecmf_pipeline.clips import Modality
from ecmf_pipeline.encoders.config import BaseEncoderConfig, EncoderConfig, ImportedConfig

if TYPE_CHECKING:
    from ecmf_pipeline.encoders.base import Encoder


class JoinedConfig(BaseEncoderConfig):
    """Several encoders whose rows stand side by side: what a list under ``extract.encoders`` makes.

    Attributes:
        members: The encoders, in the order of their columns; of them the settings are made.
        batch_size: Not used: each member has its own.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset(Modality)
    """In principle all; params see to it that each member can serve the modality."""

    members: tuple[EncoderConfig, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _computed(self) -> JoinedConfig:
        if any(isinstance(member, ImportedConfig) for member in self.members):
            raise ValueError("imported features cannot be joined with others: their rows were made elsewhere")
        return self

    def settings(self) -> dict[str, Any]:
        """The members' settings, in their order.

        Raises:
            ModelError: When weights are missing.
        """
        return {"type": "joined", "members": [member.settings() for member in self.members], "recipe": self.recipe}

    def libraries(self) -> frozenset[str]:
        """Those of all members."""
        return frozenset[str]().union(*(member.libraries() for member in self.members))

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load all members; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.joined import JoinedEncoder

        return JoinedEncoder(self, device)
