"""CPU time and weighted F1 on the generated set, beside the baseline's loop."""

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
"""Epochs of the baseline's loop that are run: enough to tell what one costs; its best come first."""


def generated_figures() -> Iterator[str]:
    """CPU time and weighted F1 on the set as large as MER2025's, beside the baseline's loop, on one thread each."""
    torch.set_num_threads(1)
    made = generate()
    ours = {}
    for kind in ("ecmf", "attention"):
        spent, score = _fit_and_predict(made, FusionConfig(kind=kind))
        ours[kind] = (spent, score)
        yield f"{kind}: {spent:.1f} CPU-s to train five folds of three and predict 20,000, weighted F1 {score:.4f}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    yield f"peak memory so far {peak:.2f} GB, the generated set included (must be under 1.5)"
    run = baseline_run(made.features, made.labels, made.candidates, made.candidate_labels, epochs=BASELINE_EPOCHS)
    total = run.cpu_per_epoch * FOLDS * EPOCHS
    yield (
        f"baseline's loop: {run.cpu_per_epoch:.2f} CPU-s an epoch, {total:.0f} for {FOLDS} x {EPOCHS}; weighted F1 "
        f"{run.test_f1:.4f} ({run.cv_f1:.4f} on the folds it chose its epochs by)"
    )
    for kind, (spent, score) in ours.items():
        yield f"{kind} against it: {total / spent:.1f} times less CPU time, weighted F1 {score - run.test_f1:+.4f}"


def _fit_and_predict(made: GeneratedSet, fusion: FusionConfig) -> tuple[float, float]:
    started = time.process_time()
    ensemble = fit(made.features, made.labels, fusion=fusion)
    predicted = ensemble.predict(made.candidates).classes
    spent = time.process_time() - started
    return spent, float(f1_score(made.candidate_labels, predicted, average="weighted"))
