"""The fusion model of each kind."""

from __future__ import annotations

from collections.abc import Mapping

from ecmf_pipeline.fusion.baselines import AttentionFusion, ConcatFusion, GatedFusion
from ecmf_pipeline.fusion.config import FusionConfig
from ecmf_pipeline.fusion.ecmf import EcmfFusion, MeanProbs, SingleModality
from ecmf_pipeline.fusion.model import FusionModel

_BY_KIND: dict[str, type[FusionModel]] = {
    "ecmf": EcmfFusion,
    "attention": AttentionFusion,
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "mean_probs": MeanProbs,
}


def build_model(config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> FusionModel:
    """Build the model of ``config.kind``.

    Raises:
        InputError: If the modality of a ``single:`` kind does not exist.
    """
    return _BY_KIND.get(config.kind, SingleModality)(config, dims, n_classes)
