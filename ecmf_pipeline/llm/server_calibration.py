"""Calibration of a server's scores: it is asked about texts without content like about any other, and once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ecmf_pipeline.errors import ModelError
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Prompt
from ecmf_pipeline.llm.scoring import Scored

CALIBRATION = "/calibration/"
"""Begins the names of the calibration texts; no clip id holds a slash."""


def calibration_of_server(config: LlmConfig, prompt: Prompt) -> list[str]:
    """The texts that a server is asked besides those of the clips; none for a local model, which sees to it itself."""
    if config.backend != "openai":
        return []
    return [text for text in prompt.calibration_texts(config.calibration) if text.strip()]


def calibrated(found: Scored, texts: int) -> Scored:
    """The scores of the clips less the mean of those of the calibration texts.

    Args:
        found: Scores, (n + texts, K), those of the calibration texts last.
        texts: How many those are; with none, the scores stay as they are.

    Raises:
        ModelError: When the model gave no valid answer on any calibration text.
    """
    if not texts:
        return found
    values, baseline = found.values[:-texts], found.values[-texts:]
    answered = np.isfinite(baseline).all(axis=1)
    if not answered.any():
        raise ModelError(
            f"the model gave no valid answer on any of the {texts} calibration texts",
            "see `ecmf-pipe llm export` for what it said; take a model that keeps to a schema, or set "
            "llm.calibration: none",
        )
    return replace(found, values=values - baseline[answered].mean(axis=0))
