"""The baseline of the challenge, implemented from its published protocol; the reference of the benchmarks.

Five random folds; attention over the modalities without softmax; Adam, batch size 32, no fixed seed, no early stopping.
After each epoch the model predicts the evaluation part of the fold and all candidates. The logits of the candidates are
those of the epoch with the best evaluation score, averaged over folds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional as F

EPOCHS = 100
FOLDS = 5


@dataclass(frozen=True)
class BaselineRun:
    """Result of the loop.

    Attributes:
        cv_f1: Weighted F1 of the best epoch on the evaluation part of its fold, mean over folds.
        test_f1: Weighted F1 of the mean logits on the candidates.
        cpu_per_epoch: CPU seconds of one epoch of one fold, mean.
    """

    cv_f1: float
    test_f1: float
    cpu_per_epoch: float


def baseline_run(
    features: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    candidates: Mapping[str, NDArray[np.float32]],
    candidate_labels: NDArray[np.int64],
    *,
    epochs: int,
    folds: int = FOLDS,
    seed: int = 0,
) -> BaselineRun:
    """Run the first ``epochs`` epochs of the first ``folds`` of the five folds; the best epochs are early.

    Args:
        features: For each modality, (n, D).
        labels: Class indices, (n,).
        candidates: For each modality, (k, D).
        candidate_labels: Class indices, (k,).
        epochs: Epochs per fold; the baseline's default is `EPOCHS`.
        folds: Number of folds to run.
        seed: Seed of torch.
    """
    torch.manual_seed(seed)
    train = [torch.from_numpy(values) for values in features.values()]
    test = [torch.from_numpy(values) for values in candidates.values()]
    targets = torch.from_numpy(labels)
    parts = torch.randperm(len(targets)).chunk(FOLDS)
    started = time.process_time()
    best_scores, logits = [], []
    for fold in range(folds):
        evaluation_rows = parts[fold]
        training_rows = torch.cat([part for index, part in enumerate(parts) if index != fold])
        score, test_logits = _fold(train, targets, training_rows, evaluation_rows, test, epochs)
        best_scores.append(score)
        logits.append(test_logits)
    spent = time.process_time() - started
    predicted = torch.stack(logits).mean(dim=0).argmax(dim=1).numpy()
    return BaselineRun(
        float(np.mean(best_scores)),
        float(f1_score(candidate_labels, predicted, average="weighted")),
        spent / (folds * epochs),
    )


def _fold(
    train: list[Tensor],
    targets: Tensor,
    training_rows: Tensor,
    evaluation_rows: Tensor,
    test: list[Tensor],
    epochs: int,
) -> tuple[float, Tensor]:
    model = _Attention([values.shape[1] for values in train], int(targets.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)
    best, best_logits = -1.0, torch.empty(0)
    for _ in range(epochs):
        model.train()
        for rows in training_rows[torch.randperm(len(training_rows))].split(32):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model([values[rows] for values in train]), targets[rows]))
            optimizer.step()
        predicted = _logits(model, [values[evaluation_rows] for values in train]).argmax(dim=1)
        score = float(f1_score(targets[evaluation_rows].numpy(), predicted.numpy(), average="weighted"))
        test_logits = _logits(model, test)  # as in the protocol, after each epoch
        if score > best:
            best, best_logits = score, test_logits
    return best, best_logits


@torch.no_grad()
def _logits(model: nn.Module, inputs: list[Tensor]) -> Tensor:
    model.eval()
    batches = [model([values[start : start + 32] for values in inputs]) for start in range(0, len(inputs[0]), 32)]
    return torch.cat(batches)


class _Mlp(nn.Sequential):
    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Dropout(dropout),
            nn.Linear(dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )


class _Attention(nn.Module):
    def __init__(self, dims: list[int], n_classes: int, hidden: int = 128, dropout: float = 0.3) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(_Mlp(dim, hidden, dropout) for dim in dims)
        self.attention = nn.Sequential(_Mlp(hidden * len(dims), hidden, dropout), nn.Linear(hidden, len(dims)))
        self.out = nn.Linear(hidden, n_classes)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        tokens = torch.stack([encode(values) for encode, values in zip(self.encoders, inputs, strict=True)], dim=1)
        weights = self.attention(tokens.flatten(1))  # (B, M), no softmax
        logits: Tensor = self.out((tokens * weights[:, :, None]).sum(dim=1))  # (B, C)
        return logits
