"""A causal language model of transformers on this machine, its tokenizer, and the scoring of labels with it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import Message, Prompt, as_data, load_prompt


class LocalModel:
    """Any causal language model of transformers, GGUF files included; loaded when it is first needed.

    Args:
        config: The model.
        worker: Number of the worker that asks; where ``config.device`` leaves the choice, workers share out the GPUs.
    """

    def __init__(self, config: LlmConfig, worker: int = 0) -> None:
        self.config = config
        self._worker = worker

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        from transformers import AutoTokenizer

        return _load(AutoTokenizer, self.config)

    @cached_property
    def network(self) -> Any:
        """The model itself, on its device."""
        from transformers import AutoModelForCausalLM

        device = self.config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda":
            device = f"cuda:{self._worker % torch.cuda.device_count()}"
        network = _load(AutoModelForCausalLM, self.config, dtype=getattr(torch, self.config.dtype))
        return network.to(device).eval()

    @cached_property
    def accepts(self) -> frozenset[str]:
        """Names of the arguments that the model's forward pass takes."""
        return frozenset(inspect.signature(self.network.forward).parameters)

    @property
    def reads(self) -> int | None:
        """How many tokens it can read; None where it does not say."""
        limit: int | None = getattr(self.network.config, "max_position_embeddings", None)
        return limit

    @cached_property
    def opening(self) -> list[int]:
        """The sign that opens a text, where the model knows one."""
        sign = self.tokenizer.bos_token_id
        return [sign] if sign in self.tokenizer("")["input_ids"][:1] else []

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without signs of the tokenizer's own."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without half a character at its end."""
        text: str = self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text.rstrip("\ufffd")

    def chat(self, messages: Sequence[Message]) -> str:
        """The turns of a chat as the model's template writes them, up to where it answers.

        Raises:
            ModelError: When the model has no template.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(f"{self.config.model} has no chat template", "set chat_template: false")
        rendered: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return rendered

    def harmless(self, text: str) -> str:
        """The text with none of the tokenizer's own signs in it, such as those that end a turn."""
        for sign in sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True):
            if sign.strip() and sign in text:
                text = text.replace(sign, f"{sign[0]} {sign[1:]}" if len(sign) > 1 else " ")
        return text

    def prefix_cache(self, prefix: Sequence[int]) -> Any:
        """Keys and values of a prefix; None where the model keeps a state that is not made of keys and values."""
        if not prefix or not {"past_key_values", "use_cache"} <= self.accepts:
            return None
        tokens = torch.tensor([list(prefix)], device=self.network.device)  # (1, P)
        cache = self.network(tokens, use_cache=True).past_key_values
        return None if cache is None or any(cache.is_linear) else cache

    @staticmethod
    def repeated(cache: Any, rows: int) -> Any:
        """A copy of a prefix' keys and values for each of several rows; a forward pass appends to what it is given."""
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(rows)
        return cache

    def logits(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        kept: Sequence[int],
        cache: Any = None,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One forward pass over a batch.

        Args:
            tokens: What comes after the cache, (B, L).
            mask: 1 where there is a token and 0 where a row is filled up, (B, P + L).
            kept: Positions in ``tokens`` whose logits are wanted.
            cache: Keys and values of the P tokens before, of each row; it is appended to.
            places: Place of each token in its row's text, (B, L), where rows are filled up in between.

        Returns:
            Logits, (B, len(kept), V).
        """
        device = self.network.device
        options: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        if places is not None:
            options["position_ids"] = places.to(device)
        positions = torch.tensor(list(kept), device=device)
        if narrow := "logits_to_keep" in self.accepts:
            options["logits_to_keep"] = positions
        logits: torch.Tensor = self.network(tokens.to(device), attention_mask=mask.to(device), **options).logits
        return logits if narrow else logits[:, positions]


def _load(kind: Any, config: LlmConfig, **options: Any) -> Any:
    """Load a tokenizer or model without letting its progress bars into a log."""
    if config.gguf_file:
        options["gguf_file"] = config.gguf_file
    config.files()  # says clearly what is missing
    try:
        with _quiet():
            return kind.from_pretrained(
                config.model, revision=config.revision or "main", trust_remote_code=False, **options
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{config.model} cannot be loaded: {error}", "check `model`, `gguf_file` and `revision`"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars off standard error unless it is a terminal; the GGUF reader of transformers has no switch."""
    if sys.stderr.isatty():
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()):
        yield


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
