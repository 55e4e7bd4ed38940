"""Train the fusion on the device and on the CPU."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.fusion.config import FusionConfig, SearchConfig, TrainingConfig
from ecmf_pipeline.fusion.training import fit
from tools.gpu_check.bench import Bench, Row


def check_fusion(bench: Bench) -> Row:
    """Train the fusion on the device and on the CPU: its accuracy on new clips must be within 5 points."""
    sizes = bench.sizes
    features, labels = fusion_data(2 * sizes.train_clips)
    known = slice(None, sizes.train_clips)
    new = slice(sizes.train_clips, None)
    accuracies, seconds = [], []
    for device in ("cpu", bench.device):
        started = time.perf_counter()
        ensemble = fit(
            {name: values[known] for name, values in features.items()},
            labels[known],
            fusion=FusionConfig(),
            training=TrainingConfig(
                folds=2, seeds=1, epochs=sizes.epochs, search=SearchConfig(trials=1, folds=2), device=device
            ),
            description=f"train on {device}",
        )
        probs = ensemble.predict({name: values[new] for name, values in features.items()}).probs
        if not np.isfinite(probs).all():
            raise ValueError(f"the fusion trained on {device} predicts NaN")
        accuracies.append(float((probs.argmax(axis=1) == labels[new]).mean()))
        seconds.append(time.perf_counter() - started)
    return Row(
        "fusion training",
        accuracies[1] >= accuracies[0] - 0.05 and accuracies[1] > 0.5,
        f"accuracy {accuracies[1]:.3f}, on the CPU {accuracies[0]:.3f}; {seconds[1]:.1f} s, on the CPU "
        f"{seconds[0]:.1f} s",
    )


def fusion_data(clips: int) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Return features of two modalities, one of them at frame level, and labels of four classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=clips)
    centres = rng.normal(size=(2, 4, 64))
    frames = centres[0][labels][:, None] + rng.normal(0, 2, (clips, 8, 64))
    frames[rng.random((clips, 8)) < 0.1] = np.nan  # missing frames
    whole = centres[1][labels] + rng.normal(0, 2, (clips, 64))
    whole[:: clips // 10] = np.nan  # missing clips
    return {"global": frames.astype(np.float32), "text": whole.astype(np.float32)}, labels
