"""What a server must answer: JSON under a schema, checked here whatever the server promises."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.llm.schema import InvalidAnswer, OneOf, Schema, read_object

_VALUE = re.compile(r'"label"\s*:\s*"')
_LEAST = 1e-6
"""Probability left for the labels that no alternative names, where the others leave less."""
_MOST = 1e-3
"""A log-probability is no more than 0, but for rounding."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer.

    Attributes:
        text: The token.
        alternatives: What could have stood there: (text, log-probability).
    """

    text: str
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a server.

    Attributes:
        content: What the model wrote.
        tokens: Its tokens, where the server was asked for log-probabilities and gave them.
    """

    content: str
    tokens: tuple[Token, ...] = ()


def label_schema(words: Sequence[str]) -> dict[str, Any]:
    """The schema of an answer that names one of some words."""
    return Schema.of(label=OneOf(tuple(words))).json_schema()


def read_label(content: str, words: Sequence[str]) -> int:
    """The index of the word that an answer names.

    Raises:
        InvalidAnswer: When it names none of them.
    """
    label = read_object(content, {"label"})["label"]
    if not isinstance(label, str) or label not in words:
        raise InvalidAnswer("names no label that was asked for")
    return list(words).index(label)


def read_scores(answer: Answer, words: Sequence[str]) -> NDArray[np.float64]:
    """Log-probability of each word as the answer's label, (K,), from the alternatives where the label begins.

    The alternatives are tokens: one counts for the words that begin with it. Where it may begin several, the token that
    was written counts for the word that was written, and any other is shared equally. The words that no alternative
    names share what the others leave, and never get more than the least of them.

    Raises:
        InvalidAnswer: When the answer names none of the words, or its tokens do not spell it, or have what can be no
            log-probability.
    """
    chosen = read_label(answer.content, words)
    found = _VALUE.search(answer.content)
    spelled = "".join(token.text for token in answer.tokens)
    if found is None or spelled[: len(answer.content)] != answer.content:
        raise InvalidAnswer("its tokens do not spell it")
    start, before = found.end(), 0
    for token in answer.tokens:
        if before + len(token.text) > start:
            break
        before += len(token.text)
    else:
        raise InvalidAnswer("its tokens do not spell it")
    return _shared_out(token, answer.content[before:start], chosen, words)


def _shared_out(token: Token, opening: str, chosen: int, words: Sequence[str]) -> NDArray[np.float64]:
    probs = np.zeros(len(words))
    for text, likelihood in dict(token.alternatives).items():
        if not likelihood <= _MOST:  # written so that NaN is refused too
            raise InvalidAnswer(f"gives {likelihood} for a log-probability")
        if not text.startswith(opening) or not math.isfinite(likelihood):
            continue
        begun = text[len(opening) :].split('"')[0]
        fitting = [index for index, word in enumerate(words) if begun and word.startswith(begun)]
        if text == token.text and chosen in fitting:
            fitting = [chosen]
        probs[fitting] += math.exp(likelihood) / max(1, len(fitting))
    if probs[chosen] <= 0:
        raise InvalidAnswer("its label is not among its own alternatives")
    if (unseen := probs <= 0).any():
        left = max(1.0 - float(probs.sum()), _LEAST) / int(unseen.sum())
        probs[unseen] = min(left, float(probs[~unseen].min()))
    scores: NDArray[np.float64] = np.log(probs)
    return scores


def share_scores(chosen: Sequence[int], count: int) -> NDArray[np.float64]:
    """Log-share of each of ``count`` labels among samples, (K,), each raised by half a sample (Jeffreys)."""
    votes = np.bincount(np.asarray(chosen, np.int64), minlength=count) + 0.5
    scores: NDArray[np.float64] = np.log(votes / votes.sum())
    return scores
