"""What can be set about the evaluation."""

from __future__ import annotations

from pydantic import Field

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.fusion.config import FusionKind


class EvaluateConfig(Config):
    """How sure the evaluation is.

    Attributes:
        draws: Bootstrap samples of each interval.
        seed: Seed of the bootstrap.
        fusion_controls: Whether the fusion model, too, is trained on each of the simpler training sets that refined
            labels are compared with: three or four trainings more. A linear classifier always is.
    """

    draws: int = Field(1000, ge=100)
    seed: int = Field(7, ge=0)
    fusion_controls: bool = True


class AblateConfig(Config):
    """Which variants are trained to see what earns its place.

    Attributes:
        seeds: Trainings of each variant, each with a seed of its own; intervals are over clips (groups where known) and
            these.
        fusions: Fusion models beside the one of ``train.fusion``.
        modalities: Whether each modality is tried alone and left out, global against face, and raw against enriched
            text.
        frames: Whether the rows of clips are tried as sequences too, where ``train.pool`` pools them; where it is
            ``frames``, pooled by their mean.
        parts: Whether the parts of ``ecmf`` and of its training are taken away, or added, one by one.
        noise: Standard deviation of the noise of the robustness table, in those of each feature.
        collapse_above: Mean weight of one modality above which a warning says that the fusion hears nothing else.
        draws: Bootstrap samples of each interval.
        seed: Seed of the bootstrap, the noise and the shuffling.
    """

    seeds: int = Field(2, gt=0)
    fusions: tuple[FusionKind, ...] = ("attention", "concat", "gated", "mean_probs")
    modalities: bool = True
    frames: bool = False
    parts: bool = False
    noise: float = Field(1.0, ge=0)
    collapse_above: float = Field(0.9, gt=0.5, le=1)
    draws: int = Field(1000, ge=100)
    seed: int = Field(7, ge=0)
