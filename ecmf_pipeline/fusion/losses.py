"""Losses of weighted, smoothed and mixed labels, and rows to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ecmf_pipeline.fusion.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows to learn from, on one device.

    Attributes:
        inputs: Features and mask.
        labels: Class indices, (n,).
        weights: Sample weights, (n,), float32.
    """

    inputs: Inputs
    labels: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Examples:
        return Examples(self.inputs[rows], self.labels[rows], self.weights[rows])

    def only(self, modality: int) -> Examples:
        """One modality of the rows that have it."""
        here = self.inputs.present[:, modality]
        inputs = Inputs((self.inputs.features[modality],), self.inputs.present[:, modality : modality + 1])
        alone = Examples(inputs, self.labels, self.weights)
        return alone if bool(here.all()) else alone[here.nonzero().squeeze(1)]


def weighted_loss(logits: Tensor, examples: Examples, by_class: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of (B, C) logits, each clip counted by its own weight times its class's."""
    losses = F.cross_entropy(logits, examples.labels, reduction="none", label_smoothing=smoothing)  # (B,)
    counted = examples.weights * by_class[examples.labels]  # (B,)
    return (losses * counted).sum() / counted.sum()


def class_weights(examples: Examples, n_classes: int, kind: str) -> Tensor:
    """Weight of each class in the loss, (C,): 1, n / (C * count), or its square root."""
    counts = torch.bincount(examples.labels, examples.weights, minlength=n_classes)  # (C,)
    if kind == "none":
        return torch.ones_like(counts)
    # A class that only the validation rows hold counts as one clip.
    balanced = counts.sum() / (n_classes * torch.where(counts > 0, counts, torch.ones_like(counts)))
    return balanced if kind == "balanced" else balanced.sqrt()


def hide_modalities(present: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Hide each modality of each clip with a chance, never all that a clip has; (B, M) -> (B, M)."""
    kept = present & (torch.rand(present.shape, generator=generator) >= chance).to(present.device)
    return torch.where(kept.any(dim=1, keepdim=True), kept, present)


def mixed(examples: Examples, share: float, partners: Tensor) -> Inputs:
    """Standardised inputs of which each modality is mixed with a partner's where both have it.

    Args:
        examples: The batch.
        share: How much of a clip stays its own.
        partners: Which row each is mixed with, (B,).
    """
    inputs = examples.inputs
    features = []
    for values, here in zip(inputs.features, inputs.present.unbind(1), strict=True):
        both = (here & here[partners]).view(-1, *[1] * (values.ndim - 1))
        # A frame that either clip lacks stays NaN, that is, missing, unless it is one's own alone.
        blend = torch.where(both, share * values + (1 - share) * values[partners], values)
        features.append(torch.where(blend.isnan(), values, blend))
    return Inputs(tuple(features), inputs.present)
