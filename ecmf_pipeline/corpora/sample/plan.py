"""Who says what in which clip, and which given labels are wrong: everything but the pictures and the sound."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.corpora.sample.config import SampleConfig

SHARES: Mapping[str, float] = MappingProxyType(
    {"neutral": 0.20, "angry": 0.18, "happy": 0.19, "sad": 0.16, "worried": 0.14, "surprise": 0.13}
)
"""The labels, in the challenge's order, and each one's share of the clips."""

AMBIGUOUS = "ambiguous"
"""The key of the transcripts that any emotion may be said with."""


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """One clip before it is drawn.

    Attributes:
        index: Its number; with the seed, all that its pictures and its sound are drawn from.
        speaker: The speaker's number.
        gold_label: The emotion it is acted with.
        given_label: The label that is handed out, right or wrong; empty for an unlabeled clip.
        spoken: The words that are spoken.
        transcript: The words that the subtitles know; empty in a few clips.
        has_audio: Whether the clip gets an audio stream.
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
        """The clip's name."""
        return f"sample_{self.index:05d}"


def read_transcripts() -> dict[str, list[str]]:
    """The transcripts of each label, and under `AMBIGUOUS` those that do not tell one."""
    text = resources.files(__package__).joinpath("transcripts.json").read_text(encoding="utf-8")
    transcripts: dict[str, list[str]] = json.loads(text)
    return transcripts


def plan_clips(config: SampleConfig) -> list[ClipPlan]:
    """Lay out the whole corpus: labelled clips first, then unlabeled ones."""
    rng = np.random.default_rng([config.seed, 0, 1])
    gold, speakers = _cast(config, rng)
    given = _given_labels(gold[: config.labelled], config.noise, rng)
    spoken = _lines(gold, config.ambiguous, rng)
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


def _cast(config: SampleConfig, rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Labels and speakers: every speaker acts every label about equally often, in both parts of the corpus."""
    gold: list[str] = []
    speakers: list[int] = []
    for count in (config.labelled, config.unlabeled):
        labels = _by_share(count)
        turns = (np.arange(count) + int(rng.integers(config.speakers))) % config.speakers
        order = rng.permutation(count)
        gold += [labels[i] for i in order]
        speakers += [int(turns[i]) for i in order]
    return gold, speakers


def _by_share(count: int) -> list[str]:
    """``count`` labels in the proportions of `SHARES`, by largest remainder."""
    exact = {label: share * count for label, share in SHARES.items()}
    counts = {label: int(value) for label, value in exact.items()}
    by_remainder = sorted(exact, key=lambda label: counts[label] - exact[label])
    for label in by_remainder[: count - sum(counts.values())]:
        counts[label] += 1
    return [label for label, number in counts.items() for _ in range(number)]


def _given_labels(gold: Sequence[str], noise: float, rng: np.random.Generator) -> list[str]:
    """The gold labels, ``round(noise * n)`` of them replaced by another label."""
    given = list(gold)
    for index in rng.permutation(len(gold))[: round(noise * len(gold))]:
        others = [label for label in SHARES if label != gold[index]]
        given[index] = others[int(rng.integers(len(others)))]
    return given


def _lines(gold: Sequence[str], ambiguous: float, rng: np.random.Generator) -> list[str]:
    """A line for each clip; none is said twice before all of its kind have been said."""
    transcripts = read_transcripts()
    vague = set(rng.permutation(len(gold))[: round(ambiguous * len(gold))].tolist())
    kinds = [AMBIGUOUS if index in vague else label for index, label in enumerate(gold)]
    order: dict[str, NDArray[np.int64]] = {kind: rng.permutation(len(lines)) for kind, lines in transcripts.items()}
    said = dict.fromkeys(transcripts, 0)
    lines = []
    for kind in kinds:
        turn = said[kind] % len(transcripts[kind])
        lines.append(transcripts[kind][order[kind][turn]])
        said[kind] += 1
    return lines
