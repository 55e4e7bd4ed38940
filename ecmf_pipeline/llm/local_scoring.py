"""Scoring labels with a local causal language model, through transformers.

The score of a label is its exact log-likelihood after the prompt (the sum over its tokens), less its mean over the
calibration texts. The part of the prompt that all utterances share is run once and its keys and values are kept. The
rest of each prompt is padded on the right: a causal model's outputs do not depend on what comes after, so padding
changes no score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.local_model import LocalModel
from ecmf_pipeline.llm.prompt import Prompt, as_data, load_prompt

_PROBES = ("", "a", "The", "1", "'", "...", "?", "(", "中", "é")
"""Beginnings of utterances; what the tokens of all their prompts share is the prefix."""


@dataclass(frozen=True, slots=True)
class _Task:
    """What stays the same for every utterance scored against one set of labels.

    Attributes:
        labels: The labels, (K,).
        prefix: Tokens that the prompts share.
        cache: Their keys and values (a transformers ``Cache``); None where the model's cannot be reused.
        branches: For each run of tokens to append to a prompt, the labels read off it: (label, its tokens).
    """

    labels: tuple[str, ...]
    prefix: list[int]
    cache: Any
    branches: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]]


@dataclass(frozen=True, slots=True)
class _Row:
    """One sequence of a batch: the prompt of an utterance and one branch of the labels."""

    text: int
    prompt: list[int]
    branch: tuple[int, ...]


class TransformersScorer:
    """Scores labels with any causal language model of transformers, GGUF files included.

    The model is loaded when the first score is asked.

    Args:
        config: Model, prompt and batch size.
        prompt: The prompt with examples of the corpus; None: as it is packaged.
        worker: Number of the worker that asks; where ``config.device`` leaves the choice, workers share out the GPUs.

    Attributes:
        cut: Utterances that were cut to ``config.max_tokens``.
    """

    def __init__(self, config: LlmConfig, worker: int = 0, prompt: Prompt | None = None) -> None:
        self.config = config
        self.cut: set[str] = set()
        self._model = LocalModel(config, worker)
        self._prompt = prompt or load_prompt(config.prompt)
        self._tasks: dict[tuple[str, ...], _Task] = {}
        self._baselines: dict[tuple[str, ...], NDArray[np.float64]] = {}

    def score(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
        """Log-likelihood of each label less its mean over the calibration texts, (n, K).

        Source: Zhao et al. 2021, arXiv 2102.09690; Zhou et al. 2023, arXiv 2309.17249.

        Raises:
            ModelError: When the model cannot be loaded or the prompt does not fit into it.
        """
        key = tuple(labels)
        if key not in self._baselines:
            calibration = self._prompt.calibration_texts(self.config.calibration)
            likelihoods = self.log_likelihoods(calibration, labels)
            self._baselines[key] = likelihoods.mean(axis=0) if len(calibration) else np.zeros(len(labels))
        return self.log_likelihoods(texts, labels) - self._baselines[key]

    @torch.inference_mode()
    def log_likelihoods(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
        """Log-likelihood of each label after the prompt, uncalibrated, (n, K).

        Raises:
            ModelError: When the model cannot be loaded or the prompt does not fit into it.
        """
        task = self._task(labels)
        prompts = [self._tokens(self._harmless(text), labels) for text in texts]
        rows = [_Row(text, prompt, branch) for text, prompt in enumerate(prompts) for branch in task.branches]
        # Sequences of like length share a batch; those that do not begin with the prefix go without it.
        rows.sort(key=lambda row: (self._shared(row, task), len(row.prompt) + len(row.branch)))
        scores = np.full((len(texts), len(labels)), np.nan)
        for shares in (False, True):
            some = [row for row in rows if self._shared(row, task) is shares]
            for start in range(0, len(some), self.config.batch_size):
                self._score_batch(some[start : start + self.config.batch_size], task, scores, shares=shares)
        return scores

    def _task(self, labels: Sequence[str]) -> _Task:
        """Tokens of the labels and keys and values of the prefix, made once per set of labels."""
        key = tuple(labels)
        if key not in self._tasks:
            self._refuse_signs(labels)
            prompts = [self._tokens(probe, labels) for probe in _PROBES]
            length = next(
                (i for i, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1),
                min(len(prompt) for prompt in prompts) - 1,
            )
            prefix = prompts[0][:length]
            branches: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
            for index, tokens in enumerate(self._answers(labels)):
                branches[tokens[:-1]].append((index, tokens))
            longest = max(len(prompt) for prompt in prompts) + max(map(len, branches)) + self.config.max_tokens + 8
            if longest > (limit := self._model.reads or longest):
                raise ModelError(
                    f"{self.config.model} reads {limit} tokens; the prompt with an utterance may take {longest}",
                    "lower max_tokens, shorten the prompt or take another model",
                )
            self._tasks[key] = _Task(key, prefix, self._model.prefix_cache(prefix), dict(branches))
        return self._tasks[key]

    def _answers(self, labels: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokens of each label where it follows the prompt."""
        space = "" if self.config.chat_template else self._prompt.space
        before = self._text("", labels)
        start = self._model.encode(before)
        answers = []
        for word in self._prompt.words(labels):
            whole = self._model.encode(before + space + word)
            # A tokenizer may merge the prompt's end with the answer; then the answer's own tokens are appended.
            answers.append(
                tuple(whole[len(start) :] if whole[: len(start)] == start else self._model.encode(space + word))
            )
        return answers

    def _text(self, utterance: str, labels: Sequence[str]) -> str:
        if not self.config.chat_template:
            return self._shown.render(utterance, labels)
        return self._model.chat(self._shown.messages(utterance, labels))

    def _tokens(self, utterance: str, labels: Sequence[str]) -> list[int]:
        """Tokens of the whole prompt, with the sign that opens a text where the model knows one."""
        tokens = self._model.encode(self._text(utterance, labels))
        if self.config.chat_template:  # the template writes it
            return tokens
        return [*self._model.opening, *tokens]

    @cached_property
    def _shown(self) -> Prompt:
        """The prompt whose examples, which may be transcripts too, hold none of the tokenizer's own signs."""
        harmless = {
            label: known.model_copy(update={"example": self._model.harmless(known.example)})
            for label, known in self._prompt.labels.items()
        }
        return self._prompt.model_copy(update={"labels": harmless})

    def _refuse_signs(self, labels: Sequence[str]) -> None:
        """A label is data as well, but cannot be changed: it is what is asked for."""
        own = [token.content for token in self._model.tokenizer.added_tokens_decoder.values() if token.special]
        for label, word in zip(labels, self._prompt.words(labels), strict=True):
            if any(sign in word for sign in own):
                raise ModelError(
                    f"the label {label!r} holds a sign of the tokenizer of {self.config.model}", "rename the label"
                )

    def _harmless(self, utterance: str) -> str:
        """The utterance as data: one line, no quotation marks, none of the tokenizer's own signs, and not too long."""
        text = self._model.harmless(as_data(utterance))
        tokens = self._model.encode(text)
        if len(tokens) <= self.config.max_tokens:
            return text
        self.cut.add(utterance)
        return self._model.decode(tokens[: self.config.max_tokens])

    @staticmethod
    def _shared(row: _Row, task: _Task) -> bool:
        size = len(task.prefix)
        return task.cache is not None and len(row.prompt) > size and row.prompt[:size] == task.prefix

    def _score_batch(self, rows: Sequence[_Row], task: _Task, scores: NDArray[np.float64], *, shares: bool) -> None:
        """Run a batch of B rows and write the scores read off them."""
        skip = len(task.prefix) if shares else 0
        tails = [row.prompt[skip:] + list(row.branch) for row in rows]
        width = max(map(len, tails))
        tokens = torch.tensor([tail + [0] * (width - len(tail)) for tail in tails])  # (B, L)
        mask = torch.tensor([[1] * (skip + len(tail)) + [0] * (width - len(tail)) for tail in tails])  # (B, P + L)
        # The branch's first token is read at the prompt's last, and so on to the end of the tail.
        read = [range(len(row.prompt) - skip - 1, len(tail)) for row, tail in zip(rows, tails, strict=True)]
        kept = sorted({position for positions in read for position in positions})
        cache = self._model.repeated(task.cache, len(rows)) if shares else None
        logits = self._model.logits(tokens, mask, kept, cache)  # (B, len(kept), V)
        column = {position: index for index, position in enumerate(kept)}
        for index, (row, positions) in enumerate(zip(rows, read, strict=True)):
            steps = logits[index, [column[position] for position in positions]]
            likelihood = steps.float().log_softmax(dim=-1).cpu().numpy()  # (tokens of the branch + 1, V)
            for label, answer in task.branches[row.branch]:
                scores[row.text, label] = sum(float(likelihood[step, token]) for step, token in enumerate(answer))
