"""All that `evaluate` asks the label model about: the votes, the labels as given, and those known to be right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.evaluation.belief import leave_one_out, reliability
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.label_methods import compare_methods
from ecmf_pipeline.evaluation.vote_sources import account_of
from ecmf_pipeline.labels.assessing import GIVEN, assess
from ecmf_pipeline.labels.combining import LEAST_GOLD
from ecmf_pipeline.labels.config import LabelModelConfig
from ecmf_pipeline.labels.evidence import first_choice
from ecmf_pipeline.labels.sources import report_sources
from ecmf_pipeline.labels.voters import family_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelEvidence:
    """What the refinement saw of n clips and K labels, and what it did not.

    Attributes:
        votes: Probabilities by source, (n, K), NaN where it abstains.
        given: Given labels, (n,), -1 where there is none.
        verdicts: Labels that a person vouches for, (n,), -1 where unknown: the refinement learned from them.
        gold: Gold labels, (n,), -1 where unknown: it has not seen them.
        folds: The fold of every clip, (n,).
        groups: Speaker or dialogue of every clip, (n,); None where some are unknown.
        seed: Seed of the folds that verdicts are split into.
        config: What the label model believes at first.
    """

    votes: Mapping[str, Floats]
    given: Ints
    verdicts: Ints
    gold: Ints
    folds: Ints
    groups: NDArray[np.str_] | None
    seed: int
    config: LabelModelConfig

    @property
    def known(self) -> Ints:
        """Labels known to be right, (n,), -1 where unknown: gold ones and verdicts."""
        return np.where(self.gold >= 0, self.gold, self.verdicts)

    @property
    def with_given(self) -> dict[str, Floats]:
        """The votes, and the given labels as one more source."""
        classes = next(iter(self.votes.values())).shape[1]
        own = np.where((self.given >= 0)[:, None], np.eye(classes)[self.given], np.nan)
        return {**self.votes, GIVEN: own}

    def posterior(self, votes: Mapping[str, Floats], verdicts: Ints) -> Floats:
        """The label model's probabilities, (n, K), from some of the votes and verdicts."""
        return assess(votes, self.given, verdicts, folds=self.folds, seed=self.seed, config=self.config).posterior


def belief(evidence: LabelEvidence) -> dict[str, Any] | None:
    """How far the label model can be believed, by gold labels of clips without a verdict; None without gold labels."""
    if not (evidence.gold >= 0).any():
        return None
    truth = np.where(evidence.verdicts >= 0, -1, evidence.gold)

    def posterior_of(votes: Mapping[str, Floats]) -> Floats:
        return evidence.posterior(votes, evidence.verdicts)

    families = {name: family_of(name) for name in evidence.votes}
    without = leave_one_out(evidence.votes, families, truth, posterior_of)
    return {**reliability(posterior_of(evidence.votes), truth), "without": without}


def methods(evidence: LabelEvidence, config: EvaluateConfig) -> dict[str, Any]:
    """The label model beside the baselines; see `compare_methods`."""

    def used(may_learn_from: Ints) -> Floats:
        # The refinement learns from verdicts alone, whatever else is known here.
        return evidence.posterior(evidence.votes, np.where(may_learn_from >= 0, evidence.verdicts, -1))

    return compare_methods(
        evidence.with_given,
        used,
        evidence.known,
        evidence.folds,
        config,
        learns=bool((evidence.verdicts >= 0).any()),
        groups=evidence.groups,
    )


def sources(evidence: LabelEvidence, labels: list[str]) -> dict[str, Any]:
    """How each source fares, by labels known to be right, or by the label model where there are too few of them."""
    votes, known = evidence.with_given, evidence.known
    judged = known >= 0
    enough = int(judged.sum()) >= LEAST_GOLD
    truth = np.eye(len(labels))[known] if enough else evidence.posterior(evidence.votes, evidence.verdicts)
    cast = np.stack([first_choice(probs) for probs in votes.values()], axis=1)
    everyone = np.ones(len(known), dtype=bool)
    return account_of(report_sources(list(votes), cast, truth, judged if enough else everyone, gold=enough), labels)
