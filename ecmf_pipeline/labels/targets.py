"""From how sure the sources must be to how right they are: thresholds that reach a precision on gold labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.label_model import Assessment

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEVER = float("inf")
"""The threshold that nothing reaches."""

CERTAINTY = 0.9
"""How sure it must be, one-sided, that the precision above a threshold is at least the target. Each threshold is judged
by itself, and the lowest is taken that passes: that it is one is a little less sure."""


@dataclass(frozen=True, slots=True)
class Targets:
    """How probable a label must be to replace a given one, and to stand where there was none.

    Attributes:
        relabel: Threshold of replacing a given label; `NEVER` where no threshold is known to be precise enough.
        pseudo: Threshold of a pseudo-label, by class, (K,).
        words: How they were found, one sentence each.
    """

    relabel: float
    pseudo: Floats
    words: tuple[str, str]


def find_targets(assessment: Assessment, given: Ints, gold: Ints, config: RefineConfig) -> Targets:
    """The lowest thresholds that reach the precisions asked for, estimated on gold clips.

    A gold clip is judged there by what the sources say of it without its gold label.

    Args:
        assessment: What votes and given labels say; without gold labels of its own nothing can be estimated.
        given: Given labels, (n,), -1 where there is none.
        gold: Labels known to be right, (n,), -1 where unknown.
        config: The precisions, and the thresholds where nothing is known.
    """
    classes = assessment.probs.shape[1]
    if assessment.held_out is None:
        return Targets(
            NEVER,
            np.full(classes, config.pseudo_above),
            (
                "no given label is replaced: there are not enough verdicts to know how often that would be right",
                f"pseudo-labels need a probability of {config.pseudo_above:.2f}; how often they are right is not known",
            ),
        )
    known = gold >= 0
    choice = assessment.held_out.argmax(axis=1)
    confidence = assessment.held_out.max(axis=1)
    replaced = known & (given >= 0) & (choice != given)
    relabel = precision_threshold(confidence[replaced], (choice == gold)[replaced], config.relabel_precision)
    # A pseudo-label has no given label behind it: it is judged by the votes alone.
    choice, confidence = assessment.probs.argmax(axis=1), assessment.probs.max(axis=1)
    right = choice == gold
    overall = precision_threshold(confidence[known], right[known], config.pseudo_precision)
    pseudo = np.array(
        [
            _of_class(confidence[voted], right[voted], overall, config)
            for voted in (known & (choice == label) for label in range(classes))
        ]
    )
    judged = int(replaced.sum()), int(known.sum())
    return Targets(max(relabel, config.relabel_above), pseudo, _words(relabel, pseudo, judged, config))


def _of_class(confidence: Floats, right: NDArray[np.bool_], overall: float, config: RefineConfig) -> float:
    """The threshold of one class's pseudo-labels, from the gold clips that the votes put there.

    Where those are too few to show the precision, that of all classes stands in for it, unless they show less.
    """
    target = config.pseudo_precision
    own = precision_threshold(confidence, right, target)
    if own < NEVER or overall == NEVER:
        return own
    threshold = max(overall, config.pseudo_above)
    above = right[confidence >= threshold]
    return NEVER if len(above) and above.mean() < target else threshold


def precision_threshold(confidence: Floats, right: NDArray[np.bool_], target: float) -> float:
    """The lowest confidence above which the share of right labels is at least ``target``, with `CERTAINTY`.

    Args:
        confidence: Of each label, (m,).
        right: Whether it was right, (m,).
        target: The precision that is wanted.

    Returns:
        The threshold, `NEVER` where none reaches the target.
    """
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(right[order]).astype(np.float64)
    count = np.arange(1, len(order) + 1)
    lowest = beta.ppf(1 - CERTAINTY, hits + 0.5, count - hits + 0.5)  # Jeffreys
    ranked = confidence[order]
    last_of_tie = np.append(ranked[1:] < ranked[:-1], True) if len(ranked) else np.zeros(0, dtype=bool)
    reached = np.flatnonzero((lowest >= target) & last_of_tie)
    return float(ranked[reached[-1]]) if len(reached) else NEVER


def _words(relabel: float, pseudo: Floats, judged: tuple[int, int], config: RefineConfig) -> tuple[str, str]:
    replaced, verdicts = judged
    if relabel == NEVER:
        first = (
            f"no given label is replaced: above no threshold are {config.relabel_precision:.0%} of the replacements "
            f"right by verdicts ({replaced} could be judged)"
        )
    else:
        first = (
            f"a given label is replaced from a probability of {max(relabel, config.relabel_above):.2f} on, "
            f"right {config.relabel_precision:.0%} of the time by {replaced} replacements with a verdict"
        )
    reached = pseudo[pseudo < NEVER]
    if not len(reached):
        return first, f"no pseudo-label is right {config.pseudo_precision:.0%} of the time on verdicts: there are none"
    closed = len(pseudo) - len(reached)
    return first, (
        f"pseudo-labels need a probability of {reached.min():.2f} to {reached.max():.2f}, by class "
        f"(right {config.pseudo_precision:.0%} of the time by {verdicts} verdicts)"
        + (f"; {closed} of {len(pseudo)} classes get none, since theirs are not that often right" if closed else "")
    )
