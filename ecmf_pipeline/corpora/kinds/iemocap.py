r"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture database: five sessions of two actors each.

``Session1/dialog/EmoEvaluation/Ses01F_impro01.txt`` has a line for each utterance, ``[start - end]\tid\tlabel\t
[V, A, D]``; the label ``xxx`` means that the annotators do not agree. ``dialog/transcriptions`` has the words, with
further turns (``_MXX0``) that nobody evaluated. A clip is a part of the film ``dialog/avi/DivX/Ses01F_impro01.avi``,
with ``dialog/wav`` as its sound; without the film it is ``sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav``. The
films show both actors side by side. Groups are sessions, as usual for this corpus.

Source: C. Busso et al., Language Resources and Evaluation 42, 2008, https://doi.org/10.1007/s10579-008-9076-6;
https://sail.usc.edu/iemocap/. Licence: by agreement with the University of Southern California, for research.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from ecmf_pipeline.corpora.described import Described, Description, Source
from ecmf_pipeline.corpora.listing import FindingKind

EVALUATION = r"(?:^|/)Session\d/dialog/EmoEvaluation/Ses\d\d\w+\.txt$"
LINE = re.compile(r"\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\s+(?P<id>Ses(?P<session>\d\d)\w+)\s+(?P<label>\w{3})\s+\[")
TURN = re.compile(r"(?P<id>Ses\w+)\s+\[[\d.]+\s*-\s*[\d.]+\]:\s*(?P<text>.*)")
EMOTIONS = {
    "neu": "neutral",
    "ang": "angry",
    "hap": "happy",
    "exc": "excited",
    "sad": "sad",
    "fru": "frustrated",
    "fea": "fear",
    "sur": "surprise",
    "dis": "disgust",
    "oth": "other",
    "xxx": "",
}
FOUR_CLASSES = {
    "neutral": "neutral",
    "angry": "angry",
    "happy": "happy",
    "excited": "happy",
    "sad": "sad",
} | dict.fromkeys(("frustrated", "fear", "surprise", "disgust", "other"), "")
"""The usual four classes; excited counts as happy."""


def _read(source: Source) -> Iterator[Described]:
    words: dict[str, str] = {}
    for path in source.scan.unread:
        if "/dialog/transcriptions/" in f"/{path}" and path.endswith(".txt"):
            turns = (TURN.match(line) for line in source.lines(path))
            words |= {turn["id"]: turn["text"].strip() for turn in turns if turn}
    media = {PurePosixPath(path).stem: path for path in source.scan.media if "/dialog/avi/" in f"/{path}"}
    sounds = {PurePosixPath(path).stem: path for path in source.scan.sounds}
    empty = []
    for path in filter(re.compile(EVALUATION).search, source.scan.unread):
        dialog = PurePosixPath(path).stem
        for line in filter(None, map(LINE.match, source.lines(path))):
            start, end = float(line["start"]), float(line["end"])
            name, film = line["id"], media.get(dialog, "")
            sentence = "" if film else sounds.get(name, "")
            if end <= start:
                empty.append(name)
                continue
            yield Described(
                name,
                emotion=EMOTIONS.get(line["label"], line["label"]),
                path=film or sentence or sounds.get(dialog, ""),
                sound=sounds.get(dialog, ""),
                group=f"session {int(line['session'])}",
                text=words.get(name, ""),
                start=0.0 if sentence else start,
                end=0.0 if sentence else end,
            )
    source.report(FindingKind.MALFORMED_TIME, empty, "utterance", "without length", "skipped")


IEMOCAP = Description(
    kind="iemocap",
    title="IEMOCAP",
    layout="files such as Session1/dialog/EmoEvaluation/Ses01F_impro01.txt and Session1/sentences/wav",
    groups="session",
    fits=lambda glimpse: glimpse.has(EVALUATION),
    read=_read,
    mapping=lambda _: FOUR_CLASSES,
    left_out="scores of valence, activation and dominance, single annotators and motion capture; the films show both "
    "actors, and are not cut to the half of the speaker",
)
