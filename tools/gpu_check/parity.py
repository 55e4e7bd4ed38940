"""Compare features in half precision on the device with those in float32 on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.encoders.registry import build_encoder
from tools.gpu_check.bench import MIN_COSINE, NAMES, Bench, Row
from tools.gpu_check.inputs import make_view


def check_parity(bench: Bench, modality: Modality) -> Row:
    """Compare features in half precision on the device with those in float32 on the CPU.

    Features are averaged for each clip and centred on each side, because the mean hides the differences of clips. The
    nearest CPU row of each clip must be its own, and their cosine at least `MIN_COSINE`.
    """
    config = bench.encoders[modality]
    sizes = replace(bench.sizes, frames=min(2, bench.sizes.frames))
    views = [make_view(modality, number, sizes) for number in range(sizes.parity_clips)]
    rows = []
    for device, settings in (("cpu", {"precision": "fp32"}), (bench.device, {})):
        encoder = build_encoder(config.model_copy(update=settings), device)
        rows.append(np.stack([encoding.values.mean(axis=0) for encoding in encoder.encode(views)]))
        encoder.close()
    cosines = centred_cosines(*rows)
    own = cosines.diagonal()
    nearest = cosines.argmax(axis=0) == np.arange(len(own))
    precision = config.resolved(bench.device).precision
    return Row(
        f"parity with the CPU, {NAMES[modality]}",
        bool(nearest.all() and (own >= MIN_COSINE).all()),
        f"{precision}: minimum cosine {own.min():.5f}, {nearest.sum()} of {len(own)} nearest to themselves",
    )


def centred_cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each row of ``first`` with each of ``second``, (n, m); each side is centred on its mean."""
    centred = [rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64) for rows in (first, second)]
    one, two = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in centred)
    cosines: NDArray[np.float64] = one @ two.T
    return cosines
