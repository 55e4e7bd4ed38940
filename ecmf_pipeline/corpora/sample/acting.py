"""How each emotion looks and sounds, and how well each clip's face and voice show it.

Face and voice are drawn apart: where one hardly shows the emotion, or shows a trace of another, the other may be plain.
That is what makes several modalities together know more than any one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

import numpy as np

from ecmf_pipeline.corpora.sample.plan import SHARES

EXPRESSIONS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "neutral": {"rest": 1, "close": 1},
        "angry": {"rest": 1, "close": 1, "brow_lower": 1.2, "lid_tighten": 0.5, "lip_press": 0.8, "mouth_narrow": 0.3,
                  "corner_lower": 0.3, "nose_wrinkle": 0.5},
        "happy": {"corner_raise": 0.6, "cheek_raise": 1, "lid_tighten": 0.3, "jaw_drop": 0.12},
        "sad": {"rest": 1, "close": 1, "inner_brow_raise": 1, "corner_lower": 1, "lid_droop": 0.6},
        "worried": {"rest": 1, "close": 0.5, "inner_brow_raise": 1, "brow_lower": 0.3, "lid_raise": 0.5,
                    "mouth_stretch": 0.9, "jaw_drop": 0.06},
        "surprise": {"rest": 0.8, "inner_brow_raise": 0.7, "outer_brow_raise": 1.1, "lid_raise": 0.7, "jaw_drop": 0.55,
                     "mouth_narrow": 0.4},
    }
)  # fmt: skip
"""The facial actions of each emotion at full strength, after the prototypes of Ekman and Friesen."""


@dataclass(frozen=True, slots=True)
class Prosody:
    """How a line is said, relative to the speaker's own way.

    Attributes:
        rate: Words a minute.
        pitch: eSpeak NG's pitch, of a scale 0-99.
        span: eSpeak NG's pitch range, of a scale 0-99.
        gain: Loudness in decibels.
        effort: Gain of the upper band, in percent: a pressed voice is bright, a tired one dull.
    """

    rate: float = 0.0
    pitch: float = 0.0
    span: float = 0.0
    gain: float = 0.0
    effort: float = 0.0


PROSODY: Mapping[str, Prosody] = MappingProxyType(
    {
        "neutral": Prosody(),
        "angry": Prosody(rate=24, pitch=2, span=16, gain=10, effort=110),
        "happy": Prosody(rate=26, pitch=26, span=40, gain=3, effort=0),
        "sad": Prosody(rate=-46, pitch=-18, span=-26, gain=-8, effort=-45),
        "worried": Prosody(rate=44, pitch=20, span=-34, gain=-7, effort=-20),
        "surprise": Prosody(rate=-34, pitch=52, span=40, gain=6, effort=40),
    }
)
"""What each emotion does to a voice at full strength: directions as in the literature, amounts tuned to this corpus."""

PROSODY_SPREAD = Prosody(rate=6, pitch=3, span=5, gain=1.2, effort=8)
"""Standard deviation of what is random about a clip's prosody."""


@dataclass(frozen=True, slots=True)
class Acting:
    """How one clip is acted: for the face and for the voice, the strength of each emotion (absent: none)."""

    face: Mapping[str, float]
    voice: Mapping[str, float]


def draw_acting(gold_label: str, weak: float, rng: np.random.Generator) -> Acting:
    """Draw how plainly face and voice show the emotion, each on its own."""
    return Acting(_strengths(gold_label, weak, rng), _strengths(gold_label, weak, rng))


def _strengths(gold_label: str, weak: float, rng: np.random.Generator) -> dict[str, float]:
    others = [label for label in SHARES if label != gold_label]
    other = others[int(rng.integers(len(others)))]
    hardly, blended = rng.random() < weak, rng.random() < 0.3
    strength = rng.uniform(0.0, 0.3) if hardly else rng.uniform(0.55, 1.0)
    trace = rng.uniform(0.15, 0.4) if blended else rng.uniform(0.0, 0.1)
    return {gold_label: float(strength), other: float(trace)}


def expression(strengths: Mapping[str, float], moment: float) -> dict[str, float]:
    """The strengths of the facial actions.

    Args:
        strengths: Strength of each emotion at its apex.
        moment: How much of it shows at this moment, 0-1.
    """
    amounts = {label: moment * strength for label, strength in strengths.items()}
    excess = max(1.0, sum(amounts.values()))
    amounts = {label: amount / excess for label, amount in amounts.items()}
    amounts["neutral"] = amounts.get("neutral", 0.0) + 1 - sum(amounts.values())
    actions: dict[str, float] = {}
    for label, amount in amounts.items():
        for action, full in EXPRESSIONS[label].items():
            actions[action] = actions.get(action, 0.0) + amount * full
    return actions


def prosody(strengths: Mapping[str, float], rng: np.random.Generator) -> Prosody:
    """The offsets of a clip's prosody from its speaker's own, with what is random about it."""

    def total(name: str) -> float:
        meant = sum(strength * float(getattr(PROSODY[label], name)) for label, strength in strengths.items())
        return meant + float(rng.normal(0, getattr(PROSODY_SPREAD, name)))

    return Prosody(*(total(field.name) for field in fields(Prosody)))
