r"""IEMOCAP, the Interactive Emotional Dyadic Motion Capture database: five sessions of two actors each.

``Session1/dialog/EmoEvaluation/Ses01F_impro01.txt`` has a line for each utterance, ``[start - end]\tid\tlabel\t
[V, A, D]``; the label ``xxx`` means that the annotators do not agree. ``dialog/transcriptions`` has the words, with
further turns (``_MXX0``) that nobody evaluated. A clip is a part of the film ``dialog/avi/DivX/Ses01F_impro01.avi``,
with ``dialog/wav`` as its sound; without the film it is ``sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav``.
Groups are sessions, as usual for this corpus.

The films show both actors side by side; a clip is the half of its speaker (``corpus.marked_half``). The letter after
the session in the name of a dialogue is the actor who wears the markers, the letter in that of an utterance is the
speaker (README of the corpus). That the actor with markers is on the left is not documented by the corpus; data
preparations of others, written independently, use it: https://github.com/wenliangdai/Multimodal-End2end-Sparse
(``src/datasets.py``), https://github.com/IoannisKansizoglou/Iemocap-preprocess (``extractionmapCreator.py``).

Source: C. Busso et al., Language Resources and Evaluation 42, 2008, https://doi.org/10.1007/s10579-008-9076-6;
https://sail.usc.edu/iemocap/. Licence: by agreement with the University of Southern California, for research.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from ecmf_pipeline.core.clips import Half
from ecmf_pipeline.corpora.described import Described, Description, Source
from ecmf_pipeline.corpora.listing import FindingKind

EVALUATION = re.compile(r"(?:^|/)EmoEvaluation/Ses\d\d[FM]_\w+\.txt$", re.IGNORECASE)
LINE = re.compile(
    r"\[(?P<start>\d+\.?\d*) - (?P<end>\d+\.?\d*)\]\s+(?P<id>Ses(?P<session>\d\d)\w+)\s+(?P<label>\w{3})\s+\["
)
TURN = re.compile(r"(?P<id>Ses\w+)\s+\[[\d.]+\s*-\s*[\d.]+\]:\s*(?P<text>.*)")
SPEAKER = re.compile(r"Ses\d\d(?P<marked>[FM])_\w+_(?P<speaker>[FM])[^_]*$")
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
        if "/transcriptions/" in f"/{path}" and path.lower().endswith(".txt"):
            turns = (TURN.match(line) for line in source.lines(path))
            words |= {turn["id"]: turn["text"].strip() for turn in turns if turn}
    media = {PurePosixPath(path).stem: path for path in source.scan.media if "/avi/" in f"/{path}"}
    sounds = {PurePosixPath(path).stem: path for path in source.scan.sounds}
    empty = []
    for path in filter(EVALUATION.search, source.scan.unread):
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
                half=_half(name, source.config.marked_half) if film else Half.WHOLE,
            )
    source.report(FindingKind.MALFORMED_TIME, empty, "utterance", "without length", "skipped")


def _half(name: str, marked_half: str | None) -> Half:
    """Return the half of a film that shows the speaker of an utterance (``Ses01F_impro01_M000``)."""
    match = SPEAKER.match(name)
    if marked_half is None or match is None:
        return Half.WHOLE
    marked = Half(marked_half)
    return marked if match["marked"] == match["speaker"] else Half.RIGHT if marked is Half.LEFT else Half.LEFT


IEMOCAP = Description(
    kind="iemocap",
    title="IEMOCAP",
    layout="files such as Session1/dialog/EmoEvaluation/Ses01F_impro01.txt and Session1/sentences/wav",
    groups="session",
    fits=lambda glimpse: glimpse.has(EVALUATION.pattern),
    read=_read,
    mapping=lambda _: FOUR_CLASSES,
    left_out="scores of valence, activation and dominance, single annotators and motion capture; "
    "the half of a film that shows the other actor (corpus.marked_half)",
)
