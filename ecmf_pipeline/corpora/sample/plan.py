"""Plan the sample corpus: speaker, line, labels and streams of each clip, and its facial and vocal expression."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.corpora.sample.config import SampleConfig

SHARES: Mapping[str, float] = MappingProxyType(
    {"neutral": 0.20, "angry": 0.18, "happy": 0.19, "sad": 0.16, "worried": 0.14, "surprise": 0.13}
)
"""The labels in the challenge's order, with their share of the clips."""

AMBIGUOUS = "ambiguous"
"""The key of the transcripts that fit any emotion."""
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
"""The facial actions of each emotion at full strength, based on the prototypes of Ekman and Friesen."""


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """The plan of one clip.

    Attributes:
        index: The number of the clip; with the seed, it determines frames and sound.
        speaker: The number of the speaker.
        gold_label: The true emotion.
        given_label: The given label, correct or wrong; empty for an unlabelled clip.
        spoken: The spoken line.
        transcript: The line in the subtitles; empty in a few clips.
        has_audio: Whether the file has an audio stream.
    """

    index: int
    speaker: int
    gold_label: str
    given_label: str
    spoken: str
    transcript: str
    has_audio: bool

    @property
    def clip_id(self) -> str:
        """The clip id."""
        return f"sample_{self.index:05d}"


def read_transcripts() -> dict[str, list[str]]:
    """Return the lines of each label, and under `AMBIGUOUS` those that fit any label."""
    text = resources.files(__package__).joinpath("transcripts.json").read_text(encoding="utf-8")
    transcripts: dict[str, list[str]] = json.loads(text)
    return transcripts


def plan_clips(config: SampleConfig) -> list[ClipPlan]:
    """Plan all clips: labelled clips first, then unlabelled ones."""
    rng = np.random.default_rng([config.seed, 0, 1])
    gold, speakers = _assign_labels_and_speakers(config, rng)
    given = _given_labels(gold[: config.labelled], config.noise, rng)
    spoken = _assign_lines(gold, config.ambiguous, rng)
    order = rng.permutation(len(gold))
    silent = set(order[: round(config.silent * len(gold))].tolist())
    untranscribed = set(order[::-1][: round(config.untranscribed * len(gold))].tolist())
    return [
        ClipPlan(
            index=index,
            speaker=speakers[index],
            gold_label=label,
            given_label=given[index] if index < config.labelled else "",
            spoken=spoken[index],
            transcript="" if index in untranscribed else spoken[index],
            has_audio=index not in silent,
        )
        for index, label in enumerate(gold)
    ]


def _assign_labels_and_speakers(config: SampleConfig, rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Return the gold label and the speaker of each clip.

    In both parts of the corpus, each speaker acts each label about equally often.
    """
    gold: list[str] = []
    speakers: list[int] = []
    for count in (config.labelled, config.unlabeled):
        labels = _labels_by_share(count)
        turns = (np.arange(count) + int(rng.integers(config.speakers))) % config.speakers
        order = rng.permutation(count)
        gold += [labels[i] for i in order]
        speakers += [int(turns[i]) for i in order]
    return gold, speakers


def _labels_by_share(count: int) -> list[str]:
    """Return ``count`` labels in the proportions of `SHARES` (largest remainder method)."""
    exact = {label: share * count for label, share in SHARES.items()}
    counts = {label: int(value) for label, value in exact.items()}
    by_remainder = sorted(exact, key=lambda label: counts[label] - exact[label])
    for label in by_remainder[: count - sum(counts.values())]:
        counts[label] += 1
    return [label for label, number in counts.items() for _ in range(number)]


def _given_labels(gold: Sequence[str], noise: float, rng: np.random.Generator) -> list[str]:
    """Return the gold labels with ``round(noise * n)`` of them replaced by another label."""
    given = list(gold)
    for index in rng.permutation(len(gold))[: round(noise * len(gold))]:
        others = [label for label in SHARES if label != gold[index]]
        given[index] = others[int(rng.integers(len(others)))]
    return given


def _assign_lines(gold: Sequence[str], ambiguous: float, rng: np.random.Generator) -> list[str]:
    """Return a line for each clip; a line repeats only after all lines of its kind were used."""
    transcripts = read_transcripts()
    ambiguous_clips = set(rng.permutation(len(gold))[: round(ambiguous * len(gold))].tolist())
    kinds = [AMBIGUOUS if index in ambiguous_clips else label for index, label in enumerate(gold)]
    order: dict[str, NDArray[np.int64]] = {kind: rng.permutation(len(lines)) for kind, lines in transcripts.items()}
    used = dict.fromkeys(transcripts, 0)
    lines = []
    for kind in kinds:
        position = used[kind] % len(transcripts[kind])
        lines.append(transcripts[kind][order[kind][position]])
        used[kind] += 1
    return lines


@dataclass(frozen=True, slots=True)
class Prosody:
    """Offsets from the speaker's normal prosody.

    Attributes:
        rate: Words per minute.
        pitch: eSpeak NG's pitch, on a scale of 0-99.
        span: eSpeak NG's pitch range, on a scale of 0-99.
        gain: Loudness in decibels.
        effort: Gain of the upper frequency band, in percent: higher for a pressed voice, lower for a tired one.
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
"""The prosody of each emotion at full strength: signs follow the literature, amounts are tuned for this corpus."""

PROSODY_SPREAD = Prosody(rate=6, pitch=3, span=5, gain=1.2, effort=8)
"""Standard deviation of the random part of a clip's prosody."""


def draw_acting(gold_label: str, weak: float, rng: np.random.Generator) -> dict[str, float]:
    """Draw the strength of the emotions in a face or a voice; emotions that are absent have strength 0."""
    others = [label for label in SHARES if label != gold_label]
    other = others[int(rng.integers(len(others)))]
    is_weak, is_blended = rng.random() < weak, rng.random() < 0.3
    strength = rng.uniform(0.0, 0.3) if is_weak else rng.uniform(0.55, 1.0)
    other_strength = rng.uniform(0.15, 0.4) if is_blended else rng.uniform(0.0, 0.1)
    return {gold_label: float(strength), other: float(other_strength)}


def expression(strengths: Mapping[str, float], moment: float) -> dict[str, float]:
    """Compute the strengths of the facial actions.

    Args:
        strengths: Strength of each emotion at its apex.
        moment: Intensity at this moment, 0-1.
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
    """Draw the prosody of a clip: the weighted prosody of its emotions plus noise."""

    def total(name: str) -> float:
        mean = sum(strength * float(getattr(PROSODY[label], name)) for label, strength in strengths.items())
        return mean + float(rng.normal(0, getattr(PROSODY_SPREAD, name)))

    return Prosody(*(total(field.name) for field in fields(Prosody)))
