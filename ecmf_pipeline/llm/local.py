"""A local causal language model of transformers, its tokenizer, and label scores from it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import pickle
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
    """A causal language model of transformers, also from GGUF files; loaded on first use.

    Args:
        config: The model.
        worker: Number of the worker; with ``device: auto`` or ``cuda``, it selects the GPU.
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
        """The network, on its device."""
        from transformers import AutoModelForCausalLM

        device = self.config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda":
            device = f"cuda:{self._worker % torch.cuda.device_count()}"
        # weights_only: a pickle may hold tensors only, no code.
        dtype = getattr(torch, self.config.dtype)
        network = _load(AutoModelForCausalLM, self.config, dtype=dtype, weights_only=True)
        return network.to(device).eval()

    @cached_property
    def forward_arguments(self) -> frozenset[str]:
        """Names of the arguments of the forward pass."""
        return frozenset(inspect.signature(self.network.forward).parameters)

    @property
    def max_length(self) -> int | None:
        """Maximum number of tokens; None if the config of the network does not contain it."""
        limit: int | None = getattr(self.network.config, "max_position_embeddings", None)
        return limit

    @cached_property
    def bos_tokens(self) -> list[int]:
        """The token at the start of a text; empty if the tokenizer adds none."""
        token = self.tokenizer.bos_token_id
        return [token] if token in self.tokenizer("")["input_ids"][:1] else []

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without an incomplete character at its end."""
        text: str = self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text.rstrip("\ufffd")

    def chat(self, messages: Sequence[Message]) -> str:
        """Return the turns of a chat in the chat template of the model, up to the start of the answer.

        Raises:
            ModelError: If the model has no chat template.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(f"{self.config.model} has no chat template", "set llm.chat_template: false")
        rendered: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return rendered

    def escape_special_tokens(self, text: str) -> str:
        """Return the text without special tokens, such as those that end a turn."""
        for token in sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True):
            if token.strip() and token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}" if len(token) > 1 else " ")
        return text

    def prefix_cache(self, prefix: Sequence[int]) -> Any:
        """Return the keys and values of a prefix; None if the model cannot reuse them."""
        if not prefix or not {"past_key_values", "use_cache"} <= self.forward_arguments:
            return None
        tokens = torch.tensor([list(prefix)], device=self.network.device)  # (1, P)
        cache = self.network(tokens, use_cache=True).past_key_values
        return None if cache is None or any(cache.is_linear) else cache

    @staticmethod
    def repeat_cache(cache: Any, rows: int) -> Any:
        """Return a copy of the keys and values of a prefix for each row; a forward pass appends to its cache."""
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(rows)
        return cache

    def logits(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        kept_positions: Sequence[int],
        cache: Any = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run one forward pass over a batch.

        Args:
            tokens: Tokens after the cache, (B, L).
            mask: 1 for tokens and 0 for padding, (B, P + L).
            kept_positions: Positions in ``tokens`` whose logits are returned.
            cache: Keys and values of the P tokens before, for each row; the pass appends to it.
            position_ids: Position of each token in the text of its row, (B, L), if rows have padding before their last
                token.

        Returns:
            Logits, (B, len(kept_positions), V).
        """
        device = self.network.device
        options: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        if position_ids is not None:
            options["position_ids"] = position_ids.to(device)
        positions = torch.tensor(list(kept_positions), device=device)
        if keeps_positions := "logits_to_keep" in self.forward_arguments:
            options["logits_to_keep"] = positions
        logits: torch.Tensor = self.network(tokens.to(device), attention_mask=mask.to(device), **options).logits
        return logits if keeps_positions else logits[:, positions]


def _load(kind: Any, config: LlmConfig, **options: Any) -> Any:
    """Load a tokenizer or model without progress bars in a log."""
    if config.gguf_file:
        options["gguf_file"] = config.gguf_file
    config.files()  # raises a clear error for missing files
    try:
        with _progress_bars_silenced():
            return kind.from_pretrained(
                config.model, revision=config.revision or "main", trust_remote_code=False, **options
            )
    except (OSError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{config.model} cannot be loaded: {error}", "check llm.model, llm.gguf_file and llm.revision"
        ) from error


@contextlib.contextmanager
def _progress_bars_silenced() -> Iterator[None]:
    """Discard progress bars off a terminal: the GGUF reader of transformers has no option for it."""
    if sys.stderr.isatty():
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()):
        yield


_PROBES = ("", "a", "The", "1", "'", "...", "?", "(", "中", "é")
"""Starts of utterances; the common tokens of the prompts with them are the prefix."""


@dataclass(frozen=True, slots=True)
class _LabelSet:
    """Constants of all utterances that are scored with one set of labels.

    Attributes:
        labels: The labels, (K,).
        prefix: Common tokens of the prompts.
        cache: Their keys and values (a transformers ``Cache``); None if the model cannot reuse them.
        branches: For each sequence of tokens to append to a prompt, the labels that it scores: (label, its tokens).
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
    """Label scores from a causal language model of transformers, also from GGUF files.

    The model is loaded on first use.

    Args:
        config: Model, prompt and batch size.
        prompt: The prompt with examples of the corpus; None: the packaged prompt.
        worker: Number of the worker; with ``device: auto`` or ``cuda``, it selects the GPU.

    Attributes:
        truncated: Utterances that were truncated to ``config.max_tokens``.
    """

    def __init__(self, config: LlmConfig, worker: int = 0, prompt: Prompt | None = None) -> None:
        self.config = config
        self.truncated: set[str] = set()
        self._model = LocalModel(config, worker)
        self._prompt = prompt or load_prompt(config.prompt)
        self._label_sets: dict[tuple[str, ...], _LabelSet] = {}
        self._baselines: dict[tuple[str, ...], NDArray[np.float64]] = {}

    def score(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-likelihood of each label minus its mean over the calibration texts, (n, K).

        Source: Zhao et al. 2021, arXiv 2102.09690; Zhou et al. 2023, arXiv 2309.17249.

        Raises:
            ModelError: If the model cannot be loaded or the prompt is too long for it.
        """
        key = tuple(labels)
        if key not in self._baselines:
            calibration = self._prompt.calibration_texts(self.config.calibration)
            likelihoods = self.log_likelihoods(calibration, labels)
            self._baselines[key] = likelihoods.mean(axis=0) if len(calibration) else np.zeros(len(labels))
        return self.log_likelihoods(texts, labels) - self._baselines[key]

    @torch.inference_mode()
    def log_likelihoods(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
        """Return the uncalibrated log-likelihood of each label after the prompt, (n, K).

        Raises:
            ModelError: If the model cannot be loaded or the prompt is too long for it.
        """
        label_set = self._label_set(labels)
        prompts = [self._tokens(self._prepare(text), labels) for text in texts]
        rows = [_Row(text, prompt, branch) for text, prompt in enumerate(prompts) for branch in label_set.branches]
        # Sequences of similar length share a batch, separately for those with and without the prefix.
        rows.sort(key=lambda row: (self._has_prefix(row, label_set), len(row.prompt) + len(row.branch)))
        scores = np.full((len(texts), len(labels)), np.nan)
        for has_prefix in (False, True):
            group = [row for row in rows if self._has_prefix(row, label_set) is has_prefix]
            for start in range(0, len(group), self.config.batch_size):
                batch = group[start : start + self.config.batch_size]
                self._score_batch(batch, label_set, scores, has_prefix=has_prefix)
        return scores

    def _label_set(self, labels: Sequence[str]) -> _LabelSet:
        """Return the tokens of the labels and of the prefix, computed once for each set of labels."""
        key = tuple(labels)
        if key not in self._label_sets:
            self._reject_special_tokens(labels)
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
            if longest > (limit := self._model.max_length or longest):
                raise ModelError(
                    f"the prompt with an utterance may take {longest} tokens; {self.config.model} reads {limit} tokens",
                    "lower llm.max_tokens, shorten the prompt or use another model",
                )
            self._label_sets[key] = _LabelSet(key, prefix, self._model.prefix_cache(prefix), dict(branches))
        return self._label_sets[key]

    def _answers(self, labels: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the tokens of each label after the prompt."""
        space = "" if self.config.chat_template else self._prompt.space
        before = self._text("", labels)
        start = self._model.encode(before)
        answers = []
        for word in self._prompt.words(labels):
            whole = self._model.encode(before + space + word)
            # A tokenizer may merge the end of the prompt with the answer; then the answer is encoded separately.
            answers.append(
                tuple(whole[len(start) :] if whole[: len(start)] == start else self._model.encode(space + word))
            )
        return answers

    def _text(self, utterance: str, labels: Sequence[str]) -> str:
        if not self.config.chat_template:
            return self._safe_prompt.render(utterance, labels)
        return self._model.chat(self._safe_prompt.messages(utterance, labels))

    def _tokens(self, utterance: str, labels: Sequence[str]) -> list[int]:
        """Return the tokens of the whole prompt, with the token at the start of a text."""
        tokens = self._model.encode(self._text(utterance, labels))
        if self.config.chat_template:  # the template contains it
            return tokens
        return [*self._model.bos_tokens, *tokens]

    @cached_property
    def _safe_prompt(self) -> Prompt:
        """The prompt without special tokens in its examples, which may be transcripts too."""
        entries = {
            label: entry.model_copy(update={"example": self._model.escape_special_tokens(entry.example)})
            for label, entry in self._prompt.labels.items()
        }
        return self._prompt.model_copy(update={"labels": entries})

    def _reject_special_tokens(self, labels: Sequence[str]) -> None:
        """Raise an error if a label contains a special token: unlike transcripts, labels cannot be changed."""
        special = [token.content for token in self._model.tokenizer.added_tokens_decoder.values() if token.special]
        for label, word in zip(labels, self._prompt.words(labels), strict=True):
            if any(token in word for token in special):
                raise ModelError(
                    f"the label {label!r} contains a special token of {self.config.model}", "rename the label"
                )

    def _prepare(self, utterance: str) -> str:
        """Return the utterance as data: one line, no quotation marks, no special tokens, truncated."""
        text = self._model.escape_special_tokens(as_data(utterance))
        tokens = self._model.encode(text)
        if len(tokens) <= self.config.max_tokens:
            return text
        self.truncated.add(utterance)
        return self._model.decode(tokens[: self.config.max_tokens])

    @staticmethod
    def _has_prefix(row: _Row, label_set: _LabelSet) -> bool:
        size = len(label_set.prefix)
        return label_set.cache is not None and len(row.prompt) > size and row.prompt[:size] == label_set.prefix

    def _score_batch(
        self, rows: Sequence[_Row], label_set: _LabelSet, scores: NDArray[np.float64], *, has_prefix: bool
    ) -> None:
        """Run a batch of B rows and store the scores of their labels."""
        skip = len(label_set.prefix) if has_prefix else 0
        tails = [row.prompt[skip:] + list(row.branch) for row in rows]
        width = max(map(len, tails))
        tokens = torch.tensor([tail + [0] * (width - len(tail)) for tail in tails])  # (B, L)
        mask = torch.tensor([[1] * (skip + len(tail)) + [0] * (width - len(tail)) for tail in tails])  # (B, P + L)
        # The last token of the prompt predicts the first token of the branch, and so on to the end of the tail.
        predictions = [range(len(row.prompt) - skip - 1, len(tail)) for row, tail in zip(rows, tails, strict=True)]
        kept_positions = sorted({position for positions in predictions for position in positions})
        cache = self._model.repeat_cache(label_set.cache, len(rows)) if has_prefix else None
        logits = self._model.logits(tokens, mask, kept_positions, cache)  # (B, len(kept_positions), V)
        column = {position: index for index, position in enumerate(kept_positions)}
        for index, (row, positions) in enumerate(zip(rows, predictions, strict=True)):
            steps = logits[index, [column[position] for position in positions]]
            likelihood = steps.float().log_softmax(dim=-1).cpu().numpy()  # (tokens of the branch + 1, V)
            for label, answer in label_set.branches[row.branch]:
                scores[row.text, label] = sum(float(likelihood[step, token]) for step, token in enumerate(answer))
