"""CPU time and weighted F1 on the generated set; reference: the training loop of the baseline."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import torch
from sklearn.metrics import f1_score

from ecmf_pipeline.fusion.config import FusionConfig
from ecmf_pipeline.fusion.training import fit
from tools.bench.fusion.baseline import EPOCHS, FOLDS, baseline_run
from tools.bench.fusion.generated import GeneratedSet, generate

BASELINE_EPOCHS = 3
"""Epochs of the baseline that are run: enough to measure the time of one; its best epochs come first."""


def generated_figures() -> Iterator[str]:
    """Yield CPU time and weighted F1 of our models and of the baseline's loop, each on one thread."""
    torch.set_num_threads(1)
    generated = generate()
    ours = {}
    for kind in ("ecmf", "attention"):
        spent, score = _fit_and_predict(generated, FusionConfig(kind=kind))
        ours[kind] = (spent, score)
        yield (
            f"{kind}: {spent:.1f} CPU s to train 5 folds x 3 models and predict 20,000 clips, weighted F1 {score:.4f}"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    yield f"peak memory with the generated set: {peak:.2f} GB (required: below 1.5 GB)"
    run = baseline_run(
        generated.features,
        generated.labels,
        generated.candidates,
        generated.candidate_labels,
        epochs=BASELINE_EPOCHS,
    )
    total = run.cpu_per_epoch * FOLDS * EPOCHS
    yield (
        f"baseline's loop: {run.cpu_per_epoch:.2f} CPU s per epoch, {total:.0f} CPU s for {FOLDS} folds x {EPOCHS} "
        f"epochs; weighted F1 {run.test_f1:.4f} ({run.cv_f1:.4f} on the folds by which it chooses its epochs)"
    )
    for kind, (spent, score) in ours.items():
        yield (
            f"{kind} vs baseline's loop: {total / spent:.1f} times less CPU time ({spent:.1f} vs {total:.0f} CPU s), "
            f"weighted F1 {score - run.test_f1:+.4f} ({score:.4f} vs {run.test_f1:.4f})"
        )


def _fit_and_predict(generated: GeneratedSet, fusion: FusionConfig) -> tuple[float, float]:
    started = time.process_time()
    ensemble = fit(generated.features, generated.labels, fusion=fusion)
    predicted = ensemble.predict(generated.candidates).classes
    spent = time.process_time() - started
    return spent, float(f1_score(generated.candidate_labels, predicted, average="weighted"))
