"""CPU time and memory of `train` and `predict` as commands; reference: the training loop of the baseline."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Modality, Split, write_corpus_tables
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.fusion.kernel import COMPONENTS, LANDMARKS
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.store import FeatureRow, StoreWriter, create_settings_group, make_current
from tools.bench.fusion.baseline import EPOCHS, FOLDS, baseline_run
from tools.bench.fusion.generated import N_CLASSES, WIDTHS, generate

_ROWS = 1_024
_MODELS, _HIDDEN = 15, 128
"""Models of the ensemble and width of its tokens."""

WIDE_CLIPS, WIDE_LABELLED = 130_000, 2_000
WIDE_DIMS = (768, 768, 1024, 1024, 1024, 1024, 1024, 1280, 1280, 1280)
LABELS = [f"class{number}" for number in range(N_CLASSES)]


def stages_figures() -> Iterator[str]:
    """Yield the figures of both commands on the generated set, with all single modalities."""
    generated = generate()
    labels = np.concatenate([generated.labels, np.full(len(generated.candidate_labels), -1)])
    features = {
        name: np.concatenate([values, generated.candidates[name]]) for name, values in generated.features.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        write_project(Path(folder), labels, {name: (name, values) for name, values in features.items()})
        del features
        total = 0.0
        for stage in ("train", "predict"):
            seconds, peak = run_stage(Path(folder), stage)
            total += seconds
            yield f"ecmf-pipe {stage}, all single modalities: {seconds:.1f} CPU s, peak memory {peak:.2f} GB"
    speed = product_speed()
    products = _predict_products(len(generated.labels), len(generated.candidate_labels))
    yield f"products of predict: {products:.2f} TFLOP, {1e3 * products / speed:.1f} CPU s at {speed:.0f} GFLOP/s"
    run = baseline_run(
        generated.features, generated.labels, generated.candidates, generated.candidate_labels, epochs=2, folds=1
    )
    loop = run.cpu_per_epoch * FOLDS * EPOCHS
    yield (
        f"baseline's loop: {run.cpu_per_epoch:.2f} CPU s per epoch, {loop:.0f} CPU s for {FOLDS} folds x {EPOCHS} "
        f"epochs: train and predict take {loop / total:.1f} times less (required: 12)"
    )


def _predict_products(labelled: int, candidates: int) -> float:
    """Return the TFLOP of matrix products of `predict`: clips are predicted by all models, or by those of a fold."""
    columns, tokens = sum(WIDTHS.values()), len(WIDTHS)
    branch = columns * _HIDDEN + tokens * _HIDDEN * N_CLASSES
    attention = tokens * 4 * _HIDDEN**2 + 2 * tokens**2 * _HIDDEN
    join = tokens * _HIDDEN * (_HIDDEN + N_CLASSES) + _HIDDEN * N_CLASSES
    path = columns * COMPONENTS + COMPONENTS * LANDMARKS + LANDMARKS * N_CLASSES
    models = candidates * _MODELS + labelled * _MODELS // FOLDS
    return 2e-12 * (models * (branch + attention + join) + (candidates * FOLDS + labelled) * path)


def wide_figures() -> Iterator[str]:
    """Yield the peak memory of `predict` on 130,000 clips with ten encoders (takes 3 GB of disk)."""
    rng = np.random.default_rng(7)
    labels = np.full(WIDE_CLIPS, -1)
    labels[:WIDE_LABELLED] = rng.integers(0, N_CLASSES, WIDE_LABELLED)
    names = ["global"] * 2 + ["face"] * 3 + ["audio"] * 3 + ["text"] * 2
    block = rng.standard_normal((_ROWS, max(WIDE_DIMS)), dtype=np.float32)
    features = {
        f"encoder{number}": (name, np.broadcast_to(block[:, None, :dim], (_ROWS, 1, dim)))
        for number, (name, dim) in enumerate(zip(names, WIDE_DIMS, strict=True))
    }
    with tempfile.TemporaryDirectory() as folder:
        repeated = {
            name: (modality, _Repeated(values[:, 0], WIDE_CLIPS)) for name, (modality, values) in features.items()
        }
        write_project(Path(folder), labels, repeated, training={"seeds": 1, "epochs": 3}, dtype="float16")
        for stage in ("train", "predict"):
            seconds, peak = run_stage(Path(folder), stage)
            yield (
                f"ecmf-pipe {stage}, {WIDE_CLIPS:,} clips x {len(WIDE_DIMS)} encoders: {seconds:.0f} CPU s, peak "
                f"memory {peak:.2f} GB (required of predict: below 4 GB)"
            )


class _Repeated:
    """A few rows, repeated to a longer table that is never held in memory."""

    def __init__(self, rows: NDArray[np.float32], length: int) -> None:
        self.rows, self.length, self.shape = rows, length, (length, rows.shape[1])

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        return self.rows[: min(part.stop, self.length) - part.start]


def write_project(
    folder: Path,
    labels: NDArray[np.int64],
    features: Mapping[str, tuple[str, NDArray[np.float32] | _Repeated]],
    *,
    training: Mapping[str, int] | None = None,
    dtype: str = "float32",
) -> None:
    """Write an indexed project with imported features.

    Args:
        folder: The project.
        labels: Class of each clip, (n,), -1 for a candidate.
        features: For each encoder, its modality and its features, (n, D).
        training: Settings of ``train.training``.
        dtype: Stored type.
    """
    encoders: dict[str, list[str]] = {}
    for name, (modality, _) in features.items():
        encoders.setdefault(modality, []).append(name)
    params = {
        "encoders": {name: {"type": "imported", "dtype": dtype} for name in features},
        "extract": {"encoders": encoders},
        "transcribe": {"model": None},
        "vote": {"inputs": []},
        "train": {"training": dict(training or {})},
    }
    before = Path.cwd()
    os.chdir(folder)
    try:
        paths.PARAMS.write_text(yaml.safe_dump(params))
        clips = [
            Clip(
                ClipId(f"clip{number:06d}"),
                path=f"{number}.mp4",
                digest=f"{number:064d}",
                given_label=LABELS[label] if label >= 0 else "",
                split=Split.TRAIN if label >= 0 else Split.UNLABELED,
            )
            for number, label in enumerate(labels.tolist())
        ]
        names = [clip.clip_id for clip in clips]
        write_corpus_tables(Corpus(clips, LABELS, names[(labels >= 0).sum() :], synthetic=True))
        project = load_params()
        for modality, used in encoders.items():
            settings = {
                name: project.settings_of(Modality(modality), project.encoders[name].named(name)) for name in used
            }
            for name in used:
                values = features[name][1]
                root = paths.features(Modality(modality))
                key = create_settings_group(root, settings[name], dim=values.shape[1], dtype=dtype)
                with StoreWriter(root, key) as writer:
                    for start in range(0, len(names), _ROWS):
                        rows = values[start : start + _ROWS].astype(dtype)
                        part = names[start : start + _ROWS]
                        writer.append(
                            [FeatureRow(one, "imported", row[None]) for one, row in zip(part, rows, strict=True)]
                        )
                make_current(root, key, [fingerprint(one) for one in settings.values()])
    finally:
        os.chdir(before)


def run_stage(folder: Path, stage: str) -> tuple[float, float]:
    """Run a stage as a command on one thread; return its CPU seconds and its peak memory in GB."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "ecmf_pipeline", stage]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{stage} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def product_speed() -> float:
    """Return the speed of a matrix product on one core, in GFLOP/s."""
    import time

    import torch

    torch.set_num_threads(1)
    left, right = torch.randn(512, 1024), torch.randn(1024, 384)
    repeats = 200
    for _ in range(10):
        left @ right
    started = time.process_time()
    for _ in range(repeats):
        left @ right
    return 2e-9 * repeats * left.numel() * right.shape[1] / (time.process_time() - started)
