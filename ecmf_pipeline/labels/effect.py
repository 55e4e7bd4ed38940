"""What the decisions do to the training set, in words and figures: for a dry run, and for the metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecmf_pipeline.labels.label_model import Assessment
from ecmf_pipeline.labels.refine import Decision


def effect_of(decisions: Sequence[Decision], labels: Sequence[str]) -> list[str]:
    """Clips and weight by class, before and after, one sentence a class that changes, after one about all."""
    sentences = []
    before = {label: sum(decision.old_label == label for decision in decisions) for label in labels}
    after = {label: sum(d.new_label == label and d.weight > 0 for d in decisions) for label in labels}
    weight = {label: sum(d.weight for d in decisions if d.new_label == label) for label in labels}
    trained = [decision.weight for decision in decisions if decision.weight > 0]
    worth = sum(trained) ** 2 / sum(value**2 for value in trained) if trained else 0.0
    sentences.append(
        f"trained on: {sum(before.values())} clips before, {sum(after.values())} after, whose uneven weights are worth "
        f"{worth:.0f} even ones"
    )
    total, whole = max(sum(before.values()), 1), max(sum(weight.values()), 1e-12)
    sentences += [
        f"{label}: {before[label]} clips ({before[label] / total:.1%}) before, {after[label]} after, "
        f"{weight[label] / whole:.1%} of the weight"
        for label in labels
        if before[label] or after[label]
    ]
    return sentences


def source_accounts(assessment: Assessment) -> dict[str, dict[str, float | None]]:
    """Coverage, agreement with given labels, accuracy and weight of each source; None where it cannot be known."""
    return {
        source.name: {
            field: None if np.isnan(value := getattr(source, field)) else round(float(value), 6)
            for field in ("coverage", "agreement", "accuracy", "weight")
        }
        for source in assessment.sources
    }
