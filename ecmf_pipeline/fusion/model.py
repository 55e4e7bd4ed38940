"""EcmfFusion: one token a modality, self-attention among them, a dynamic weight for each, and residual paths.

After ECMF, the MER2025 entry this package follows: adaptive weighting of modalities, and residual connections that keep
what each modality said before it listened to the others. The models that it has to beat follow, behind the same
interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.fusion.config import FusionConfig, Temporal

STANDARD_LIMIT = 5.0
"""Standard deviations at which a feature is cut off: one wild column (a raw pitch slope) must not drown the others."""

_ROWS_A_BLOCK = 256


class FusionOutput(NamedTuple):
    """What a model says of B clips.

    Attributes:
        logits: (B, C).
        weights: The share of each modality, (B, M): exactly 0 where it is missing; a row sums to 1.
    """

    logits: Tensor
    weights: Tensor


class Standardiser(nn.Module):
    """Columns of one modality in standard deviations of the training rows, since raw ones come in mixed units."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Take mean and deviation from training rows, (n, D) or (n, T, D) with frames of NaN where there are none."""
        rows = values.flatten(0, -2)  # (rows, D)
        if values.ndim == 3:
            rows = rows[rows.isfinite().all(dim=1)]
        mean, std = _mean_and_std(rows)
        constant = std <= 1e-6 * mean.abs().clamp(min=1e-6)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, torch.ones_like(std), std))

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        """(B, D) or (B, T, D), (B,) -> the same shape; rows of missing clips are 0, missing frames stay NaN."""
        if not bool(present.all()):
            values = torch.where(present.view(-1, *[1] * (values.ndim - 1)), values, self.mean)
        standard: Tensor = values.sub(self.mean).div_(self.std).clamp_(-STANDARD_LIMIT, STANDARD_LIMIT)
        return standard


def _mean_and_std(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of each column of (n, D), in float64; block by block, which takes a sixth of the time of `torch.std_mean`."""
    blocks = torch.split(rows, _ROWS_A_BLOCK)
    mean = sum((block.double().sum(dim=0) for block in blocks), rows.new_zeros((), dtype=torch.float64)) / len(rows)
    squares = (block.double().sub_(mean).square_().sum(dim=0) for block in blocks)
    variance = sum(squares, rows.new_zeros((), dtype=torch.float64)) / len(rows)
    return mean, variance.sqrt()


class FeatureDropout(nn.Module):
    """Dropout of many columns: its random numbers are bytes, which costs a sixth of `nn.Dropout` on a CPU.

    The share is rounded to 1/256.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.below = min(255, round(256 * share))

    def forward(self, values: Tensor) -> Tensor:
        """Any shape."""
        if not self.training or not self.below:
            return values
        words = torch.empty(-(-values.numel() // 8), dtype=torch.int64, device=values.device)
        drawn = words.random_(-(2**63), None).view(torch.uint8)[: values.numel()].view(values.shape)
        kept = drawn.to(values.dtype).ge_(self.below)  # 0 or 1: a mask of bool would take four times as long
        return kept.mul_(values).mul_(256 / (256 - self.below))


class TemporalPooling(nn.Module):
    """Projected frames to one vector: a softmax over time, or the mean; frames that are missing count nothing."""

    def __init__(self, hidden: int, kind: Temporal) -> None:
        super().__init__()
        self.score = nn.Linear(hidden, 1) if kind == "attention" else None
        if self.score is not None:
            nn.init.zeros_(self.score.weight)  # starts as the mean
            nn.init.zeros_(self.score.bias)

    def forward(self, frames: Tensor, here: Tensor) -> Tensor:
        """(B, T, H), (B, T) -> (B, H)."""
        scores = frames.new_zeros(frames.shape[:2]) if self.score is None else self.score(frames).squeeze(2)  # (B, T)
        shares = scores.masked_fill(~here, -torch.inf).softmax(dim=1)  # (B, T)
        return (shares[:, :, None] * frames).sum(dim=1)


class Projection(nn.Module):
    """One modality's standardised features, pooled over time if need be, as H numbers."""

    def __init__(self, dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.dropout = FeatureDropout(config.dropout)
        self.linear = nn.Linear(dim, config.hidden)
        self.pooling = TemporalPooling(config.hidden, config.temporal)

    def forward(self, values: Tensor) -> Tensor:
        """(B, D) or (B, T, D) -> (B, H)."""
        if values.ndim == 2:
            projected: Tensor = self.linear(self.dropout(values))
            return projected
        here = ~values[:, :, 0].isnan()  # (B, T)
        frames = self.linear(self.dropout(values.nan_to_num()))  # (B, T, H)
        # A clip without the modality has no frame; whatever comes out is masked later, but must be finite.
        here = here | ~here.any(dim=1, keepdim=True)
        pooled: Tensor = self.pooling(frames, here)
        return pooled


class FusionModel(nn.Module):
    """The interface of a fusion model.

    A subclass implements `combine`, on standardised features.

    Args:
        config: Its shape.
        dims: D of each modality; the order is the order of features and weights.
        n_classes: C.
    """

    seen: Tensor
    """Whether a modality stood in the training rows, (M,): one that never did is not listened to."""

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(dims)
        self.n_classes = n_classes
        self.standardisers = nn.ModuleList(Standardiser(dim) for dim in dims.values())
        self.register_buffer("seen", torch.ones(len(dims), dtype=torch.bool))

    @torch.no_grad()
    def standardise_by(self, features: Sequence[Tensor], present: Tensor) -> None:
        """Take each modality's mean and deviation from the training rows, (n, D_m) or (n, T_m, D_m), that have it."""
        self.seen.copy_(present.any(dim=0))
        for standardiser, values, here in zip(self.standardisers, features, present.unbind(1), strict=True):
            if isinstance(standardiser, Standardiser) and bool(here.any()):
                standardiser.fit(values if bool(here.all()) else values[here])

    def standardised(self, features: Sequence[Tensor], present: Tensor) -> tuple[Tensor, ...]:
        """Features as `combine` takes them; what a missing row holds (NaN, say) is never read."""
        return tuple(
            standardiser(values, here)
            for standardiser, values, here in zip(self.standardisers, features, present.unbind(1), strict=True)
        )

    def combine(self, standard: Sequence[Tensor], present: Tensor) -> FusionOutput:
        """Fuse standardised features, (B, D_m) or (B, T_m, D_m) each, with ``present``, (B, M)."""
        raise NotImplementedError

    def usable(self, present: Tensor) -> Tensor:
        """Which of the modalities present count, (B, M).

        Raises:
            ValueError: When a clip has none that the model was trained on.
        """
        present = present & self.seen
        if not bool(present.any(dim=1).all()):
            raise ValueError("a clip without any modality cannot be fused")
        return present

    def forward(self, features: Sequence[Tensor], present: Tensor) -> FusionOutput:
        """Fuse a batch.

        Args:
            features: One tensor a modality, (B, D_m) or (B, T_m, D_m); rows of missing modalities may hold anything.
            present: Whether a clip has a modality, (B, M), bool.

        Raises:
            ValueError: When a clip has no modality that the model was trained on.
        """
        return self.combine(self.standardised(features, present), present)


def shares(weights: Tensor, present: Tensor) -> Tensor:
    """Non-negative weights as shares of the modalities present, (B, M) -> (B, M); equal where all are 0."""
    kept = weights * present
    total = kept.sum(dim=1, keepdim=True)
    equal = present / present.sum(dim=1, keepdim=True)
    return torch.where(total > 0, kept / total.clamp(min=torch.finfo(kept.dtype).tiny), equal)


def layer_norm(config: FusionConfig) -> nn.Module:
    """LayerNorm over H, or nothing where it is switched off."""
    return nn.LayerNorm(config.hidden) if config.layer_norm else nn.Identity()


def silence(layer: nn.Linear) -> None:
    """Let a layer say nothing until it is trained."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class ModalityBranch(nn.Module):
    """One modality by itself: standardised features to a token, and the token to logits of its own.

    LayerNorm follows the projection: before it, it would discard how far a clip is from the average, which is how
    strongly an emotion is expressed (accuracy on action units 0.57 against 0.61).
    """

    def __init__(self, dim: int, config: FusionConfig, n_classes: int) -> None:
        super().__init__()
        self.project = Projection(dim, config)
        self.norm = layer_norm(config)
        self.head = nn.Linear(config.hidden, n_classes)
        silence(self.head)  # an untrained branch has no opinion

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) or (B, T, D) -> token (B, H), logits (B, C)."""
        projected = self.project(values)  # (B, H)
        return self.norm(projected), self.head(projected)  # (B, H), (B, C)


class BranchedFusion(FusionModel):
    """A model whose modalities can each be heard, and trained, alone."""

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        self.branches = nn.ModuleList(ModalityBranch(dim, config, n_classes) for dim in dims.values())

    def branch_outputs(self, standard: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What each modality says by itself: tokens (B, M, H) and logits (B, M, C), of standardised features."""
        outputs = [branch(values) for branch, values in zip(self.branches, standard, strict=True)]
        tokens, logits = zip(*outputs, strict=True)
        return torch.stack(tokens, dim=1), torch.stack(logits, dim=1)  # (B, M, H), (B, M, C)

    def fuse(self, tokens: Tensor, logits: Tensor, present: Tensor) -> FusionOutput:
        """Fuse what `branch_outputs` gives: (B, M, H), (B, M, C), (B, M)."""
        raise NotImplementedError

    def combine(self, standard: Sequence[Tensor], present: Tensor) -> FusionOutput:
        """See `FusionModel.combine`."""
        return self.fuse(*self.branch_outputs(standard), present)


class TokenAttention(nn.Module):
    """Pre-norm multi-head self-attention over modality tokens, plus the tokens themselves."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = layer_norm(config)
        self.query_key_value = nn.Linear(config.hidden, 3 * config.hidden)
        self.project = nn.Linear(config.hidden, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        silence(self.project)  # a layer starts as the identity: what it adds has to earn its place

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """(B, M, H), (B, M) -> (B, M, H); missing tokens are attended to by none."""
        batch, modalities, hidden = tokens.shape
        packed = self.query_key_value(self.norm(tokens))  # (B, M, 3H)
        packed = packed.view(batch, modalities, 3, self.heads, hidden // self.heads)  # (B, M, 3, heads, h)
        query, key, value = packed.permute(2, 0, 3, 1, 4)  # each (B, heads, M, h)
        scores = query @ key.transpose(2, 3) * (hidden // self.heads) ** -0.5  # (B, heads, M, M)
        scores = scores.masked_fill(~present[:, None, None, :], -torch.inf)
        heard = (scores.softmax(dim=3) @ value).transpose(1, 2).reshape(batch, modalities, hidden)  # (B, M, H)
        attended: Tensor = tokens + self.dropout(self.project(heard))
        return attended


class SumOfTokens(nn.Module):
    """Tokens summed by weight, normalised, to logits."""

    def __init__(self, config: FusionConfig, n_classes: int) -> None:
        super().__init__()
        self.norm = layer_norm(config)
        self.classifier = nn.Linear(config.hidden, n_classes)
        silence(self.classifier)

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """(B, M, H), (B, M) -> (B, C)."""
        fused = (weights[:, :, None] * tokens).sum(dim=1)  # (B, H)
        logits: Tensor = self.classifier(self.norm(fused))
        return logits


class MixOfTokens(nn.Module):
    """Tokens by way of a linear layer of each modality's own, summed by weight, to logits: straight, and bent once.

    One sum of raw tokens cannot tell which modality said what; this can, and so learns what two tell together.
    """

    def __init__(self, config: FusionConfig, modalities: int, n_classes: int) -> None:
        super().__init__()
        self.hidden = config.hidden
        self.layers = nn.ModuleList(nn.Linear(config.hidden, config.hidden + n_classes) for _ in range(modalities))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden, n_classes)
        silence(self.classifier)
        with torch.no_grad():
            for layer in self.layers:
                layer.get_parameter("weight")[config.hidden :].zero_()
                layer.get_parameter("bias")[config.hidden :].zero_()

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """(B, M, H), (B, M) -> (B, C)."""
        own = torch.stack([layer(token) for layer, token in zip(self.layers, tokens.unbind(1), strict=True)], dim=1)
        here = (weights > 0).sum(dim=1)[:, None, None]  # so that more modalities do not make each one fainter
        fused = (here * weights[:, :, None] * own).sum(dim=1)  # (B, H + C)
        bent, straight = fused[:, : self.hidden], fused[:, self.hidden :]  # (B, H), (B, C)
        logits: Tensor = straight + self.classifier(self.dropout(nn.functional.gelu(bent)))
        return logits


class EcmfFusion(BranchedFusion):
    """The fusion model; with one modality, the model of that modality.

    ``logits = exp(gain) * sum(weight * own logits) + join(weights, attended tokens)`` with
    ``weights = softmax(score(attended token) + reliability)``. What is joined starts at zero, so that fusion starts as
    the weighted mean of what the modalities say by themselves and learns what to add. ``reliability`` (one number a
    modality) and ``gain`` are for the training to fit on rows the branches did not learn from: with fewer clips than
    columns, every modality looks perfect on the rows it was trained on.

    Args:
        config: Its shape.
        dims: D of each modality; the order is the order of features and weights.
        n_classes: C.
    """

    def __init__(self, config: FusionConfig, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(config, dims, n_classes)
        self.attention = nn.ModuleList(TokenAttention(config) for _ in range(config.layers))
        self.score = nn.Linear(config.hidden, 1)
        self.reliability = nn.Parameter(torch.zeros(len(dims)))
        self.gain = nn.Parameter(torch.zeros(()))
        self.join: nn.Module = (
            MixOfTokens(config, len(dims), n_classes) if config.joint == "mlp" else SumOfTokens(config, n_classes)
        )
        silence(self.score)

    def fuse(self, tokens: Tensor, logits: Tensor, present: Tensor) -> FusionOutput:
        """See `BranchedFusion.fuse`."""
        present = self.usable(present)
        for layer in self.attention:
            tokens = layer(tokens, present)  # (B, M, H)
        weights = self._scores(tokens).masked_fill(~present, -torch.inf).softmax(dim=1)  # (B, M)
        own = self.gain.exp() * (weights[:, :, None] * logits).sum(dim=1)  # (B, C)
        if not self.config.token_path:
            return FusionOutput(own, weights)
        added = self.join(tokens, weights)  # (B, C)
        return FusionOutput(own + added if self.config.own_path else added, weights)

    def _scores(self, tokens: Tensor) -> Tensor:
        """(B, M, H) -> (B, M)."""
        if self.config.weighting == "equal":
            return tokens.new_zeros(tokens.shape[:2])
        if self.config.weighting == "fixed":
            return self.reliability.expand(tokens.shape[:2])
        scores: Tensor = self.score(tokens).squeeze(2) + self.reliability
        return scores


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
