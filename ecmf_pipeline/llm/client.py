"""What the pipeline asks of a language model, whoever answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class LabelScorer(Protocol):
    """Says how well each label fits each utterance.

    `local.TransformersScorer` is one; a client of an OpenAI-compatible server would be another.
    """

    cut: set[str]
    """Utterances of which only the beginning was read, since they were too long."""

    def score(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
        """Calibrated log-scores, (n, K): higher fits better; a row is comparable within itself, not with others.

        Args:
            texts: Utterances, (n,), as they were spoken.
            labels: Labels to choose from, (K,).
        """
        ...
