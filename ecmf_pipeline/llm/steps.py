"""Which step asks: that of a local model, or that of a server."""

from __future__ import annotations

from collections.abc import Sequence

from ecmf_pipeline.llm.asking import AskingSteps
from ecmf_pipeline.llm.budget import Budget
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Prompt
from ecmf_pipeline.llm.step import LocalScorers, ScoringSteps
from ecmf_pipeline.runner import StepFactory


def steps_of(config: LlmConfig, prompt: Prompt, labels: Sequence[str], budget: Budget | None = None) -> StepFactory:
    """The factory of the steps that score labels; it loads neither a model nor a client library.

    Args:
        config: The model and what it is asked.
        prompt: The prompt, packaged or with examples of the corpus.
        labels: Labels to choose from, (K,).
        budget: What may still be sent to a server; None: as ``config`` says.
    """
    if config.backend == "openai":
        return AskingSteps(config, prompt, tuple(labels), budget)
    return ScoringSteps(LocalScorers(config, prompt), tuple(labels))
