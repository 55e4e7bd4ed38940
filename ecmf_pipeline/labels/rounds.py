"""Votes in rounds: train, vote, weigh the labels, and train again on what is believed of them.

What is believed of a label comes from votes that learned from other labels, and those from others again: let loose, a
clip's own given label comes back to it by that way. So every fold has beliefs of its own, made by voters that saw no
label of that fold, and the models that judge the fold are trained by them: the fold's labels stay unseen, in every
round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.metrics import weighted_f1
from ecmf_pipeline.labels.combining import LEAST_GOLD
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.label_model import assess_labels
from ecmf_pipeline.labels.voters import Voter, out_of_fold_votes


class JointVoter(Protocol):
    """Who judges by all modalities at once, has its own features, and trains a model a fold: the fusion."""

    def votes(self, given: Ints, folds: Ints, weights: Mapping[int, Floats] | None = None) -> Floats:
        """Out-of-fold probabilities, (n, K), NaN where it abstains.

        Args:
            given: Given labels, (n,), -1 where there is none.
            folds: The fold of each clip, (n,): it is judged by models that saw no label of its fold.
            weights: By fold that is held out, how much each clip counts for the models that judge it, (n,).
        """
        ...


@dataclass(frozen=True, slots=True)
class Panel:
    """Who votes on what.

    Attributes:
        features: One row a clip by name of the modality, (n, D) each, NaN where a clip has none.
        voters: The voters of each modality, by kind.
        n_classes: K.
        seed: Seed of the voters.
        joint: Who judges by all modalities at once, by name.
    """

    features: Mapping[str, NDArray[np.floating]]
    voters: Mapping[str, Voter]
    n_classes: int
    seed: int
    joint: Mapping[str, JointVoter] = field(default_factory=dict)

    def votes(self, given: Ints, folds: Ints, weights: Mapping[int, Floats] | None = None) -> dict[str, Floats]:
        """Out-of-fold votes by source, (n, K); see `out_of_fold_votes`."""
        found = {
            f"{name}/{kind}": out_of_fold_votes(
                values, given, folds, voter, n_classes=self.n_classes, seed=self.seed, weights=weights
            )
            for name, values in self.features.items()
            for kind, voter in self.voters.items()
        }
        return found | {name: voter.votes(given, folds, weights) for name, voter in self.joint.items()}


@dataclass(frozen=True, slots=True)
class Rounds:
    """The votes of the best round, and how each round did on held-out labels, the first one first."""

    votes: dict[str, Floats]
    scores: tuple[float, ...]

    @property
    def best(self) -> int:
        """The round whose votes these are, from 1 up."""
        return int(np.argmax(self.scores)) + 1


def vote_in_rounds(
    panel: Panel,
    given: Ints,
    folds: Ints,
    *,
    rounds: int,
    score: Callable[[Floats], float],
    config: RefineConfig,
) -> Rounds:
    """Vote, and vote again with labels weighed by what the last round made of them, until that gains nothing.

    Args:
        panel: Who votes on what.
        given: Given labels, (n,), -1 where there is none.
        folds: The fold of each labelled clip, (n,), for joint voters of every clip.
        rounds: The most rounds; 1 takes labels as they are given.
        score: How good mean probabilities, (n, K), are; NaN rows where nobody votes.
        config: Below which belief a label is dropped, and what the label model believes at first.
    """
    votes = panel.votes(given, folds)
    scores = [score(_mean(votes))]
    best = votes
    beliefs: dict[int, Floats] | None = None
    for _ in range(rounds - 1):
        beliefs = {
            fold: _beliefs(panel, given, folds, fold, beliefs, config) for fold in np.unique(folds[given >= 0]).tolist()
        }
        votes = panel.votes(given, folds, beliefs)
        scores.append(score(_mean(votes)))
        if scores[-1] <= max(scores[:-1]):
            break
        best = votes
    return Rounds(best, tuple(scores))


def held_out_score(probs: Floats, *, given: Ints, verdicts: Ints) -> float:
    """Weighted F1 of out-of-fold probabilities, (n, K): by verdicts where there are enough, else by given labels.

    Given labels may be wrong, but the models that judged a clip saw neither its label nor its fold's.
    """
    judged = verdicts >= 0
    truth = verdicts if judged.sum() >= LEAST_GOLD else given
    known = (truth >= 0) & ~np.isnan(probs[:, 0])
    if not known.any():
        return 0.0
    return weighted_f1(truth[known].astype(str).tolist(), probs[known].argmax(axis=1).astype(str).tolist())


def _beliefs(
    panel: Panel, given: Ints, folds: Ints, fold: int, before: Mapping[int, Floats] | None, config: RefineConfig
) -> Floats:
    """What is believed of each label, (n,), without the labels of one fold; 0 where it is dropped."""
    visible = np.where(folds == fold, -1, given)
    inner = None if before is None else dict.fromkeys(np.unique(folds[visible >= 0]).tolist(), before[fold])
    votes = panel.votes(visible, folds, inner)
    posterior = assess_labels(votes, visible, folds=folds, config=config.label_model).posterior
    belief = np.where(visible >= 0, posterior[np.arange(len(given)), visible], 0.0)
    silent = np.isnan(np.stack([probs[:, 0] for probs in votes.values()])).all(axis=0)
    belief[silent & (visible >= 0)] = 1.0  # nobody spoke against it
    kept: Floats = np.where(belief < config.drop_below, 0.0, belief)
    return kept


def _mean(votes: Mapping[str, Floats]) -> Floats:
    stacked = np.stack(list(votes.values()))  # (S, n, K)
    voting = ~np.isnan(stacked[:, :, :1])
    total = voting.sum(axis=0)
    summed = np.where(voting, stacked, 0.0).sum(axis=0)
    mean: Floats = np.divide(summed, total, out=np.full(stacked.shape[1:], np.nan), where=total > 0)
    return mean
