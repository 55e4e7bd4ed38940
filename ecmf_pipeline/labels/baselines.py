"""Simpler and published ways to turn votes into labels: what the label model is measured against.

Each takes the votes by source, (n, K), NaN where a source abstains, and the gold labels, (n,), -1 where unknown, and
gives probabilities, (n, K). MMSR and CROWDLAB are those of crowd-kit and cleanlab, which need not be installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels import dawid_skene as model
from ecmf_pipeline.labels.votes import ABSTAIN, first_choice

Votes = Mapping[str, Floats]

_HARDLY_A_PRIOR = 1e-3
"""Weight of the prior of a confusion's row: Dawid and Skene's model has none."""

_NEVER_CERTAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Baseline:
    """One of them.

    Attributes:
        combine: From votes and gold labels to probabilities.
        learns: Whether it learns from gold labels.
        needs: The package it comes from; "" for those that stand here.
    """

    combine: Callable[[Votes, Ints], Floats]
    learns: bool = False
    needs: str = ""

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return not self.needs or find_spec(self.needs) is not None


def majority(votes: Votes, _gold: Ints) -> Floats:
    """One source, one vote; ties go to the label with the higher mean probability."""
    return _counted(votes, np.ones(len(votes)))


def mean_probs(votes: Votes, _gold: Ints) -> Floats:
    """The mean of the sources' probabilities."""
    probs = np.stack(list(votes.values()))
    return normalised(np.where(np.isnan(probs), 0.0, probs).sum(axis=0))


def weighted_majority(votes: Votes, gold: Ints) -> Floats:
    """Each vote counts the log-odds of its source's accuracy on gold (Littlestone and Warmuth 1994)."""
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
    """Dawid and Skene (1979), begun at the majority; gold labels, where there are any, stay fixed."""
    ballots, truth, voted = _begun(votes, gold)
    known = np.flatnonzero(gold >= 0)
    counts, by_class = ballots.by_class(known, gold[known]), np.bincount(gold[known], minlength=truth.shape[1])
    start = model.from_counts(ballots.expected(truth), truth.sum(axis=0), _HARDLY_A_PRIOR)
    unknown = ballots.counted(voted & (gold < 0))
    found = model.fit(
        ballots, unknown, counts, by_class.astype(np.float64), start=start, strength=_HARDLY_A_PRIOR, rounds=100
    )
    return _judged(found, ballots, voted)


def one_coin(votes: Votes, _gold: Ints) -> Floats:
    """Dawid and Skene's model with one accuracy a source (Zhang et al. 2016), begun at the majority."""
    ballots, truth, voted = _begun(votes, np.full(len(next(iter(votes.values()))), -1))
    classes = truth.shape[1]
    seen = ballots.counted(voted)
    found = _one_accuracy_each(ballots, truth)
    for _ in range(100):
        expected = seen[:, None] * softmax(found.scores(ballots.rows), axis=1)
        moved, found = found, _one_accuracy_each(ballots, expected)
        if np.abs(found.confusion - moved.confusion).max() < 1e-5 / classes:
            break
    return _judged(found, ballots, voted)


def mmsr(votes: Votes, _gold: Ints) -> Floats:
    """Matrix mean-subsequence-reduced (Ma and Olshevsky 2020), crowd-kit."""
    import pandas as pd
    from crowdkit.aggregation import MMSR

    cast = _cast(votes)
    clips, sources = np.nonzero(cast != ABSTAIN)
    table = pd.DataFrame({"task": clips, "worker": sources, "label": cast[clips, sources]})
    if table["worker"].nunique() < 2:
        return majority(votes, _gold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowd-kit uses what pandas is about to drop
        scores = MMSR(n_iter=1000, tol=1e-6).fit(table).predict_score(table).clip(lower=1e-9)
    shape = next(iter(votes.values())).shape
    return completed(scores, shape)


def crowdlab(votes: Votes, gold: Ints) -> Floats:
    """CROWDLAB (Goh et al. 2022), cleanlab: the sources are annotators, the gold-only stack is its classifier."""
    import pandas as pd
    from cleanlab.multiannotator import get_label_quality_multiannotator

    probs = stack(votes, gold) if (gold >= 0).any() else mean_probs(votes, gold)
    cast = _cast(votes)
    cast = cast[:, (cast != ABSTAIN).any(axis=0)]  # cleanlab refuses annotators without a vote,
    judged = np.flatnonzero((cast != ABSTAIN).any(axis=1))
    if not ((cast != ABSTAIN).sum(axis=1) > 1).any():
        return probs  # and annotators who share no clip: there is nothing to weigh them by
    annotations = pd.DataFrame(np.where(cast == ABSTAIN, np.nan, cast)[judged], index=judged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_label_quality_multiannotator(annotations, probs[judged], verbose=False, calibrate_probs=True)
    labels = found["label_quality"]["consensus_label"].to_numpy(np.int64)
    quality = np.clip(found["label_quality"]["consensus_quality_score"].to_numpy(np.float64), _NEVER_CERTAIN, 1.0)
    classes = probs.shape[1]
    rows = np.repeat(((1 - quality) / (classes - 1))[:, None], classes, axis=1)
    rows[np.arange(len(labels)), labels] = np.maximum(quality, 1 / classes + _NEVER_CERTAIN)
    probs = probs.copy()
    probs[judged] = rows
    return probs


def stack(votes: Votes, gold: Ints) -> Floats:
    """A logistic regression on all sources' probabilities, fitted to gold alone, its penalty by cross-validation."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    known = gold >= 0
    columns = []
    for probs in votes.values():
        logs = np.log(np.clip(probs, 1e-2, 1.0))
        logs -= logs.mean(axis=1, keepdims=True)
        columns.append(np.nan_to_num(logs))  # centred: 0 is what a source that favours no label says
    rows = np.concatenate(columns, axis=1)
    rows /= rows.std() + 1e-12
    counts = np.bincount(gold[known])
    folds = min(5, int(counts[counts > 0].min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if folds < 2:
            fitted = LogisticRegression(C=0.1, max_iter=300).fit(rows[known], gold[known])
        else:
            fitted = LogisticRegressionCV(
                Cs=[0.001, 0.01, 0.1, 1.0],
                cv=folds,
                max_iter=300,
                scoring="neg_log_loss",
                use_legacy_attributes=False,
                l1_ratios=[0.0],
            ).fit(rows[known], gold[known])
    probs = np.full((len(gold), next(iter(votes.values())).shape[1]), _NEVER_CERTAIN)
    probs[:, fitted.classes_] = fitted.predict_proba(rows)
    return normalised(probs)


BASELINES: Mapping[str, Baseline] = {
    "majority": Baseline(majority),
    "mean of probabilities": Baseline(mean_probs),
    "weighted majority": Baseline(weighted_majority, learns=True),
    "Dawid-Skene": Baseline(dawid_skene, learns=True),
    "OneCoin": Baseline(one_coin),
    "MMSR": Baseline(mmsr, needs="crowdkit"),
    "CROWDLAB": Baseline(crowdlab, learns=True, needs="cleanlab"),
    "gold-only stack": Baseline(stack, learns=True),
}
"""All of them, by name."""

WITHOUT_GOLD = ("majority", "mean of probabilities", "Dawid-Skene", "OneCoin", "MMSR")
"""Those that can do without gold labels."""


def normalised(rows: Floats) -> Floats:
    """Rows that sum to 1, (n, K); equal shares where a row is all zero."""
    totals = rows.sum(axis=1, keepdims=True)
    shares: Floats = np.where(totals > 0, rows / np.where(totals > 0, totals, 1.0), 1 / rows.shape[1])
    return shares


def completed(table: object, shape: tuple[int, int]) -> Floats:
    """Scores by clip and label, a pandas frame that may lack some of both, as probabilities (n, K)."""
    import pandas as pd

    assert isinstance(table, pd.DataFrame)
    clips, classes = shape
    probs = np.full((clips, classes), 1 / classes)
    ordered = table.reindex(columns=range(classes), fill_value=0.0).fillna(0.0)
    probs[ordered.index.to_numpy()] = ordered.to_numpy()
    return normalised(probs)


def _cast(votes: Votes) -> Ints:
    return np.stack([first_choice(probs) for probs in votes.values()], axis=1)


def _begun(votes: Votes, gold: Ints) -> tuple[model.Ballots, Floats, NDArray[np.bool_]]:
    """Patterns of votes, clips by pattern and class as the majority (and gold) has it, (u, K), and who has votes."""
    cast = _cast(votes)
    voted = np.asarray((cast != ABSTAIN).any(axis=1))
    ballots = model.ballots(cast, next(iter(votes.values())).shape[1])
    believed = majority(votes, gold)
    known = np.flatnonzero(gold >= 0)
    believed[known] = np.eye(believed.shape[1])[gold[known]]
    truth = np.zeros((ballots.rows.shape[0], believed.shape[1]))
    np.add.at(truth, ballots.pattern[voted], believed[voted])
    return ballots, truth, voted


def _one_accuracy_each(ballots: model.Ballots, truth: Floats) -> model.DawidSkene:
    counts = ballots.expected(truth)  # (S, K true, K voted)
    sources, classes, _ = counts.shape
    total = counts.sum(axis=(1, 2))
    accuracy = np.clip(np.einsum("skk->s", counts) / np.where(total > 0, total, 1.0), 1e-6, 1 - 1e-6)
    wrong = (1 - accuracy) / max(classes - 1, 1)
    confusion = np.repeat(wrong, classes * classes).reshape(sources, classes, classes)
    confusion[:, np.arange(classes), np.arange(classes)] = accuracy[:, None]
    shares = truth.sum(axis=0) + _NEVER_CERTAIN
    return model.DawidSkene(shares / shares.sum(), confusion)


def _judged(found: model.DawidSkene, ballots: model.Ballots, voted: NDArray[np.bool_]) -> Floats:
    probs: Floats = softmax(found.scores(ballots.rows), axis=1)[ballots.pattern]
    probs[~voted] = 1 / probs.shape[1]
    return probs


def _counted(votes: Votes, weights: Floats) -> Floats:
    probs = np.stack(list(votes.values()))  # (S, n, K)
    silent = np.asarray(np.isnan(probs).any(axis=2))
    filled = np.where(silent[:, :, None], 0.0, probs)
    cast = np.eye(probs.shape[2])[filled.argmax(axis=2)] * ~silent[:, :, None]
    return normalised(np.einsum("snk,s->nk", cast, weights) + 1e-3 * filled.mean(axis=0))
