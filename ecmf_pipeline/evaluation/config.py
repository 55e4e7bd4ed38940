"""Settings of the evaluation and the ablation study."""

from __future__ import annotations

from pydantic import Field

from ecmf_pipeline.core.config import Config
from ecmf_pipeline.fusion.config import FusionKind


class EvaluateConfig(Config):
    """The `evaluate` stage: bootstrap intervals and controls.

    Attributes:
        draws: Number of bootstrap samples per interval.
        seed: Seed of the bootstrap.
        fusion_controls: Whether to train the fusion model, too, on each of the simpler training sets that refined
            labels are compared with; this costs three or four more trainings. A linear classifier is always trained on
            each.
        plain: Whether to compare the fusion with plain models on the same features, see `evaluation.plain`.
    """

    draws: int = Field(1000, ge=100)
    seed: int = Field(7, ge=0)
    fusion_controls: bool = True
    plain: bool = True


class AblateConfig(Config):
    """The `ablate` stage: variants of the ablation study.

    Attributes:
        seeds: Number of trainings per variant, each with its own seed. Intervals are over clips (groups if known) and
            seeds.
        fusions: Fusion models to compare with the one of ``train.fusion``.
        modalities: Whether to train on each modality alone, without each modality, on global and face only, and on raw
            or enriched text only.
        plain: Whether to compare with plain models: logistic regression, LightGBM, an SVM and a mean of probabilities.
        frames: Whether to train on frame sequences too if ``train.pool`` pools them, or on their means if it is
            ``frames``.
        parts: Whether to remove or add parts of ``ecmf`` and of its training, each in a separate variant.
        margin: The smallest set of encoders is searched whose weighted F1 is at most this much below the best.
        sets: Maximum number of sets that this search predicts, by backward elimination; of M encoders it needs about
            M^2 / 2. 0 disables the search.
        noise: Standard deviation of the noise in the robustness table, in units of each feature's standard deviation.
        collapse_above: Mean weight of one modality above which a warning reports that the fusion ignores the others.
        draws: Number of bootstrap samples per interval.
        seed: Seed of the bootstrap, the noise and the shuffling.
    """

    seeds: int = Field(2, gt=0)
    fusions: tuple[FusionKind, ...] = ("attention", "concat", "gated", "mean_probs")
    modalities: bool = True
    plain: bool = True
    frames: bool = False
    parts: bool = False
    margin: float = Field(0.01, ge=0)
    sets: int = Field(200, ge=0)
    noise: float = Field(1.0, ge=0)
    collapse_above: float = Field(0.9, gt=0.5, le=1)
    draws: int = Field(1000, ge=100)
    seed: int = Field(7, ge=0)
