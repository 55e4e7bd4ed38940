"""Texts that grow side by side under one model, over keys and values that are kept."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from ecmf_pipeline.errors import FeaturesNotFinite, ModelError
from ecmf_pipeline.llm.local_model import LocalModel

_NEEDED = {"past_key_values", "use_cache", "position_ids"}


class Rows:
    """B texts. What is appended is run when logits are asked for, for all rows at once.

    Rows are filled up to the same width. What fills them is masked, and each token is told its place in its own text,
    so that it computes what it would compute alone.

    Args:
        model: The model.
        prompts: The tokens that each text begins with, (B,).
        prefix: What all of them begin with and `cache` knows.
        cache: Keys and values of the prefix; None without one.

    Raises:
        ModelError: When the model does not keep keys and values that can be used so.
    """

    def __init__(self, model: LocalModel, prompts: Sequence[list[int]], prefix: Sequence[int], cache: Any) -> None:
        self.count = len(prompts)
        self._model = model
        self._pending = [list(prompt[len(prefix) :]) for prompt in prompts]
        self._places = [len(prefix)] * self.count
        self._mask = torch.ones(self.count, len(prefix), dtype=torch.long)  # (B, P)
        self._cache = _empty_cache(model) if cache is None else model.repeated(cache, self.count)
        self._last: list[torch.Tensor] = [torch.empty(0)] * self.count

    def append(self, row: int, tokens: Sequence[int]) -> None:
        """Let a text go on."""
        self._pending[row] += tokens

    def logits(self, rows: Sequence[int]) -> torch.Tensor:
        """What may come next in some rows, (len(rows), V).

        Raises:
            FeaturesNotFinite: When the model computes no numbers.
        """
        if any(self._pending):
            kept = sorted({len(tokens) - 1 for tokens in self._pending if tokens})
            logits, self._mask = self._run(self._pending, kept, self._cache)
            for row, tokens in enumerate(self._pending):
                if tokens:
                    self._last[row] = logits[row, kept.index(len(tokens) - 1)]
                    self._places[row] += len(tokens)
            self._pending = [[] for _ in range(self.count)]
        last = torch.stack([self._last[row] for row in rows])
        if last.isnan().any():
            raise FeaturesNotFinite("the model computes no numbers of what is said")
        return last

    def likelihoods(self, rows: Sequence[int], options: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Log-likelihood of each of several continuations, in some rows; the texts stay as they are.

        Args:
            rows: Which rows.
            options: Tokens of each continuation, (K,).

        Returns:
            Sums over the tokens, (len(rows), K).
        """
        first = self.logits(rows).log_softmax(dim=1)  # (R, V)
        found = torch.stack([first[:, option[0]] for option in options], dim=1)  # (R, K)
        branches: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, option in enumerate(options):
            branches[option[:-1]].append(index)
        for branch, indices in branches.items():
            if not branch:  # one token: all is known
                continue
            logits, _ = self._run([branch] * self.count, range(len(branch)), copy.deepcopy(self._cache))
            steps = logits[list(rows)].log_softmax(dim=2)  # (R, len(branch), V)
            for index in indices:
                for position, token in enumerate(options[index][1:]):
                    found[:, index] += steps[:, position, token]
        return found

    def _run(
        self, tokens: Sequence[Sequence[int]], kept: Sequence[int], cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits at some positions of what is new, (B, len(kept), V), and the mask with all of it, (B, P + L)."""
        width = max(map(len, tokens))
        filled = torch.tensor([[*row, *([0] * (width - len(row)))] for row in tokens])  # (B, L)
        new = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in tokens])  # (B, L)
        mask = torch.cat([self._mask, new], dim=1)
        places = torch.tensor(self._places)[:, None] + (new.cumsum(dim=1) - 1).clamp(min=0)
        return self._model.logits(filled, mask, kept, cache, places).float().cpu(), mask


def _empty_cache(model: LocalModel) -> Any:
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=model.network.config)
    if not model.accepts >= _NEEDED or any(cache.is_linear):
        raise ModelError(
            f"{model.config.model} keeps no keys and values that rows can share, and cannot write answers here",
            "take another model for it, or serve this one and set llm.backend: openai",
        )
    return cache
