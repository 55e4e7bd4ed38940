"""The kernel path of the fusion: kernel ridge regression on the joined features, beside the branches.

An RBF kernel on principal components of all standardised columns is the best plain model on some sets. Its fit has a
closed form (with landmarks: Williams and Seeger 2001, "Using the Nystroem method to speed up kernel machines"). All
models of a fold share one path; each learns the shares of its own prediction and of the path on its validation rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.fusion.inputs import Inputs
from ecmf_pipeline.fusion.member import Examples
from ecmf_pipeline.fusion.model import Standardiser, standardise_columns

COMPONENTS, LANDMARKS = 128, 512
"""Maximum number of principal components and of landmarks; fewer clips have fewer."""

COMPONENT_ROWS = 4_096
"""Maximum number of rows, drawn at random, from which principal components are computed."""

WIDTH = 4.0
"""Squared width of the kernel, in units of the mean squared distance of a clip from the mean of all clips."""

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Ridge penalties to choose from, in rows."""

LEAST_RELEVANCE = 0.05
"""Share of chance that counts as relevance, so that an encoder without any keeps some."""

SCALE = 8.0
"""Prior mode of the scale that turns scores between 0 and 1 into logits."""

LOGITS_PRIOR = 1.0
"""Strength of the prior of the scale and of the offsets of the classes, in rows."""

SHARES_PRIOR = 1.0
"""Strength of the prior that pulls the shares towards equal ones, in rows."""

_OVERSAMPLING, _ITERATIONS = 16, 4
"""Accuracy of the randomised components: with two iterations, weighted F1 is 0.003 lower on the generated set."""

_LEAST_DEVIATION = 1e-5
"""Least deviation along a component, as a share of the greatest one; smaller ones are rounding errors."""

_EQUAL = (0.5, 0.5)
_BLOCK_ROWS, _FRAMES_ROWS = 4_096, 256


@dataclass(frozen=True, slots=True, eq=False)
class KernelPath:
    """A fitted path; `log_probs` maps features to log-probabilities.

    Attributes:
        mean: Mean of the joined columns, (D,).
        std: Their standard deviation, (D,).
        components: Principal axes of the joined columns, (D, K).
        center: Projection of the mean of the training rows, (K,).
        landmarks: Projected training rows, (L, K).
        decay: Factor of the squared distance in the kernel, ().
        coefficients: Logits of a similarity of 1 to each landmark, (L, C).
        intercept: Logits without any similarity, (C,).
    """

    mean: Tensor
    std: Tensor
    components: Tensor
    center: Tensor
    landmarks: Tensor
    decay: Tensor
    coefficients: Tensor
    intercept: Tensor

    def log_probs(self, inputs: Inputs) -> Tensor:
        """Return log-probabilities (n, C); the columns of a missing modality have their mean."""
        widths = [values.shape[-1] for values in inputs.features]
        parts = zip(
            inputs.features,
            inputs.present.unbind(1),
            torch.split(self.mean, widths),
            torch.split(self.std, widths),
            strict=True,
        )
        standard = [standardise_columns(*part) for part in parts]
        projected = _project(standard, self.components) - self.center  # (n, K)
        similarities = _kernel(projected, self.landmarks, self.decay)  # (n, L)
        return torch.addmm(self.intercept, similarities, self.coefficients).log_softmax(dim=1)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of_state(cls, state: dict[str, Tensor], dim: int, n_classes: int) -> Self:
        """Return the path of saved tensors, for D columns and C classes.

        Raises:
            ValueError: If names, shapes or types are wrong.
        """
        names = {field.name for field in fields(cls)}
        if set(state) != names or any(values.dtype != torch.float32 for values in state.values()):
            raise ValueError(f"expected float32 tensors {sorted(names)}, got {sorted(state)}")
        count, landmarks = state["center"].numel(), state["landmarks"].numel() // max(1, state["center"].numel())
        shapes = ((dim,), (dim,), (dim, count), (count,), (landmarks, count), (), (landmarks, n_classes), (n_classes,))
        expected = zip((field.name for field in fields(cls)), shapes, strict=True)
        if wrong := [name for name, shape in expected if state[name].shape != shape]:
            raise ValueError(f"{', '.join(wrong)} have a wrong shape")
        return cls(**state)


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of a model and of the kernel path in the log-probabilities of their mixture.

    Attributes:
        own: Share of the model.
        path: Share of the path for a clip with all modalities. Of a clip that lacks some, the path knows less than the
            model, which has weights for the others: the missing part of its share goes to the model.
    """

    own: float
    path: float

    def mix(self, own: Tensor, path: Tensor, available: Tensor) -> Tensor:
        """Mix log-probabilities, (n, C) each, by the share of the modalities that each clip has, (n, 1)."""
        return (self.own + self.path * (1 - available)) * own + self.path * available * path


@dataclass(frozen=True, slots=True)
class FittedPath:
    """The path of a fold.

    Attributes:
        path: The path, fitted to all training rows of the fold.
        held_out: Log-probabilities of the validation rows of each model, (v, C) each, of a path that was fitted without
            them.
    """

    path: KernelPath
    held_out: tuple[Tensor, ...]


@torch.no_grad()
def fit_kernel_path(
    examples: Examples,
    weights: Tensor,
    fitted: Ints,
    validations: Sequence[Ints],
    n_classes: int,
    standardisers: Sequence[Standardiser],
    *,
    seed: int,
) -> FittedPath:
    """Fit a path.

    The penalty, the scale of the scores and an offset of each class are chosen by the loss of all validation rows, each
    predicted without those of its model. Without the offsets, the squared loss favours frequent classes.

    Args:
        examples: Standardised rows.
        weights: Sample weight times class weight of each row, (r,).
        fitted: Positions of the rows to fit to, (n,).
        validations: Positions of the validation rows of each model; those among ``fitted`` are left out to choose.
        n_classes: C.
        standardisers: Standardiser of each modality.
        seed: Seed of the landmarks and of the randomised principal components.
    """
    rng = np.random.default_rng(seed)
    device = examples.labels.device
    features = [values if values.ndim == 2 else _mean_frames(values) for values in examples.inputs.features]
    rows = torch.from_numpy(fitted).to(device)
    unchosen = np.setdiff1d(fitted, np.concatenate(validations))
    relevances = _relevances(
        features, examples.labels, torch.from_numpy(unchosen if len(unchosen) else fitted).to(device)
    )
    drawn = torch.from_numpy(_draw(rng, fitted, COMPONENT_ROWS)).to(device)
    components = _components(features, relevances, drawn, rng)
    projected = _project(features, components)  # (r, K)
    center = projected[rows].mean(dim=0)
    projected = projected - center
    landmarks = projected[torch.from_numpy(_draw(rng, fitted, LANDMARKS)).to(device)]
    spread = projected[rows].square().sum(dim=1).mean().clamp(min=torch.finfo(torch.float32).tiny)
    decay = 1 / (WIDTH * spread)
    basis = _orthogonal_basis(_kernel(landmarks, landmarks, decay).double())  # (L, B)
    columns = torch.cat([_kernel(projected, landmarks, decay).double() @ basis, *_targets(examples, n_classes)], dim=1)
    scaled = weights.double() / weights[rows].double().mean()
    total = _moments(columns[rows], scaled[rows])
    parts = [torch.from_numpy(validation).to(device) for validation in validations]
    ridges = []
    for validation in validations:
        removed = torch.from_numpy(validation[np.isin(validation, fitted)]).to(device)
        ridges.append(_Ridge.of(total - _moments(columns[removed], scaled[removed]), n_classes))
    chosen = torch.cat(parts)
    labels, importance = examples.labels[chosen].cpu().numpy(), scaled[chosen].cpu().numpy()
    best, penalty, scale, offsets = np.inf, PENALTIES[0], SCALE, np.zeros(n_classes)
    for candidate in PENALTIES:
        scores = torch.cat([ridge.scores(columns[part], candidate) for ridge, part in zip(ridges, parts, strict=True)])
        loss, fitted_scale, fitted_offsets = _fit_logits(scores.cpu().numpy(), labels, importance)
        if loss < best:
            best, penalty, scale, offsets = loss, candidate, fitted_scale, fitted_offsets
    offset = torch.from_numpy(offsets).to(device)
    held_out = tuple(
        (scale * ridge.scores(columns[part], penalty) + offset).log_softmax(dim=1)
        for ridge, part in zip(ridges, parts, strict=True)
    )
    solution, intercept = _Ridge.of(total, n_classes).solve(penalty)
    coefficients = scale * basis @ solution
    path = KernelPath(
        torch.cat([standardiser.mean for standardiser in standardisers]),
        torch.cat([standardiser.std for standardiser in standardisers]),
        components,
        center,
        landmarks,
        decay,
        coefficients.float(),
        (scale * intercept + offset).float(),
    )
    return FittedPath(path, held_out)


def fit_shares(own: Tensor, path: Tensor, available: Tensor, labels: Tensor, weights: Tensor) -> Shares:
    """Fit the shares by the penalised log-likelihood of validation rows.

    Args:
        own: Log-probabilities of the model, (n, C).
        path: Log-probabilities of the path, (n, C).
        available: Share of the modalities that each clip has, (n, 1).
        labels: Class indices, (n,).
        weights: Sample weight times class weight, (n,).
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    inputs = torch.stack([own, available * path + (1 - available) * own]).double().cpu().numpy()  # (2, n, C)
    importance = (weights / weights.sum()).double().cpu().numpy()
    one_hot = np.eye(own.shape[1])[labels.cpu().numpy()]

    def loss(shares: Floats) -> tuple[float, Floats]:
        logs = log_softmax(np.tensordot(shares, inputs, axes=1), axis=1)
        error = (np.exp(logs) - one_hot) * importance[:, None]
        distance = shares - _EQUAL
        prior = SHARES_PRIOR / len(labels) * distance
        gradient = (inputs * error).sum(axis=(1, 2)) + 2 * prior
        return float(prior @ distance - importance @ (logs * one_hot).sum(axis=1)), gradient

    own_share, path_share = minimize(loss, np.array(_EQUAL), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 2).x
    return Shares(float(own_share), float(path_share))


@dataclass(frozen=True, slots=True)
class _Ridge:
    """A weighted ridge regression of one-hot labels with an unpenalised intercept, for any penalty.

    Attributes:
        values: Eigenvalues of the centred second moments of the columns, (B,).
        vectors: Their eigenvectors, (B, B).
        targets: Centred products of the eigenvectors' columns and the labels, (B, C).
        mean: Mean of the columns, (B,).
        shares: Share of each class, (C,).
    """

    values: Tensor
    vectors: Tensor
    targets: Tensor
    mean: Tensor
    shares: Tensor

    @classmethod
    def of(cls, moments: Tensor, n_classes: int) -> Self:
        """Return the regression by weighted second moments of columns, a column of ones, and one-hot labels."""
        count = len(moments) - n_classes - 1
        size = moments[count, count].clamp(min=torch.finfo(torch.float64).tiny)
        mean, shares = moments[:count, count] / size, moments[count, count + 1 :] / size
        values, vectors = torch.linalg.eigh(moments[:count, :count] - size * torch.outer(mean, mean))
        targets = vectors.T @ (moments[:count, count + 1 :] - size * torch.outer(mean, shares))
        return cls(values.clamp(min=0), vectors, targets, mean, shares)

    def solve(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Return coefficients (B, C) and intercept (C,)."""
        solution = self.vectors @ (self.targets / (self.values + penalty)[:, None])
        return solution, self.shares - self.mean @ solution

    def scores(self, columns: Tensor, penalty: float) -> Tensor:
        """Return the scores of rows, (n, B + 1 + C) -> (n, C)."""
        solution, intercept = self.solve(penalty)
        return columns[:, : len(self.mean)] @ solution + intercept


def _draw(rng: np.random.Generator, rows: Ints, limit: int) -> Ints:
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, limit, replace=False))


def _project(standard: Sequence[Tensor], components: Tensor) -> Tensor:
    """Project the joined columns of standardised features; sequences by the mean of their frames."""
    blocks = torch.split(components, [values.shape[-1] for values in standard])
    projected = standard[0].new_zeros(len(standard[0]), components.shape[1])
    for values, block in zip(standard, blocks, strict=True):
        projected.addmm_(values if values.ndim == 2 else _mean_frames(values), block)
    return projected


def _mean_frames(values: Tensor) -> Tensor:
    """Return the mean of the frames, (n, T, D) -> (n, D); block by block, because `nanmean` copies all frames."""
    return torch.cat([block.nanmean(dim=1).nan_to_num() for block in torch.split(values, _FRAMES_ROWS)])


def _relevances(features: Sequence[Tensor], labels: Tensor, rows: Tensor) -> list[float]:
    """Return the factor of the columns of each modality (r, D_m), from the share of their variance between classes.

    An encoder of noise has the share of chance, (C - 1) / (n - 1), and would blur the distances between clips. With few
    rows, chance exceeds the other shares, and all factors are about equal.
    """
    one_hot = torch.nn.functional.one_hot(labels[rows]).float()  # (n, C)
    counts = one_hot.sum(dim=0)
    chance = (int((counts > 0).sum()) - 1) / max(1, len(rows) - 1)
    factors = []
    for values in features:
        centered = values[rows] - values[rows].mean(dim=0)
        variance = centered.square().mean(dim=0)  # (D_m,)
        means = one_hot.T @ centered / counts.clamp(min=1)[:, None]  # (C, D_m)
        between = (counts[:, None] * means.square()).sum(dim=0) / len(rows)
        share = float((between / variance.clamp(min=torch.finfo(torch.float32).eps)).mean())
        excess = max(0.0, share - chance)
        factors.append(((excess + LEAST_RELEVANCE * chance) / (excess + chance)) ** 0.5 if chance > 0 else 1.0)
    return factors


def _components(
    features: Sequence[Tensor], relevances: Sequence[float], rows: Tensor, rng: np.random.Generator
) -> Tensor:
    """Return the principal axes of the joined columns (r, D_m) of some rows, (D, K), multiplied by the relevances.

    They are zeros if there are fewer.
    """
    joined = torch.cat([values[rows] * factor for values, factor in zip(features, relevances, strict=True)], dim=1)
    scales = torch.cat(
        [values.new_full(values.shape[1:], one) for values, one in zip(features, relevances, strict=True)]
    )
    count = max(1, min(COMPONENTS, len(joined) - 1, joined.shape[1]))
    joined -= joined.mean(dim=0)
    device = joined.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(rng.integers(2**31)))
        drawn = min(count + _OVERSAMPLING, *joined.shape)
        _, deviations, axes = torch.svd_lowrank(joined, q=drawn, niter=_ITERATIONS)
    # An axis without variance is an arbitrary one, such as a column of a modality that the rows do not have.
    varies = deviations[:count] > _LEAST_DEVIATION * deviations[0]
    return torch.where(varies, axes[:, :count] * scales[:, None], 0.0)


def _kernel(rows: Tensor, landmarks: Tensor, decay: Tensor) -> Tensor:
    """Return RBF similarities of (n, K) and (L, K), (n, L)."""
    half = rows @ landmarks.T  # (n, L)
    half -= 0.5 * landmarks.square().sum(dim=1)
    half -= 0.5 * rows.square().sum(dim=1, keepdim=True)
    return half.mul_(2 * decay).clamp_(max=0).exp_()


def _orthogonal_basis(kernel: Tensor) -> Tensor:
    """Return the factor that makes similarities to landmarks orthonormal features, (L, L) -> (L, B)."""
    values, vectors = torch.linalg.eigh(kernel)
    kept = values > 1e-6 * values[-1]
    basis: Tensor = vectors[:, kept] / values[kept].sqrt()
    return basis


def _targets(examples: Examples, n_classes: int) -> tuple[Tensor, Tensor]:
    one_hot = torch.nn.functional.one_hot(examples.labels, n_classes).double()  # (r, C)
    return torch.ones_like(one_hot[:, :1]), one_hot


def _moments(columns: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted second moments of columns, (n, B) -> (B, B)."""
    blocks = zip(torch.split(columns, _BLOCK_ROWS), torch.split(weights, _BLOCK_ROWS), strict=True)
    zero = columns.new_zeros(columns.shape[1], columns.shape[1])
    return sum(((block * share[:, None]).T @ block for block, share in blocks), zero)


def _fit_logits(scores: Floats, labels: Ints, weights: Floats) -> tuple[float, float, Floats]:
    """Return the penalised loss of scores (n, C), and the scale and the offsets of the classes that minimise it."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    importance, one_hot = weights / weights.sum(), np.eye(scores.shape[1])[labels]
    mode = np.append(np.log(SCALE), np.zeros(scores.shape[1]))

    def loss(values: Floats) -> tuple[float, Floats]:
        scaled = np.exp(values[0]) * scores
        logs = log_softmax(scaled + values[1:], axis=1)
        error = (np.exp(logs) - one_hot) * importance[:, None]
        distance = values - mode
        prior = LOGITS_PRIOR / len(labels) * distance
        gradient = np.append((error * scaled).sum(), error.sum(axis=0)) + 2 * prior
        return float(prior @ distance - importance @ (logs * one_hot).sum(axis=1)), gradient

    found = minimize(loss, mode, jac=True, method="L-BFGS-B")
    return float(found.fun), float(np.exp(found.x[0])), found.x[1:]
