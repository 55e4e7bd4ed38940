"""CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset.

91 actors speak twelve sentences. A file name has the actor, sentence, emotion and level (``1001_DFA_ANG_XX``); the
folders ``VideoFlash`` (flv), ``AudioWAV`` and ``AudioMP3`` have the same clips. The label is the acted emotion. Votes
of about ten people for each clip and for voice, face and both are in ``processedResults/tabulatedVotes.csv``, whose
rows have the key 100000 x {1 voice, 2 face, 3 both} + clip; in ``summaryTable.csv`` ties are joined by colons. Without
Git LFS, a clone or zip file has pointers in place of media files; `index` quarantines them with the command to run.

Source: H. Cao et al., IEEE Transactions on Affective Computing 5(4), 2014, https://doi.org/10.1109/TAFFC.2014.2336244;
layout: https://github.com/CheyneyComputerScience/CREMA-D. Licence: Open Database License 1.0.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from ecmf_pipeline.corpora.described import Described, Description, Source, by_name, each
from ecmf_pipeline.corpora.listing import FindingKind

# 1040_ITH_SAD_X was published with one X.
NAME = re.compile(
    r"(?:^|/)(?P<actor>1\d{3})_(?P<sentence>[A-Z]{3})_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_(?:LO|MD|HI|XX?)$"
)
EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
_LETTERS = {name[0].lower(): emotion for name, emotion in EMOTIONS.items()}
_SOURCES = {1: "crowd/voice", 2: "crowd/face", 3: "crowd/both"}
_SUMMARY = {"voicevote": _SOURCES[1], "facevote": _SOURCES[2], "multimodalvote": _SOURCES[3]}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}


def _describe(match: re.Match[str]) -> Described:
    text = SENTENCES.get(match["sentence"], "")
    name = match[0].lstrip("/")
    name = f"{name}X" if name.endswith("_X") else name
    return Described(name, EMOTIONS[match["emotion"]], group=f"actor {match['actor']}", text=text)


def _read(source: Source) -> Iterator[Described]:
    votes = _votes(source)
    for clip in by_name(source, NAME, _describe):
        yield replace(clip, votes=votes.get(clip.clip_id, {}))


def _votes(source: Source) -> dict[str, dict[str, dict[str, float]]]:
    """Return the votes by clip, source and emotion: counts, or else the ties of the summary in equal parts."""
    votes: defaultdict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    source.tables.append(source.find("summaryTable.csv"))  # need not be read
    if path := source.find("tabulatedVotes.csv"):
        table = source.table(path, ("filename", *_LETTERS))
        counts = zip(*(table.column(letter) for letter in _LETTERS), strict=True)
        unknown = []
        for key, name, row in zip(table.column(table.columns[0]), table.column("filename"), counts, strict=True):
            kind = _SOURCES.get(int(key) // 100_000) if key.isdecimal() else None
            if kind and all(cell.isdecimal() for cell in row):
                votes[name][kind] = dict(zip(_LETTERS.values(), map(float, row), strict=True))
            else:
                unknown.append(f"{key} {name}")
        source.report(FindingKind.MALFORMED_ROW, unknown, "row", "of votes without counts", f"correct them in {path}")
    elif path := source.find("summaryTable.csv"):
        table = source.table(path, ("filename", *_SUMMARY))
        for column, kind in _SUMMARY.items():
            for name, cell in zip(table.column("filename"), table.column(column), strict=True):
                letters = [letter for letter in cell.lower().split(":") if letter in _LETTERS]
                votes[name][kind] = {_LETTERS[letter]: 1 / len(letters) for letter in letters}
    return votes


CREMAD = Description(
    kind="cremad",
    title="CREMA-D",
    layout="files such as VideoFlash/1001_DFA_ANG_XX.flv or AudioWAV/1001_DFA_ANG_XX.wav",
    groups="actor",
    fits=lambda glimpse: glimpse.most_media(NAME),
    read=_read,
    mapping=each("neutral", "angry", "happy", "sad", "fear", "disgust"),
    left_out="the level of the emotion; MP3 copies of sound files",
)
