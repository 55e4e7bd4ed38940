"""What the modality weights look like, and whether the fusion has collapsed onto one modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q05": 0.05, "median": 0.5, "q95": 0.95}


def weight_diagnostics(
    weights: NDArray[np.float32], modalities: Sequence[str], *, collapse_above: float
) -> dict[str, Any]:
    """Describe the distribution of modality weights.

    Args:
        weights: (n, M); rows of NaN do not count.
        modalities: Their names, M.
        collapse_above: Mean weight of one modality above which a warning names it.

    Returns:
        ``modalities`` (for each, mean, standard deviation, quantiles, and ``heaviest``, the share of clips where it
        weighs most), ``effective_modalities`` (the exponential of the mean entropy: 1 where one modality has all the
        weight, M where all weigh the same) and ``warnings``.
    """
    known = weights[~np.isnan(weights).any(axis=1)].astype(np.float64)  # (k, M)
    if not len(known):
        return {"modalities": {}, "effective_modalities": None, "warnings": ["no clip has modality weights"]}
    heaviest = known.argmax(axis=1)  # (k,)
    described = {
        name: {
            "mean": round(float(column.mean()), 6),
            "std": round(float(column.std()), 6),
            **{key: round(float(np.quantile(column, share)), 6) for key, share in QUANTILES.items()},
            "heaviest": round(float((heaviest == index).mean()), 6),
        }
        for index, (name, column) in enumerate(zip(modalities, known.T, strict=True))
    }
    entropy = -(known * np.log(np.maximum(known, 1e-12))).sum(axis=1)  # (k,)
    collapsed = [name for name, row in described.items() if row["mean"] > collapse_above]
    warnings = [
        f"the fusion has collapsed onto {name}: its mean weight is {described[name]['mean']:.2f}, so that the other "
        "modalities hardly count"
        for name in collapsed
        if len(modalities) > 1
    ]
    return {
        "modalities": described,
        "effective_modalities": round(float(np.exp(entropy.mean())), 6),
        "warnings": warnings,
    }
