"""Explain the label of each clip by the numbers that decided: the prior, the given label and the votes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ecmf_pipeline.core.arrays import Bools, Floats, Ints
from ecmf_pipeline.labels.label_model import Assessment, LogOdds


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of one label of each clip with another, (n,) each.

    Attributes:
        label: The label.
        rival: The label that it is compared with.
        probability: Posterior of the label.
        rival_probability: Posterior of the rival.
        log_odds: Log-odds of the label against the rival; NaN if a human label decided.
        n_voting: Number of sources that vote.
        n_votes: Number of sources that vote for the label.
        n_rival_votes: Number of sources that vote for the rival.
    """

    label: Ints
    rival: Ints
    probability: Floats
    rival_probability: Floats
    log_odds: LogOdds
    n_voting: Ints
    n_votes: Ints
    n_rival_votes: Ints

    @property
    def agreement(self) -> Floats:
        """Share of the voting sources that vote for the label, (n,); NaN if none votes."""
        shares = np.full(len(self.label), np.nan)
        np.divide(self.n_votes, self.n_voting, out=shares, where=self.n_voting > 0)
        return shares

    def explanations(self, names: Sequence[str], *, has_given: Bools) -> Iterator[str]:
        """Explain the label of each clip: both probabilities, the parts of the log-odds, and the counts of votes.

        Args:
            names: Names of the labels.
            has_given: Whether each clip has a given label, (n,).
        """
        odds = self.log_odds
        columns = (
            self.label, self.rival, self.probability, self.rival_probability, self.n_voting, self.n_votes,
            self.n_rival_votes, odds.total, odds.prior, odds.given, odds.sources, has_given,
        )  # fmt: skip
        for values in zip(*(column.tolist() for column in columns), strict=True):
            yield _explain(names, *values)


def _explain(
    names: Sequence[str],
    label_index: int,
    rival_index: int,
    probability: float,
    rival_probability: float,
    n_voting: int,
    n_votes: int,
    n_rival_votes: int,
    total: float,
    prior: float,
    given: float,
    sources: float,
    has_given: bool,
) -> str:
    label, rival = names[label_index], names[rival_index]
    votes = "no source votes"
    if n_voting:
        of_sources = f"of {n_voting} source{'' if n_voting == 1 else 's'}"
        votes = f"{n_votes} {of_sources} vote for {label}, {n_rival_votes} for {rival}"
    if math.isnan(total):
        return f"{label} by a human label; {votes}"
    parts = {"prior": prior}
    if has_given:
        parts["given label"] = given
    if n_voting:
        parts["sources"] = sources
    largest = max(parts, key=lambda name: parts[name] if total >= 0 else -parts[name])
    terms = ", ".join(f"{name} {value:+.2f}" for name, value in parts.items())
    return (
        f"{label} {probability:.2f}, {rival} {rival_probability:.2f}, mostly by the {largest} "
        f"(log-odds {total:+.2f}: {terms}); {votes}"
    )


def compare(assessment: Assessment, labels: Ints, given: Ints, gold: Ints) -> Comparison:
    """Compare the label of each clip with its given label if that differs, otherwise with the most probable other one.

    Args:
        assessment: Result of the label model.
        labels: The labels, (n,).
        given: Given labels, (n,); -1 if there is none.
        gold: Human labels, (n,); -1 if unknown.
    """
    rows, known = np.arange(len(labels)), gold >= 0
    others = np.where(known[:, None], assessment.probs, assessment.posterior)
    others[rows, labels] = -1.0
    rival = np.where((given >= 0) & (given != labels), given, others.argmax(axis=1))
    log_odds = assessment.log_odds(labels, rival)
    unknown = np.where(known, np.nan, 0.0)
    return Comparison(
        labels,
        rival,
        assessment.posterior[rows, labels],
        assessment.posterior[rows, rival],
        replace(
            log_odds,
            prior=log_odds.prior + unknown,
            given=log_odds.given + unknown,
            sources=log_odds.sources + unknown,
        ),
        assessment.n_voting,
        assessment.n_votes_for(labels),
        assessment.n_votes_for(rival),
    )
