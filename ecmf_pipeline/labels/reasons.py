"""Explain the label of each clip by the numbers that decided: the prior, the given label and the votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ecmf_pipeline.core.arrays import Floats, Ints
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

    def agreement(self, row: int) -> float:
        """Return the share of the voting sources that vote for the label; NaN if none votes."""
        return float(self.n_votes[row] / self.n_voting[row]) if self.n_voting[row] else float("nan")

    def explain(self, row: int, names: Sequence[str], *, has_given: bool) -> str:
        """Explain the label of one clip: both probabilities, the parts of the log-odds, and the counts of votes.

        Args:
            row: Index of the clip.
            names: Names of the labels.
            has_given: Whether the clip has a given label.
        """
        label, rival = names[self.label[row]], names[self.rival[row]]
        votes = "no source votes"
        if self.n_voting[row]:
            sources = f"of {self.n_voting[row]} source{'' if self.n_voting[row] == 1 else 's'}"
            votes = f"{self.n_votes[row]} {sources} vote for {label}, {self.n_rival_votes[row]} for {rival}"
        total = float(self.log_odds.total[row])
        if np.isnan(total):
            return f"{label} by a human label; {votes}"
        parts = {"prior": float(self.log_odds.prior[row])}
        if has_given:
            parts["given label"] = float(self.log_odds.given[row])
        if self.n_voting[row]:
            parts["sources"] = float(self.log_odds.sources[row])
        largest = max(parts, key=lambda name: parts[name] if total >= 0 else -parts[name])
        terms = ", ".join(f"{name} {value:+.2f}" for name, value in parts.items())
        return (
            f"{label} {self.probability[row]:.2f}, {rival} {self.rival_probability[row]:.2f}, mostly by the {largest} "
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
