"""."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ecmf_pipeline.core.errors import (
    ClipError,
    FeaturesNotFinite,
    as_out_of_memory,
)
from ecmf_pipeline.llm.cache import TextScores
from ecmf_pipeline.llm.client import LabelScorer
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Prompt
from ecmf_pipeline.runner import (
    Outcome,
    Step,
    Target,
)

BRANCH = "llm"
"""The one branch of this loop."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One text that the model is to be asked about.

    Attributes:
        text: The words.
        targets: The clips that say them.
    """

    text: str
    targets: tuple[Target, ...]

    @property
    def length(self) -> int:
        """Its characters."""
        return len(self.text)

    def alone(self) -> Sequence[Utterance]:
        """Itself: its clips say one and the same."""
        return [self]


class Scorers(Protocol):
    """Builds a model in the worker that asks it; picklable."""

    def __call__(self, worker: int) -> LabelScorer:
        """Build the model.

        Args:
            worker: Number of the worker, 0 to N - 1.
        """


@dataclass(frozen=True, slots=True)
class LocalScorers:
    """Builds `local.TransformersScorer`. The process that only hands out the work never loads torch.

    Attributes:
        config: Model, prompt and batch size.
        prompt: The prompt with examples of the corpus; None: as it is packaged.
    """

    config: LlmConfig
    prompt: Prompt | None = None

    def __call__(self, worker: int) -> LabelScorer:
        """See `Scorers`."""
        from ecmf_pipeline.llm.local_scoring import TransformersScorer

        return TransformersScorer(self.config, worker, self.prompt)


@dataclass(frozen=True, slots=True)
class ScoringSteps:
    """Makes the step of each worker, in that worker.

    Attributes:
        scorers: Builds the model.
        labels: Labels to choose from, (K,).
    """

    scorers: Scorers
    labels: tuple[str, ...]

    def __call__(self, worker: int) -> ScoringStep:
        """Load the model."""
        return ScoringStep(self.scorers(worker), self.labels)


class ScoringStep(Step[Utterance, str, TextScores]):
    """Scores the labels for texts.

    Args:
        scorer: The model.
        labels: Labels to choose from, (K,).
    """

    def __init__(self, scorer: LabelScorer, labels: Sequence[str]) -> None:
        self._scorer = scorer
        self._labels = labels
        scorer.score([], labels)  # loads and calibrates now: the time that it takes is no text's fault

    def open(self, item: Utterance) -> str:
        """The words."""
        return item.text

    def work(self, batch: Sequence[tuple[Utterance, str]]) -> list[Outcome[TextScores]]:
        """Score a batch; the clips that say a text share its row."""
        with as_out_of_memory():
            scores = self._scorer.score([text for _, text in batch], self._labels)  # (B, K)
        outcomes: list[Outcome[TextScores]] = []
        for (item, text), row in zip(batch, scores, strict=True):
            result: TextScores | ClipError
            if np.isfinite(row).all():
                result = TextScores.of(text, row, cut=text in self._scorer.cut)
            else:
                result = FeaturesNotFinite("the model's scores of what is said are not finite")
            outcomes += [Outcome(target, result) for target in item.targets]
        return outcomes
