"""Training of one model, with early stopping on rows that are used neither for training nor for evaluation.

Modalities overfit at different speeds (Wang et al. 2020, "What makes training multi-modal classification networks
hard?", arXiv 1905.12681), most of all with about a hundred clips. Models with branches are therefore trained in three
steps:

1. Each branch is trained alone and keeps the weights of its best epoch.
2. The reliability of each branch is fitted on the validation rows, where overfitting is visible.
3. The joining layers are trained, with the branches frozen or at a low learning rate, until early stopping. The
   untrained state (epoch 0) is a candidate, so this step cannot increase the validation loss.

On 96 synthetic clips of four modalities, one of them useless, joint training from the start reached an accuracy of
0.63 while the best single modality reached 0.74; the three steps reach about 0.9. Models without branches use only
step 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adamw import adamw

from ecmf_pipeline.core.arrays import weighted_f1_of
from ecmf_pipeline.fusion.config import TrainingConfig
from ecmf_pipeline.fusion.ecmf import BranchedFusion, EcmfFusion
from ecmf_pipeline.fusion.inputs import Inputs
from ecmf_pipeline.fusion.model import FusionModel

RELIABILITY_STEPS = 30

RELIABILITY_PRIOR = 1.0
"""L2 regularisation of the M + 1 reliability parameters, in rows; relevant with about a dozen validation rows."""

PATIENCE_CLIPS = 4_000
"""Number of training clips without a better validation loss after which training stops, but at least two epochs."""

SMALLEST_BATCH, LARGEST_BATCH = 32, 128

BATCHES_PER_EPOCH = 32
"""Number of batches in an epoch that the automatic batch size aims at; each step has a fixed cost."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled rows on one device.

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

    def select_modality(self, modality: int) -> Examples:
        """Return one modality of the rows that have it."""
        has_modality = self.inputs.present[:, modality]
        inputs = Inputs((self.inputs.features[modality],), self.inputs.present[:, modality : modality + 1])
        examples = Examples(inputs, self.labels, self.weights)
        return examples if bool(has_modality.all()) else examples[has_modality.nonzero().squeeze(1)]


@dataclass(frozen=True, slots=True)
class Fit:
    """The result of training one model.

    Attributes:
        epoch: The best epoch of the last step, whose weights the model has.
        loss: Its validation loss; NaN if the model can predict no validation row.
        curve: Validation loss and weighted F1 of each epoch of the last step, from epoch 0; empty if ``loss`` is NaN.
    """

    epoch: int
    loss: float
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class MemberTraining:
    """The training of one model.

    Attributes:
        model: The model, on the device of the examples, standardised by the training rows.
        training: Training rows, standardised.
        validation: Validation rows for early stopping, standardised.
        config: Training settings.
        generator: Random source of row order and modality dropout; layer dropout uses torch's global generator.
        rng: Random source of the mixup shares.
        select_by_f1: Whether the last step keeps the epoch of the best weighted F1, like the baseline, instead of the
            lowest loss.
    """

    model: FusionModel
    training: Examples
    validation: Examples
    config: TrainingConfig
    generator: torch.Generator
    rng: np.random.Generator
    select_by_f1: bool = False

    @cached_property
    def class_weight_vector(self) -> Tensor:
        """Weight of each class in the loss, (C,)."""
        return class_weights(self.training, self.model.n_classes, self.config.class_weights)

    def run(self) -> Fit:
        """Train the model."""
        if not isinstance(self.model, BranchedFusion):
            return self._train_jointly()
        if isinstance(self.model, EcmfFusion) and not self.config.staged:
            return self._train_jointly()
        self._train_branches(self.model)
        if not isinstance(self.model, EcmfFusion):
            return self._evaluate_branches()
        self._fit_reliability(self.model)
        return self._train_jointly(set(self.model.branches.parameters()))

    def _train_branches(self, model: BranchedFusion) -> None:
        """Train each branch alone."""
        for index, branch in enumerate(model.branches):
            training, validation = self.training.select_modality(index), self.validation.select_modality(index)
            if not bool(model.seen[index]) or not len(training) or not len(validation):
                continue

            def logits(examples: Examples, branch: nn.Module = branch) -> Tensor:
                branch_logits: Tensor = branch(examples.inputs.features[0])[1]
                return branch_logits

            self._train_epochs(branch, branch.parameters(), training, validation, logits, logits)

    def _fit_reliability(self, model: EcmfFusion) -> None:
        """Fit the reliability of the branches and the gain; before the last step only these affect the logits."""
        from scipy.optimize import minimize

        model.eval()
        present = self.validation.inputs.present & model.seen
        with torch.no_grad():
            logits = model.branch_outputs(self.validation.inputs.features)[1]  # (n, M, C)
        fixed = torch.zeros_like(model.reliability) if model.config.weighting == "equal" else None

        def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            fitted = torch.from_numpy(values).to(logits).requires_grad_()  # gain, then reliability
            reliability = fitted[1:] if fixed is None else fixed
            weights = reliability.expand(present.shape).masked_fill(~present, -torch.inf).softmax(dim=1)  # (n, M)
            fused = fitted[0].exp() * (weights[:, :, None] * logits).sum(dim=1)  # (n, C)
            penalty = RELIABILITY_PRIOR / len(self.validation) * fitted.square().sum()
            value = self._loss(fused, self.validation) + penalty
            (gradient,) = torch.autograd.grad(value, fitted)
            return float(value.detach()), gradient.double().cpu().numpy()

        start = np.zeros(1 + len(model.reliability))
        optimum = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": RELIABILITY_STEPS}).x
        with torch.no_grad():
            model.gain.copy_(torch.tensor(optimum[0]))
            if fixed is None:
                model.reliability.copy_(torch.from_numpy(optimum[1:]))
        for parameter in (model.reliability, model.gain):
            parameter.requires_grad_(False)  # training on the rows of the branches would undo the fit

    def _train_jointly(self, pretrained: Set[nn.Parameter] = frozenset()) -> Fit:
        """Train the joining layers, and the ``pretrained`` parameters at their own learning rate."""
        joint_rate = self.config.joint_learning_rate
        for parameter in pretrained:
            parameter.requires_grad_(joint_rate > 0)
        logits: Callable[[Examples], Tensor] = self._logits
        if isinstance(self.model, BranchedFusion) and pretrained and not joint_rate:
            logits = self._validation_logits_with_frozen_branches(self.model)

        def training_logits(examples: Examples) -> Tensor:
            present = hide_modalities(
                examples.inputs.present & self.model.seen, self.config.modality_dropout, self.generator
            )
            return self.model.combine(examples.inputs.features, present).logits

        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in trained if parameter not in pretrained]},
            {"params": [parameter for parameter in trained if parameter in pretrained], "lr": joint_rate},
        ]
        used = [group for group in groups if group["params"]]
        return self._train_epochs(
            self.model,
            used,
            self.training,
            self.validation,
            training_logits,
            logits,
            select_by_f1=self.select_by_f1,
        )

    def _logits(self, examples: Examples) -> Tensor:
        return self.model.combine(examples.inputs.features, examples.inputs.present).logits

    def _validation_logits_with_frozen_branches(self, model: BranchedFusion) -> Callable[[Examples], Tensor]:
        """Return a function for the logits of the validation rows that computes the outputs of frozen branches once."""
        model.eval()
        with torch.no_grad():
            tokens, branch_logits = model.branch_outputs(self.validation.inputs.features)  # (n, M, H), (n, M, C)
        return lambda examples: model.fuse(tokens, branch_logits, examples.inputs.present).logits

    def _train_epochs(
        self,
        module: nn.Module,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        training: Examples,
        validation: Examples,
        training_logits: Callable[[Examples], Tensor],
        logits: Callable[[Examples], Tensor],
        *,
        select_by_f1: bool = False,
    ) -> Fit:
        """Train ``module`` with early stopping, and restore its best weights."""
        rate = self.config.learning_rate
        optimizer = AdamW(parameters, rate, self.config.weight_decay)
        batch_size = self.config.batch_size or batch_size_for(len(training))
        patience = patience_for(self.config.patience, len(training))
        best = BestWeights(module)
        curve: list[tuple[float, float]] = []
        for epoch in range(self.config.epochs + 1):
            if epoch:
                module.train()
                order = torch.randperm(len(training), generator=self.generator)  # (n,)
                for start in range(0, len(order), batch_size):
                    rows = order[start : start + batch_size].to(training.labels.device)
                    torch.autograd.backward(self._training_loss(training[rows], training_logits))
                    optimizer.step()
            module.eval()
            with torch.no_grad():
                validation_logits = logits(validation)
            loss = float(self._loss(validation_logits, validation))
            f1 = _weighted_f1(validation_logits, validation)
            curve.append((loss, f1))
            best.offer(-f1 if select_by_f1 else loss, epoch, loss)
            if epoch - best.epoch >= patience:
                break
        best.restore()
        return Fit(best.epoch, best.loss, tuple(curve))

    def _training_loss(self, batch: Examples, logits: Callable[[Examples], Tensor]) -> Tensor:
        smoothing = self.config.label_smoothing
        if not self.config.mixup:
            return self._loss(logits(batch), batch, smoothing)
        share = float(self.rng.beta(self.config.mixup, self.config.mixup))
        partners = torch.randperm(len(batch), generator=self.generator).to(batch.labels.device)
        mixed_logits = logits(Examples(mix_inputs(batch, share, partners), batch.labels, batch.weights))
        partner = Examples(batch.inputs, batch.labels[partners], batch.weights[partners])
        own_loss = self._loss(mixed_logits, batch, smoothing)
        return share * own_loss + (1 - share) * self._loss(mixed_logits, partner, smoothing)

    @torch.no_grad()
    def _evaluate_branches(self) -> Fit:
        """Return the result of a model without a joint step, over the validation rows that it can predict."""
        self.model.eval()
        inputs = self.validation.inputs
        rows = (inputs.present & self.model.seen).any(dim=1).nonzero().squeeze(1)
        if not len(rows):
            return Fit(0, float("nan"), ())
        evaluated = self.validation[rows]
        logits = self._logits(evaluated)
        loss = float(self._loss(logits, evaluated))
        return Fit(0, loss, ((loss, _weighted_f1(logits, evaluated)),))

    def _loss(self, logits: Tensor, examples: Examples, smoothing: float = 0.0) -> Tensor:
        return weighted_loss(logits, examples, self.class_weight_vector, smoothing)


class AdamW:
    """PyTorch's fused AdamW by its functional form.

    Its class imports the compiler of PyTorch, which takes over a second, and spends a quarter of a small step on hooks.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], rate: float, weight_decay: float
    ) -> None:
        self.rates: dict[Tensor, float] = {}
        for one in parameters:
            group: dict[str, Any] = {"params": [one]} if isinstance(one, nn.Parameter) else one
            self.rates.update(dict.fromkeys(group["params"], group.get("lr", rate)))
        self.weight_decay = weight_decay
        self.state = {
            p: (torch.zeros_like(p), torch.zeros_like(p), torch.zeros((), device=p.device)) for p in self.rates
        }

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have gradients, and remove the gradients."""
        for rate in set(self.rates.values()):
            used = [p for p, own in self.rates.items() if own == rate and p.grad is not None]
            if not used:
                continue
            means, squares, steps = (list(one) for one in zip(*(self.state[p] for p in used), strict=True))
            adamw(
                used,
                [p.grad for p in used if p.grad is not None],
                means,
                squares,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate,
                weight_decay=self.weight_decay,
                eps=1e-8,
                maximize=False,
            )
        for parameter in self.rates:
            parameter.grad = None


class BestWeights:
    """The weights of the epoch with the best validation criterion."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.loss = float("inf")
        self.epoch = 0
        self._lowest = float("inf")
        self._state = _copy_state(module)

    def offer(self, criterion: float, epoch: int, loss: float) -> None:
        """Store the current weights if their criterion is the lowest so far."""
        if criterion < self._lowest:
            self._lowest, self.loss, self.epoch, self._state = criterion, loss, epoch, _copy_state(self.module)

    def restore(self) -> None:
        """Load the best weights into the module."""
        self.module.load_state_dict(self._state)


def batch_size_for(clips: int) -> int:
    """Return a power of two that gives about `BATCHES_PER_EPOCH` batches in an epoch, within limits."""
    target = max(1, clips // BATCHES_PER_EPOCH)
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, 1 << (target.bit_length() - 1)))


def patience_for(limit: int, clips: int) -> int:
    """Return the number of epochs that hold `PATIENCE_CLIPS` clips, at least two and at most ``limit``."""
    return min(limit, max(2, math.ceil(PATIENCE_CLIPS / clips)))


def weighted_loss(logits: Tensor, examples: Examples, class_weight_vector: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of (B, C) logits, weighted by sample weight times class weight."""
    losses = F.cross_entropy(logits, examples.labels, reduction="none", label_smoothing=smoothing)  # (B,)
    weights = examples.weights * class_weight_vector[examples.labels]  # (B,)
    return (losses * weights).sum() / weights.sum()


def class_weights(examples: Examples, n_classes: int, kind: str) -> Tensor:
    """Return the weight of each class in the loss, (C,): 1, n / (C * count), or its square root."""
    counts = torch.bincount(examples.labels, examples.weights, minlength=n_classes)  # (C,)
    if kind == "none":
        return torch.ones_like(counts)
    # A class that occurs only in the validation rows counts as one clip.
    balanced = counts.sum() / (n_classes * torch.where(counts > 0, counts, examples.weights.mean()))
    return balanced if kind == "balanced" else balanced.sqrt()


def hide_modalities(present: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Hide each modality of each clip with a probability, but at least one remains; (B, M) -> (B, M)."""
    kept = present & (torch.rand(present.shape, generator=generator) >= probability).to(present.device)
    return torch.where(kept.any(dim=1, keepdim=True), kept, present)


def mix_inputs(examples: Examples, share: float, partners: Tensor) -> Inputs:
    """Mix each modality of standardised inputs with that of a partner, (B,), if both have it.

    ``share`` is the weight of the clip itself.
    """
    inputs = examples.inputs
    features = []
    for values, has_modality in zip(inputs.features, inputs.present.unbind(1), strict=True):
        both = (has_modality & has_modality[partners]).view(-1, *[1] * (values.ndim - 1))
        # A frame that the partner lacks keeps the clip's own value; a frame that the clip lacks stays missing (NaN).
        blend = torch.where(both, share * values + (1 - share) * values[partners], values)
        features.append(torch.where(blend.isnan(), values, blend))
    return Inputs(tuple(features), inputs.present)


def _weighted_f1(logits: Tensor, examples: Examples) -> float:
    classes = logits.shape[1]
    counts = torch.bincount(examples.labels * classes + logits.argmax(dim=1), minlength=classes**2)
    return float(weighted_f1_of(counts.cpu().numpy().reshape(1, classes, classes).astype(np.float64))[0])


def _copy_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
