"""CH-SIMS and CH-SIMS v2: Chinese films and series, cut into clips with scores of sentiment from -1 to 1.

``label.csv`` (v2: ``meta.csv``) has the columns ``video_id, clip_id, text, label, label_T, label_A, label_V,
annotation, mode``; the clips are ``Raw/VIDEO_ID/CLIP_ID.mp4``, with clip numbers of four or five digits. ``label`` is
the score of the whole clip; those of text, audio and video alone become votes. The unsupervised part of v2 has no
labels.

Source: W. Yu et al., ACL 2020, https://aclanthology.org/2020.acl-main.343/; Y. Liu et al., ICMI 2022 (v2); layout:
https://github.com/thuiar/MMSA-FET/wiki/Dataset-and-Structure. Licence: none is stated in their
repositories; ask the authors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from ecmf_pipeline.corpora.described import Described, Description, Source
from ecmf_pipeline.corpora.kinds.sentiment import PUBLISHED, SPLITS, Films, parse_score, sentiment, sentiment_mapping
from ecmf_pipeline.corpora.listing import FindingKind

TABLES = ("label.csv", "meta.csv")
SOURCES = {"label_t": "people/text", "label_a": "people/audio", "label_v": "people/video"}
"""The source of votes of each column with the score of one modality."""


def is_chsims(row: Mapping[str, str]) -> bool:
    """Return whether the first row of a table is of CH-SIMS: CMU-MOSI and CMU-MOSEI have no scores of one modality."""
    has_scores = any(row.get(column) for column in SOURCES)
    return has_scores or bool(re.fullmatch(r"video_\d{4}", row.get("video_id", "")))


def read_table_of_labels(source: Source, path: str) -> Iterator[Described]:
    """Yield the clips of a table in this layout, which MMSA uses for CMU-MOSI and CMU-MOSEI too.

    Args:
        source: The corpus folder.
        path: The table.
    """
    table = source.table(path, ("video_id", "clip_id", "label"))
    films = Films(source)
    votes = [(name, table.column(column)) for column, name in SOURCES.items()]
    columns = (table.column(column) for column in ("video_id", "clip_id", "label", "text", "mode"))
    wrong, unknown, unnamed = [], [], []
    used = set()
    for position, (video, clip, label, text, mode) in enumerate(zip(*columns, strict=True)):
        if not video or not clip:
            unnamed.append(f"{video} {clip}: {text}")
            continue
        score = parse_score(label)
        if label and score is None:
            wrong.append(f"{video} {clip}: {label}")
        if mode and mode.casefold() not in SPLITS:
            unknown.append(f"{video} {clip}: {mode}")
        film = films.cut(video, clip)
        used.add(film)
        number = PurePosixPath(film).stem.removeprefix(f"{video}_") if film else clip
        scores = {name: parse_score(cells[position]) for name, cells in votes}
        yield Described(
            f"{video}_{number}",
            emotion="" if score is None else sentiment(score, source.config),
            path=film,
            group=video,
            split=SPLITS.get(mode.casefold()),
            text=text,
            votes={
                name: {sentiment(one, source.config).casefold(): 1.0} for name, one in scores.items() if one is not None
            },
        )
    source.report_unlisted(used, path)
    source.report(FindingKind.MALFORMED_ROW, unnamed, "row", "without video or clip", f"correct them in {path}")
    source.report(FindingKind.MALFORMED_ROW, wrong, "label", "not a number", f"correct them in {path}")
    source.report(
        FindingKind.CONFLICTING_SPLIT, unknown, "row", "with an unknown mode", f"use train, valid or test in {path}"
    )


def _read(source: Source) -> Iterator[Described]:
    if path := source.find(*TABLES):
        yield from read_table_of_labels(source, path)


CHSIMS = Description(
    kind="chsims",
    title="CH-SIMS",
    layout="label.csv or meta.csv (video_id, clip_id, text, label, label_T, label_A, label_V, mode) and "
    "Raw/video_0001/0001.mp4",
    groups="video",
    fits=lambda glimpse: any(is_chsims(glimpse.first_row(name)) for name in TABLES),
    read=_read,
    mapping=sentiment_mapping,
    published=PUBLISHED,
)
