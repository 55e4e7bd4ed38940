"""CMU-MOSEI and CMU-MOSI: parts of films of people who give opinions, with scores of sentiment from -3 to 3.

The labels are those of the SDK (``CMU_MOSEI_Labels.csd``: for each film the times of its parts, sentiment, and in
MOSEI the strengths of six emotions; ``CMU_MOSI_Opinion_Labels.csd``), or ``label.csv`` as MMSA has it (see `chsims`).
Films are ``Videos/Full/Combined/VIDEO.mp4``, of which a clip is a part, or cut: ``VIDEO_CLIP.mp4``,
``VIDEO/CLIP.mp4``. The words are in ``Transcript/Segmented/Combined/VIDEO.txt``
(``VIDEO___CLIP___START___END___WORDS``). The standard folds are read from ``cmu_mosei_std_folds.py`` of the SDK if it
lies beside the labels; some films are in none of them.

Source: A. Bagher Zadeh et al., ACL 2018, https://aclanthology.org/P18-1208/; A. Zadeh et al., 2016, arXiv:1606.06259;
https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK. Licence: that of the SDK, for research.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from ecmf_pipeline.core.clips import Split
from ecmf_pipeline.corpora.config import CorpusConfig, CorpusKind
from ecmf_pipeline.corpora.described import Described, Description, Source
from ecmf_pipeline.corpora.glimpse import Glimpse
from ecmf_pipeline.corpora.kinds.chsims import is_chsims, read_table_of_labels
from ecmf_pipeline.corpora.kinds.cmu_sdk import read_folds, read_segments, read_turns
from ecmf_pipeline.corpora.kinds.sentiment import PUBLISHED, Films, parse_score, sentiment, sentiment_mapping
from ecmf_pipeline.corpora.listing import FindingKind

LABELS = ("CMU_MOSEI_Labels.csd", "CMU_MOSI_Opinion_Labels.csd")
EMOTIONS = ("happy", "sad", "angry", "surprise", "disgust", "fear")
"""The emotions in the order of the columns after sentiment."""


def _read(source: Source) -> Iterator[Described]:
    if path := source.find(*LABELS):
        yield from _read_sdk(source, path)
    elif path := source.find("label.csv"):
        yield from read_table_of_labels(source, path)


def _read_sdk(source: Source, path: str) -> Iterator[Described]:
    films, turns, folds = Films(source), read_turns(source), read_folds(source, path)
    tied, zero, outside, early, empty = list[str](), list[str](), list[str](), list[str](), list[str]()
    for video, number, (start, end), scores in read_segments(source, path):
        name, in_folds = f"{video}_{number}", folds.get(video, Split.UNLABELED)
        if not (math.isfinite(start) and max(start, 0.0) < end < math.inf):
            empty.append(name)
            continue
        strongest = _emotions(scores, source.config) if all(map(math.isfinite, scores)) else []
        if len(strongest) != 1:
            (tied if strongest else zero).append(name)
        if start < 0:
            early.append(name)
        if folds and video not in folds:
            outside.append(name)
        clip, words = turns.get((video, round(start, 1)), (str(number), ""))
        whole = films.whole(video)
        yield Described(
            name,
            emotion=strongest[0] if len(strongest) == 1 else "",
            path=whole or films.cut(video, clip),
            group=video,
            split=in_folds if folds else None,
            text=words,
            start=max(start, 0.0) if whole else 0.0,
            end=end if whole else 0.0,
        )
    source.report(FindingKind.UNKNOWN_LABEL, tied, "clip", "with equally strong emotions", "left without label")
    source.report(FindingKind.UNKNOWN_LABEL, zero, "clip", "without emotion or score", "left without label")
    source.report(FindingKind.CONFLICTING_SPLIT, outside, "clip", "of films in no standard fold", "not trained on")
    source.report(FindingKind.MALFORMED_TIME, early, "clip", "with a negative start", "read from 0 s")
    source.report(FindingKind.MALFORMED_TIME, empty, "clip", "without length", "skipped")


def _emotions(scores: Sequence[float], config: CorpusConfig) -> list[str]:
    return _strongest(scores[1:]) if config.target == "emotion" else [sentiment(scores[0], config)]


def _strongest(scores: Sequence[float]) -> list[str]:
    """Return the emotions with the highest score; none if all are zero."""
    best = max(scores, default=0.0)
    return [emotion for emotion, score in zip(EMOTIONS, scores, strict=False) if score == best > 0]


def _mapping(config: CorpusConfig) -> Mapping[str, str]:
    return {emotion: emotion for emotion in EMOTIONS} if config.target == "emotion" else sentiment_mapping(config)


def _fits(kind: CorpusKind, labels: str, glimpse: Glimpse) -> bool:
    """Return whether a folder may hold this corpus; ``label.csv`` of both is the same, so that their names decide."""
    if glimpse.has(labels):
        return True
    row = glimpse.first_row("label.csv")
    is_score = not row.get("label") or parse_score(row["label"]) is not None
    if not ({"video_id", "clip_id", "label"} <= row.keys() and is_score) or is_chsims(row):
        return False
    names = (glimpse.root.resolve().parent.name, glimpse.root.resolve().name, *glimpse.paths)
    named = {name for name in ("mosei", "mosi") if any(name in part.lower() for part in names)}
    return not named or kind in named


def _describe(kind: CorpusKind, title: str, labels: str) -> Description:
    return Description(
        kind=kind,
        title=title,
        layout=f"{labels} of the SDK, or label.csv (video_id, clip_id, text, label, mode), and films named by video",
        groups="film",
        fits=partial(_fits, kind, labels),
        read=_read,
        mapping=_mapping if kind == "mosei" else sentiment_mapping,
        published=f"standard folds; {PUBLISHED}",
        left_out="features of the SDK; cut films of which the whole one is there",
    )


MOSEI = _describe("mosei", "CMU-MOSEI", LABELS[0])
MOSI = _describe("mosi", "CMU-MOSI", LABELS[1])
