"""Describe labels that no label of the corpus has confirmed: how many there are, and how far the sources agree.

Agreement is no accuracy: sources can agree and be wrong. Accuracy is computed only if the corpus has gold labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.clips import Clip, Clips
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.evaluation.scoring import Evaluator
from ecmf_pipeline.labels.label_model import Assessment
from ecmf_pipeline.labels.refine import Decision, Decisions
from ecmf_pipeline.labels.verdicts import MIN_GOLD
from ecmf_pipeline.labels.votes import ABSTAIN, first_choice


def describe(
    decisions: Sequence[Decision], assessment: Assessment, votes: Mapping[str, Floats], known: Ints
) -> dict[str, Any]:
    """Describe the labels of n clips without claiming an accuracy.

    Args:
        decisions: Decisions on the clips.
        assessment: Result of the label model; ``probs`` predicts verified clips without their own verdict.
        votes: Probabilities by source, (n, K).
        known: Labels known to be right, (n,); -1 if unknown.

    Returns:
        ``clips``, ``labelled`` and ``abstained`` (clips without a verdict), ``verdicts`` and ``verdicts_needed``,
        ``verdicts_agreed`` (predicted without their own verdict), ``agreement`` (share of equal votes among all pairs
        of sources that vote on the same clip; null if no two do), ``confidence`` (mean, not calibrated), ``labels``
        (count by label) and ``sources`` (``votes`` and ``weight`` by source).
    """
    verified = np.flatnonzero(known >= 0)
    rows = Decisions.of(decisions)
    unverified = rows.where(rows.indices("basis", [Basis.ZERO_SHOT]) == 0)
    labelled = unverified.where(unverified.column("refined_label") != "")
    hard_votes = {name: first_choice(probs) for name, probs in votes.items()}
    pairs = [
        first[both] == second[both]
        for first, second in combinations(hard_votes.values(), 2)
        if (both := (first != ABSTAIN) & (second != ABSTAIN)).any()
    ]
    agreed = assessment.probs[verified].argmax(axis=1) == known[verified]
    return {
        "clips": len(decisions),
        "labelled": len(labelled),
        "abstained": len(unverified) - len(labelled),
        "verdicts": len(verified),
        "verdicts_needed": MIN_GOLD,
        "verdicts_agreed": int(agreed.sum()),
        "agreement": round(float(np.concatenate(pairs).mean()), 6) if pairs else None,
        "confidence": round(float(labelled.column("confidence").mean()), 6) if labelled else None,
        "labels": dict(Counter(labelled.counts("refined_label")).most_common()),
        "sources": {
            source.name: {
                "votes": int((hard_votes[source.name] != ABSTAIN).sum()),
                "weight": round(source.weight, 6),
            }
            for source in assessment.sources
        },
    }


def evaluate_zero_shot(
    evaluator: Evaluator, predicted: Mapping[str, str], description: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metrics of `evaluate` for a corpus with too few labels to train on.

    Args:
        evaluator: The clips with a gold label and without a verdict; may have none.
        predicted: Most probable label of each clip, by clip id.
        description: The result of `describe`.

    Returns:
        The content of ``data/metrics/evaluate.json``, with ``zero_shot`` and without the comparisons of trained models.
        Scores are null without gold labels.
    """
    results: dict[str, Any] = {
        "basis": Basis.ZERO_SHOT.value,
        "weighted_f1": None,
        "accuracy": None,
        "clips": len(evaluator.clips),
        "judged_by": None,
        "model": "zero-shot",
        "zero_shot": dict(description),
    }
    if not len(evaluator.clips):
        return results
    scores = evaluator.scores(predicted)
    counts = evaluator.confusion(predicted)
    return results | {
        "weighted_f1": scores["weighted_f1"],
        "accuracy": scores["accuracy"],
        "judged_by": "gold",
        "fusion": {"refined": scores},
        "confusion": {"labels": list(evaluator.labels), "counts": counts.tolist()},
    }


def gold_clips(clips: Sequence[Clip], known: Ints) -> Clips:
    """Return the clips that can be scored: those with a gold label and without a verdict."""
    columns = Clips.of(clips)
    return columns.where((columns.column("gold_label") != "") & (known < 0))


def zero_shot_metrics(results: Mapping[str, Any], quarantined: int) -> dict[str, float | str]:
    """Return the content of ``data/metrics/summary.json``; scores only if there are gold labels."""
    described = results["zero_shot"]
    shares = {"f1": results["weighted_f1"], "acc": results["accuracy"], "agree": described["agreement"]}
    known = {name: round(share, 4) for name, share in shares.items() if share is not None}
    return {
        "basis": results["basis"],
        **known,
        "labelled": described["labelled"],
        "verdicts": described["verdicts"],
        "clips": described["clips"],
        "quarantined": quarantined,
    }


def zero_shot_summary(results: Mapping[str, Any]) -> str:
    """Format the results in a few lines."""
    described = results["zero_shot"]
    lines = [
        f"evaluate: zero-shot, unverified: {described['labelled']} of {described['clips']} clips labelled, "
        f"{described['abstained']} without label; {described['verdicts']} of {described['verdicts_needed']} verdicts"
    ]
    if described["agreement"] is not None:
        lines.append(
            f"  agreement between the sources: {described['agreement']:.1%} of their common votes (not an accuracy)"
        )
    if described["verdicts"]:
        lines.append(f"  agreement with verdicts: {described['verdicts_agreed']} of {described['verdicts']}")
    if results["judged_by"]:
        lines.append(
            f"  on {results['clips']} clips with gold labels: weighted F1 {results['weighted_f1']:.4f}, accuracy "
            f"{results['accuracy']:.4f}"
        )
    else:
        lines.append("  no accuracy is known: there are no gold labels")
    return "\n".join(lines)
