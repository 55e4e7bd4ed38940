"""RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song.

24 actors speak and sing two sentences. A file name has seven numbers (``01-01-06-01-02-01-12.mp4``): modality (01 film,
02 film without sound, 03 sound), channel (01 speech, 02 song), emotion, intensity (01 normal, 02 strong; neutral has
normal only), statement, repetition and actor. The three modalities of one take are one clip, whose id is the name
without the modality; it keeps the intensity. Song has neither disgust nor surprise.

Source: S. R. Livingstone, F. A. Russo, PLoS ONE 13(5): e0196391, 2018, https://doi.org/10.1371/journal.pone.0196391;
files and naming: https://doi.org/10.5281/zenodo.1188976. Licence: CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from ecmf_pipeline.corpora.described import Described, Description, Source, by_name, each

NAME = re.compile(
    r"(?:^|/)(?P<modality>0[123])-"
    r"(?P<take>0[12]-(?P<emotion>0[1-8])-0[12]-(?P<statement>0[12])-0[12]-(?P<actor>[01]\d|2[0-4]))$"
)
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
FILM = "01-"
"""The start of the names of files that have pictures and sound."""


def _describe(match: re.Match[str]) -> Described:
    return Described(
        match["take"],
        emotion=EMOTIONS[int(match["emotion"]) - 1],
        group=f"actor {match['actor']}",
        text=STATEMENTS[int(match["statement"]) - 1],
        rank=int(match["modality"]),
    )


def _read(source: Source) -> Iterator[Described]:
    for clip in by_name(source, NAME, _describe):
        yield replace(clip, sound="") if PurePosixPath(clip.path).name.startswith(FILM) else clip


RAVDESS = Description(
    kind="ravdess",
    title="RAVDESS",
    layout="files such as Actor_12/01-01-06-01-02-01-12.mp4 (seven numbers)",
    groups="actor",
    fits=lambda glimpse: glimpse.most_media(NAME),
    read=_read,
    mapping=each(*EMOTIONS),
    left_out="films without sound and sound files of takes that also have a film with sound",
)
