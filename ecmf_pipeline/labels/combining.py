"""Votes of several sources combined into labels whose confidence means what it says.

With gold labels several experts are fitted, each asked about gold clips it has not seen, and a log-linear blend of them
is fitted to the answers: the blend's few numbers are the temperature, the class bias, and how far each expert is to be
believed. The experts differ in what they can learn from few labels and from many: a pool has one weight a source, a
confusion matrix K x K numbers a source but takes votes as independent, Dawid and Skene's model sharpens it on clips
without gold, and a regularised regression sees everything at once. What the votes say without any gold
(`ecmf_pipeline.labels.unsupervised`) takes part as one more expert, which matters where gold is scarce.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels import dawid_skene
from ecmf_pipeline.labels.baselines import majority
from ecmf_pipeline.labels.dawid_skene import Ballots, DawidSkene, ballots
from ecmf_pipeline.labels.unsupervised import combine_without_gold, unsupervised_expert
from ecmf_pipeline.labels.votes import Evidence, LogPool, SourceReport, evidence_of, fit_log_pool, report_sources

LEAST_GOLD = 30
"""With fewer gold labels nothing can be called calibrated."""

LEAST_TO_LEARN = 10
"""With fewer they are kept, and the rest is combined without them. Of 20, on 12 settings of 400 clips, the blend is
already 0.5 points above the best other method on average, and 0.3 better than without them."""

FOLDS = 5

FLOOR = 1e-2
"""Votes are clipped here."""

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

_WANTED_ANSWERS = 1500
"""Gold clips are split into folds anew until the blend has this many answers to learn from, at most five times."""


@dataclass(frozen=True, slots=True)
class CombinedVotes:
    """What the sources together say of n clips and K labels.

    Attributes:
        labels: The label of each clip, (n,): its gold label, where it has one.
        confidence: Probability that it is right, (n,); 1 for gold labels.
        probs: Probability of each label, (n, K).
        held_out: The same, (n, K), but a gold clip is judged without its gold label: what calibration, and the
            precision above a threshold, are measured on.
        sources: How each source fares, in the order they were handed in.
        calibrated: Whether the probabilities were fitted to gold labels. Without, they are no more than scores.
        method: How the votes were combined, in words.
    """

    labels: Ints
    confidence: Floats
    probs: Floats
    held_out: Floats
    sources: tuple[SourceReport, ...]
    calibrated: bool
    method: str


def combine_votes(
    votes: Mapping[str, NDArray[np.floating]], gold: NDArray[np.integer], *, seed: int = 0
) -> CombinedVotes:
    """Combine the votes of several sources.

    Args:
        votes: Probabilities by source, (n, K) each; rows sum to 1, or are all NaN where the source abstains.
        gold: Labels that are known to be right, (n,), -1 where unknown. No source may have been fitted to them.
        seed: Seed of the folds that gold clips are split into.

    Returns:
        Labels, confidence and an account of the sources. Clips that every source abstains from get the class shares.

    Raises:
        ValueError: When shapes differ, a row is neither a distribution nor all NaN, a gold label is out of range, or
            there is no source.
    """
    evidence = evidence_of(votes, floor=FLOOR)
    clips, _, classes = evidence.logs.shape
    known = _checked(gold, clips, classes)
    labelled = np.flatnonzero(known >= 0)
    rng = np.random.default_rng(seed)
    pattern = ballots(evidence.cast, classes)
    usable = labelled[~evidence.silent[labelled]]
    taught = len(usable) >= LEAST_TO_LEARN and len(np.unique(known[usable])) > 1
    calibrated = taught and len(usable) >= LEAST_GOLD
    # The optimiser's vectors are short: waiting for BLAS threads costs more than the work itself.
    with threadpool_limits(limits=1, user_api="blas"):
        if not taught:
            plain = majority({name: np.asarray(probs, np.float64) for name, probs in votes.items()}, known)
            probs, how = combine_without_gold(evidence, pattern, plain, rng)
            method = f"without gold labels: {how}"
        else:
            crowd = unsupervised_expert(evidence, pattern, rng)
            probs, weights = _with_gold(evidence, pattern, crowd, usable, known[usable], rng)
            shares = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
            few = "" if calibrated else ", too few to calibrate it"
            method = f"blend fitted to {len(usable)} gold labels{few} ({shares})"
        if len(labelled):
            counts = np.bincount(known[labelled], minlength=classes) + 1.0
            probs[evidence.silent] = counts / counts.sum()
    held_out = probs.copy()
    probs[labelled] = np.eye(classes)[known[labelled]]
    judged = np.zeros(clips, dtype=bool)
    judged[labelled if calibrated else slice(None)] = True
    reports = report_sources(list(votes), evidence.cast, probs, judged)
    labels = probs.argmax(axis=1).astype(np.int64)
    return CombinedVotes(labels, probs[np.arange(clips), labels], probs, held_out, reports, calibrated, method)


def _checked(gold: NDArray[np.integer], clips: int, classes: int) -> Ints:
    known = np.asarray(gold)
    if known.shape != (clips,) or not np.issubdtype(known.dtype, np.integer):
        raise ValueError(f"gold labels must be {clips} integers, not {known.dtype} of shape {known.shape}")
    if clips and not (known.min() >= -1 and known.max() < classes):
        raise ValueError(f"gold labels must be from -1 (unknown) to {classes - 1}")
    return known.astype(np.int64)


def _with_gold(
    evidence: Evidence, votes: Ballots, crowd: Floats, clips: Ints, gold: Ints, rng: np.random.Generator
) -> tuple[Floats, dict[str, float]]:
    """Probabilities, (n, K), those of gold clips without their gold label, and each expert's weight in the blend."""
    columns = evidence.logs.reshape(len(evidence.logs), -1)
    panel = ExpertInput(evidence, votes, columns / (columns.std() + 1e-12))
    unfitted = np.log(np.maximum(crowd, np.exp(LOWEST)))
    repeats = int(np.clip(np.ceil(_WANTED_ANSWERS / len(gold)), 1, 5))
    answers = [_out_of_fold(panel, clips, gold, rng) for _ in range(repeats)]  # each (m, experts and penalties, K)
    opinions = np.mean(answers, axis=0)
    rows = np.arange(len(gold))
    losses = [-opinions[rows, len(NAMES) - 1 + i, gold].mean() for i in range(len(PENALTIES))]
    best = int(np.argmin(losses))
    chosen = [*range(len(NAMES) - 1), len(NAMES) - 1 + best]
    seen = np.concatenate([opinions[:, chosen], unfitted[clips][:, None]], axis=1)
    blend = _fit_blend(seen, gold)
    experts = fit_experts(panel, clips, gold, (PENALTIES[best],))
    scores = np.stack([*experts.log_probs(panel, slice(None)), unfitted], axis=1)
    weights = dict(zip((*NAMES, "unsupervised"), blend.weights.tolist(), strict=True))
    probs = np.exp(blend.log_probs(scores))
    part = np.arange(len(gold)) % FOLDS
    for held_out in range(FOLDS):
        asked = part == held_out
        probs[clips[asked]] = np.exp(_fit_blend(seen[~asked], gold[~asked]).log_probs(seen[asked]))
    return probs, weights


def _fit_blend(opinions: Floats, gold: Ints) -> LogPool:
    classes = opinions.shape[2]
    target, bias = np.eye(classes)[gold], np.zeros(classes)
    return fit_log_pool(opinions, target, total=0.95, weight_spread=0.3, bias=bias, bias_spread=0.1)


def _out_of_fold(panel: ExpertInput, clips: Ints, gold: Ints, rng: np.random.Generator) -> Floats:
    """What experts that have not seen a gold clip say of it, (m, experts and penalties, K)."""
    fold = np.empty(len(gold), np.int64)
    fold[np.lexsort((rng.random(len(gold)), gold))] = np.arange(len(gold)) % FOLDS  # alike in their labels
    answers = np.empty((len(gold), len(NAMES) - 1 + len(PENALTIES), panel.votes.shape[1]))
    for held_out in range(FOLDS):
        asked, training = fold == held_out, fold != held_out
        experts = fit_experts(panel, clips[training], gold[training], PENALTIES)
        answers[asked] = np.stack(experts.log_probs(panel, clips[asked]), axis=1)
    return answers


@dataclass(frozen=True, slots=True)
class ExpertInput:
    """What all experts look at: n clips, S sources, K labels.

    Attributes:
        evidence: The votes.
        votes: Their patterns.
        columns: Standardised log-votes, (n, S * K).
    """

    evidence: Evidence
    votes: Ballots
    columns: Floats


@dataclass(frozen=True, slots=True)
class Experts:
    """All experts, fitted to some gold clips; the stack once for each penalty asked for."""

    pool: LogPool
    confusion: DawidSkene
    crowd: DawidSkene
    stacks: tuple[Floats, ...]

    def log_probs(self, panel: ExpertInput, clips: Ints | slice) -> list[Floats]:
        """Log-probabilities, (m, K), of the chosen clips: one for each of `NAMES`, the last for each penalty."""
        pattern = panel.votes.pattern[clips]
        hard = (self.confusion, self.crowd)
        if isinstance(clips, slice):
            by_pattern = [log_softmax(model.scores(panel.votes.rows), axis=1)[pattern] for model in hard]
        else:
            rows = panel.votes.rows[pattern]
            by_pattern = [log_softmax(model.scores(rows), axis=1) for model in hard]
        stacked = [log_softmax(panel.columns[clips] @ c[:-1] + c[-1], axis=1) for c in self.stacks]
        return [
            np.maximum(logs, LOWEST)
            for logs in (self.pool.log_probs(panel.evidence.logs[clips]), *by_pattern, *stacked)
        ]


def fit_experts(panel: ExpertInput, clips: Ints, gold: Ints, penalties: tuple[float, ...]) -> Experts:
    """Fit every expert to clips, (m,), whose truth is known here, (m,); one learns from the others, too."""
    classes = panel.votes.shape[1]
    by_class = np.bincount(gold, minlength=classes).astype(np.float64)
    shares = (by_class + 1.0) / (by_class + 1.0).sum()
    logs, target, bias = panel.evidence.logs[clips], np.eye(classes)[gold], np.log(shares)
    pool = fit_log_pool(logs, target, total=1.2, weight_spread=0.5, bias=bias, bias_spread=1.0)
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
