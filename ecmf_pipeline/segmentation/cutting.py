"""Cut a recording at its cues or at its speech; pure functions of times."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil

from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.segmentation.config import SegmentConfig

_DECIMALS = 3
"""Times are stored in milliseconds."""


_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]\s*|[^\s\u3040-\u30ff\u3400-\u9fff]+\s*")
"""A word with the space after it; Chinese and Japanese write none, there a character."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A span of a recording in which somebody speaks, in seconds, with its words if they are known."""

    start: float
    end: float
    text: str = ""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Cutting:
    """The clips of a recording.

    Attributes:
        clips: The clips, in order, without overlap.
        problems: How many cues or utterances were changed, by problem.
    """

    clips: tuple[Utterance, ...]
    problems: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """Return the problems in one line; empty if there are none."""
        return ", ".join(f"{format_count(count, 'cue')} {problem}" for problem, count in sorted(self.problems.items()))


def cut(utterances: Sequence[Utterance], seconds: float, config: SegmentConfig) -> Cutting:
    """Cut a recording into clips of at most ``config.max_seconds``.

    Cues beyond the end of the recording are dropped, or end with it. Where two cues overlap, the first ends where the
    second starts; if it then is too short, or one is within the other, they become one clip with the words of both.

    Args:
        utterances: Cues, or spans of speech.
        seconds: Length of the recording.
        config: The lengths of clips.
    """
    problems: Counter[str] = Counter()
    single = _without_overlaps(_inside(utterances, seconds, problems), config, problems)
    single = _joined(single, config) if config.by == "speech" else single
    padded = _padded(single, seconds, config)
    long_enough = [one for one in padded if one.seconds >= config.min_seconds - 1e-6]
    if dropped := len(padded) - len(long_enough):
        problems["too short, dropped"] += dropped
    clips = [part for one in long_enough for part in _parts(one, config.max_seconds)]
    return Cutting(
        tuple(replace(c, start=round(c.start, _DECIMALS), end=round(c.end, _DECIMALS)) for c in clips), problems
    )


def _inside(utterances: Sequence[Utterance], seconds: float, problems: Counter[str]) -> list[Utterance]:
    inside = []
    for one in sorted(utterances, key=lambda one: (one.start, one.end)):
        if one.end <= one.start or one.end <= 0:
            problems["without length, dropped"] += 1
        elif one.start >= seconds:
            problems["after the end of the recording, dropped"] += 1
        else:
            if one.end > seconds + 0.5:  # subtitles are often shown a little longer than the recording lasts
                problems["beyond the end of the recording, shortened"] += 1
            inside.append(replace(one, start=max(one.start, 0.0), end=min(one.end, seconds)))
    return inside


def _without_overlaps(cues: Sequence[Utterance], config: SegmentConfig, problems: Counter[str]) -> list[Utterance]:
    single: list[Utterance] = []
    for cue in cues:
        previous = single[-1] if single else None
        if previous is None or cue.start >= previous.end:
            single.append(cue)
            continue
        if previous.end - cue.start > _MAX_TOUCH:
            problems["overlapping, cut or joined"] += 1
        if cue.end <= previous.end or cue.start - previous.start < config.min_seconds:
            text = previous.text if cue.text == previous.text else f"{previous.text} {cue.text}".strip()
            single[-1] = Utterance(previous.start, max(previous.end, cue.end), text)
        else:
            single[-1] = replace(previous, end=cue.start)
            single.append(cue)
    return single


_MAX_TOUCH = 0.02
"""Seconds of overlap that are the rounding of times."""


def _joined(speech: Sequence[Utterance], config: SegmentConfig) -> list[Utterance]:
    """Join spans of speech with short pauses to utterances, and cut those that are too long at their longest pauses."""
    groups: list[list[Utterance]] = []
    for one in speech:
        if groups and one.start - groups[-1][-1].end < config.pause:
            groups[-1].append(one)
        else:
            groups.append([one])
    limit = config.max_seconds - 2 * min(config.pad, config.max_seconds / 4)
    return [Utterance(part[0].start, part[-1].end) for group in groups for part in _cut_at_pauses(group, limit)]


def _cut_at_pauses(group: list[Utterance], limit: float) -> list[list[Utterance]]:
    todo, done = [group], []
    while todo:
        part = todo.pop()
        if len(part) == 1 or part[-1].end - part[0].start <= limit:
            done.append(part)
            continue
        pauses = [after.start - before.end for before, after in pairwise(part)]
        position = 1 + max(range(len(pauses)), key=pauses.__getitem__)
        todo += [part[position:], part[:position]]
    return done


def _padded(utterances: Sequence[Utterance], seconds: float, config: SegmentConfig) -> list[Utterance]:
    """Widen each by ``pad``, and short ones to ``min_seconds``, at most by half of the time to the neighbours."""
    padded = []
    for number, one in enumerate(utterances):
        before = one.start - utterances[number - 1].end if number else 2 * one.start
        after = utterances[number + 1].start - one.end if number + 1 < len(utterances) else 2 * (seconds - one.end)
        pad = max(config.pad, (config.min_seconds - one.seconds) / 2)
        left, right = min(pad, before / 2), min(pad, after / 2)
        if (missing := config.min_seconds - one.seconds - left - right) > 0:
            left, right = min(left + missing, before / 2), min(right + missing, after / 2)
        padded.append(replace(one, start=one.start - left, end=one.end + right))
    return padded


def _parts(one: Utterance, limit: float) -> list[Utterance]:
    """Cut into equal parts of at most ``limit`` seconds; the words are divided in proportion."""
    count = max(1, ceil(one.seconds / limit - 1e-6))
    words = _WORD.findall(one.text)
    if count == 1:
        return [one]
    return [
        Utterance(
            one.start + one.seconds * part / count,
            one.start + one.seconds * (part + 1) / count,
            "".join(words[len(words) * part // count : len(words) * (part + 1) // count]).strip(),
        )
        for part in range(count)
    ]
