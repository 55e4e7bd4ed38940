"""Ways to combine votes that learn from gold labels; `ecmf_pipeline.labels.combining` blends them.

They differ in what they can learn from few labels and from many: a pool has one weight a source, a confusion matrix K x
K numbers a source but takes votes as independent, Dawid and Skene's model sharpens it on clips without gold, and a
regularised regression sees everything at once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels import dawid_skene
from ecmf_pipeline.labels.dawid_skene import Ballots, DawidSkene
from ecmf_pipeline.labels.votes import Evidence


@dataclass(frozen=True, slots=True)
class LogPool:
    """One weight an opinion, (M,), none below zero, and one bias a class, (K,)."""

    weights: Floats
    bias: Floats

    def log_probs(self, opinions: Floats) -> Floats:
        """Log-probabilities, (n, K), of log-opinions (n, M, K)."""
        pooled: Floats = log_softmax(self.bias + np.einsum("nmk,m->nk", opinions, self.weights), axis=1)
        return pooled


def fit_log_pool(
    opinions: Floats, target: Floats, *, total: float, weight_spread: float, bias: Floats, bias_spread: float
) -> LogPool:
    """The weights and biases that are most probable given what is known of the truth.

    Args:
        opinions: Log-opinions, (n, M, K).
        target: Probabilities of the truth, (n, K), one-hot where it is known.
        total: What all weights together are expected to be: 1 is the opinions' geometric mean.
        weight_spread: Standard deviation of a weight around its share of that.
        bias: What the class biases are expected to be, (K,).
        bias_spread: Standard deviation of a bias around that.
    """
    sources, classes = opinions.shape[1:]
    expected = np.concatenate([np.full(sources, total / sources), bias])
    spread = np.repeat([weight_spread, bias_spread], [sources, classes])

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scores = parameters[sources:] + np.einsum("nmk,m->nk", opinions, parameters[:sources])
        logs = log_softmax(scores, axis=1)
        wrong = np.exp(logs) - target  # (n, K), both rows sum to 1
        deviation = (parameters - expected) / spread
        slope = np.concatenate([np.einsum("nmk,nk->m", opinions, wrong), wrong.sum(axis=0)])
        return float((deviation**2).sum() / 2 - (logs * target).sum()), slope + deviation / spread

    bounds = [(0.0, None)] * sources + [(None, None)] * classes  # no opinion is worse than none
    found = minimize(loss, expected, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 100}).x
    return LogPool(found[:sources], found[sources:])


NAMES = ("pool", "confusion", "dawid_skene", "stack")
"""The experts, in the order of `Experts.log_probs`."""

PENALTIES = (0.01, 0.1, 1.0)
"""C of the stack's regression: which one serves best is found by cross-validation."""

STRENGTH = 4.0
"""Weight of the prior of a confusion's row, in gold clips."""

LOWEST = -12.0
"""Log-probabilities are cut off here: no expert may rule a label out."""

_MOST_FOR_NEWTON = 2500
"""Beyond this many coefficients the Hessian costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Panel:
    """What all experts look at: n clips, S sources, K labels.

    Attributes:
        evidence: The votes.
        votes: Their patterns.
        columns: Standardised log-votes, (n, S * K).
    """

    evidence: Evidence
    votes: Ballots
    columns: Floats

    @classmethod
    def of(cls, evidence: Evidence, votes: Ballots) -> Panel:
        """The panel of these votes."""
        columns = evidence.logs.reshape(len(evidence.logs), -1)
        return cls(evidence, votes, columns / (columns.std() + 1e-12))


@dataclass(frozen=True, slots=True)
class Experts:
    """All experts, fitted to some gold clips; the stack once for each penalty asked for."""

    pool: LogPool
    confusion: DawidSkene
    crowd: DawidSkene
    stacks: tuple[Floats, ...]

    def log_probs(self, panel: Panel, clips: Ints | slice) -> list[Floats]:
        """Log-probabilities, (m, K), of the chosen clips: one for each of `NAMES`, the last for each penalty."""
        pattern = panel.votes.pattern[clips]
        if isinstance(clips, slice):
            by_pattern = [
                log_softmax(m.scores(panel.votes.rows), axis=1)[pattern] for m in (self.confusion, self.crowd)
            ]
        else:
            rows = panel.votes.rows[pattern]
            by_pattern = [log_softmax(m.scores(rows), axis=1) for m in (self.confusion, self.crowd)]
        stacked = [log_softmax(panel.columns[clips] @ c[:-1] + c[-1], axis=1) for c in self.stacks]
        return [
            np.maximum(logs, LOWEST)
            for logs in (self.pool.log_probs(panel.evidence.logs[clips]), *by_pattern, *stacked)
        ]


def fit_experts(panel: Panel, clips: Ints, gold: Ints, penalties: tuple[float, ...]) -> Experts:
    """Fit every expert.

    Args:
        panel: The votes on all clips; those without gold are learned from too.
        clips: The clips whose truth is known here, (m,).
        gold: Their truth, (m,).
        penalties: C of each stack.
    """
    classes = panel.votes.shape[1]
    by_class = np.bincount(gold, minlength=classes).astype(np.float64)
    shares = (by_class + 1.0) / (by_class + 1.0).sum()
    pool = fit_log_pool(
        panel.evidence.logs[clips],
        np.eye(classes)[gold],
        total=1.2,
        weight_spread=0.5,
        bias=np.log(shares),
        bias_spread=1.0,
    )
    counts = panel.votes.by_class(clips, gold)
    confusion = dawid_skene.from_counts(counts, by_class, STRENGTH)
    unknown = np.ones(len(panel.columns), dtype=bool)
    unknown[clips] = False
    crowd = dawid_skene.fit(
        panel.votes,
        panel.votes.counted(unknown & ~panel.evidence.silent),
        counts,
        by_class,
        start=confusion,
        strength=STRENGTH,
        rounds=30,
        tolerance=1e-3,
    )
    stacks = tuple(_stack(panel.columns[clips], gold, classes, penalty) for penalty in penalties)
    return Experts(pool, confusion, crowd, stacks)


def _stack(columns: Floats, gold: Ints, classes: int, penalty: float) -> Floats:
    """Coefficients of a multinomial logistic regression, (S * K + 1, K), the last row the intercepts."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    newton = columns.shape[1] * classes <= _MOST_FOR_NEWTON
    model = LogisticRegression(C=penalty, max_iter=50, solver="newton-cholesky" if newton else "lbfgs")
    with warnings.catch_warnings():
        # A regression that stops early is a weaker expert, which the blend discounts.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(columns, gold)
    coefficients = np.zeros((columns.shape[1] + 1, classes))
    coefficients[-1] = LOWEST  # classes that gold does not show
    fitted = np.vstack([model.coef_.T, model.intercept_])
    if len(model.classes_) == 2:  # scikit-learn keeps the second class's alone
        fitted = np.hstack([np.zeros_like(fitted), fitted])
    coefficients[:, model.classes_] = fitted
    return coefficients
