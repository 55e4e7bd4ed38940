"""Training of one model, stopped by rows it neither trains on nor is evaluated on.

Modalities overfit at different speeds (Wang et al. 2020, "What makes training multi-modal classification networks
hard?", arXiv 1905.12681), and with a hundred clips the worst ones most. Hence three steps:

1. every branch learns by itself, and each keeps the weights of its own best epoch;
2. how far to trust each branch is fitted on the rows kept aside, where overfitting shows;
3. all is trained together, gently, as long as that helps. Epoch 0 counts: fusion may not make it worse.

On 96 synthetic clips of four modalities, one of them useless, training all together from the start scored an accuracy
of 0.63 where the best modality alone had 0.74; the three steps score about 0.9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecmf_pipeline.fusion.config import TrainingConfig
from ecmf_pipeline.fusion.inputs import Inputs
from ecmf_pipeline.fusion.model import EcmfFusion

RELIABILITY_STEPS = 100
RELIABILITY_RATE = 0.1
RELIABILITY_DECAY = 0.05
"""Pull of M + 1 numbers towards equal trust, since the rows they are fitted on may be a dozen."""

LEAST_WEIGHT = 1e-12
"""Keeps a mean over no rows finite."""


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


@dataclass(frozen=True)
class MemberTraining:
    """The training of one model.

    Attributes:
        model: The model, on the device of the examples.
        learned: Rows it learns from.
        validated: Rows that stop it.
        config: How it is trained.
        generator: Source of the order of rows and of hidden modalities; dropout draws from torch's own.
    """

    model: EcmfFusion
    learned: Examples
    validated: Examples
    config: TrainingConfig
    generator: torch.Generator

    def run(self) -> tuple[int, float]:
        """Train; returns the epochs that the joint step lasted and the validation loss it reached."""
        by_class = class_weights(self.learned, self.model.n_classes, self.config.class_weights)  # (C,)
        self._learn_branches(by_class)
        self._fit_reliability(by_class)
        return self._learn_together(by_class)

    def _learn_branches(self, by_class: Tensor) -> None:
        def loss(examples: Examples, smoothing: float) -> Tensor:
            _, logits = self.model.branch_outputs(examples.inputs.features, examples.inputs.present)
            return branch_losses(logits, examples, by_class, smoothing)  # (M,)

        optimizer = self._optimizer(self.model.branches.parameters(), self.config.learning_rate)
        best = [Best(branch) for branch in self.model.branches]
        for epoch in range(self.config.epochs + 1):
            if epoch:
                self._epoch(optimizer, lambda batch: loss(batch, self.config.label_smoothing).sum())
            losses = self._validate(lambda examples: loss(examples, 0.0)).tolist()
            for kept, value in zip(best, losses, strict=True):
                kept.offer(value, epoch)
            if all(epoch - kept.epoch >= self.config.patience for kept in best):
                break
        for kept in best:
            kept.restore()

    def _fit_reliability(self, by_class: Tensor) -> None:
        self.model.eval()
        inputs, trust = self.validated.inputs, [self.model.reliability, self.model.gain]
        with torch.no_grad():
            tokens, logits = self.model.branch_outputs(inputs.features, inputs.present)
        optimizer = torch.optim.Adam(trust, lr=RELIABILITY_RATE)
        for _ in range(RELIABILITY_STEPS):
            fused = self.model.fuse(tokens, logits, inputs.present).logits
            pull = self.model.reliability.square().sum() + self.model.gain.square()
            loss = weighted_loss(fused, self.validated, by_class, 0.0) + RELIABILITY_DECAY * pull
            _step(optimizer, loss)
        for parameter in trust:
            parameter.requires_grad_(False)  # what the branches learned from would undo the fit

    def _learn_together(self, by_class: Tensor) -> tuple[int, float]:
        def loss(examples: Examples, present: Tensor, smoothing: float) -> Tensor:
            logits, _ = self.model(examples.inputs.features, present)
            return weighted_loss(logits, examples, by_class, smoothing)

        def training_loss(batch: Examples) -> Tensor:
            present = hide_modalities(batch.inputs.present, self.config.modality_dropout, self.generator)
            return loss(batch, present, self.config.label_smoothing)

        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = self._optimizer(trainable, self.config.joint_learning_rate)
        best = Best(self.model)
        for epoch in range(self.config.epochs + 1):
            if epoch:
                self._epoch(optimizer, training_loss)
            best.offer(float(self._validate(lambda examples: loss(examples, examples.inputs.present, 0.0))), epoch)
            if epoch - best.epoch >= self.config.patience:
                break
        best.restore()
        return best.epoch, best.loss

    def _optimizer(self, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=self.config.weight_decay, fused=True)

    def _epoch(self, optimizer: torch.optim.Optimizer, loss: Callable[[Examples], Tensor]) -> None:
        self.model.train()
        order = torch.randperm(len(self.learned), generator=self.generator)  # (n,)
        for start in range(0, len(order), self.config.batch_size):
            rows = order[start : start + self.config.batch_size].to(self.learned.labels.device)
            _step(optimizer, loss(self.learned[rows]))

    def _validate(self, loss: Callable[[Examples], Tensor]) -> Tensor:
        self.model.eval()
        with torch.no_grad():
            return loss(self.validated)


class Best:
    """The weights of the epoch with the lowest validation loss."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.loss = float("inf")
        self.epoch = 0
        self._state = _copy(module)

    def offer(self, loss: float, epoch: int) -> None:
        """Keep the weights as they are now if their loss is lower."""
        if loss < self.loss:
            self.loss, self.epoch, self._state = loss, epoch, _copy(self.module)

    def restore(self) -> None:
        """Put the best weights back."""
        self.module.load_state_dict(self._state)


def weighted_loss(logits: Tensor, examples: Examples, by_class: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of (B, C) logits, each clip counted by its own weight times its class's."""
    losses = F.cross_entropy(logits, examples.labels, reduction="none", label_smoothing=smoothing)  # (B,)
    counted = examples.weights * by_class[examples.labels]  # (B,)
    return (losses * counted).sum() / counted.sum()


def branch_losses(logits: Tensor, examples: Examples, by_class: Tensor, smoothing: float) -> Tensor:
    """`weighted_loss` of each modality over the clips that have it: (B, M, C) -> (M,), 0 where none has it."""
    labels = examples.labels[:, None].expand(logits.shape[:2])  # (B, M)
    losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", label_smoothing=smoothing)  # (B, M)
    counted = (examples.weights * by_class[examples.labels])[:, None] * examples.inputs.present  # (B, M)
    return (losses * counted).sum(dim=0) / counted.sum(dim=0).clamp(min=LEAST_WEIGHT)


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


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
