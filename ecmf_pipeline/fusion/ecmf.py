"""The ECMF fusion model, and the models of its branches.

`EcmfFusion` follows ECMF, an entry of MER2025: one token for each modality, self-attention among the tokens, a dynamic
weight for each modality, and residual connections that keep the logits of each single modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.fusion.config import FusionConfig, modality_of
from ecmf_pipeline.fusion.model import FusionModel, FusionOutput, Projection, layer_norm, normalise_shares, zero_init


class ModalityBranch(nn.Module):
    """One modality alone: a projection of standardised features to a token, and a head from the projection to logits.

    LayerNorm follows the projection. Before the projection it would discard the distance of a clip from the average,
    which is the intensity of an emotion (accuracy on action units: 0.57 instead of 0.61).
    """

    def __init__(self, dim: int, config: FusionConfig, n_classes: int) -> None:
        super().__init__()
        self.project = Projection(dim, config)
        self.norm = layer_norm(config)
        self.head = nn.Linear(config.hidden, n_classes)
        zero_init(self.head)  # an untrained branch gives uniform probabilities

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, D) or (B, T, D) to token (B, H) and logits (B, C)."""
        projected = self.project(values)  # (B, H)
        return self.norm(projected), self.head(projected)  # (B, H), (B, C)


class BranchedFusion(FusionModel):
    """A model with one branch for each modality, which can be evaluated and trained alone."""

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        self.branches = nn.ModuleList(ModalityBranch(dim, config, n_classes) for dim in dims.values())

    def branch_outputs(self, standard: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return tokens (B, M, H) and logits (B, M, C) of the single modalities, from standardised features."""
        outputs = [branch(values) for branch, values in zip(self.branches, standard, strict=True)]
        tokens, logits = zip(*outputs, strict=True)
        return torch.stack(tokens, dim=1), torch.stack(logits, dim=1)  # (B, M, H), (B, M, C)

    def fuse(self, tokens: Tensor, logits: Tensor, present: Tensor) -> FusionOutput:
        """Fuse the outputs of `branch_outputs`: (B, M, H), (B, M, C), with the mask (B, M)."""
        raise NotImplementedError

    def combine(self, standard: Sequence[Tensor], present: Tensor) -> FusionOutput:
        """See `FusionModel.combine`."""
        tokens, logits = self.branch_outputs(standard)
        return self.fuse(tokens, logits, present)._replace(branch_logits=logits)


class TokenAttention(nn.Module):
    """Pre-norm multi-head self-attention over modality tokens, with a residual connection."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = layer_norm(config)
        self.query_key_value = nn.Linear(config.hidden, 3 * config.hidden)
        self.project = nn.Linear(config.hidden, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        zero_init(self.project)  # an untrained layer is the identity

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Attend among tokens (B, M, H) with mask (B, M); missing tokens are not attended to."""
        batch, modalities, hidden = tokens.shape
        packed = self.query_key_value(self.norm(tokens))  # (B, M, 3H)
        packed = packed.view(batch, modalities, 3, self.heads, hidden // self.heads)  # (B, M, 3, heads, h)
        query, key, value = packed.permute(2, 0, 3, 1, 4)  # each (B, heads, M, h)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None, :])
        output: Tensor = tokens + self.dropout(self.project(attended.transpose(1, 2).reshape(tokens.shape)))
        return output


class WeightedTokenSum(nn.Module):
    """Logits of the weighted sum of tokens, after LayerNorm."""

    def __init__(self, config: FusionConfig, n_classes: int) -> None:
        super().__init__()
        self.norm = layer_norm(config)
        self.classifier = nn.Linear(config.hidden, n_classes)
        zero_init(self.classifier)

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Map tokens (B, M, H) and weights (B, M) to logits (B, C)."""
        fused = (weights[:, :, None] * tokens).sum(dim=1)  # (B, H)
        logits: Tensor = self.classifier(self.norm(fused))
        return logits


class WeightedTokenMlp(nn.Module):
    """Logits of the weighted sum of tokens after a linear layer for each modality: a linear part and a GELU part.

    A sum of raw tokens does not distinguish modalities. Separate layers do, and can learn interactions of modalities.
    """

    def __init__(self, config: FusionConfig, modalities: int, n_classes: int) -> None:
        super().__init__()
        self.hidden = config.hidden
        self.layers = nn.ModuleList(nn.Linear(config.hidden, config.hidden + n_classes) for _ in range(modalities))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden, n_classes)
        zero_init(self.classifier)
        with torch.no_grad():
            for layer in self.layers:
                layer.get_parameter("weight")[config.hidden :].zero_()
                layer.get_parameter("bias")[config.hidden :].zero_()

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Map tokens (B, M, H) and weights (B, M) to logits (B, C)."""
        mapped = torch.stack([layer(token) for layer, token in zip(self.layers, tokens.unbind(1), strict=True)], dim=1)
        n_present = (weights > 0).sum(dim=1)[:, None, None]  # keeps the scale independent of the number of modalities
        fused = (n_present * weights[:, :, None] * mapped).sum(dim=1)  # (B, H + C)
        hidden, linear_logits = fused[:, : self.hidden], fused[:, self.hidden :]  # (B, H), (B, C)
        logits: Tensor = linear_logits + self.classifier(self.dropout(nn.functional.gelu(hidden)))
        return logits


class EcmfFusion(BranchedFusion):
    """The ECMF model; with one modality, the model of that modality.

    ``logits = exp(gain) * sum(weight * branch logits) + join(weights, attended tokens)`` with ``weights =
    softmax(score(attended token) + reliability)``. ``join`` is zero-initialised: fusion starts as the weighted mean of
    the branch logits and learns a correction. ``reliability`` (one number for each modality) and ``gain`` are fitted on
    rows that the branches were not trained on: with fewer clips than columns, each modality looks perfect on its
    training rows. Tokens of several encoders of a modality (`config.modality_of`) share an embedding.

    Args:
        config: Shape of the model.
        dims: D of each modality; its order is the order of features and weights.
        n_classes: C.
    """

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        kinds = [modality_of(name) for name in dims]
        distinct = list(dict.fromkeys(kinds))
        self.modality_index = [distinct.index(kind) for kind in kinds]
        # With one encoder for each modality, the layer of each token in the join serves as its embedding.
        self.embedding = nn.Parameter(torch.zeros(len(distinct), config.hidden)) if len(distinct) < len(dims) else None
        self.attention = nn.ModuleList(TokenAttention(config) for _ in range(config.layers))
        self.score = nn.Linear(config.hidden, 1)
        self.reliability = nn.Parameter(torch.zeros(len(dims)))
        self.gain = nn.Parameter(torch.zeros(()))
        self.join: nn.Module = (
            WeightedTokenMlp(config, len(dims), n_classes)
            if config.joint == "mlp"
            else WeightedTokenSum(config, n_classes)
        )
        zero_init(self.score)

    def fuse(self, tokens: Tensor, logits: Tensor, present: Tensor) -> FusionOutput:
        """See `BranchedFusion.fuse`."""
        present = self.usable_modalities(present)
        if self.embedding is not None:
            tokens = tokens + self.embedding[self.modality_index]  # (M, H)
        for layer in self.attention:
            tokens = layer(tokens, present)  # (B, M, H)
        weights = self._score_modalities(tokens).masked_fill(~present, -torch.inf).softmax(dim=1)  # (B, M)
        branch_logits = self.gain.exp() * (weights[:, :, None] * logits).sum(dim=1)  # (B, C)
        if not self.config.token_path:
            return FusionOutput(branch_logits, weights)
        joint_logits = self.join(tokens, weights)  # (B, C)
        return FusionOutput(branch_logits + joint_logits if self.config.own_path else joint_logits, weights)

    def _score_modalities(self, tokens: Tensor) -> Tensor:
        """Return the unnormalised modality weights, (B, M, H) -> (B, M)."""
        if self.config.weighting == "equal":
            return tokens.new_zeros(tokens.shape[:2])
        if self.config.weighting == "fixed":
            return self.reliability.expand(tokens.shape[:2])
        scores: Tensor = self.score(tokens).squeeze(2) + self.reliability
        return scores


class MeanProbs(BranchedFusion):
    """The mean of the probabilities of the present modalities."""

    def fuse(self, tokens: Tensor, logits: Tensor, present: Tensor) -> FusionOutput:
        """See `BranchedFusion.fuse`."""
        weights = normalise_shares(tokens.new_ones(present.shape), self.usable_modalities(present))  # (B, M)
        log_weights = weights.log()[:, :, None]  # -inf if missing
        return FusionOutput(torch.logsumexp(logits.log_softmax(dim=2) + log_weights, dim=1), weights)


class SingleModality(BranchedFusion):
    """One modality alone; the others are ignored."""

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        if config.single not in self.modalities:
            raise InputError(
                f"fusion kind {config.kind}: modality {config.single!r} does not exist",
                f"use one of {', '.join(self.modalities)}",
            )
        self.seen.copy_(self._is_selected())

    def _is_selected(self) -> Tensor:
        return torch.tensor([name == self.config.single for name in self.modalities])

    def see(self, present: Tensor) -> None:
        """See `FusionModel.see`."""
        super().see(present)
        self.seen.logical_and_(self._is_selected().to(self.seen.device))

    def fuse(self, tokens: Tensor, logits: Tensor, present: Tensor) -> FusionOutput:
        """See `BranchedFusion.fuse`."""
        weights = self.usable_modalities(present).to(tokens.dtype)  # (B, M), one-hot
        return FusionOutput((weights[:, :, None] * logits).sum(dim=1), weights)
