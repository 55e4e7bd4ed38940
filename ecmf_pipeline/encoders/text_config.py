"""The params of encoders of transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from ecmf_pipeline.clips import Modality
from ecmf_pipeline.encoders.base_config import DEFAULT_TEXT_COLUMNS, MODELS, Layers, TextColumn, TransformersConfig
from ecmf_pipeline.encoders.weights import ModelSource, locate

if TYPE_CHECKING:
    from ecmf_pipeline.encoders.base import Encoder, Preparer

TextPool = Literal["auto", "mean", "max", "cls", "last"]
"""How the tokens of a text become one row."""


class TextConfig(TransformersConfig):
    """A transformers text model (BERT, sentence embeddings, a decoder LLM...), one row a clip.

    Attributes:
        inputs: Which transcript is embedded: ``original``, ``enriched`` (by the LLM), ``translation`` (the words in the
            corpus' other language), ``both`` (the first two), or a list of some. The rows of several stand side by
            side. A clip that lacks one of them is absent from the text branch.
        max_tokens: Tokens after which a text is cut off; the model's own limit holds too.
        layers: Which hidden states; see `Layers`.
        token_pool: How a text's tokens become one row. ``auto``: as a sentence-transformers folder says, else their
            mean; or their ``mean``, their ``max``, the first (``cls``) or the ``last``.
        special_tokens: Whether tokens that the tokenizer puts around a text ([CLS], [SEP], <s>...) count in a mean or
            maximum, and may be the last.
        gguf_file: The GGUF file in the model's folder whose weights are loaded, unquantised; empty: safetensors.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT})
    added_later: ClassVar[frozenset[str]] = TransformersConfig.added_later | {
        "token_pool",
        "special_tokens",
        "gguf_file",
    }

    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "transformers", "tokenizers"})

    type: Literal["transformers_text"] = "transformers_text"
    batch_size: int = Field(32, gt=0)
    model: str = Field(str(MODELS / "minilm"), min_length=1)
    inputs: TextColumn | Literal["both"] | tuple[TextColumn, ...] = "original"
    max_tokens: int = Field(256, gt=0)
    layers: Layers = "last"
    token_pool: TextPool = "auto"
    special_tokens: bool = True
    gguf_file: str = ""

    @field_validator("inputs")
    @classmethod
    def _told_one_way(cls, inputs: str | tuple[TextColumn, ...]) -> str | tuple[TextColumn, ...]:
        """A list that says the same as a word becomes the word: same numbers, same fingerprint."""
        if isinstance(inputs, str):
            return inputs
        if not inputs or len(set(inputs)) < len(inputs):
            raise ValueError("name one transcript or several different ones")
        if inputs == _COLUMNS_OF["both"]:
            return "both"
        return inputs[0] if len(inputs) == 1 else inputs

    @model_validator(mode="after")
    def _cls_is_special(self) -> Self:
        if self.token_pool == "cls" and not self.special_tokens:
            raise ValueError("token_pool cls is the row of a special token: leave special_tokens true")
        return self

    def source(self) -> ModelSource:
        """Where the model is loaded from; see `TransformersConfig.source`."""
        return locate(self.model, self.revision, self.gguf_file or "config.json")

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        """The transcripts that stand side by side in a row."""
        return _columns(self.inputs)

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the network; see `BaseEncoderConfig.preparer`."""
        from ecmf_pipeline.encoders.text import TextPreparer

        return TextPreparer(self)

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.text import TextEncoder

        return TextEncoder(self, device)


_COLUMNS_OF: Mapping[str, tuple[TextColumn, ...]] = {
    "original": ("original",),
    "enriched": ("enriched",),
    "translation": ("translation",),
    "both": ("original", "enriched"),
}


def _columns(inputs: str | Sequence[TextColumn]) -> tuple[TextColumn, ...]:
    return _COLUMNS_OF[inputs] if isinstance(inputs, str) else tuple(inputs)


def text_columns(settings: Mapping[str, Any]) -> tuple[TextColumn, ...]:
    """The transcripts that a store's features were computed from, told by its settings."""
    encoder = settings.get("encoder")
    if not isinstance(encoder, Mapping):
        return DEFAULT_TEXT_COLUMNS
    if members := encoder.get("members"):  # of several encoders side by side
        return tuple(dict.fromkeys(column for member in members for column in text_columns({"encoder": member})))
    return _columns(encoder["inputs"]) if "inputs" in encoder else DEFAULT_TEXT_COLUMNS
