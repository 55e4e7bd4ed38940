"""One trained model of an ensemble, and its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecmf_pipeline.core.arrays import ShortRepr
from ecmf_pipeline.fusion.config import TrainingConfig
from ecmf_pipeline.fusion.inputs import Inputs
from ecmf_pipeline.fusion.kernel import KernelPath, Shares
from ecmf_pipeline.fusion.model import FusionModel

CHUNK = 512
"""Clips in one forward pass of a prediction; the size fits a CPU cache and changes results only by rounding."""


@dataclass(frozen=True, slots=True, repr=False)
class Member(ShortRepr):
    """One trained model of an ensemble.

    Attributes:
        model: The model, in eval mode.
        fold: The fold that it was not trained on.
        repeat: Index of the model within the fold.
        epochs: The best epoch of joint training.
        validation_loss: Validation loss of that epoch; NaN if the model can predict no validation clip.
        training: Its training settings; a search may have chosen other settings than those of the ensemble.
        curve: Validation loss and weighted F1 of each epoch of joint training, from epoch 0; not saved.
        path: The kernel path, the same for all models of the fold; None if the fusion has none.
        shares: Shares of the model and of the path in the prediction; None without a path.
    """

    model: FusionModel
    fold: int
    repeat: int
    epochs: int
    validation_loss: float
    training: TrainingConfig
    curve: tuple[tuple[float, float], ...] = ()
    path: KernelPath | None = None
    shares: Shares | None = None


class Outputs(NamedTuple):
    """Outputs for r clips.

    Attributes:
        probs: Probabilities, (r, C).
        weights: Modality weights, (r, M).
        branch_probs: Probabilities by each modality alone, (r, M, C); 0 (summed) or NaN (mean) if it is missing.
    """

    probs: NDArray[np.float64]
    weights: NDArray[np.float64]
    branch_probs: NDArray[np.float64]


@torch.inference_mode()
def standardise(model: FusionModel, inputs: Inputs) -> Inputs:
    """Return the inputs standardised by a model, on its device."""
    device = model.seen.device
    present = inputs.present.to(device)
    return Inputs(model.standardise([values.to(device) for values in inputs.features], present), present)


@torch.inference_mode()
def path_log_probs(path: KernelPath, inputs: Inputs) -> Tensor:
    """Return the log-probabilities of a kernel path, (n, C), on its device."""
    device = path.mean.device
    return path.log_probs(Inputs(tuple(values.to(device) for values in inputs.features), inputs.present.to(device)))


@torch.inference_mode()
def predict_with_model(
    model: FusionModel, standard: Inputs, rows: Tensor, shares: Shares | None = None, path: Tensor | None = None
) -> Outputs:
    """Return the outputs of one model for distinct ascending ``rows`` of standardised inputs.

    Args:
        model: The model.
        standard: The n inputs.
        rows: The predicted ones.
        shares: Shares of the model and of the kernel path; None without a path.
        path: Log-probabilities of the path, (n, C).
    """
    outputs = []
    are_all_rows = len(rows) == len(standard)  # slices avoid a copy
    for start in range(0, max(len(rows), 1), CHUNK):
        part = slice(start, start + CHUNK) if are_all_rows else rows[start : start + CHUNK].to(model.seen.device)
        chunk = standard[part]
        output = model.combine(chunk.features, chunk.present)
        logits, branch_logits = output.logits, output.branch_logits
        if shares is not None and path is not None:
            logits = shares.mix(logits.log_softmax(dim=1), path[part], model.available(chunk.present))
        if branch_logits is None:
            branch_logits = output.logits.new_full((*chunk.present.shape, model.n_classes), torch.nan)
        branch_probs = branch_logits.double().softmax(dim=2) * (chunk.present & model.seen)[:, :, None]
        outputs.append((logits.double().softmax(dim=1), output.weights.double(), branch_probs))
    return Outputs(*(torch.cat(parts).cpu().numpy() for parts in zip(*outputs, strict=True)))
