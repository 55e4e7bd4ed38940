"""The params of encoders of sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ecmf_pipeline.clips import Modality
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig, Layers, TransformersConfig

if TYPE_CHECKING:
    from ecmf_pipeline.encoders.base import Encoder, Preparer


class EgemapsConfig(BaseEncoderConfig):
    """The 88 functionals of eGeMAPSv02, one row a clip."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})
    uses_torch: ClassVar[bool] = False
    computed_by: ClassVar[frozenset[str]] = frozenset({"opensmile"})

    type: Literal["egemaps"] = "egemaps"

    def preparer(self) -> Preparer[Any]:
        """Load openSMILE, which does all the work."""
        from ecmf_pipeline.encoders.egemaps import EgemapsPreparer

        return EgemapsPreparer()

    def build(self, device: str = "auto") -> Encoder[Any]:  # noqa: ARG002 - openSMILE knows the CPU alone
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.egemaps import EgemapsEncoder

        return EgemapsEncoder(self)


class AudioConfig(TransformersConfig):
    """A transformers speech model (HuBERT, wav2vec2, WavLM, data2vec-audio, Whisper's encoder), 50 rows a second.

    Attributes:
        layers: Which hidden states; see `Layers`.
        frames_per_row: Rows of the model that are averaged into one, to keep stores of long clips small.
        window_seconds: A longer clip is cut into equal windows that are described one by one, since attention's cost
            grows with the square of the length. Whisper's own limit of 30 s holds too.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})
    added_later: ClassVar[frozenset[str]] = TransformersConfig.added_later | {"window_seconds"}

    type: Literal["transformers_audio"] = "transformers_audio"
    batch_size: int = Field(8, gt=0)
    layers: Layers = "last"
    frames_per_row: int = Field(1, gt=0)
    window_seconds: float = Field(30.0, ge=1.0)

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the network; see `BaseEncoderConfig.preparer`."""
        from ecmf_pipeline.encoders.audio import audio_preparer

        return audio_preparer(self)

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.audio import audio_encoder

        return audio_encoder(self, device)
