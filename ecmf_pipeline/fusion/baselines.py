"""The other fusion models, behind the same interface: what `EcmfFusion` has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.fusion.config import FusionConfig
from ecmf_pipeline.fusion.model import BranchedFusion, EcmfFusion, FusionModel, FusionOutput, Projection, shares


class MeanProbs(BranchedFusion):
    """The mean of the probabilities that the modalities present give by themselves."""

    def fuse(self, tokens: Tensor, logits: Tensor, present: Tensor) -> FusionOutput:
        """See `BranchedFusion.fuse`."""
        weights = shares(tokens.new_ones(present.shape), self.usable(present))  # (B, M)
        log_weights = weights.log()[:, :, None]  # -inf where missing
        return FusionOutput(torch.logsumexp(logits.log_softmax(dim=2) + log_weights, dim=1), weights)


class SingleModality(BranchedFusion):
    """One modality alone; the others are not listened to."""

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        if config.single not in self.modalities:
            raise InputError(
                f"fusion kind {config.kind}: there is no modality {config.single!r}",
                f"the modalities are {', '.join(self.modalities)}",
            )
        self.seen.copy_(self._chosen())

    def _chosen(self) -> Tensor:
        return torch.tensor([name == self.config.single for name in self.modalities])

    @torch.no_grad()
    def standardise_by(self, features: Sequence[Tensor], present: Tensor) -> None:
        """See `FusionModel.standardise_by`."""
        super().standardise_by(features, present)
        self.seen.logical_and_(self._chosen().to(self.seen.device))

    def fuse(self, tokens: Tensor, logits: Tensor, present: Tensor) -> FusionOutput:
        """See `BranchedFusion.fuse`."""
        weights = self.usable(present).to(tokens.dtype)  # (B, M), one-hot
        return FusionOutput((weights[:, :, None] * logits).sum(dim=1), weights)


class Mlp(nn.Module):
    """The baseline's encoder: dropout (the projection's own), then three linear layers, each with a ReLU."""

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
        """(B, D) or (B, T, D) -> (B, H)."""
        encoded: Tensor = self.rest(self.project(values))
        return encoded


class AttentionFusion(FusionModel):
    """The challenge's baseline: a weight for each modality from all of them side by side, without softmax.

    Its inputs are standardised here, and a missing modality is a token of zeros with the weight 0. What is told as a
    modality's share is the size of its weight.
    """

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        self.encoders = nn.ModuleList(Mlp(dim, config) for dim in dims.values())
        self.attention = Mlp(config.hidden * len(dims), config)
        self.score = nn.Linear(config.hidden, len(dims))
        self.classifier = nn.Linear(config.hidden, n_classes)

    def combine(self, standard: Sequence[Tensor], present: Tensor) -> FusionOutput:
        """See `FusionModel.combine`."""
        present = self.usable(present)
        tokens = torch.stack([encode(values) for encode, values in zip(self.encoders, standard, strict=True)], dim=1)
        tokens = tokens * present[:, :, None]  # (B, M, H)
        weights = self.score(self.attention(tokens.flatten(1))) * present  # (B, M)
        fused = (weights[:, :, None] * tokens).sum(dim=1)  # (B, H)
        return FusionOutput(self.classifier(fused), shares(weights.abs(), present))


class ConcatFusion(FusionModel):
    """All tokens side by side, one hidden layer, logits. It has no weights: equal shares are told."""

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        self.projections = nn.ModuleList(Projection(dim, config) for dim in dims.values())
        width = len(dims) * (config.hidden + 1)  # with whether it is there
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, config.hidden), nn.GELU())
        self.classifier = nn.Linear(config.hidden, n_classes)

    def combine(self, standard: Sequence[Tensor], present: Tensor) -> FusionOutput:
        """See `FusionModel.combine`."""
        present = self.usable(present)
        tokens = torch.stack([p(values) for p, values in zip(self.projections, standard, strict=True)], dim=1)
        tokens = torch.cat([tokens * present[:, :, None], present[:, :, None].to(tokens.dtype)], dim=2)  # (B, M, H + 1)
        logits = self.classifier(self.mix(tokens.flatten(1)))  # (B, C)
        return FusionOutput(logits, shares(torch.ones_like(tokens[:, :, 0]), present))


class GatedFusion(FusionModel):
    """A gate for each modality and hidden unit, from all modalities (Arevalo et al. 2017, arXiv 1702.01992)."""

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        self.projections = nn.ModuleList(Projection(dim, config) for dim in dims.values())
        self.gates = nn.Linear(config.hidden * len(dims), config.hidden * len(dims))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden, n_classes)

    def combine(self, standard: Sequence[Tensor], present: Tensor) -> FusionOutput:
        """See `FusionModel.combine`."""
        present = self.usable(present)
        projected = [p(values) for p, values in zip(self.projections, standard, strict=True)]
        tokens = torch.stack(projected, dim=1).tanh() * present[:, :, None]  # (B, M, H)
        gates = self.gates(tokens.flatten(1)).sigmoid().view_as(tokens) * present[:, :, None]  # (B, M, H)
        logits = self.classifier(self.dropout((gates * tokens).sum(dim=1)))  # (B, C)
        return FusionOutput(logits, shares(gates.mean(dim=2), present))


_BY_KIND: dict[str, type[FusionModel]] = {
    "ecmf": EcmfFusion,
    "attention": AttentionFusion,
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "mean_probs": MeanProbs,
}


def build(config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> FusionModel:
    """The model that ``config.kind`` names.

    Raises:
        InputError: When it is the model of a modality that is not there.
    """
    return _BY_KIND.get(config.kind, SingleModality)(config, dims, n_classes)
