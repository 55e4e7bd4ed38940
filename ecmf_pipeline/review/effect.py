"""What the answers so far would change, by a trial of `refine` in a worker process."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.labels.verdicts import MIN_GOLD

if TYPE_CHECKING:
    from ecmf_pipeline.labels.refine import Decision

_SHOWN = 30
"""Number of changed labels that are listed."""


def estimate_effect() -> dict[str, Any]:
    """Compare the refined labels with those that `refine` would write with the present answers.

    Returns:
        ``verdicts``: clips on whose label all reviewers agree, ``needed``: number from which `refine` calibrates on
        them, ``changed`` and ``changed_by_people``: clips whose training label changes, and those of them
        with an answer, ``before`` and ``after``: expected accuracy of the training labels; None if there are none,
        ``trained_before`` and ``trained_after``: clips with a training label, ``examples``: some changed clips.

    Raises:
        MissingInput: If `vote`, `predict` or `refine` has not run yet.
    """
    import numpy as np

    from ecmf_pipeline.labels.decision_files import read_decisions
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.refine import compute

    with contextlib.redirect_stdout(io.StringIO()):
        new = compute(load_params())
    old = read_decisions(paths.REFINED, corpus=new.labelled.corpus)
    verdicts = new.labelled.verdicts
    answered = ((verdicts.gold >= 0) | verdicts.is_bad | ~np.isnan(verdicts.shares).all(axis=1)).tolist()
    changed = [
        (before, after, is_answered)
        for before, after, is_answered in zip(old, new.decisions, answered, strict=True)
        if before.refined_label != after.refined_label
    ]
    return {
        "verdicts": int((verdicts.gold >= 0).sum()),
        "needed": MIN_GOLD,
        "changed": len(changed),
        "changed_by_people": sum(is_answered for _, _, is_answered in changed),
        "before": _expected_accuracy(old),
        "after": _expected_accuracy(new.decisions),
        "trained_before": sum(decision.weight > 0 for decision in old),
        "trained_after": sum(decision.weight > 0 for decision in new.decisions),
        "examples": [
            {
                "name": after.clip_id,
                "before": before.refined_label,
                "after": after.refined_label,
                "by_people": by_people,
            }
            for before, after, by_people in changed[:_SHOWN]
        ],
    }


def _expected_accuracy(decisions: Sequence[Decision]) -> float | None:
    """Return the mean probability of the training labels."""
    trained = [decision.confidence for decision in decisions if decision.weight > 0]
    return round(sum(trained) / len(trained), 4) if trained else None
