"""Times of the spoken words of a clip, with which the page lights the transcript."""

from __future__ import annotations

from typing import NamedTuple

from ecmf_pipeline.core.clips import Clip


class SpokenWord(NamedTuple):
    """A word and when it is spoken, in seconds from the start of the clip."""

    text: str
    start: float
    end: float


def spoken_words(clip: Clip) -> list[SpokenWord]:  # noqa: ARG001 - no stage stores times of words yet
    """Return the words of a clip with their times; empty if the times are unknown."""
    return []
