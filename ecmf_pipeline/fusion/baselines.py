"""Fusion models to which `ecmf.EcmfFusion` is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ecmf_pipeline.fusion.config import FusionConfig
from ecmf_pipeline.fusion.model import FusionModel, FusionOutput, Projection, normalise_shares


class Mlp(nn.Module):
    """The encoder of the baseline: dropout (in the projection), then three linear layers with ReLU."""

    def __init__(self, dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.project = Projection(dim, config)
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, D) or (B, T, D) to (B, H)."""
        encoded: Tensor = self.rest(self.project(values))
        return encoded


class AttentionFusion(FusionModel):
    """The baseline of the challenge: modality weights from the concatenated tokens, without softmax.

    Unlike in the baseline, inputs are standardised, and a missing modality is a token of zeros with weight 0. The
    reported share of a modality is the absolute value of its weight, normalised.
    """

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        self.encoders = nn.ModuleList(Mlp(dim, config) for dim in dims.values())
        self.attention = Mlp(config.hidden * len(dims), config)
        self.score = nn.Linear(config.hidden, len(dims))
        self.classifier = nn.Linear(config.hidden, n_classes)

    def combine(self, standard: Sequence[Tensor], present: Tensor) -> FusionOutput:
        """See `FusionModel.combine`."""
        present = self.usable_modalities(present)
        tokens = torch.stack([encode(values) for encode, values in zip(self.encoders, standard, strict=True)], dim=1)
        tokens = tokens * present[:, :, None]  # (B, M, H)
        weights = self.score(self.attention(tokens.flatten(1))) * present  # (B, M)
        fused = (weights[:, :, None] * tokens).sum(dim=1)  # (B, H)
        return FusionOutput(self.classifier(fused), normalise_shares(weights.abs(), present))


class ConcatFusion(FusionModel):
    """Logits of the concatenated tokens through one hidden layer; it reports equal shares for the modalities."""

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        self.projections = nn.ModuleList(Projection(dim, config) for dim in dims.values())
        width = len(dims) * (config.hidden + 1)  # each token with its presence flag
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, config.hidden), nn.GELU())
        self.classifier = nn.Linear(config.hidden, n_classes)

    def combine(self, standard: Sequence[Tensor], present: Tensor) -> FusionOutput:
        """See `FusionModel.combine`."""
        present = self.usable_modalities(present)
        tokens = torch.stack([p(values) for p, values in zip(self.projections, standard, strict=True)], dim=1)
        tokens = torch.cat([tokens * present[:, :, None], present[:, :, None].to(tokens.dtype)], dim=2)  # (B, M, H + 1)
        logits = self.classifier(self.mix(tokens.flatten(1)))  # (B, C)
        return FusionOutput(logits, normalise_shares(torch.ones_like(tokens[:, :, 0]), present))


class GatedFusion(FusionModel):
    """Gated fusion: a gate for each modality and hidden unit (Arevalo et al. 2017, arXiv 1702.01992)."""

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        self.projections = nn.ModuleList(Projection(dim, config) for dim in dims.values())
        self.gates = nn.Linear(config.hidden * len(dims), config.hidden * len(dims))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden, n_classes)

    def combine(self, standard: Sequence[Tensor], present: Tensor) -> FusionOutput:
        """See `FusionModel.combine`."""
        present = self.usable_modalities(present)
        projected = [p(values) for p, values in zip(self.projections, standard, strict=True)]
        tokens = torch.stack(projected, dim=1).tanh() * present[:, :, None]  # (B, M, H)
        gates = self.gates(tokens.flatten(1)).sigmoid().view_as(tokens) * present[:, :, None]  # (B, M, H)
        logits = self.classifier(self.dropout((gates * tokens).sum(dim=1)))  # (B, C)
        return FusionOutput(logits, normalise_shares(gates.mean(dim=2), present))
