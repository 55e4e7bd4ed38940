"""Label a corpus without labels: map the emotions of other models to its labels, and combine their votes.

Few sources vote, and Dawid and Skene's model cannot show which of them is right. Each source is therefore trusted as
far as its expected accuracy: one temperature scales its log-probabilities until their mean confidence equals this
accuracy. The sources are then combined by a log-linear pool with weights of one. The first verdicts change weights and
class biases by maximum a posteriori, so that a few verdicts change little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.label_model import Assessment, Source
from ecmf_pipeline.labels.votes import ABSTAIN, LogPool, first_choice, fit_log_pool, stack_votes

SYNONYMS = (
    ("neutral", "calm"),
    ("angry", "anger", "mad"),
    ("happy", "happiness", "joy", "joyful"),
    ("sad", "sadness"),
    ("fear", "fearful", "afraid", "scared", "worried", "anxious", "anxiety"),
    ("surprise", "surprised"),
    ("disgust", "disgusted"),
    ("contempt", "contemptuous"),
)
"""Names of the same emotion in corpora and models; ``worried`` is MER's label for fear."""

VOTE_FLOOR = 1e-2
"""Probabilities are clipped to at least this value, because no single source may rule a label out."""

WEIGHT_SPREAD = 0.3
"""Standard deviation of the prior of each source's weight, with mean 1."""

BIAS_SPREAD = 0.5
"""Standard deviation of the prior of each class bias, with mean 0."""

_MIN_SCALE, _MAX_SCALE = 1e-3, 20.0


def map_labels(theirs: Sequence[str], ours: Sequence[str], changes: Mapping[str, str]) -> dict[str, str]:
    """Map labels of a model to labels of a corpus: by name, by `SYNONYMS`, or by ``changes``; others have no entry.

    Args:
        theirs: Labels of the model.
        ours: Labels of the corpus.
        changes: Label of the corpus for labels of the model, "" for none; entries of other models are ignored.
    """
    spelled = {label.casefold(): label for label in ours}
    groups = {word: group for group in SYNONYMS for word in group}
    changed = {label.casefold(): our for label, our in changes.items()}
    mapped = {}
    for label in theirs:
        name = label.casefold()
        candidates = [changed[name]] if name in changed else [name, *groups.get(name, ())]
        if known := [spelled[one.casefold()] for one in candidates if one.casefold() in spelled]:
            mapped[label] = known[0]
    return mapped


def map_probs(
    probs: NDArray[np.floating], theirs: Sequence[str], ours: Sequence[str], mapped: Mapping[str, str]
) -> Floats:
    """Convert probabilities of a model's labels, (n, J), to those of a corpus, (n, K).

    Probabilities of labels that map to the same label are added. A model abstains (a row of NaN) if its most probable
    label has no label in the corpus.
    """
    transfer = np.zeros((len(theirs), len(ours)))
    for row, label in enumerate(theirs):
        if label in mapped:
            transfer[row, list(ours).index(mapped[label])] = 1.0
    theirs_probs = np.asarray(probs, np.float64)
    votes: Floats = theirs_probs @ transfer
    known = np.flatnonzero(np.isfinite(theirs_probs.sum(axis=1)))
    has_label = transfer.sum(axis=1) > 0
    known = known[has_label[theirs_probs[known].argmax(axis=1)]]
    converted = np.full(votes.shape, np.nan)
    converted[known] = votes[known] / votes[known].sum(axis=1, keepdims=True)
    return converted


def assess_without_labels(
    votes: Mapping[str, Floats], known: Ints, accuracy: Mapping[str, float], *, other: float
) -> Assessment:
    """Estimate the posterior from votes of sources that saw no label, and from the verdicts, if any.

    Args:
        votes: Probabilities by source, (n, K) each; a row of NaN is an abstention.
        known: Labels known to be right, (n,); -1 if unknown.
        accuracy: Expected accuracy of sources.
        other: Expected accuracy of the sources without an entry.

    Returns:
        The posterior, which is one-hot for known labels; ``probs`` predicts these clips without their own label. It is
        not calibrated.

    Raises:
        ValueError: If there is no source, or votes are no distributions.
    """
    evidence = stack_votes(votes, floor=VOTE_FLOOR)
    logs = evidence.logs.copy()  # (n, S, K)
    classes = logs.shape[2]
    for position, name in enumerate(votes):
        voted = evidence.hard_votes[:, position] != ABSTAIN
        logs[:, position] *= confidence_scale(logs[voted, position], accuracy.get(name, other))
    verified = np.flatnonzero(known >= 0)
    with threadpool_limits(limits=1, user_api="blas"):
        pool = _fit(logs[verified], known[verified])
        probs, prior = _predict(pool, logs, known[verified])
        for row in verified.tolist():
            others = verified[verified != row]
            held_out = _predict(_fit(logs[others], known[others]), logs[[row]], known[others])
            probs[row], prior[row] = held_out[0][0], held_out[1][0]
    posterior = probs.copy()
    posterior[verified] = np.eye(classes)[known[verified]]
    choices = {name: first_choice(rows) for name, rows in votes.items()}
    sources = tuple(
        _source(name, choices[name], known, posterior, weight)
        for name, weight in zip(votes, pool.weights.tolist(), strict=True)
    )
    return Assessment(choices, prior, probs, posterior, np.eye(classes), sources)


def confidence_scale(logs: Floats, accuracy: float) -> float:
    """Return the factor of log-probabilities, (m, K), that makes their mean confidence equal to ``accuracy``."""
    from scipy.optimize import brentq

    if not len(logs) or accuracy <= 1 / logs.shape[1]:
        return _MIN_SCALE

    def excess(scale: float) -> float:
        return float(softmax(scale * logs, axis=1).max(axis=1).mean()) - accuracy

    if excess(_MAX_SCALE) <= 0:
        return _MAX_SCALE
    return float(brentq(excess, _MIN_SCALE, _MAX_SCALE, xtol=1e-4))


def _fit(logs: Floats, known: Ints) -> LogPool:
    sources, classes = logs.shape[1:]
    if not len(known):
        return LogPool(np.ones(sources), np.zeros(classes))
    return fit_log_pool(
        logs,
        np.eye(classes)[known],
        total=float(sources),
        weight_spread=WEIGHT_SPREAD,
        bias=np.zeros(classes),
        bias_spread=BIAS_SPREAD,
    )


def _predict(pool: LogPool, logs: Floats, known: Ints) -> tuple[Floats, Floats]:
    """Return the probabilities with and without the votes, (n, K); both are class shares if no source votes."""
    classes = logs.shape[2]
    probs = softmax(pool.scores(logs), axis=1)
    prior = np.tile(softmax(pool.bias), (len(logs), 1))
    shares = np.bincount(known, minlength=classes) + 1.0
    no_votes = ~logs.any(axis=(1, 2))
    probs[no_votes] = prior[no_votes] = shares / shares.sum()
    return probs, prior


def _source(name: str, choices: Ints, known: Ints, posterior: Floats, weight: float) -> Source:
    voted = np.flatnonzero(choices != ABSTAIN)
    compared = voted[known[voted] >= 0]
    return Source(
        name=name,
        coverage=len(voted) / len(choices) if len(choices) else 0.0,
        agreement=float(np.mean(choices[compared] == known[compared])) if len(compared) else float("nan"),
        accuracy=float(np.mean(posterior[voted, choices[voted]])) if len(voted) else float("nan"),
        weight=weight,
    )
