"""The label model beside simpler and published ways to combine the same votes, on labels that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints, bootstrap_difference, expected_calibration_error, weighted_f1
from ecmf_pipeline.core.clips import Corpus
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.scoring import groups_to_draw, leave_one_out, reliability
from ecmf_pipeline.labels.baselines import BASELINES
from ecmf_pipeline.labels.combining import MIN_GOLD, combine_votes
from ecmf_pipeline.labels.config import LabelModelConfig
from ecmf_pipeline.labels.label_model import GIVEN, assess
from ecmf_pipeline.labels.votes import SourceReport, first_choice, report_sources

Method = Callable[[Ints], Floats]
"""From the labels it may learn from, (n,), -1 where unknown, to probabilities, (n, K)."""

USED = "label model, as the refinement uses it"

TAUGHT = "combine_votes, taught by these labels"


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

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        votes: Mapping[str, Floats],
        *,
        verdicts: Ints,
        folds: Ints,
        seed: int,
        config: LabelModelConfig,
    ) -> LabelEvidence:
        """The evidence about a corpus of n clips and K labels."""
        index = {label: position for position, label in enumerate(corpus.labels)}
        return cls(
            votes=votes,
            given=corpus.given,
            verdicts=verdicts,
            gold=np.array([index.get(clip.gold_label, -1) for clip in corpus.clips], np.int64),
            folds=folds,
            groups=groups_to_draw([clip.group for clip in corpus.clips]),
            seed=seed,
            config=config,
        )

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

    without = leave_one_out(evidence.votes, truth, posterior_of)
    return {**reliability(posterior_of(evidence.votes), truth), "without": without}


def methods(evidence: LabelEvidence, config: EvaluateConfig) -> dict[str, Any]:
    """Judge the label model and every baseline by labels that are known to be right, whose intervals ``config`` draws.

    Whatever learns from such labels is asked about each fold without that fold's. With too few of them
    (`MIN_GOLD`) only what needs none is compared.

    Returns:
        Accuracy, weighted F1 and calibration error by method, what the label model leads it by (paired 95% interval),
        and the methods that were not compared, with the reason.
    """
    known, folds = evidence.known, evidence.folds
    judged = np.flatnonzero(known >= 0)
    if not len(judged):
        return {"clips": 0, "methods": {}, "left_out": {}}
    methods, left_out = _methods(evidence, taught=len(judged) >= MIN_GOLD)
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
            groups=None if evidence.groups is None else evidence.groups[judged],
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


def _methods(evidence: LabelEvidence, *, taught: bool) -> tuple[dict[str, tuple[Method, bool]], dict[str, str]]:
    """By name what is compared, and whether it learns from gold; and why others are not."""
    votes = evidence.with_given

    def used(may_learn_from: Ints) -> Floats:
        # The refinement learns from verdicts alone, whatever else is known here.
        return evidence.posterior(evidence.votes, np.where(may_learn_from >= 0, evidence.verdicts, -1))

    methods: dict[str, tuple[Method, bool]] = {USED: (used, bool((evidence.verdicts >= 0).any()))}
    if taught:
        methods[TAUGHT] = (lambda gold: combine_votes(votes, gold).probs, True)
    left_out = {}
    for name, baseline in BASELINES.items():
        if baseline.learns and not taught:
            left_out[name] = f"needs {MIN_GOLD} labels that are known to be right"
        elif not baseline.installed:
            left_out[name] = f"the package {baseline.needs} is not installed"
        else:
            methods[name] = (partial(baseline.combine, votes), baseline.learns)
    return methods, left_out


def _asked(method: Method, known: Ints, folds: Ints, judged: Ints, *, learns: bool) -> Floats:
    """What a method says of the judged clips, (m, K), each without the labels of its fold."""
    if not learns:
        return method(np.full(len(known), -1))[judged]
    by_fold = {fold: method(np.where(folds == fold, -1, known)) for fold in np.unique(folds[judged]).tolist()}
    return np.stack([by_fold[folds[row]][row] for row in judged])


def sources(evidence: LabelEvidence, labels: list[str]) -> dict[str, Any]:
    """How each source fares, by labels known to be right, or by the label model where there are too few of them.

    Returns:
        The content of data/metrics/sources.json: ``judged_by`` (``gold``, or ``votes`` where too few labels are known
        to be right), ``labels``, and by name each source's ``coverage``, ``votes``, ``reliability`` with ``low`` and
        ``high``, ``confusion`` (shares of its votes by true label, K x K, with 95% intervals ``confusion_low`` and
        ``confusion_high``), and ``error_correlation`` by the other's name. Null stands for what cannot be known.
    """
    votes, known = evidence.with_given, evidence.known
    judged = known >= 0
    enough = int(judged.sum()) >= MIN_GOLD
    truth = np.eye(len(labels))[known] if enough else evidence.posterior(evidence.votes, evidence.verdicts)
    hard_votes = np.stack([first_choice(probs) for probs in votes.values()], axis=1)
    everyone = np.ones(len(known), dtype=bool)
    reports = report_sources(list(votes), hard_votes, truth, judged if enough else everyone)
    return {
        "judged_by": "gold" if enough else "votes",
        "labels": labels,
        "sources": {report.name: _account(report) for report in reports},
    }


def _account(report: SourceReport) -> dict[str, Any]:
    low, high = report.reliability_interval
    return {
        "coverage": round(report.coverage, 6),
        "votes": report.votes,
        "reliability": _known(report.reliability),
        "low": _known(low),
        "high": _known(high),
        "confusion": report.confusion.round(4).tolist(),
        "confusion_low": report.confusion_low.round(4).tolist(),
        "confusion_high": report.confusion_high.round(4).tolist(),
        "error_correlation": {
            name: _known(value) for name, value in report.error_correlation.items() if name != report.name
        },
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
