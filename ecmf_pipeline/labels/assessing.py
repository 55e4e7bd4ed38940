"""What is known of each clip's label: by given labels and votes alone, or with labels that a person vouches for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.labels.combining import combine_votes
from ecmf_pipeline.labels.config import LabelModelConfig
from ecmf_pipeline.labels.label_model import Assessment, Source, assess_labels

Ints = NDArray[np.int64]

GIVEN = "given label"
"""The given label as a source: what it is worth is measured like any other's."""


def assess(
    votes: Mapping[str, NDArray[np.floating]],
    given: Ints,
    gold: Ints,
    *,
    folds: Ints,
    seed: int,
    config: LabelModelConfig,
) -> Assessment:
    """Weigh votes, given labels and gold ones.

    With enough gold labels the given label is one more source, and its reliability is measured. With fewer, how noisy
    the given labels are is estimated from the votes (`assess_labels`).

    Args:
        votes: Probabilities by source, (n, K) each, out of fold; a row that is all NaN abstains.
        given: Given labels, (n,), -1 where there is none.
        gold: Labels that a person vouches for, (n,), -1 where unknown.
        folds: The fold of each labelled clip, (n,).
        seed: Seed of the folds that gold clips are split into.
        config: What to believe before seeing votes.
    """
    blind = assess_labels(votes, given, folds=folds, config=config)
    known = np.flatnonzero(gold >= 0)
    if not len(known):
        return blind
    classes = blind.probs.shape[1]
    own = np.where((given >= 0)[:, None], np.eye(classes)[given], np.nan)
    combined = combine_votes({**votes, GIVEN: own}, gold, seed=seed)
    if not combined.calibrated:
        posterior = blind.posterior.copy()
        posterior[known] = np.eye(classes)[gold[known]]
        return _restated(blind, posterior)
    unaided = combine_votes(votes, gold, seed=seed)
    # Where there is no given label, a blend that was fitted with one is not calibrated.
    posterior = np.where((given >= 0)[:, None], combined.probs, unaided.probs)
    sources = tuple(
        Source(report.name, report.coverage, known_as.agreement, report.reliability, known_as.weight)
        for report, known_as in zip(combined.sources, blind.sources, strict=False)  # all but the given label
    )
    return replace(
        _restated(blind, posterior),
        probs=unaided.held_out,
        held_out=combined.held_out,
        transition=combined.sources[-1].confusion,
        sources=sources,
        calibrated=True,
    )


def _restated(assessment: Assessment, posterior: NDArray[np.float64]) -> Assessment:
    """The assessment with another posterior, and all that follows from it."""
    labels = posterior.argmax(axis=1).astype(np.int64)
    cast = np.stack(list(assessment.votes.values()), axis=1)  # (n, S)
    voting = (cast >= 0).sum(axis=1)
    agreeing = (cast == labels[:, None]).sum(axis=1)
    return replace(
        assessment,
        posterior=posterior,
        labels=labels,
        confidence=posterior.max(axis=1, initial=0.0),
        agreement=np.divide(agreeing, voting, out=np.full(len(labels), np.nan), where=voting > 0),
    )
