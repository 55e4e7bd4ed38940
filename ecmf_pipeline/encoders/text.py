"""Any transformers text model as an encoder of transcripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file

from ecmf_pipeline.encoders.base import ClipText, Encoder, Encoding, Preparer
from ecmf_pipeline.encoders.config import TextConfig
from ecmf_pipeline.encoders.inference import Inference, RunPrecision
from ecmf_pipeline.encoders.pretrained import check_layers, combine_layers, load_model, load_part
from ecmf_pipeline.encoders.weights import ModelSource
from ecmf_pipeline.errors import ModelError
from ecmf_pipeline.files import read_text

_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
"""sentence-transformers' name of a pooling, and ours."""


class TextPreparer(Preparer[ClipText]):
    """Cuts transcripts into tokens.

    Attributes:
        pooling: How a sentence-transformers model pools tokens; ``mean`` for any other.
        scales: Whether its rows are scaled to length 1.
        pad_token: What stands where a batch's shorter texts have ended.
    """

    def __init__(self, config: TextConfig) -> None:
        source = config.source()
        self._config = config
        self._tokenizer = load_part(source, AutoTokenizer.from_pretrained)
        self.pooling, self.scales, limit = _sentence_pooling(source)
        self.pad_token = self._tokenizer.pad_token_id or 0
        shape = load_part(source, AutoConfig.from_pretrained)
        positions = getattr(shape, "max_position_embeddings", None) or config.max_tokens
        self._max_tokens = min(config.max_tokens, self._tokenizer.model_max_length, limit, positions)

    def prepare(self, view: ClipText) -> list[tuple[int, ...]]:
        """The tokens of each transcript that ``inputs`` asks for.

        Raises:
            ValueError: When one of them is empty: such a clip is masked before it comes here.
        """
        wanted = view.having(self._config.text_columns)
        if not wanted:
            raise ValueError(f"inputs is {self._config.inputs!r}, and a clip without that text was sent to be encoded")
        tokens = self._tokenizer(wanted, truncation=True, max_length=self._max_tokens)["input_ids"]
        return [tuple(ids) for ids in tokens]


class TextEncoder(Encoder[ClipText]):
    """A frozen text model: one row a clip.

    A folder of sentence-transformers brings its own pooling (and says whether rows are scaled to length 1); any other
    model's row is the mean of the states of all tokens. The rows of several transcripts stand side by side in
    the order of ``inputs``.
    """

    preparer: TextPreparer

    def __init__(self, config: TextConfig, device: str = "auto") -> None:
        self._config = config
        self._settings = config.settings()
        self.inference = Inference(device, config.batch_size, cast("RunPrecision", config.resolved(device).precision))
        source = config.source()
        self.model, _ = load_model(source)
        check_layers(source, self.model, config.layers)
        self.inference.place(self.model)
        self.preparer = TextPreparer(config)

    @property
    def dim(self) -> int:
        """D, the model's hidden size for each transcript that is embedded."""
        return int(self.model.config.hidden_size) * len(self._config.text_columns)

    @property
    def settings(self) -> dict[str, Any]:
        """See `TextConfig.settings`."""
        return self._settings

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[Sequence[tuple[int, ...]]]) -> list[Encoding]:
        """Encode tokens: (1, D) a clip; (0, D) where the tokenizer leaves nothing of a text."""
        distinct = {tokens for clip in prepared for tokens in clip if tokens}
        texts = sorted(distinct, key=lambda tokens: (len(tokens), tokens))  # texts of like length side by side
        rows: dict[tuple[int, ...], NDArray[np.float32]] = {}
        for span, batch in self.inference.batches(len(texts), partial(self._forward, texts)):
            rows.update(zip(texts[span], batch.numpy(), strict=True))
        return [self._encoding([rows.get(tokens) for tokens in clip]) for clip in prepared]

    def _encoding(self, rows: Sequence[NDArray[np.float32] | None]) -> Encoding:
        known = [row for row in rows if row is not None]
        return Encoding(np.concatenate(known)[None]) if len(known) == len(rows) else Encoding.empty(self.dim)

    def _forward(self, texts: Sequence[tuple[int, ...]], span: slice) -> torch.Tensor:
        tokens = texts[span]
        longest = max(len(ids) for ids in tokens)
        # padded on the right: there no token of a causal model sees padding, and positions need no shift
        ids = torch.full((len(tokens), longest), self.preparer.pad_token)  # (B, T)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(tokens):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        ids, mask = self.inference.tensor(ids), self.inference.tensor(mask)
        out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=self._config.layers != "last")
        states = combine_layers(
            (out.last_hidden_state,) if self._config.layers == "last" else out.hidden_states, self._config.layers
        )  # (B, T, D)
        pooled = pool_tokens(states.float(), mask, self.preparer.pooling)  # (B, D)
        return F.normalize(pooled, dim=1) if self.preparer.scales else pooled


def pool_tokens(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One state a text.

    Args:
        states: (B, T, D).
        mask: 1 for tokens, 0 for padding on the right, (B, T).
        pooling: ``mean`` or ``max`` over tokens, or the ``last`` or the first (``cls``) token.

    Returns:
        (B, D).
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
    weights = mask[:, :, None]  # (B, T, 1)
    if pooling == "max":
        return states.masked_fill(weights == 0, float("-inf")).amax(dim=1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _sentence_pooling(source: ModelSource) -> tuple[str, bool, int]:
    """Pooling, whether rows are scaled to length 1, and the most tokens, as a sentence-transformers model says."""
    modules = _read(source, "modules.json") or []
    limit = (_read(source, "sentence_bert_config.json") or {}).get("max_seq_length") or 2**31
    kinds = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    if unknown := kinds.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise ModelError(f"{source.name} ends in {min(unknown)}, which is not supported", "choose another model")
    if "Pooling" not in kinds:
        return "mean", False, limit
    chosen = _read(source, f"{kinds['Pooling']}/config.json") or {}
    named = [pooling for key, pooling in _POOLING.items() if chosen.get(key)]
    if len(named) != 1 or chosen.get("pooling_mode_mean_sqrt_len_tokens"):
        raise ModelError(f"the pooling of {source.name} is not supported", "choose another sentence model")
    return named[0], "Normalize" in kinds, limit


def _read(source: ModelSource, name: str) -> Any:
    """A JSON file of the model; None where it has none."""
    found = load_part(
        source, lambda model, **where: cached_file(model, name, _raise_exceptions_for_missing_entries=False, **where)
    )
    return json.loads(read_text(Path(found))) if found else None
