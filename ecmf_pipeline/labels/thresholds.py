"""Find the probabilities above which human labels show that replaced labels and pseudo-labels are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from ecmf_pipeline.core.arrays import Bools, Floats, Ints
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.label_model import Assessment
from ecmf_pipeline.labels.verdicts import MIN_GOLD

NEVER = float("inf")
"""Threshold that no probability reaches."""

CONFIDENCE_LEVEL = 0.9
"""One-sided confidence level of the test that the precision above a threshold reaches the target.

Each threshold is tested separately and the lowest one that passes is used, so the confidence of the selected threshold
is slightly lower.
"""

_MOST_LABELS = 10_000
"""Upper limit of `least_labels`."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Minimum probabilities of a label that replaces a given one, and of a pseudo-label.

    Attributes:
        relabel: Threshold for replacing a given label; `NEVER` if no threshold is precise enough.
        pseudo: Threshold for a pseudo-label, by class, (K,).
        words: One sentence on each, with the evidence.
    """

    relabel: float
    pseudo: Floats
    words: tuple[str, str]


def find_thresholds(assessment: Assessment, given: Ints, gold: Ints, config: RefineConfig) -> Thresholds:
    """Find the lowest thresholds that reach the target precisions on clips with a human label.

    These clips are predicted without their human label. Without such held-out predictions nothing can be measured.

    Args:
        assessment: Result of the label model.
        given: Given labels, (n,); -1 if there is none.
        gold: Human labels, (n,); -1 if unknown.
        config: Target precisions and default thresholds.
    """
    classes = assessment.probs.shape[1]
    known = gold >= 0
    if assessment.held_out is None:
        missing = missing_human_labels(gold[known & ((given >= 0) | (assessment.n_voting > 0))])
        descriptions = (
            f"the votes replace no given label, because their precision is unknown: {missing}",
            f"pseudo-labels need a probability of at least {config.pseudo_above:.2f}; their precision is unknown: "
            f"{missing}",
        )
        return Thresholds(NEVER, np.full(classes, config.pseudo_above), descriptions)
    choice = assessment.held_out.argmax(axis=1)
    confidence = assessment.held_out.max(axis=1)
    replaced = known & (given >= 0) & (choice != given)
    relabel = precision_threshold(confidence[replaced], (choice == gold)[replaced], config.relabel_precision)
    # A clip that gets a pseudo-label has no given label, so only votes are used here.
    choice, confidence = assessment.probs.argmax(axis=1), assessment.probs.max(axis=1)
    correct = choice == gold
    overall = precision_threshold(confidence[known], correct[known], config.pseudo_precision)
    rows_by_class = [known & (choice == label) for label in range(classes)]
    pseudo = np.array([_class_threshold(confidence[voted], correct[voted], overall, config) for voted in rows_by_class])
    relabel = max(relabel, config.relabel_above)
    return Thresholds(
        relabel, pseudo, _describe_thresholds(relabel, pseudo, int(replaced.sum()), int(known.sum()), config)
    )


def _class_threshold(confidence: Floats, correct: Bools, overall: float, config: RefineConfig) -> float:
    """Return the pseudo-label threshold of one class from the human-labelled clips that the votes assign to it.

    If these are too few to reach the precision, the threshold of all classes is used, unless they show a lower
    precision.
    """
    target = config.pseudo_precision
    class_threshold = precision_threshold(confidence, correct, target)
    if class_threshold < NEVER or overall == NEVER:
        return class_threshold
    threshold = max(overall, config.pseudo_above)
    correct_above = correct[confidence >= threshold]
    return NEVER if len(correct_above) and correct_above.mean() < target else threshold


def precision_threshold(confidence: Floats, correct: Bools, target: float) -> float:
    """Return the lowest confidence above which the share of correct labels reaches ``target`` with `CONFIDENCE_LEVEL`.

    Args:
        confidence: Confidence of m labels, (m,).
        correct: Whether each is correct, (m,).
        target: Minimum share of correct labels.

    Returns:
        The threshold; `NEVER` if none reaches the target.
    """
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(correct[order]).astype(np.float64)
    count = np.arange(1, len(order) + 1)
    lowest = betaincinv(hits + 0.5, count - hits + 0.5, 1 - CONFIDENCE_LEVEL)  # Jeffreys
    ranked = confidence[order]
    last_of_tie = np.append(ranked[1:] < ranked[:-1], True) if len(ranked) else np.zeros(0, dtype=bool)
    reached = np.flatnonzero((lowest >= target) & last_of_tie)
    return float(ranked[reached[-1]]) if len(reached) else NEVER


def missing_human_labels(usable: Ints) -> str:
    """Describe how many human labels there are and how many are needed to measure the precision of the votes.

    Args:
        usable: Human labels of the m clips with a vote or a given label, (m,).
    """
    if len(usable) >= MIN_GOLD:
        return f"the {len(usable)} verdicts have {len(np.unique(usable))} of 2 needed labels"
    return f"{len(usable)} of {MIN_GOLD} needed verdicts"


def least_labels(target: float) -> int:
    """Return the least number of labels, all correct, that shows a precision of ``target``."""
    counts = np.arange(1, _MOST_LABELS + 1)
    reached = betaincinv(counts + 0.5, 0.5, 1 - CONFIDENCE_LEVEL) >= target
    return int(counts[reached][0]) if reached.any() else _MOST_LABELS


def _describe_thresholds(
    relabel: float, pseudo: Floats, replaced: int, human_labels: int, config: RefineConfig
) -> tuple[str, str]:
    if relabel == NEVER:
        relabel_text = (
            f"the votes replace no given label: no threshold gives {config.relabel_precision:.0%} right replacements "
            f"({replaced} verdicts on labels that the votes would replace; at least "
            f"{least_labels(config.relabel_precision)} are needed)"
        )
    else:
        relabel_text = (
            f"a given label is replaced by one with a probability of at least {relabel:.2f} "
            f"({config.relabel_precision:.0%} right, measured on {format_count(replaced, 'verdict')})"
        )
    reached = pseudo[pseudo < NEVER]
    if not len(reached):
        return relabel_text, (
            f"no pseudo-labels: no threshold gives {config.pseudo_precision:.0%} right ones ({human_labels} verdicts; "
            f"each class needs at least {least_labels(config.pseudo_precision)})"
        )
    without = len(pseudo) - len(reached)
    return relabel_text, (
        f"pseudo-labels need a probability of at least {reached.min():.2f} to {reached.max():.2f}, depending on class "
        f"({config.pseudo_precision:.0%} right, measured on {format_count(human_labels, 'verdict')})"
        + (f"; {without} of {len(pseudo)} classes get none: no threshold is precise enough" if without else "")
    )
