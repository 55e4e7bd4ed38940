"""Simpler and published methods of combining votes, as baselines of the label model.

Each method takes the votes by source, (n, K), NaN for abstentions, and the gold labels, (n,), -1 if unknown, and
returns probabilities, (n, K). MMSR comes from crowd-kit and CROWDLAB from cleanlab; both packages are optional.
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
from ecmf_pipeline.labels.majority import break_ties, count_votes, normalise_rows
from ecmf_pipeline.labels.votes import ABSTAIN, first_choice

Votes = Mapping[str, Floats]

_NEGLIGIBLE_PRIOR = 1e-3
"""Negligible weight of the prior of each confusion row, because the published model has no prior."""

_MIN_PROBABILITY = 1e-9


@dataclass(frozen=True, slots=True)
class Baseline:
    """A method of combining votes.

    Attributes:
        combine: Function from votes and gold labels to probabilities.
        learns: Whether it learns from gold labels.
        needs: Package that implements it; "" if it is implemented here.
    """

    combine: Callable[[Votes, Ints], Floats]
    learns: bool = False
    needs: str = ""

    @property
    def installed(self) -> bool:
        """Whether the package that implements it is installed."""
        return not self.needs or find_spec(self.needs) is not None


def majority(votes: Votes, _gold: Ints) -> Floats:
    """Combine votes by majority; `break_ties` decides ties."""
    return count_votes(votes)


def mean_probs(votes: Votes, _gold: Ints) -> Floats:
    """Average the probabilities of all sources."""
    probs = np.stack(list(votes.values()))
    return break_ties(normalise_rows(np.where(np.isnan(probs), 0.0, probs).sum(axis=0)), votes)


def weighted_majority(votes: Votes, gold: Ints) -> Floats:
    """Weight each vote by the log-odds of its source's accuracy on gold labels (Littlestone and Warmuth 1994)."""
    has_gold = gold >= 0
    classes = next(iter(votes.values())).shape[1]
    weights = []
    for probs in votes.values():
        voted = has_gold & ~np.isnan(probs).any(axis=1)
        n_right = (probs[voted].argmax(axis=1) == gold[voted]).sum() + 1.0
        accuracy = n_right / (voted.sum() + classes)
        weights.append(max(np.log(accuracy * (classes - 1) / (1 - accuracy)), 0.0))
    return count_votes(votes, np.array(weights))


def dawid_skene(votes: Votes, gold: Ints) -> Floats:
    """Fit Dawid and Skene's model (1979), initialised with majority vote; gold labels stay fixed."""
    patterns, truth, voted = _initialise(votes, gold)
    has_gold = np.flatnonzero(gold >= 0)
    known_counts, known_classes = (
        patterns.count_votes(has_gold, gold[has_gold]),
        np.bincount(gold[has_gold], minlength=truth.shape[1]),
    )
    start = model.posterior_mean(patterns.expected_votes(truth), truth.sum(axis=0), _NEGLIGIBLE_PRIOR)
    unknown = patterns.count_clips(voted & (gold < 0))
    fitted = model.fit(
        patterns,
        unknown,
        known_counts,
        known_classes.astype(np.float64),
        start=start,
        strength=_NEGLIGIBLE_PRIOR,
        rounds=100,
    )
    return _predict(fitted, patterns, voted)


def one_coin(votes: Votes, _gold: Ints) -> Floats:
    """Fit Dawid and Skene's model with one accuracy per source (Zhang et al. 2016), initialised with majority vote."""
    patterns, truth, voted = _initialise(votes, np.full(len(next(iter(votes.values()))), -1))
    classes = truth.shape[1]
    pattern_counts = patterns.count_clips(voted)
    fitted = _fit_one_coin(patterns, truth)
    for _ in range(100):
        expected_clips = pattern_counts[:, None] * softmax(fitted.scores(patterns.rows), axis=1)
        previous, fitted = fitted, _fit_one_coin(patterns, expected_clips)
        if np.abs(fitted.confusion - previous.confusion).max() < 1e-5 / classes:
            break
    return _predict(fitted, patterns, voted)


def mmsr(votes: Votes, _gold: Ints) -> Floats:
    """Run matrix mean-subsequence-reduced (Ma and Olshevsky 2020) from crowd-kit."""
    import pandas as pd
    from crowdkit.aggregation import MMSR

    hard_votes = _hard_votes(votes)
    clips, sources = np.nonzero(hard_votes != ABSTAIN)
    table = pd.DataFrame({"task": clips, "worker": sources, "label": hard_votes[clips, sources]})
    if table["worker"].nunique() < 2:
        return majority(votes, _gold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowd-kit uses deprecated functions of pandas
        scores = MMSR(n_iter=1000, tol=1e-6).fit(table).predict_score(table).clip(lower=1e-9)
    shape = next(iter(votes.values())).shape
    return scores_to_probs(scores, shape)


def crowdlab(votes: Votes, gold: Ints) -> Floats:
    """Run CROWDLAB (Goh et al. 2022) from cleanlab, with sources as annotators and `stack` as classifier."""
    import pandas as pd
    from cleanlab.multiannotator import get_label_quality_multiannotator

    probs = stack(votes, gold) if (gold >= 0).any() else mean_probs(votes, gold)
    hard_votes = _hard_votes(votes)
    hard_votes = hard_votes[:, (hard_votes != ABSTAIN).any(axis=0)]  # cleanlab rejects annotators without a vote
    voted = np.flatnonzero((hard_votes != ABSTAIN).any(axis=1))
    if not ((hard_votes != ABSTAIN).sum(axis=1) > 1).any():
        return probs  # cleanlab rejects annotators without a common clip
    annotations = pd.DataFrame(np.where(hard_votes == ABSTAIN, np.nan, hard_votes)[voted], index=voted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quality_report = get_label_quality_multiannotator(
            annotations, probs[voted], verbose=False, calibrate_probs=True
        )
    labels = quality_report["label_quality"]["consensus_label"].to_numpy(np.int64)
    quality = np.clip(
        quality_report["label_quality"]["consensus_quality_score"].to_numpy(np.float64), _MIN_PROBABILITY, 1.0
    )
    classes = probs.shape[1]
    rows = np.repeat(((1 - quality) / (classes - 1))[:, None], classes, axis=1)
    rows[np.arange(len(labels)), labels] = np.maximum(quality, 1 / classes + _MIN_PROBABILITY)
    probs = probs.copy()
    probs[voted] = rows
    return probs


def stack(votes: Votes, gold: Ints) -> Floats:
    """Fit logistic regression on all sources' probabilities to gold labels; cross-validation sets the penalty."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    has_gold = gold >= 0
    columns = []
    for probs in votes.values():
        logs = np.log(np.clip(probs, 1e-2, 1.0))
        logs -= logs.mean(axis=1, keepdims=True)
        columns.append(np.nan_to_num(logs))  # centred: 0 means no preference
    inputs = np.concatenate(columns, axis=1)
    inputs /= inputs.std() + 1e-12
    counts = np.bincount(gold[has_gold])
    folds = min(5, int(counts[counts > 0].min()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if folds < 2:
            fitted = LogisticRegression(C=0.1, max_iter=300).fit(inputs[has_gold], gold[has_gold])
        else:
            fitted = LogisticRegressionCV(
                Cs=[0.001, 0.01, 0.1, 1.0],
                cv=folds,
                max_iter=300,
                scoring="neg_log_loss",
                use_legacy_attributes=False,
                l1_ratios=[0.0],
            ).fit(inputs[has_gold], gold[has_gold])
    probs = np.full((len(gold), next(iter(votes.values())).shape[1]), _MIN_PROBABILITY)
    probs[:, fitted.classes_] = fitted.predict_proba(inputs)
    return normalise_rows(probs)


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
"""All baselines, by name."""


def scores_to_probs(table: object, shape: tuple[int, int]) -> Floats:
    """Convert scores by clip and label to probabilities (n, K).

    Args:
        table: A pandas frame, which may lack clips and labels.
        shape: n, K.
    """
    import pandas as pd

    assert isinstance(table, pd.DataFrame)
    clips, classes = shape
    probs = np.full((clips, classes), 1 / classes)
    ordered = table.reindex(columns=range(classes), fill_value=0.0).fillna(0.0)
    probs[ordered.index.to_numpy()] = ordered.to_numpy()
    return normalise_rows(probs)


def _hard_votes(votes: Votes) -> Ints:
    return np.stack([first_choice(probs) for probs in votes.values()], axis=1)


def _initialise(votes: Votes, gold: Ints) -> tuple[model.VotePatterns, Floats, NDArray[np.bool_]]:
    """Return the vote patterns, the initial number of clips by pattern and label, (u, K), and which clips have votes.

    The initial labels are gold labels, else shares of majority vote.
    """
    hard_votes = _hard_votes(votes)
    voted = np.asarray((hard_votes != ABSTAIN).any(axis=1))
    patterns = model.vote_patterns(hard_votes, next(iter(votes.values())).shape[1])
    label_shares = majority(votes, gold)
    known = np.flatnonzero(gold >= 0)
    label_shares[known] = np.eye(label_shares.shape[1])[gold[known]]
    truth = np.zeros((patterns.rows.shape[0], label_shares.shape[1]))
    np.add.at(truth, patterns.pattern[voted], label_shares[voted])
    return patterns, truth, voted


def _fit_one_coin(patterns: model.VotePatterns, truth: Floats) -> model.DawidSkene:
    counts = patterns.expected_votes(truth)  # (S, K true, K voted)
    sources, classes, _ = counts.shape
    total = counts.sum(axis=(1, 2))
    accuracy = np.clip(np.einsum("skk->s", counts) / np.where(total > 0, total, 1.0), 1e-6, 1 - 1e-6)
    wrong = (1 - accuracy) / max(classes - 1, 1)
    confusion = np.repeat(wrong, classes * classes).reshape(sources, classes, classes)
    confusion[:, np.arange(classes), np.arange(classes)] = accuracy[:, None]
    shares = truth.sum(axis=0) + _MIN_PROBABILITY
    return model.DawidSkene(shares / shares.sum(), confusion)


def _predict(fitted: model.DawidSkene, patterns: model.VotePatterns, voted: NDArray[np.bool_]) -> Floats:
    probs: Floats = softmax(fitted.scores(patterns.rows), axis=1)[patterns.pattern]
    probs[~voted] = 1 / probs.shape[1]
    return probs
