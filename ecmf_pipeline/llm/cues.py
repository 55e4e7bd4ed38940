"""Names of cues of face and voice, from features that other branches have extracted.

Each cue is relative to the corpus: it is unusual among the clips. A blendshape is a cue if it is both rare
(from the `RARE_QUANTILE` quantile of the clips) and active (`MIN_ACTIVATION`); each clip has at most its
`MAX_ACTIONS` rarest ones. Voice cues are the highest or lowest fifth (`HIGH_QUANTILE`, `LOW_QUANTILE`). There are no
cues without the feature, or if fewer than `MIN_CLIPS` clips have it.

Pitch is compared over all speakers, so a high voice counts as high; the variation of pitch does not depend on that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.tables import one_of, open_table, write_sealed_csv
from ecmf_pipeline.llm.prompt import CUES

RARE_QUANTILE = 0.85
MIN_ACTIVATION = 0.15
"""Minimum activation of a blendshape, on its scale from 0 to 1, as the mean over the frames of a clip."""
MAX_ACTIONS = 3
HIGH_QUANTILE = 0.8
LOW_QUANTILE = 0.2
MIN_CLIPS = 20
MIN_WORDS = 3
MIN_SECONDS = 0.5
"""Minimum number of words (or Chinese characters) and minimum length of a clip for a rate of speech."""

ACTIONS: Mapping[str, tuple[int, ...]] = {
    "brows_down": (1, 2),
    "inner_brows_up": (3,),
    "brows_up": (4, 5),
    "eyes_wide": (21, 22),
    "eyes_squinting": (19, 20),
    "cheeks_up": (7, 8),
    "nose_wrinkled": (50, 51),
    "jaw_open": (25,),
    "smile": (44, 45),
    "frown": (30, 31),
    "lips_pressed": (36, 37),
    "mouth_stretched": (46, 47),
    "upper_lip_up": (48, 49),
    "lips_rolled": (40, 41),
    "pucker": (38,),
}
"""Blendshapes of each facial action, by their indices in MediaPipe's 52; left and right are averaged."""

PITCH = 0
PITCH_SPREAD = 1
LOUDNESS = 10
"""Indices in the 88 functionals of eGeMAPSv02: mean F0 in semitones, its relative standard deviation, mean loudness."""

_WORD = re.compile(r"[\u3400-\u9fff]|(?:(?![\u3400-\u9fff])\w)+(?:['’](?:(?![\u3400-\u9fff])\w)+)?")  # noqa: RUF001
_COLUMNS = ["clip_id", "cues"]

Floats = NDArray[np.floating[Any]]


def face_cues(blendshapes: Floats) -> list[tuple[str, ...]]:
    """Return the unusual facial actions of each clip.

    Args:
        blendshapes: Mean over the frames of each clip, (n, 52), rows of NaN without a face.

    Returns:
        Names of `ACTIONS` for each of the n clips, the rarest first.
    """
    values = np.stack([blendshapes[:, list(indices)].mean(axis=1) for indices in ACTIONS.values()], axis=1)  # (n, A)
    ranks = np.stack([_ranks(column) for column in values.T], axis=1) if len(values) else values
    names, cues = list(ACTIONS), []
    for value, rank in zip(values, ranks, strict=True):
        unusual = np.flatnonzero((rank >= RARE_QUANTILE) & (value >= MIN_ACTIVATION))  # NaN is neither
        order = sorted(unusual, key=lambda action: (-rank[action], -value[action], action))
        cues.append(tuple(names[action] for action in order[:MAX_ACTIONS]))
    return cues


def voice_cues(functionals: Floats, rates: Floats) -> list[tuple[str, ...]]:
    """Return the unusual properties of each voice.

    Args:
        functionals: eGeMAPSv02, (n, 88), rows of NaN without sound.
        rates: Words of each clip per second, (n,); see `speech_rate`.

    Returns:
        Names of cues for each of the n clips.
    """
    pitch = np.where(functionals[:, PITCH] > 0, functionals[:, PITCH], np.nan)  # 0: no voiced frame
    spread = np.where(np.isfinite(pitch), functionals[:, PITCH_SPREAD], np.nan)
    columns = (
        (pitch, "pitch_high", "pitch_low"),
        (spread, "pitch_lively", "pitch_flat"),
        (functionals[:, LOUDNESS], "loud", "quiet"),
        (rates, "fast", "slow"),
    )
    cues: list[tuple[str, ...]] = [()] * len(rates)
    for values, high, low in columns:
        for clip, rank in enumerate(_ranks(values)):
            if rank >= HIGH_QUANTILE:
                cues[clip] += (high,)
            elif rank <= LOW_QUANTILE:
                cues[clip] += (low,)
    return cues


def count_words(text: str) -> int:
    """Return the number of words of a text; each Chinese character counts as one."""
    return len(_WORD.findall(text))


def speech_rate(text: str, seconds: float) -> float:
    """Return words (Chinese: characters) per second; NaN if the text or clip is too short or the length is unknown.

    Args:
        text: The spoken words.
        seconds: Length of the clip.
    """
    words = count_words(text)
    return words / seconds if words >= MIN_WORDS and seconds >= MIN_SECONDS else float("nan")


def _ranks(values: Floats) -> NDArray[np.float64]:
    """Return the share of clips below each value, (n,); equal ones count half.

    Unknown values are NaN, and all values if there are too few clips.
    """
    ranks = np.full(len(values), np.nan)
    known = np.isfinite(values)
    if (count := int(known.sum())) >= MIN_CLIPS:
        ordered, finite = np.sort(values[known]), values[known]
        below, not_above = np.searchsorted(ordered, finite, "left"), np.searchsorted(ordered, finite, "right")
        ranks[known] = (below + not_above) / (2 * count)
    return ranks


def write_cues(path: Path, cues: Mapping[str, Sequence[str]]) -> bool:
    """Write a table of cues by clip id, sorted by clip id.

    Returns:
        Whether the bytes of the file changed.
    """
    return write_sealed_csv(path, _COLUMNS, ([clip_id, " ".join(names)] for clip_id, names in sorted(cues.items())))


def read_cues(path: Path, clip_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read a table of cues.

    Args:
        path: The csv file.
        clip_ids: All clips of the manifest, each of which must have a row.

    Raises:
        MissingInput: If the file does not exist, or has other clips.
        InputError: If the file is damaged.
    """
    table = open_table(path, command="ecmf-pipe cues")
    cues = dict(
        table.parse(lambda row: (row[0], tuple(one_of(name, CUES, "cue") for name in row[1].split())), _COLUMNS)
    )
    table.check_covers(list(cues), clip_ids)
    return cues
