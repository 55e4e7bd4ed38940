"""What else turns votes into labels: the methods that `combine_votes` is measured against.

Each takes the votes by source, (n, K), and the gold labels, (n,), -1 where unknown, and gives probabilities, (n, K).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from cleanlab.multiannotator import get_label_quality_multiannotator
from crowdkit.aggregation import MMSR, DawidSkene, OneCoinDawidSkene
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Votes = Mapping[str, Floats]


def majority(votes: Votes, _gold: Ints) -> Floats:
    """One source, one vote; ties go to the label with the higher mean probability."""
    return _counted(votes, np.ones(len(votes)))


def mean_probs(votes: Votes, _gold: Ints) -> Floats:
    """The mean of the sources' probabilities."""
    probs = np.stack(list(votes.values()))
    return _normalised(np.where(np.isnan(probs), 0.0, probs).sum(axis=0))


def weighted_majority(votes: Votes, gold: Ints) -> Floats:
    """Each vote counts the log-odds of its source's accuracy on gold (Littlestone and Warmuth; MACE's simplest)."""
    known = gold >= 0
    classes = next(iter(votes.values())).shape[1]
    weights = []
    for probs in votes.values():
        voted = known & ~np.isnan(probs).any(axis=1)
        right = (probs[voted].argmax(axis=1) == gold[voted]).sum() + 1.0
        accuracy = right / (voted.sum() + classes)
        weights.append(max(np.log(accuracy * (classes - 1) / (1 - accuracy)), 0.0))
    return _counted(votes, np.array(weights))


def dawid_skene(votes: Votes, gold: Ints) -> Floats:
    """Dawid and Skene (1979), crowd-kit; gold labels, where there are any, stay fixed."""
    known = np.flatnonzero(gold >= 0)
    fixed = pd.Series(gold[known], index=known) if len(known) else None
    return _completed(DawidSkene(n_iter=100).fit_predict_proba(_long(votes), true_labels=fixed), votes)


def one_coin(votes: Votes, _gold: Ints) -> Floats:
    """Dawid and Skene with one accuracy a source, crowd-kit."""
    return _completed(OneCoinDawidSkene(n_iter=100).fit_predict_proba(_long(votes)), votes)


def mmsr(votes: Votes, _gold: Ints) -> Floats:
    """Matrix mean-subsequence-reduced (Ma and Olshevsky 2020), crowd-kit."""
    scores = MMSR(n_iter=1000, tol=1e-6).fit(_long(votes)).predict_score(_long(votes))
    return _completed(scores.clip(lower=1e-9), votes)


def crowdlab(votes: Votes, gold: Ints) -> Floats:
    """CROWDLAB (Goh et al. 2022), cleanlab: the sources are annotators, the gold-only stack is its classifier."""
    probs = stack(votes, gold) if (gold >= 0).any() else mean_probs(votes, gold)
    cast = np.stack([np.where(np.isnan(v).any(axis=1), np.nan, v.argmax(axis=1)) for v in votes.values()], axis=1)
    judged = np.flatnonzero(~np.isnan(cast).all(axis=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_label_quality_multiannotator(
            pd.DataFrame(cast[judged], index=judged), probs[judged], verbose=False, calibrate_probs=True
        )["label_quality"]
    labels = found["consensus_label"].to_numpy(np.int64)
    quality = np.clip(found["consensus_quality_score"].to_numpy(np.float64), 1e-9, 1.0)
    classes = probs.shape[1]
    rows = np.repeat(((1 - quality) / (classes - 1))[:, None], classes, axis=1)
    rows[np.arange(len(labels)), labels] = np.maximum(quality, 1 / classes + 1e-9)
    probs = probs.copy()
    probs[judged] = rows
    return probs


def stack(votes: Votes, gold: Ints) -> Floats:
    """A logistic regression on all sources' probabilities, fitted to gold alone, its penalty by cross-validation."""
    known = gold >= 0
    columns = []
    for probs in votes.values():
        logs = np.log(np.clip(probs, 1e-2, 1.0))
        logs -= logs.mean(axis=1, keepdims=True)
        columns.append(np.nan_to_num(logs))
    features = np.concatenate(columns, axis=1)
    features /= features.std() + 1e-12
    counts = np.bincount(gold[known])
    folds = min(5, int(counts[counts > 0].min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if folds < 2:
            model = LogisticRegression(C=0.1, max_iter=300).fit(features[known], gold[known])
        else:
            model = LogisticRegressionCV(
                Cs=[0.001, 0.01, 0.1, 1.0],
                cv=folds,
                max_iter=300,
                scoring="neg_log_loss",
                use_legacy_attributes=False,
                l1_ratios=[0.0],
            ).fit(features[known], gold[known])
    probs = np.full((len(gold), next(iter(votes.values())).shape[1]), 1e-9)
    probs[:, model.classes_] = model.predict_proba(features)
    return _normalised(probs)


WITH_GOLD: dict[str, Callable[[Votes, Ints], Floats]] = {
    "majority": majority,
    "mean of probabilities": mean_probs,
    "weighted majority": weighted_majority,
    "Dawid-Skene": dawid_skene,
    "OneCoin": one_coin,
    "MMSR": mmsr,
    "CROWDLAB": crowdlab,
    "gold-only stack": stack,
}
"""The methods that may use gold labels (not all do)."""

WITHOUT_GOLD = {
    name: WITH_GOLD[name] for name in ("majority", "mean of probabilities", "Dawid-Skene", "OneCoin", "MMSR")
}
"""Those that need none."""


def _counted(votes: Votes, weights: Floats) -> Floats:
    probs = np.stack(list(votes.values()))  # (S, n, K)
    silent = np.isnan(probs).any(axis=2)
    filled = np.where(silent[:, :, None], 0.0, probs)
    cast = np.eye(probs.shape[2])[filled.argmax(axis=2)] * ~silent[:, :, None]
    return _normalised(np.einsum("snk,s->nk", cast, weights) + 1e-3 * filled.mean(axis=0))


def _long(votes: Votes) -> pd.DataFrame:
    parts = []
    for name, probs in votes.items():
        voted = np.flatnonzero(~np.isnan(probs).any(axis=1))
        parts.append(pd.DataFrame({"task": voted, "worker": name, "label": probs[voted].argmax(axis=1)}))
    return pd.concat(parts, ignore_index=True)


def _completed(table: pd.DataFrame, votes: Votes) -> Floats:
    """Clips that nobody voted on get equal shares."""
    clips, classes = next(iter(votes.values())).shape
    probs = np.full((clips, classes), 1 / classes)
    ordered = table.reindex(columns=range(classes), fill_value=0.0).fillna(0.0)
    probs[ordered.index.to_numpy()] = ordered.to_numpy()
    return _normalised(probs)


def _normalised(rows: Floats) -> Floats:
    totals = rows.sum(axis=1, keepdims=True)
    normalised: Floats = np.where(totals > 0, rows / np.where(totals > 0, totals, 1.0), 1 / rows.shape[1])
    return normalised
