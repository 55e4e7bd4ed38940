"""Do the label model's probabilities mean what they say, and what does each family of sources add?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.metrics import expected_calibration_error

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def reliability(posterior: Floats, truth: Ints, bins: int = 10) -> dict[str, Any]:
    """Reliability curve, expected calibration error, and accuracy of the surest clips.

    Args:
        posterior: Probabilities of the label model, (n, K).
        truth: True labels, (n,), -1 where unknown: such clips are left out.
        bins: Bins of equal width.
    """
    known = truth >= 0
    confidence, right = posterior[known].max(axis=1), posterior[known].argmax(axis=1) == truth[known]
    which = np.clip((confidence * bins).astype(int), 0, bins - 1)
    curve = [
        {
            "clips": int((which == index).sum()),
            "confidence": round(float(confidence[which == index].mean()), 6),
            "accuracy": round(float(right[which == index].mean()), 6),
        }
        for index in range(bins)
        if (which == index).any()
    ]
    surest = right[np.argsort(-confidence, kind="stable")]
    counts = [max(1, round(share * len(right))) for share in SHARES] if len(right) else []
    return {
        "clips": int(known.sum()),
        "accuracy": round(float(right.mean()), 6) if len(right) else None,
        "ece": round(expected_calibration_error(confidence, right, bins), 6) if len(right) else None,
        "curve": curve,
        "coverage": [
            {"share": share, "accuracy": round(float(surest[:count].mean()), 6)}
            for share, count in zip(SHARES, counts, strict=False)
        ],
    }


def leave_one_out(
    votes: Mapping[str, Floats],
    families: Mapping[str, str],
    truth: Ints,
    posterior_of: Callable[[Mapping[str, Floats]], Floats],
) -> dict[str, dict[str, Any]]:
    """Accuracy and calibration error of the label model without each family of sources.

    Args:
        votes: Probabilities by source, (n, K).
        families: The family of each source.
        truth: True labels, (n,), -1 where unknown.
        posterior_of: The label model: from votes to probabilities, (n, K).

    Returns:
        By family, the scores without it; with one family alone there is nothing to leave out.
    """
    names: Sequence[str] = sorted({families[source] for source in votes})
    if len(names) < 2:
        return {}
    found = {}
    for name in names:
        rest = {source: probs for source, probs in votes.items() if families[source] != name}
        scores = reliability(posterior_of(rest), truth)
        found[name] = {"accuracy": scores["accuracy"], "ece": scores["ece"]}
    return found
