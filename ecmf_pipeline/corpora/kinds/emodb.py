"""EMO-DB, the Berlin Database of Emotional Speech: ten German actors, sound only.

A file name (``wav/03a01Fa.wav``) has the speaker (two digits), the text (a01 to b10), the emotion (first letter of its
German name) and the version.

Source: F. Burkhardt et al., "A database of German emotional speech", Interspeech 2005; naming and texts:
http://emodb.bilderbar.info/docu/. Licence: none is stated there; cite the paper.
"""

from __future__ import annotations

import re

from ecmf_pipeline.corpora.described import Described, Description, by_name, each

NAME = re.compile(r"(?:^|/)(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<emotion>[WLEAFTN])[a-z]?$")
EMOTIONS = {
    "N": "neutral",
    "W": "angry",
    "F": "happy",
    "T": "sad",
    "A": "fear",
    "E": "disgust",
    "L": "bored",
}
"""Neutral, Wut, Freude, Trauer, Angst, Ekel, Langeweile."""
TEXTS = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}


def _describe(match: re.Match[str]) -> Described:
    return Described(
        match[0].lstrip("/"),
        emotion=EMOTIONS[match["emotion"]],
        group=f"speaker {match['speaker']}",
        text=TEXTS.get(match["text"], ""),
    )


EMODB = Description(
    kind="emodb",
    title="EMO-DB",
    layout="files such as wav/03a01Fa.wav",
    groups="speaker",
    fits=lambda glimpse: glimpse.most_media(NAME),
    read=lambda source: by_name(source, NAME, _describe),
    mapping=each(*EMOTIONS.values()),
    left_out="the label files of phones and syllables",
)
