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

from collections.abc import Iterator, Mapping, Sequence

from ecmf_pipeline.core.clips import Split
from ecmf_pipeline.corpora.config import CorpusConfig, CorpusKind
from ecmf_pipeline.corpora.described import Described, Description, Source
from ecmf_pipeline.corpora.kinds.chsims import read_table_of_labels
from ecmf_pipeline.corpora.kinds.cmu_sdk import read_folds, read_segments, read_turns
from ecmf_pipeline.corpora.kinds.sentiment import PUBLISHED, Films, sentiment, sentiment_mapping
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
        if end <= max(start, 0.0):
            empty.append(name)
            continue
        strongest = (
            _strongest(scores[1:]) if source.config.target == "emotion" else [sentiment(scores[0], source.config)]
        )
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
    source.report(FindingKind.UNKNOWN_LABEL, zero, "clip", "without any emotion", "left without label")
    source.report(FindingKind.CONFLICTING_SPLIT, outside, "clip", "of films in no standard fold", "not trained on")
    source.report(FindingKind.MALFORMED_TIME, early, "clip", "with a negative start", "read from 0 s")
    source.report(FindingKind.MALFORMED_TIME, empty, "clip", "without length", "skipped")


def _strongest(scores: Sequence[float]) -> list[str]:
    """Return the emotions with the highest score; none if all are zero."""
    best = max(scores, default=0.0)
    return [emotion for emotion, score in zip(EMOTIONS, scores, strict=False) if score == best > 0]


def _mapping(config: CorpusConfig) -> Mapping[str, str]:
    return {emotion: emotion for emotion in EMOTIONS} if config.target == "emotion" else sentiment_mapping(config)


def _describe(kind: CorpusKind, title: str, labels: str) -> Description:
    return Description(
        kind=kind,
        title=title,
        layout=f"{labels} of the SDK, or label.csv (video_id, clip_id, text, label, mode), and films named by video",
        groups="film",
        fits=lambda glimpse: (
            glimpse.has(labels)
            or (
                {"video_id", "clip_id", "label"} <= glimpse.first_row("label.csv").keys()
                and (kind == "mosei" or "mosi" in glimpse.root.name.lower())
            )
        ),
        read=_read,
        mapping=_mapping if kind == "mosei" else sentiment_mapping,
        published=f"standard folds; {PUBLISHED}",
        left_out="features of the SDK; cut films of which the whole one is there",
    )


MOSEI = _describe("mosei", "CMU-MOSEI", LABELS[0])
MOSI = _describe("mosi", "CMU-MOSI", LABELS[1])
