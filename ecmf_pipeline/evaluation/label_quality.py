"""Compare the label model with simpler and published methods on labels that it was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ecmf_pipeline.core.arrays import Floats, Ints, bootstrap_difference, expected_calibration_error, weighted_f1
from ecmf_pipeline.core.clips import Corpus
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.scoring import groups_to_draw, leave_one_out, reliability
from ecmf_pipeline.labels.baselines import BASELINES
from ecmf_pipeline.labels.combining import combine_votes
from ecmf_pipeline.labels.config import LabelModelConfig
from ecmf_pipeline.labels.label_model import GIVEN, assess
from ecmf_pipeline.labels.verdicts import MIN_GOLD
from ecmf_pipeline.labels.votes import SourceReport, first_choice, report_sources

Method = Callable[[Ints], Floats]
"""Function from the known labels, (n,), -1 if unknown, to probabilities, (n, K)."""

COMPARED = 20_000
"""Maximum number of clips, with and without a known label each, on which methods are compared."""

LABEL_MODEL = "label model, as the refinement uses it"

COMBINE_VOTES = "combine_votes, taught by these labels"


@dataclass(frozen=True, slots=True)
class LabelEvidence:
    """Data on n clips and K labels: the inputs of the refinement, and the gold labels that it does not use.

    Attributes:
        votes: Probabilities by source, (n, K); NaN for abstentions.
        given: Given labels, (n,); -1 if there is none.
        human_labels: Human labels, (n,), -1 if unknown; the refinement uses them.
        gold: Gold labels, (n,), -1 if unknown; the refinement does not use them.
        folds: Fold of each clip, (n,).
        groups: Index of the speaker or dialogue of each clip, (n,); None if some are unknown.
        seed: Seed of the folds of human labels.
        config: Priors of the label model.
        given_are_human: Whether the given labels are the human labels. They are then no further source: a clip whose
            label is hidden has none of either.
    """

    votes: Mapping[str, Floats]
    given: Ints
    human_labels: Ints
    gold: Ints
    folds: Ints
    groups: Ints | None
    seed: int
    config: LabelModelConfig
    given_are_human: bool = False

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        votes: Mapping[str, Floats],
        *,
        human_labels: Ints,
        folds: Ints,
        seed: int,
        config: LabelModelConfig,
        given_are_human: bool = False,
    ) -> LabelEvidence:
        """Collect the data of a corpus with n clips and K labels."""
        return cls(
            votes=votes,
            given=corpus.given,
            human_labels=human_labels,
            gold=corpus.columns.indices("gold_label", corpus.labels),
            folds=folds,
            groups=groups_to_draw(corpus.columns.groups),
            seed=seed,
            config=config,
            given_are_human=given_are_human,
        )

    @property
    def known(self) -> Ints:
        """Labels known to be correct, (n,), -1 if unknown: gold labels and human labels."""
        return np.where(self.gold >= 0, self.gold, self.human_labels)

    def sampled(self, size: int, rng: np.random.Generator) -> LabelEvidence:
        """Return at most ``size`` clips with a label known to be correct and as many others, drawn at random."""
        parts = [np.flatnonzero(self.known >= 0), np.flatnonzero(self.known < 0)]
        if max(map(len, parts)) <= size:
            return self
        rows = np.sort(np.concatenate([rng.permutation(part)[:size] for part in parts]))
        return replace(
            self,
            votes={name: probs[rows] for name, probs in self.votes.items()},
            given=self.given[rows],
            human_labels=self.human_labels[rows],
            gold=self.gold[rows],
            folds=self.folds[rows],
            groups=None if self.groups is None else self.groups[rows],
        )

    @property
    def with_given(self) -> dict[str, Floats]:
        """The votes, with the given labels as another source, unless they are the human labels."""
        if self.given_are_human:
            return dict(self.votes)
        classes = next(iter(self.votes.values())).shape[1]
        given_votes = np.where((self.given >= 0)[:, None], np.eye(classes)[self.given], np.nan)
        return {**self.votes, GIVEN: given_votes}

    def posterior(self, votes: Mapping[str, Floats], human_labels: Ints) -> Floats:
        """Return the label model's probabilities, (n, K), for a subset of votes and human labels."""
        given = np.where(human_labels >= 0, self.given, -1) if self.given_are_human else self.given
        return assess(votes, given, human_labels, folds=self.folds, seed=self.seed, config=self.config).posterior


def measure_calibration(evidence: LabelEvidence) -> dict[str, Any] | None:
    """Measure the label model on gold labels of clips without a human label; None without gold labels."""
    if not (evidence.gold >= 0).any():
        return None
    truth = np.where(evidence.human_labels >= 0, -1, evidence.gold)

    def posterior_of(votes: Mapping[str, Floats]) -> Floats:
        return evidence.posterior(votes, evidence.human_labels)

    without_family = leave_one_out(evidence.votes, truth, posterior_of)
    return {**reliability(posterior_of(evidence.votes), truth), "without": without_family}


def compare_methods(evidence: LabelEvidence, config: EvaluateConfig) -> dict[str, Any]:
    """Compare the label model and all baselines on labels known to be correct.

    A method that learns from such labels predicts each fold without that fold's labels. With fewer than `MIN_GOLD` such
    labels, only methods that need none are compared. Of large corpora a random sample is compared: at most `COMPARED`
    clips with such a label, and as many without. Some of the published methods would need days for a million clips.

    Args:
        evidence: Votes and labels.
        config: Bootstrap settings of the intervals, and seed of the sample.

    Returns:
        Accuracy, weighted F1 and calibration error by method; the difference of the label model to it (paired 95%
        interval); and the methods that were not compared, with the reason.
    """
    evidence = evidence.sampled(COMPARED, np.random.default_rng(config.seed))
    known, folds = evidence.known, evidence.folds
    evaluated = np.flatnonzero(known >= 0)
    if not len(evaluated):
        return {"clips": 0, "methods": {}, "left_out": {}}
    method_by_name, left_out = _methods_to_compare(evidence, len(evaluated))
    predictions = {
        name: _predict(method, known, folds, evaluated, learns=learns)
        for name, (method, learns) in method_by_name.items()
    }
    truth = known[evaluated]
    predicted = {name: probs.argmax(axis=1) for name, probs in predictions.items()}
    results = {}
    for name, probs in predictions.items():
        is_right = predicted[name] == known[evaluated]
        difference, low, high = bootstrap_difference(
            predicted[LABEL_MODEL],
            predicted[name],
            truth,
            rng=np.random.default_rng(config.seed),
            groups=None if evidence.groups is None else evidence.groups[evaluated],
            draws=config.draws,
        )
        results[name] = {
            "accuracy": round(float(is_right.mean()), 6),
            "weighted_f1": round(weighted_f1(truth, predicted[name]), 6),
            "ece": round(expected_calibration_error(probs.max(axis=1), is_right), 6),
            "learns": method_by_name[name][1],
            "label_model_over": {"difference": round(difference, 6), "low": round(low, 6), "high": round(high, 6)},
        }
    return {"clips": len(evaluated), "methods": results, "left_out": left_out}


def _methods_to_compare(evidence: LabelEvidence, n_known: int) -> tuple[dict[str, tuple[Method, bool]], dict[str, str]]:
    """Return the methods to compare and the reasons why others are omitted.

    The boolean of each method is whether it learns from known labels.
    """
    votes, enough_gold = evidence.with_given, n_known >= MIN_GOLD

    def label_model(known_labels: Ints) -> Floats:
        # The refinement learns from human labels only, not from gold labels.
        return evidence.posterior(evidence.votes, np.where(known_labels >= 0, evidence.human_labels, -1))

    method_by_name: dict[str, tuple[Method, bool]] = {
        LABEL_MODEL: (label_model, bool((evidence.human_labels >= 0).any()))
    }
    if enough_gold:
        method_by_name[COMBINE_VOTES] = (lambda gold: combine_votes(votes, gold).probs, True)
    left_out = {}
    for name, baseline in BASELINES.items():
        if baseline.learns and not enough_gold:
            left_out[name] = f"{n_known} of {MIN_GOLD} needed labels that are known to be right"
        elif not baseline.installed:
            left_out[name] = f"the package {baseline.needs} is not installed"
        else:
            method_by_name[name] = (partial(baseline.combine, votes), baseline.learns)
    return method_by_name, left_out


def _predict(method: Method, known: Ints, folds: Ints, evaluated: Ints, *, learns: bool) -> Floats:
    """Return the predictions of a method for the evaluated clips, (m, K), each without the labels of its fold."""
    if not learns:
        return method(np.full(len(known), -1))[evaluated]
    parts = {}
    for fold in np.unique(folds[evaluated]).tolist():
        rows = evaluated[folds[evaluated] == fold]
        parts[fold] = rows, method(np.where(folds == fold, -1, known))[rows]
    predicted = np.empty((len(known), next(iter(parts.values()))[1].shape[1]))
    for rows, probs in parts.values():
        predicted[rows] = probs
    return predicted[evaluated]


def measure_sources(evidence: LabelEvidence, labels: list[str]) -> dict[str, Any]:
    """Measure each source on labels known to be correct, or on the label model's posterior if these are too few.

    Returns:
        The content of data/metrics/sources.json: ``judged_by`` (``gold``, or ``votes`` if too few labels are known to
        be correct), ``known`` and ``needed`` (how many labels are known to be correct, and how many are needed),
        ``labels``, and for each source by name: ``coverage``, ``votes``, ``reliability`` with ``low`` and ``high``,
        ``confusion`` (shares of its votes by true label, K x K, with 95% intervals ``confusion_low`` and
        ``confusion_high``), and ``error_correlation`` by name of the other source. Null means unknown.
    """
    votes, known = evidence.with_given, evidence.known
    is_known = known >= 0
    enough = int(is_known.sum()) >= MIN_GOLD
    truth = np.eye(len(labels))[known] if enough else evidence.posterior(evidence.votes, evidence.human_labels)
    hard_votes = np.stack([first_choice(probs) for probs in votes.values()], axis=1)
    all_clips = np.ones(len(known), dtype=bool)
    reports = report_sources(list(votes), hard_votes, truth, is_known if enough else all_clips)
    return {
        "judged_by": "gold" if enough else "votes",
        "known": int(is_known.sum()),
        "needed": MIN_GOLD,
        "labels": labels,
        "sources": {report.name: _source_metrics(report) for report in reports},
    }


def _source_metrics(report: SourceReport) -> dict[str, Any]:
    low, high = report.reliability_interval
    return {
        "coverage": round(report.coverage, 6),
        "votes": report.votes,
        "reliability": _round_known(report.reliability),
        "low": _round_known(low),
        "high": _round_known(high),
        "confusion": report.confusion.round(4).tolist(),
        "confusion_low": report.confusion_low.round(4).tolist(),
        "confusion_high": report.confusion_high.round(4).tolist(),
        "error_correlation": {
            name: _round_known(value) for name, value in report.error_correlation.items() if name != report.name
        },
    }


def _round_known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
