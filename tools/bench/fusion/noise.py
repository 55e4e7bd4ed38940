"""Weighted F1 with five encoders of noise beside five good ones; reference: the good ones alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ecmf_pipeline.fusion.config import TrainingConfig
from ecmf_pipeline.fusion.training import cross_validate
from tools.bench.fusion.generated import CLASS_SHARES, N_CLASSES, WRONG_CLASS_SHARE

CLIPS, WIDTH, STRENGTH = 2_000, 256, 0.11
SEEDS = (7, 8, 9)
GOOD = ("face.a", "face.b", "audio.a", "audio.b", "text.a")
NOISE = ("face.c", "audio.c", "text.b", "text.c", "global")


def noise_figures() -> Iterator[str]:
    """Yield the weighted F1 with and without the encoders of noise, for each seed and on average."""
    differences = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        labels = rng.choice(N_CLASSES, size=CLIPS, p=CLASS_SHARES)
        wrong = rng.random(CLIPS) < WRONG_CLASS_SHARE
        shown = np.where(wrong, (labels + rng.integers(1, N_CLASSES, CLIPS)) % N_CLASSES, labels)
        features = {name: rng.standard_normal((CLIPS, WIDTH), dtype=np.float32) for name in (*GOOD, *NOISE)}
        for name in GOOD:
            features[name] += rng.standard_normal((N_CLASSES, WIDTH), dtype=np.float32)[shown] * np.float32(STRENGTH)
        training = TrainingConfig(seed=seed, seeds=1)
        scores = [
            cross_validate({name: features[name] for name in names}, labels, training=training)
            for names in (GOOD, (*GOOD, *NOISE))
        ]
        alone, all_ten = (float(score.metrics["weighted_f1"]) for score in scores)
        share = float(np.nanmean(scores[1].modality_weights[:, len(GOOD) :].sum(axis=1)))
        differences.append(all_ten - alone)
        yield (
            f"seed {seed}: weighted F1 {alone:.4f} of five good encoders, {all_ten:.4f} of these and five of noise "
            f"(weight of the noise {share:.3f})"
        )
    yield f"difference: {np.mean(differences):+.4f} on average (required: at least -0.01)"
