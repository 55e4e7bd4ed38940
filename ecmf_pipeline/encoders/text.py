"""Any transformers text model as an encoder of transcripts."""

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
from ecmf_pipeline.encoders.base_config import ModelSource
from ecmf_pipeline.encoders.config import TextConfig
from ecmf_pipeline.encoders.inference import (
    Inference,
    check_layers,
    inference_of,
    load_model,
    load_part,
    read_json_of_model,
    take_layers,
)

_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
"""sentence-transformers' name of a pooling, and ours."""

_KNOWN_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})

_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text"})
"""Models that number positions from behind the padding token's id, so that they have room for fewer tokens."""


def _sentence_pooling(source: ModelSource) -> tuple[str, bool]:
    """Read how a sentence-transformers model pools tokens, and whether it scales rows to length 1; else ``mean``.

    Raises:
        ModelError: If it does something that is not known here.
    """
    modules = read_json_of_model(source, "modules.json") or []
    kinds = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    hint = "choose another model, or a token_pool of yours"
    if unknown := kinds.keys() - _KNOWN_MODULES:
        raise ModelError(f"{source.name}: its module {min(unknown)} is not supported", hint)
    if "Pooling" not in kinds:
        return "mean", False
    chosen = read_json_of_model(source, f"{kinds['Pooling']}/config.json") or {}
    named = [pooling for key, pooling in _POOLING.items() if chosen.get(key)]
    if len(named) != 1 or chosen.get("pooling_mode_mean_sqrt_len_tokens"):
        raise ModelError(f"{source.name}: its pooling is not supported", hint)
    return named[0], "Normalize" in kinds


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text as the network takes it.

    Attributes:
        ids: Numbers of its tokens.
        counted: For each, whether it counts when tokens are pooled.
    """

    ids: tuple[int, ...]
    counted: tuple[bool, ...]


class TextPreparer(Preparer[ClipText]):
    """Cuts transcripts into tokens.

    Attributes:
        pooling: How tokens become one row.
        scales: Whether rows are scaled to length 1, as some sentence-transformers models want it.
        pad_token: What stands where a batch's shorter texts have ended.
    """

    def __init__(self, config: TextConfig) -> None:
        source = config.source()
        self._config = config
        self._tokenizer = load_part(source, AutoTokenizer.from_pretrained, **gguf_option(config))
        self.pooling, self.scales = (
            _sentence_pooling(source) if config.token_pool == "auto" else (config.token_pool, False)
        )
        if self.pooling == "cls" and not config.special_tokens:
            raise ModelError(f"{source.name} pools by its first, a special token", "leave special_tokens true")
        self.pad_token = self._tokenizer.pad_token_id or 0
        limit = int((read_json_of_model(source, "sentence_bert_config.json") or {}).get("max_seq_length") or 2**31)
        self._max_tokens = min(config.max_tokens, self._tokenizer.model_max_length, limit, _positions(config))

    def described(self) -> dict[str, Any]:
        """Where texts are cut, how tokens become one row, and whether that is scaled to length 1."""
        return {"max_tokens": self._max_tokens, "pooling": self.pooling, "unit_length": self.scales}

    def prepare(self, view: ClipText) -> list[Tokens]:
        """The tokens of each transcript that ``inputs`` asks for.

        Raises:
            ValueError: When one of them is empty: such a clip is masked before it comes here.
        """
        wanted = view.having(self._config.text_columns)
        if not wanted:
            raise ValueError(f"inputs is {self._config.inputs!r}, and a clip without that text was sent to be encoded")
        found = self._tokenizer(wanted, truncation=True, max_length=self._max_tokens, return_special_tokens_mask=True)
        return [
            Tokens(tuple(ids), tuple(self._config.special_tokens or not special for special in specials))
            for ids, specials in zip(found["input_ids"], found["special_tokens_mask"], strict=True)
        ]


class TextEncoder(Encoder[ClipText]):
    """A frozen text model: one row a clip.

    A folder of sentence-transformers brings its own pooling (and says whether rows are scaled to length 1); any other
    model's row is the mean of the states of all tokens, unless params say otherwise. The rows of several transcripts
    stand side by side in the order of ``inputs``.
    """

    is_clip_level = True
    preparer: TextPreparer
    inference: Inference

    def __init__(self, config: TextConfig, device: str = "auto") -> None:
        self._config = config
        self.settings = config.settings()
        self.inference = inference_of(config, device)
        source = config.source()
        self.model, _ = load_model(source, dtype=self.inference.loaded_as, **gguf_option(config))
        if self.model.config.is_encoder_decoder:
            raise ModelError(f"{source.name} is an encoder with a decoder", "choose a model with one of them")
        check_layers(source, self.model, config.layers)
        self.inference.place(self.model)
        self.preparer = TextPreparer(config)

    @property
    def dim(self) -> int:
        """D, the model's hidden size for each transcript that is embedded."""
        return int(self.model.config.hidden_size) * len(self._config.text_columns)

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[Sequence[Tokens]]) -> list[Encoding]:
        """Encode tokens: (1, D) a clip; (0, D) where the tokenizer leaves nothing of a text."""
        distinct = {tokens for clip in prepared for tokens in clip if any(tokens.counted)}
        texts = sorted(distinct, key=lambda text: (len(text.ids), text.ids))  # texts of like length side by side
        rows: dict[Tokens, NDArray[np.float32]] = {}
        for span, batch in self.inference.batches(len(texts), partial(self._forward, texts)):
            rows.update(zip(texts[span], batch.numpy(), strict=True))
        return [self._encoding([rows.get(tokens) for tokens in clip]) for clip in prepared]

    def _encoding(self, rows: Sequence[NDArray[np.float32] | None]) -> Encoding:
        known = [row for row in rows if row is not None]
        return Encoding(np.concatenate(known)[None]) if len(known) == len(rows) else Encoding.empty(self.dim)

    def _forward(self, texts: Sequence[Tokens], span: slice) -> torch.Tensor:
        texts = texts[span]
        # padded on the right: there no token of a causal model sees padding, and positions need no shift
        ids = _padded([text.ids for text in texts], self.preparer.pad_token)  # (B, T)
        mask = _padded([[1] * len(text.ids) for text in texts], 0)
        counted = self.inference.tensor(_padded([text.counted for text in texts], 0))
        out = self.model(
            input_ids=self.inference.tensor(ids),
            attention_mask=self.inference.tensor(mask),
            output_hidden_states=self._config.layers != "last",
        )
        states = take_layers(out, self._config.layers)  # (B, T, D)
        pooled = pool_tokens(states.float(), counted, self.preparer.pooling)  # (B, D)
        return F.normalize(pooled, dim=1) if self.preparer.scales else pooled


def gguf_option(config: TextConfig) -> dict[str, str]:
    """What a ``from_pretrained`` must be told where weights stand in a GGUF file."""
    return {"gguf_file": config.gguf_file} if config.gguf_file else {}


def pool_tokens(states: torch.Tensor, counted: torch.Tensor, pooling: str) -> torch.Tensor:
    """One state a text.

    Args:
        states: (B, T, D).
        counted: 1 for tokens that count, 0 for others and padding, (B, T); every text has one that counts.
        pooling: ``mean`` or ``max`` over the tokens that count, the ``last`` of them, or the first token (``cls``).

    Returns:
        (B, D).
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        places = torch.arange(states.shape[1], device=states.device)
        return states[torch.arange(len(states), device=states.device), (places * counted).argmax(dim=1)]
    weights = counted[:, :, None]  # (B, T, 1)
    if pooling == "max":
        return states.masked_fill(weights == 0, float("-inf")).amax(dim=1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _padded(rows: Sequence[Sequence[int]], filling: int) -> torch.Tensor:
    """Rows of whole numbers, filled up on the right, (B, T)."""
    padded = torch.full((len(rows), max(map(len, rows))), filling)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


def _positions(config: TextConfig) -> int:
    """Tokens for which a model has positions; as many as are asked for where it does not say."""
    if config.gguf_file:  # of decoders, whose rotary positions end at no number; reading the file again takes long
        return config.max_tokens
    shape = load_part(config.source(), AutoConfig.from_pretrained)
    positions = getattr(shape, "max_position_embeddings", None) or config.max_tokens
    return int(positions) - (shape.pad_token_id + 1 if shape.model_type in _OFFSET_POSITIONS else 0)
