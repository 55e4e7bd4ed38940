"""SAVEE, the Surrey Audio-Visual Expressed Emotion database: four men, 15 or 30 sentences for each emotion.

The files are ``AudioData/DC/a01.wav`` and ``AudioVisualClip/DC/a01.avi``; copies with the speaker in the name
(``DC_a01.wav``) exist too. The name has the first letters of the emotion and the number of the sentence. A film and the
sound file of the same sentence are one clip.

Source: S. Haq, P. J. B. Jackson, "Multimodal Emotion Recognition", in Machine Audition, 2010;
http://kahlan.eps.surrey.ac.uk/savee/, and ``AudioData/Info.txt`` of the corpus, which explains the names. Licence: free
for research after registration.
"""

from __future__ import annotations

import re

from ecmf_pipeline.corpora.described import Described, Description, by_name, each

NAME = re.compile(r"(?:^|/)(?P<speaker>DC|JE|JK|KL)[/_](?P<emotion>a|d|f|h|n|sa|su)(?P<number>\d\d)$")
EMOTIONS = {
    "n": "neutral",
    "a": "angry",
    "h": "happy",
    "sa": "sad",
    "f": "fear",
    "d": "disgust",
    "su": "surprise",
}


def _describe(match: re.Match[str]) -> Described:
    name = f"{match['speaker']}_{match['emotion']}{match['number']}"
    return Described(name, emotion=EMOTIONS[match["emotion"]], group=f"speaker {match['speaker']}")


SAVEE = Description(
    kind="savee",
    title="SAVEE",
    layout="files such as AudioData/DC/a01.wav or AudioVisualClip/DC/a01.avi",
    groups="speaker",
    fits=lambda glimpse: glimpse.most_media(NAME),
    read=lambda source: by_name(source, NAME, _describe),
    mapping=each(*EMOTIONS.values()),
    left_out="the facial markers and the features that come with the corpus",
)
