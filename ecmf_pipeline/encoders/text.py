"""transformers text models as encoders of transcripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer

from ecmf_pipeline.core.clips import ClipText
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer
from ecmf_pipeline.encoders.base_config import Layers, ModelSource, TextColumn
from ecmf_pipeline.encoders.config import TextConfig
from ecmf_pipeline.encoders.inference import (
    Inference,
    build_inference,
    check_layers,
    load_model,
    load_pretrained,
    read_model_json,
    select_layers,
)

_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
"""Maps the pooling flags of sentence-transformers to our names."""

_KNOWN_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})

_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text"})
"""Models whose position numbers start after the id of the padding token, which leaves room for fewer tokens."""


def _sentence_pooling(source: ModelSource) -> tuple[str, bool]:
    """Read how a sentence-transformers model pools tokens, and whether it normalises rows; ``mean`` for other models.

    Raises:
        ModelError: If it has unsupported modules.
    """
    modules = read_model_json(source, "modules.json") or []
    kinds = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    hint = "choose another model, or set token_pool"
    if unknown := kinds.keys() - _KNOWN_MODULES:
        raise ModelError(f"module {min(unknown)} of model {source.name} is not supported", hint)
    if "Pooling" not in kinds:
        return "mean", False
    flags = read_model_json(source, f"{kinds['Pooling']}/config.json") or {}
    poolings = [pooling for flag, pooling in _POOLING.items() if flags.get(flag)]
    if len(poolings) != 1 or flags.get("pooling_mode_mean_sqrt_len_tokens"):
        raise ModelError(f"the pooling of model {source.name} is not supported", hint)
    return poolings[0], "Normalize" in kinds


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text.

    Attributes:
        ids: Token ids.
        is_pooled: For each token, whether pooling includes it.
    """

    ids: tuple[int, ...]
    is_pooled: tuple[bool, ...]


class TextPreparer(Preparer[ClipText]):
    """Preprocessing of transcripts: tokenisation.

    Attributes:
        pooling: How tokens become one row.
        normalises: Whether rows are scaled to length 1, as in some sentence-transformers models.
        pad_token: Id that pads the shorter texts of a batch.
    """

    def __init__(self, config: TextConfig) -> None:
        source = config.source()
        self._config = config
        self._tokenizer = load_pretrained(source, AutoTokenizer.from_pretrained, **gguf_options(config))
        self.pooling, self.normalises = (
            _sentence_pooling(source) if config.token_pool == "auto" else (config.token_pool, False)
        )
        if self.pooling == "cls" and not config.special_tokens:
            raise ModelError(
                f"model {source.name} pools by the first token, a special one", "set special_tokens to true"
            )
        self.pad_token = self._tokenizer.pad_token_id or 0
        limit = int((read_model_json(source, "sentence_bert_config.json") or {}).get("max_seq_length") or 2**31)
        self._max_tokens = min(config.max_tokens, self._tokenizer.model_max_length, limit, _max_positions(config))

    def describe(self) -> dict[str, Any]:
        """Return the maximum number of tokens, the pooling, and whether rows are scaled to length 1."""
        return {"max_tokens": self._max_tokens, "pooling": self.pooling, "unit_length": self.normalises}

    def prepare(self, view: ClipText) -> list[Tokens]:
        """Return the tokens of each transcript in ``inputs``.

        Raises:
            ValueError: If one of them is empty: such a clip should have been masked before.
        """
        transcripts = self.texts(view, self._config.text_columns)
        tokenised = self._tokenizer(
            transcripts, truncation=True, max_length=self._max_tokens, return_special_tokens_mask=True
        )
        return [
            Tokens(tuple(ids), tuple(self._config.special_tokens or not special for special in specials))
            for ids, specials in zip(tokenised["input_ids"], tokenised["special_tokens_mask"], strict=True)
        ]

    @staticmethod
    def texts(view: ClipText, columns: Sequence[TextColumn]) -> list[str]:
        """Return the transcripts in ``columns``.

        Raises:
            ValueError: If one of them is empty.
        """
        transcripts = view.having(columns)
        if not transcripts:
            raise ValueError(f"a clip without text for {', '.join(columns)} cannot be encoded")
        return transcripts


class TextEncoder(Encoder[ClipText]):
    """A frozen text model: one row for each clip.

    A sentence-transformers folder defines its own pooling and whether rows are scaled to length 1. Any other model
    averages the states of all tokens, unless params set another pooling. The rows of several transcripts are
    concatenated in the order of ``inputs``.
    """

    is_clip_level = True
    preparer: TextPreparer
    inference: Inference
    model: Any
    layers: Layers
    columns: Sequence[TextColumn]

    def __init__(self, config: TextConfig, device: str = "auto") -> None:
        self.layers, self.columns = config.layers, config.text_columns
        self.settings = config.settings()
        self.inference = build_inference(config, device)
        source = config.source()
        self.model, _ = load_model(source, dtype=self.inference.load_dtype, **gguf_options(config))
        if self.model.config.is_encoder_decoder:
            raise ModelError(
                f"model {source.name} has an encoder and a decoder", "choose a model that has only one of them"
            )
        check_layers(source, self.model, config.layers)
        self.inference.place(self.model)
        self.preparer = TextPreparer(config)

    @property
    def dim(self) -> int:
        """D, the hidden size of the model times the number of transcripts."""
        return int(self.model.config.hidden_size) * len(self.columns)

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[Sequence[Tokens]]) -> list[Encoding]:
        """Encode tokens: (1, D) for each clip; (0, D) if a transcript has no tokens to pool."""
        distinct = {tokens for clip in prepared for tokens in clip if any(tokens.is_pooled)}
        texts = sorted(distinct, key=lambda text: (len(text.ids), text.ids))  # similar lengths share a batch
        rows: dict[Tokens, NDArray[np.float32]] = {}
        for span, batch in self.inference.batches(len(texts), partial(self._forward, texts)):
            rows.update(zip(texts[span], batch.numpy(), strict=True))
        return [self._encoding([rows.get(tokens) for tokens in clip]) for clip in prepared]

    def _encoding(self, rows: Sequence[NDArray[np.float32] | None]) -> Encoding:
        known = [row for row in rows if row is not None]
        return Encoding(np.concatenate(known)[None]) if len(known) == len(rows) else Encoding.empty(self.dim)

    def _forward(self, texts: Sequence[Tokens], span: slice) -> torch.Tensor:
        texts = texts[span]
        # Right padding: no token of a causal model attends to padding, and positions need no shift.
        ids = _pad([text.ids for text in texts], self.preparer.pad_token)  # (B, T)
        mask = _pad([[1] * len(text.ids) for text in texts], 0)
        pool_mask = self.inference.tensor(_pad([text.is_pooled for text in texts], 0))
        out = self.model(
            input_ids=self.inference.tensor(ids),
            attention_mask=self.inference.tensor(mask),
            output_hidden_states=self.layers != "last",
        )
        states = select_layers(out, self.layers)  # (B, T, D)
        pooled = pool_tokens(states.float(), pool_mask, self.preparer.pooling)  # (B, D)
        return F.normalize(pooled, dim=1) if self.preparer.normalises else pooled


def gguf_options(config: TextConfig) -> dict[str, str]:
    """Return the ``from_pretrained`` options for weights in a GGUF file."""
    return {"gguf_file": config.gguf_file} if config.gguf_file else {}


def pool_tokens(states: torch.Tensor, pool_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Pool the token states of each text.

    Args:
        states: (B, T, D).
        pool_mask: 1 for tokens to pool, 0 for others and padding, (B, T); every text has at least one.
        pooling: ``mean`` or ``max`` over the pooled tokens, the ``last`` of them, or the first token (``cls``).

    Returns:
        (B, D).
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        positions = torch.arange(states.shape[1], device=states.device)
        return states[torch.arange(len(states), device=states.device), (positions * pool_mask).argmax(dim=1)]
    weights = pool_mask[:, :, None]  # (B, T, 1)
    if pooling == "max":
        return states.masked_fill(weights == 0, float("-inf")).amax(dim=1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _pad(rows: Sequence[Sequence[int]], pad_value: int) -> torch.Tensor:
    """Pad rows of ids on the right, (B, T)."""
    padded = torch.full((len(rows), max(map(len, rows))), pad_value)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


def _max_positions(config: TextConfig) -> int:
    """Return the number of tokens for which a model has positions; ``max_tokens`` if the model has no limit."""
    if config.gguf_file:  # decoders: rotary positions have no limit, and reading the file again is slow
        return config.max_tokens
    model_config = load_pretrained(config.source(), AutoConfig.from_pretrained)
    positions = getattr(model_config, "max_position_embeddings", None) or config.max_tokens
    return int(positions) - (model_config.pad_token_id + 1 if model_config.model_type in _OFFSET_POSITIONS else 0)
