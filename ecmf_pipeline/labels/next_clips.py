"""What to label next: the clips whose verdict would teach most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.labels.label_model import Assessment

Floats = NDArray[np.float64]


def lessons(assessment: Assessment) -> Floats:
    """How much a person's verdict on each clip would teach, (n,), in bits.

    A verdict teaches what is unknown before it: the entropy of the clip's label given everything. The given label
    counts: an unlikely one is where label and votes contradict each other, and the posterior is torn.
    """
    probs = np.clip(assessment.posterior, 1e-12, 1.0)
    bits: Floats = -(probs * np.log2(probs)).sum(axis=1)
    return bits


def worth_labelling(assessment: Assessment, known: NDArray[np.bool_], count: int) -> Sequence[int]:
    """The clips to ask a person about first, at most ``count``, no label in too many of them.

    The clips are taken by what they teach, in turn from each class that the sources suspect: entropy alone would ask
    about one confusable pair over and over.

    Args:
        assessment: What is known.
        known: Clips that a person has judged already, (n,).
        count: How many to name.
    """
    taught = lessons(assessment)
    queues = []
    for label in range(assessment.probs.shape[1]):
        rows = np.flatnonzero((assessment.labels == label) & ~known)
        queues.append(rows[np.argsort(-taught[rows], kind="stable")].tolist())
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        heads = sorted((queue for queue in queues if queue), key=lambda queue: -taught[queue[0]])
        chosen += [queue.pop(0) for queue in heads]
    return chosen[:count]
