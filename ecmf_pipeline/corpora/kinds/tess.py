"""TESS, the Toronto Emotional Speech Set: 200 words spoken by two actresses, sound only.

A file name (``OAF_angry/OAF_back_angry.wav``) has the speaker (OAF older, YAF younger; ``OA_bite_neutral`` is published
without F), the word and the emotion; ``ps`` is pleasant surprise. With two speakers, each fold by group tests one of
them. Some copies of the corpus hold the whole set twice, in a folder of the same name; the second copy is not read.

Source: M. K. Pichora-Fuller, K. Dupuis, 2020, https://doi.org/10.5683/SP2/E8H2MF. Licence: Creative
Commons, non-commercial (see there).
"""

from __future__ import annotations

import re

from ecmf_pipeline.corpora.described import Described, Description, by_name, each

NAME = re.compile(
    r"(?:^|/)(?P<id>(?P<speaker>OAF?|YAF?)_(?P<word>[A-Za-z-]+)"
    r"_(?P<emotion>angry|disgust|fear|happy|neutral|ps|pleasant_surprised?|sad))$",
    re.IGNORECASE,
)
EMOTIONS = ("neutral", "angry", "happy", "sad", "fear", "disgust", "surprise")


def _describe(match: re.Match[str]) -> Described:
    emotion = match["emotion"].lower()
    return Described(
        match["id"],
        emotion=emotion if emotion in EMOTIONS else "surprise",
        group=f"speaker {match['speaker'][0].upper()}AF",
        text=f"Say the word {match['word'].lower()}.",
    )


TESS = Description(
    kind="tess",
    title="TESS",
    layout="files such as OAF_angry/OAF_back_angry.wav",
    groups="speaker",
    fits=lambda glimpse: glimpse.most_media(NAME),
    read=lambda source: by_name(source, NAME, _describe),
    mapping=each(*EMOTIONS),
)
