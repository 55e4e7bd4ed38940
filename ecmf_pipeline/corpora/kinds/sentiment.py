"""Shared parts of the descriptions of corpora of sentiment: classes from scores, published splits, and files."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import PurePosixPath

from ecmf_pipeline.core.clips import Split
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.described import Source

CLASSES = {
    1: ("negative", "positive"),
    2: ("negative", "neutral", "positive"),
    4: ("negative", "weakly negative", "neutral", "weakly positive", "positive"),
}
"""The names of the classes by the number of thresholds."""
SPLITS = {"train": Split.TRAIN, "valid": Split.TRAIN, "val": Split.TRAIN, "dev": Split.TRAIN, "test": Split.CANDIDATE}
PUBLISHED = "train and validation parts are trained on, the test part is predicted"


def class_names(config: CorpusConfig) -> tuple[str, ...]:
    """Return the classes between ``corpus.thresholds``, from negative to positive.

    Raises:
        ParamsError: If ``corpus.labels`` has another number of classes, or has to name them.
    """
    count = len(config.thresholds)
    names = CLASSES.get(count)
    if config.labels and config.mapping is None and not set(config.labels) <= set(names or ()):
        names = config.labels
    if names is None or len(names) != count + 1:
        raise ParamsError(
            f"corpus.thresholds has {count} thresholds, which divide scores into {count + 1} classes",
            f"list {count + 1} names in corpus.labels, from negative to positive",
            keys=["corpus.thresholds", "corpus.labels"],
        )
    return names


def sentiment_mapping(config: CorpusConfig) -> Mapping[str, str]:
    """Return a mapping that makes each class a label."""
    return {name.casefold(): name for name in class_names(config)}


def sentiment(score: float, config: CorpusConfig) -> str:
    """Return the class of a score."""
    return class_names(config)[bisect_left(config.thresholds, score)]


def parse_score(cell: str) -> float | None:
    """Return a score; None if the cell is not a finite number."""
    try:
        score = float(cell)
    except ValueError:
        return None
    return score if math.isfinite(score) else None


class Films:
    """Find the film of a clip: cut (``VIDEO/CLIP.mp4``, ``VIDEO_CLIP.mp4``), or the whole one (``VIDEO.mp4``).

    Args:
        source: The corpus folder.
    """

    def __init__(self, source: Source) -> None:
        self._cut: dict[tuple[str, str], str] = {}
        self._by_stem: dict[str, str] = {}
        for path in (*source.scan.sounds, *source.scan.media):  # a film replaces a sound file of the same name
            pure = PurePosixPath(path)
            self._cut[pure.parent.name, pure.stem] = path
            self._by_stem[pure.stem] = path

    def cut(self, video: str, clip: str) -> str:
        """Return the path of a cut film; empty if there is none. Spreadsheets remove the leading zeros of clips."""
        for name in dict.fromkeys((clip, clip.zfill(4), clip.zfill(5))):
            if path := self._cut.get((video, name)) or self._by_stem.get(f"{video}_{name}"):
                return path
        return ""

    def whole(self, video: str) -> str:
        """Return the path of a whole film; empty if there is none."""
        return self._by_stem.get(video, "")
