"""Select the clips that a person should label next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecmf_pipeline.core.arrays import Bools, Floats, Ints
from ecmf_pipeline.core.clips import Clip


def label_entropy(posterior: Floats) -> Floats:
    """Return the entropy of each clip's posterior, (n,), in bits, for a posterior (n, K)."""
    probs = np.clip(posterior, 1e-12, 1.0)
    bits: Floats = -(probs * np.log2(probs)).sum(axis=1)
    return bits


def expected_gain(posterior: Floats, labels: Ints) -> Floats:
    """Return the probability that a verdict of a person changes the label of each clip, (n,).

    A verified clip is trained on with full weight, whatever its label, so the expected gain of a verdict is this
    probability, in clips of full weight.

    Args:
        posterior: Posterior, (n, K).
        labels: The label that the verdict would confirm or change, (n,).
    """
    gain: Floats = 1.0 - posterior[np.arange(len(labels)), labels]
    return gain


def has_readable_media(clips: Sequence[Clip]) -> Bools:
    """Return whether a person can see or hear each clip, (n,)."""
    return np.array([clip.has_video or clip.has_audio for clip in clips], dtype=bool)


def can_be_judged(clips: Sequence[Clip]) -> Bools:
    """Return whether a person can label each clip, (n,): all but those whose file is unreadable and without words.

    Clips without a file count, because a corpus of imported features has none.
    """
    words_or_no_file = [not clip.path or bool((clip.transcript + clip.translation).strip()) for clip in clips]
    judged: Bools = has_readable_media(clips) | np.array(words_or_no_file, dtype=bool)
    return judged


def select_clips_to_label(gain: Floats, labels: Ints, eligible: Bools, count: int, *, last: Bools) -> list[int]:
    """Select at most ``count`` clips for labelling by hand, highest gain first.

    The clips are spread over classes: each class in turn adds its clip of the highest gain, because the gain alone
    would select a single confusable pair of classes.

    Args:
        gain: Expected gain, (n,); see `expected_gain`.
        labels: Most probable label, (n,).
        eligible: Clips that a person may label, (n,).
        count: Maximum number of clips.
        last: Clips to select, and to list, only after all others, (n,).
    """
    chosen: list[int] = []
    for group in (eligible & ~last, eligible & last):
        rows = np.flatnonzero(group)
        rows = rows[np.argsort(-gain[rows], kind="stable")]
        rank_in_class = np.zeros(len(rows), np.int64)
        for label in np.unique(labels[rows]):
            in_class = labels[rows] == label
            rank_in_class[in_class] = np.arange(in_class.sum())
        spread = rows[np.argsort(rank_in_class, kind="stable")][: count - len(chosen)]
        chosen += spread[np.argsort(-gain[spread], kind="stable")].tolist()
    return chosen
