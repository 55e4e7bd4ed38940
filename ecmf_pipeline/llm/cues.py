"""What a face and a voice do, as names of cues, from features that other branches have extracted.

Every cue is relative to the corpus: it says what is unusual among its clips. A blendshape is told where it is both
rare (from the `RARE` quantile of the corpus' clips on) and there at all (`LEAST_ACTION`), the rarest `MOST_ACTIONS` of
a clip; of a voice, what is among the highest or lowest fifth (`HIGH`, `LOW`). Where a clip has no such feature, and
where fewer than `LEAST_CLIPS` clips tell what is usual, nothing is said.

Pitch is compared over all speakers, so that a high voice counts as one: how much it moves does not depend on that.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import read_text, write_atomic
from ecmf_pipeline.llm.prompt import CUES

RARE = 0.85
LEAST_ACTION = 0.15
"""Of a blendshape's range, 0 to 1, as the mean over a clip's frames."""
MOST_ACTIONS = 3
HIGH, LOW = 0.8, 0.2
LEAST_CLIPS = 20
LEAST_UNITS, LEAST_SECONDS = 3, 0.5
"""Words (or Chinese characters) and length of a clip below which a rate of speech says nothing."""

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
"""Blendshapes of each facial action, by their places among MediaPipe's 52; left and right are averaged."""

PITCH, PITCH_SPREAD, LOUDNESS = 0, 1, 10
"""Places among eGeMAPSv02's 88 functionals: mean F0 in semitones, its relative spread, mean loudness."""

_UNITS = re.compile(r"[\u3400-\u9fff]|(?:(?![\u3400-\u9fff])\w)+(?:['’](?:(?![\u3400-\u9fff])\w)+)?")  # noqa: RUF001
_COLUMNS = ["clip_id", "cues"]

Floats = NDArray[np.floating[Any]]


def face_cues(blendshapes: Floats) -> list[tuple[str, ...]]:
    """The facial actions that stand out in each clip.

    Args:
        blendshapes: Mean over each clip's frames, (n, 52), rows of NaN where no face was found.

    Returns:
        Names of `ACTIONS`, the rarest first, n times.
    """
    values = np.stack([blendshapes[:, places].mean(axis=1) for places in map(list, ACTIONS.values())], axis=1)  # (n, A)
    ranks = np.stack([_ranks(column) for column in values.T], axis=1) if len(values) else values
    names, found = list(ACTIONS), []
    for value, rank in zip(values, ranks, strict=True):
        told = np.flatnonzero((rank >= RARE) & (value >= LEAST_ACTION))  # NaN is neither
        order = sorted(told, key=lambda action: (-rank[action], -value[action], action))
        found.append(tuple(names[action] for action in order[:MOST_ACTIONS]))
    return found


def voice_cues(functionals: Floats, rates: Floats) -> list[tuple[str, ...]]:
    """What stands out in each voice.

    Args:
        functionals: eGeMAPSv02, (n, 88), rows of NaN where there is no sound.
        rates: Units of speech a second, (n,); see `speech_rate`.

    Returns:
        Names of cues, n times.
    """
    pitch = np.where(functionals[:, PITCH] > 0, functionals[:, PITCH], np.nan)  # 0: no voiced frame
    spread = np.where(np.isfinite(pitch), functionals[:, PITCH_SPREAD], np.nan)
    columns = (
        (pitch, "pitch_high", "pitch_low"),
        (spread, "pitch_lively", "pitch_flat"),
        (functionals[:, LOUDNESS], "loud", "quiet"),
        (rates, "fast", "slow"),
    )
    found: list[tuple[str, ...]] = [()] * len(rates)
    for values, high, low in columns:
        for clip, rank in enumerate(_ranks(values)):
            if rank >= HIGH:
                found[clip] += (high,)
            elif rank <= LOW:
                found[clip] += (low,)
    return found


def count_words(text: str) -> int:
    """How many words a text has; each Chinese character counts as one."""
    return len(_UNITS.findall(text))


def speech_rate(text: str, seconds: float) -> float:
    """Words (of Chinese: characters) a second; NaN where there is too little to tell, or the length is unknown.

    Args:
        text: The words spoken.
        seconds: The clip's length.
    """
    units = count_words(text)
    return units / seconds if units >= LEAST_UNITS and seconds >= LEAST_SECONDS else float("nan")


def _ranks(values: Floats) -> NDArray[np.float64]:
    """The share of clips below each value, equal ones counting half, (n,); NaN where nothing can be said."""
    ranks = np.full(len(values), np.nan)
    known = np.isfinite(values)
    if (count := int(known.sum())) >= LEAST_CLIPS:
        ordered, some = np.sort(values[known]), values[known]
        below, upto = np.searchsorted(ordered, some, "left"), np.searchsorted(ordered, some, "right")
        ranks[known] = (below + upto) / (2 * count)
    return ranks


def write_cues(path: Path, cues: Mapping[str, Sequence[str]]) -> bool:
    """Write a table of cues by clip id; clips without any are left out.

    Returns:
        Whether the file's bytes changed.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([clip_id, " ".join(names)] for clip_id, names in sorted(cues.items()) if names)
    return write_atomic(path, table.getvalue(), only_if_changed=True)


def read_cues(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a table of cues.

    Raises:
        MissingInput: When the stage has not run yet.
        InputError: When it is damaged.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing", "run `ecmf-pipe cues` (or `dvc repro`) first")
    header, *rows = list(csv.reader(io.StringIO(read_text(path)))) or [[]]
    if header != _COLUMNS or any(len(row) != 2 or not set(row[1].split()) <= set(CUES) for row in rows):
        raise InputError(f"{path} is damaged", "run `ecmf-pipe cues` again")
    return {clip_id: tuple(names.split()) for clip_id, names in rows}
