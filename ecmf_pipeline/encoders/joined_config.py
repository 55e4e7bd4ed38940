"""The params of several encoders that serve one modality together. No torch here, as in `config`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from ecmf_pipeline.clips import Modality
from ecmf_pipeline.config import Frames
from ecmf_pipeline.encoders.config import BaseEncoderConfig, EncoderConfig, ImportedConfig, TextColumn

if TYPE_CHECKING:
    from ecmf_pipeline.encoders.base import Encoder, Preparer


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
    def _fit_together(self) -> Self:
        if any(isinstance(member, ImportedConfig) for member in self.members):
            raise ValueError("imported features cannot be joined with others: their rows were made elsewhere")
        if len({_frames(member) for member in self.members}) > 1:
            raise ValueError("encoders that are joined must say the same of `frames`: their rows stand side by side")
        return self

    @property
    def frames(self) -> Frames | None:
        """Pictures of a clip that the members read; None: as ``media.frames`` says."""
        return _frames(self.members[0])

    def resolved(self, device: str) -> Self:
        """The same with all that members leave to the device decided."""
        return self.model_copy(update={"members": tuple(member.resolved(device) for member in self.members)})

    def settings(self) -> dict[str, Any]:
        """The members' settings, in their order.

        Raises:
            ModelError: When weights are missing.
        """
        return {"type": "joined", "members": [member.settings() for member in self.members], "recipe": self.recipe}

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        """The transcripts that any member reads: a clip that lacks one of them is absent."""
        return tuple(dict.fromkeys(column for member in self.members for column in member.text_columns))

    def half_types(self) -> frozenset[str]:
        """Those of all members."""
        return frozenset[str]().union(*(member.half_types() for member in self.members))

    def libraries(self) -> frozenset[str]:
        """Those of all members."""
        return frozenset[str]().union(*(member.libraries() for member in self.members))

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the members' networks."""
        from ecmf_pipeline.encoders.joined import JoinedPreparer

        return JoinedPreparer([member.preparer() for member in self.members])

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load all members; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.joined import JoinedEncoder

        return JoinedEncoder(self, device)


def _frames(member: BaseEncoderConfig) -> Frames | None:
    """What a member says of `frames`; those that read no pictures say nothing."""
    frames: Frames | None = getattr(member, "frames", None)
    return frames
