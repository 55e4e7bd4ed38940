"""The label model beside simpler and published ways to combine the same votes, on labels that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.labels.baselines import BASELINES
from ecmf_pipeline.labels.combining import LEAST_GOLD, combine_votes
from ecmf_pipeline.metrics import bootstrap_difference, expected_calibration_error, weighted_f1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Method = Callable[[Ints], Floats]
"""From the labels it may learn from, (n,), -1 where unknown, to probabilities, (n, K)."""

USED = "label model, as the refinement uses it"
TAUGHT = "combine_votes, taught by these labels"


def compare_methods(
    votes: Mapping[str, Floats],
    used: Method,
    known: Ints,
    folds: Ints,
    config: EvaluateConfig,
    *,
    learns: bool,
    groups: NDArray[np.str_] | None = None,
) -> dict[str, Any]:
    """Judge the label model and every baseline by labels that are known to be right.

    Whatever learns from such labels is asked about each fold without that fold's. With too few of them
    (`LEAST_GOLD`) only what needs none is compared.

    Args:
        votes: Probabilities by source, (n, K), NaN where it abstains: the given label may be one of them.
        used: The label model as the refinement uses it.
        known: Labels that are known to be right, (n,), -1 where unknown.
        folds: The fold of every clip, (n,); clips of one group in one fold.
        config: How intervals are drawn.
        learns: Whether ``used`` learns from labels that are known to be right.
        groups: Speakers or dialogues, (n,), which intervals are drawn by.

    Returns:
        Accuracy, weighted F1 and calibration error by method, what the label model leads it by (paired 95% interval),
        and the methods that were not compared, with the reason.
    """
    judged = np.flatnonzero(known >= 0)
    if not len(judged):
        return {"clips": 0, "methods": {}, "left_out": {}}
    methods, left_out = _methods(votes, (used, learns), taught=len(judged) >= LEAST_GOLD)
    found = {name: _asked(method, known, folds, judged, learns=own) for name, (method, own) in methods.items()}
    truth = known[judged].astype(str)
    chosen = {name: probs.argmax(axis=1) for name, probs in found.items()}
    results = {}
    for name, probs in found.items():
        right = chosen[name] == known[judged]
        difference, low, high = bootstrap_difference(
            chosen[USED].astype(str),
            chosen[name].astype(str),
            truth,
            rng=np.random.default_rng(config.seed),
            groups=None if groups is None else groups[judged],
            draws=config.draws,
        )
        results[name] = {
            "accuracy": round(float(right.mean()), 6),
            "weighted_f1": round(weighted_f1(truth.tolist(), chosen[name].astype(str).tolist()), 6),
            "ece": round(expected_calibration_error(probs.max(axis=1), right), 6),
            "learns": methods[name][1],
            "label_model_over": {"difference": round(difference, 6), "low": round(low, 6), "high": round(high, 6)},
        }
    return {"clips": len(judged), "methods": results, "left_out": left_out}


def _methods(
    votes: Mapping[str, Floats], used: tuple[Method, bool], *, taught: bool
) -> tuple[dict[str, tuple[Method, bool]], dict[str, str]]:
    """By name what is compared, and whether it learns from gold; and why others are not."""
    methods: dict[str, tuple[Method, bool]] = {USED: used}
    if taught:
        methods[TAUGHT] = (lambda gold: combine_votes(votes, gold).probs, True)
    left_out = {}
    for name, baseline in BASELINES.items():
        if baseline.learns and not taught:
            left_out[name] = f"needs {LEAST_GOLD} labels that are known to be right"
        elif not baseline.installed:
            left_out[name] = f"the package {baseline.needs} is not installed"
        else:
            methods[name] = (partial(baseline.combine, votes), baseline.learns)
    return methods, left_out


def _asked(method: Method, known: Ints, folds: Ints, judged: Ints, *, learns: bool) -> Floats:
    """What a method says of the judged clips, (m, K), each without the labels of its fold."""
    if not learns:
        return method(np.full(len(known), -1))[judged]
    answers: Floats | None = None
    for fold in np.unique(folds[judged]).tolist():
        probs = method(np.where(folds == fold, -1, known))[judged]
        answers = probs.copy() if answers is None else answers
        asked = folds[judged] == fold
        answers[asked] = probs[asked]
    assert answers is not None
    return answers
