"""The params of each encoder: one class a ``type`` under ``encoders`` in params.yaml, and one for several side by side.

Data alone, as `base_config` is: `registry` says which encoder a class describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.encoders.base_config import (
    DEFAULT_TEXT_COLUMNS,
    BaseEncoderConfig,
    Layers,
    ModelSource,
    TextColumn,
    TransformersConfig,
    locate,
    read_model_config,
    weights_hash,
)

PictureTokenPool = Literal["auto", "cls", "mean", "pooler", "projection"]
"""What a picture's tokens become; see `VisionConfig`."""

TextPool = Literal["auto", "mean", "max", "cls", "last"]
"""How the tokens of a text become one row."""

_BOTH: tuple[TextColumn, ...] = ("original", "enriched")
"""The transcripts that ``inputs: both`` stands for."""


class EfficientNetConfig(BaseEncoderConfig):
    """EfficientNet-Lite0 trained on ImageNet, one row a frame.

    Attributes:
        weights: Its PyTorch state dict.
        fit: How a frame becomes a square: ``crop`` its centre, or ``stretch`` the whole of it.
        frames: Pictures of a clip that it reads; None: as ``media.frames`` says.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.GLOBAL, Modality.FACE})
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "weights", "frames"})
    dim: ClassVar[int] = 1280

    type: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    weights: Path = paths.MODELS / "efficientnet_lite0" / "efficientnet-lite0-57934424.pth"
    fit: Literal["crop", "stretch"] = "crop"
    frames: Frames | None = None

    def weights_settings(self) -> dict[str, Any]:
        """SHA-256 of the state dict."""
        return {"sha256": weights_hash(self.weights)}


class MiniXceptionConfig(BaseEncoderConfig):
    """Mini-Xception trained on FER2013 beside MediaPipe's blendshapes, one row a face crop.

    Attributes:
        weights: The mini-Xception's Keras file.
        face_landmarker: MediaPipe's face landmarker bundle.
        face_scale: Side of the square that the mini-Xception sees, in sides of the detected face box.
        frames: Pictures of a clip in which it looks for the face; None: as ``media.frames`` says.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.FACE})
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "weights", "face_landmarker", "frames"})
    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "mediapipe"})
    expression_dim: ClassVar[int] = 128
    """Columns of the mini-Xception, which come first."""
    blendshapes: ClassVar[int] = 52
    """Columns of the blendshapes, which follow."""
    dim: ClassVar[int] = expression_dim + blendshapes

    type: Literal["mini_xception"] = "mini_xception"
    batch_size: int = Field(64, gt=0)
    weights: Path = paths.MODELS / "mini_xception" / "emotion_model.hdf5"
    face_landmarker: Path = paths.MODELS / "face_landmarker" / "face_landmarker.task"
    face_scale: float = Field(1.2, ge=1.0, le=1.6)
    frames: Frames | None = None

    def weights_settings(self) -> dict[str, Any]:
        """SHA-256 of both files."""
        return {"sha256": weights_hash(self.weights), "face_landmarker_sha256": weights_hash(self.face_landmarker)}


class VisionConfig(TransformersConfig):
    """A transformers vision model (CLIP, SigLIP, ViT, DINOv2, DINOv3, data2vec-vision), one row a frame or face crop.

    Attributes:
        layers: The last hidden layer, the mean or sum of the last four, or the mean of those named. ``last`` is what
            the model returns as its last hidden state, often after a norm that the numbered states lack.
        token_pool: What the row is made of: ``cls`` the class token; ``mean`` of the tokens of patches, class and
            register tokens left out; ``pooler`` the model's own pooled output; ``projection`` the image embedding that
            CLIP and SigLIP compare with texts; ``auto`` the pooler where the layer is the last and weights hold one,
            else the first token (SigLIP, which has no class token: the mean).
        resolution: Side of the square that the model sees, a multiple of its patches; positions are interpolated. None:
            as its own image processor says.
        frames: Pictures of a clip that it reads; None: as ``media.frames`` says.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.GLOBAL, Modality.FACE})
    recipe: ClassVar[int] = 2  # 2: resized to the byte as Pillow does
    not_in_settings: ClassVar[frozenset[str]] = TransformersConfig.not_in_settings | {"frames"}

    type: Literal["transformers_vision"] = "transformers_vision"
    layers: Layers = "last"
    token_pool: PictureTokenPool = "auto"
    resolution: int | None = Field(None, gt=0)
    frames: Frames | None = None

    @model_validator(mode="after")
    def _pooled_from_the_last(self) -> Self:
        if self.layers != "last" and self.token_pool in {"pooler", "projection"}:
            raise ValueError(f"token_pool {self.token_pool} is made of the last layer: set layers to last")
        return self

    def known_dim(self) -> int | None:
        """The hidden size, or that of the image embedding; see `TransformersConfig.known_dim`."""
        if self.token_pool == "projection":
            width = read_model_config(self.model, self.revision).get("projection_dim")
            if isinstance(width, int):
                return width
        return super().known_dim()


class VideoConfig(TransformersConfig):
    """A VideoMAE model: it sees a clip's frames (or face crops) together, in tubes of two frames each.

    It takes as many pictures as it was trained on, evenly from those that ``frames`` of the clip are; where there are
    fewer, some are repeated.

    Attributes:
        batch_size: Clips in one forward pass.
        layers: The last hidden layer, the mean or sum of the last four, or the mean of those named.
        rows: ``clip`` one row a clip, the mean of its tokens; ``tubelet`` one row for each two frames that it sees.
        frames: Pictures of a clip that it chooses from; None: as ``media.frames`` says.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.GLOBAL, Modality.FACE})
    not_in_settings: ClassVar[frozenset[str]] = TransformersConfig.not_in_settings | {"frames"}

    type: Literal["transformers_video"] = "transformers_video"
    batch_size: int = Field(2, gt=0)
    layers: Layers = "last"
    rows: Literal["clip", "tubelet"] = "clip"
    frames: Frames | None = None


class EgemapsConfig(BaseEncoderConfig):
    """The functionals of eGeMAPSv02, one row a clip."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})
    uses_torch: ClassVar[bool] = False
    computed_by: ClassVar[frozenset[str]] = frozenset({"opensmile"})
    dim: ClassVar[int] = 88

    type: Literal["egemaps"] = "egemaps"


class AudioConfig(TransformersConfig):
    """A transformers speech model (HuBERT, wav2vec2, WavLM, data2vec-audio, Whisper's encoder), 50 rows a second.

    Attributes:
        layers: Which hidden states; see `Layers`.
        frames_per_row: Rows of the model that are averaged into one, to keep stores of long clips small.
        window_seconds: A longer clip is cut into equal windows that are described one by one, since attention's cost
            grows with the square of the length. Whisper's own limit of 30 s holds too.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})

    type: Literal["transformers_audio"] = "transformers_audio"
    batch_size: int = Field(8, gt=0)
    layers: Layers = "last"
    frames_per_row: int = Field(1, gt=0)
    window_seconds: float = Field(30.0, ge=1.0)


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

    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "transformers", "tokenizers"})

    type: Literal["transformers_text"] = "transformers_text"
    batch_size: int = Field(32, gt=0)
    model: str = Field(str(paths.MODELS / "minilm"), min_length=1)
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
        if inputs == _BOTH:
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

    def known_dim(self) -> int | None:
        """The hidden size for each transcript that is embedded; see `TransformersConfig.known_dim`."""
        width = super().known_dim()
        return None if width is None else width * len(self.text_columns)


class ImportedConfig(BaseEncoderConfig):
    """Features that were computed elsewhere and come in by ``ecmf-pipe store import``; nothing is computed here.

    Attributes:
        name: What tells them from other imported features; empty: the name of the entry (see `named`).
        dtype: How they are stored. float16 takes half the space; its 11 bits end at 65504.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset(Modality)

    type: Literal["imported"] = "imported"
    name: str = ""
    dtype: Literal["float16", "float32"] = "float32"

    def named(self, name: str) -> Self:
        """The same, called after its entry unless it has a name of its own."""
        return self if self.name else self.model_copy(update={"name": name})

    def settings(self) -> dict[str, Any]:
        """The name and the stored type: nothing else of them is known here.

        Raises:
            ValueError: When it has no name yet.
        """
        if not self.name:
            raise ValueError("an imported encoder is told by its name: take the one that `named` returns")
        return {"type": self.type, "name": self.name, "dtype": self.dtype}


EncoderConfig = Annotated[
    EfficientNetConfig
    | MiniXceptionConfig
    | EgemapsConfig
    | VisionConfig
    | VideoConfig
    | AudioConfig
    | TextConfig
    | ImportedConfig,
    Field(discriminator="type"),
]
"""One entry under ``encoders`` in params.yaml; ``type`` says which."""


class JoinedConfig(BaseEncoderConfig):
    """Several encoders whose rows stand side by side: what a list under ``extract.encoders`` makes.

    Params see to it that each member can serve the modality, computes its features, and reads as many pictures.

    Attributes:
        members: The encoders, in the order of their columns; of them the settings are made.
        batch_size: Not used: each member has its own.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset(Modality)

    members: tuple[EncoderConfig, ...] = Field(min_length=2)

    @property
    def frames(self) -> Frames | None:
        """Pictures of a clip that the members read; None: as ``media.frames`` says."""
        return getattr(self.members[0], "frames", None)

    def resolved(self, device: str) -> Self:
        """The same with all that members leave to the device decided."""
        return self.model_copy(update={"members": tuple(member.resolved(device) for member in self.members)})

    def settings(self) -> dict[str, Any]:
        """The members' settings, in their order.

        Raises:
            ModelError: When weights are missing.
        """
        return {"type": "joined", "members": [member.settings() for member in self.members], "recipe": self.recipe}

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        """The transcripts that any member reads: a clip that lacks one of them is absent."""
        return tuple(dict.fromkeys(column for member in self.members for column in member.text_columns))

    def known_dim(self) -> int | None:
        """The sum of the members'; None where one of them is not known."""
        widths = [width for member in self.members if (width := member.known_dim()) is not None]
        return sum(widths) if len(widths) == len(self.members) else None

    def half_types(self) -> frozenset[str]:
        """Those of all members."""
        return frozenset[str]().union(*(member.half_types() for member in self.members))

    def libraries(self) -> frozenset[str]:
        """Those of all members."""
        return frozenset[str]().union(*(member.libraries() for member in self.members))


def text_columns(settings: Mapping[str, Any]) -> tuple[TextColumn, ...]:
    """The transcripts that a store's features were computed from, told by its settings."""
    encoder = settings.get("encoder")
    if not isinstance(encoder, Mapping):
        return DEFAULT_TEXT_COLUMNS
    if members := encoder.get("members"):  # of several encoders side by side
        return tuple(dict.fromkeys(column for member in members for column in text_columns({"encoder": member})))
    return _columns(encoder["inputs"]) if "inputs" in encoder else DEFAULT_TEXT_COLUMNS


def settings_of_imported(settings: Mapping[str, Any]) -> bool:
    """Whether a store's settings are those of imported features (of which nobody here knows the input)."""
    encoder = settings.get("encoder")
    return isinstance(encoder, Mapping) and encoder.get("type") == "imported"


def _columns(inputs: TextColumn | Literal["both"] | Sequence[TextColumn]) -> tuple[TextColumn, ...]:
    if isinstance(inputs, str):
        return _BOTH if inputs == "both" else (inputs,)
    return tuple(inputs)


def frames_of(encoder: BaseEncoderConfig, otherwise: int) -> Frames:
    """Return how many pictures of a clip an encoder reads; ``otherwise`` if its params leave that open."""
    own: Frames | None = getattr(encoder, "frames", None)
    return otherwise if own is None else own
