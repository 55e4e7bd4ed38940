"""The params of encoders of frames and face crops."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.config import Config, Frames
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.weights import ModelSource, hub_cache, hub_reference, locate, weights_hash

if TYPE_CHECKING:
    from ecmf_pipeline.encoders.base import Encoder, Preparer

MODELS = Path("data/models")
"""Where `ecmf-pipe models` lays the weights, relative to the project folder."""

Layers = Literal["last", "last4_mean", "last4_sum"] | Annotated[tuple[int, ...], Field(min_length=1)]
"""The last hidden layer, the mean or sum of the last four, or the mean of those named: 0 is what enters the first
layer, -1 what leaves the last."""

Precision = Literal["fp32", "bf16", "fp16", "auto"]
"""The type that matrices are multiplied in; ``auto``: the fastest that the device has instructions for."""

TextColumn = Literal["original", "enriched", "translation"]
"""What an encoder may read of a `base.ClipText`."""

DEFAULT_TEXT_COLUMNS: tuple[TextColumn, ...] = ("original",)
"""What is read unless something else is said."""


class BaseEncoderConfig(Config):
    """What every encoder's params have.

    Attributes:
        batch_size: Items (frames, crops, clips or texts) in one forward pass; does not change the numbers.
    """

    modalities: ClassVar[frozenset[Modality]]
    """The modalities that the encoder can serve."""
    recipe: ClassVar[int] = 1
    """Raised by one whenever a change of code changes the numbers."""
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size"})
    """Fields that do not change the numbers, or stand in the settings as a hash or elsewhere."""
    added_later: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after stores had been made: not in the settings at their default, so that these still count."""

    uses_torch: ClassVar[bool] = True
    """Whether it runs where ``extract.device`` says."""

    computed_by: ClassVar[frozenset[str]] = frozenset({"torch"})
    """Packages whose version may move the numbers."""

    batch_size: int = Field(16, gt=0)

    def libraries(self) -> frozenset[str]:
        """The packages that compute it, numpy apart, as their versions are kept beside the features."""
        return self.computed_by

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        """The transcripts that it reads, if it reads any: a clip that lacks one of them has no text for it."""
        return DEFAULT_TEXT_COLUMNS

    def named(self, name: str) -> Self:  # noqa: ARG002 - computed features do not depend on what they are called
        """These params as those of the entry ``name`` under ``encoders``."""
        return self

    def resolved(self, device: str) -> Self:  # noqa: ARG002 - what a device decides is told by those that have it
        """The same with all that is left to the device decided.

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        """
        return self

    def half_types(self) -> frozenset[str]:
        """The types of half the width that it multiplies matrices in, ``bf16`` or ``fp16``, if any."""
        return frozenset()

    def settings(self) -> dict[str, Any]:
        """All that changes the numbers, as plain JSON values: every field but those excepted, and the weights' hashes.

        Raises:
            ModelError: When weights are missing.
        """
        unused = {name for name in self.added_later if getattr(self, name) == type(self).model_fields[name].default}
        fields = self.model_dump(mode="json", exclude={*self.not_in_settings, *unused})
        return {**fields, "recipe": self.recipe, "dtype": "float32", "weights": self.weights_settings()}

    def weights_settings(self) -> dict[str, Any]:
        """What identifies the weights, as plain JSON values.

        Raises:
            ModelError: When weights are missing.
        """
        return {}

    def origin(self) -> dict[str, Any]:
        """Which model this is, for people to read, as plain JSON values.

        The same on every machine: no folder that only this one has is named.
        """
        return {"model": str(getattr(self, "type", type(self).__name__))}

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the network, alone.

        Raises:
            ModelError: When what it needs is missing or damaged.
        """
        raise NotImplementedError

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder.

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.

        Raises:
            ModelError: When weights are missing, damaged or of another shape.
            ParamsError: When there is no such device.
        """
        raise NotImplementedError


class TransformersConfig(BaseEncoderConfig):
    """What the params of all transformers models have.

    Attributes:
        model: A local folder, or an id on the model hub. Code that comes with a model is never run.
        revision: Branch, tag or commit on the hub. Once fetched, a branch stays at the commit in the local cache.
        precision: The type that matrices are multiplied in (norms, sums and the stored features are not touched by it):
            half types are about twice as fast where the device has instructions for them. ``auto`` is bf16 on CUDA from
            compute capability 8 and on CPUs with such instructions, fp16 on older CUDA, else fp32: features made on
            different devices may then have different fingerprints.
    """

    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "model", "revision"})
    added_later: ClassVar[frozenset[str]] = frozenset({"precision"})

    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "transformers"})

    model: str = Field(min_length=1)
    revision: str = "main"
    precision: Precision = "fp32"

    def resolved(self, device: str) -> Self:
        """The same with ``precision: auto`` decided; see `BaseEncoderConfig.resolved`."""
        if self.precision != "auto":
            return self
        from ecmf_pipeline.encoders.inference import best_precision

        return self.model_copy(update={"precision": best_precision(device)})

    def half_types(self) -> frozenset[str]:
        """Its precision, unless that is fp32."""
        return frozenset({self.precision}) - {"fp32"}

    def source(self) -> ModelSource:
        """Where the model is loaded from; what `settings` hashes is what `build` loads.

        Raises:
            ModelError: When it cannot be found.
        """
        return locate(self.model, self.revision)

    def weights_settings(self) -> dict[str, Any]:
        """The hub's commit, or the SHA-256 of each file of the folder."""
        return self.source().settings()

    def origin(self) -> dict[str, Any]:
        """The id on the hub, the revision asked for and the commit that it is; of a folder, its name."""
        source = self.source()
        if source.commit is None:
            return {"model": Path(self.model).name}
        return {"model": self.model, "revision": self.revision, "commit": source.commit}


class EfficientNetConfig(BaseEncoderConfig):
    """EfficientNet-Lite0 trained on ImageNet, 1280-d, one row a frame.

    Attributes:
        weights: Its PyTorch state dict.
        fit: How a frame becomes a square: ``crop`` its centre, or ``stretch`` the whole of it.
        frames: Pictures of a clip that it reads; None: as ``media.frames`` says.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.GLOBAL, Modality.FACE})
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "weights", "frames"})

    type: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    weights: Path = MODELS / "efficientnet_lite0" / "efficientnet-lite0-57934424.pth"
    fit: Literal["crop", "stretch"] = "crop"
    frames: Frames | None = None

    def weights_settings(self) -> dict[str, Any]:
        """SHA-256 of the state dict."""
        return {"sha256": weights_hash(self.weights)}

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the network; see `BaseEncoderConfig.preparer`."""
        from ecmf_pipeline.encoders.embedded.efficientnet import efficientnet_preprocessing
        from ecmf_pipeline.encoders.vision import PicturePreparer

        return PicturePreparer(efficientnet_preprocessing(self))

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.embedded.efficientnet import EfficientNetEncoder

        return EfficientNetEncoder(self, device)


class MiniXceptionConfig(BaseEncoderConfig):
    """Mini-Xception trained on FER2013 (128-d) beside MediaPipe's 52 blendshapes: 180-d, one row a face crop.

    Attributes:
        weights: The mini-Xception's Keras file.
        face_landmarker: MediaPipe's face landmarker bundle.
        face_scale: Side of the square that the mini-Xception sees, in sides of the detected face box.
        frames: Pictures of a clip in which it looks for the face; None: as ``media.frames`` says.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.FACE})
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "weights", "face_landmarker", "frames"})

    computed_by: ClassVar[frozenset[str]] = frozenset({"torch", "mediapipe"})

    type: Literal["mini_xception"] = "mini_xception"
    batch_size: int = Field(64, gt=0)
    weights: Path = MODELS / "mini_xception" / "emotion_model.hdf5"
    face_landmarker: Path = MODELS / "face_landmarker" / "face_landmarker.task"
    face_scale: float = Field(1.2, ge=1.0, le=1.6)
    frames: Frames | None = None

    def weights_settings(self) -> dict[str, Any]:
        """SHA-256 of both files."""
        return {"sha256": weights_hash(self.weights), "face_landmarker_sha256": weights_hash(self.face_landmarker)}

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the network; see `BaseEncoderConfig.preparer`."""
        from ecmf_pipeline.encoders.embedded.mini_xception import MiniXceptionPreparer

        return MiniXceptionPreparer(self)

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.embedded.mini_xception import MiniXceptionEncoder

        return MiniXceptionEncoder(self, device)


PictureTokenPool = Literal["auto", "cls", "mean", "pooler", "projection"]
"""What a picture's tokens become; see `VisionConfig`."""


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
    added_later: ClassVar[frozenset[str]] = TransformersConfig.added_later | {"layers", "token_pool", "resolution"}

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

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the network; see `BaseEncoderConfig.preparer`."""
        from ecmf_pipeline.encoders.image_processors import load_preprocessing
        from ecmf_pipeline.encoders.vision import PicturePreparer

        return PicturePreparer(load_preprocessing(self.source(), self.resolution))

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.vision import VisionEncoder

        return VisionEncoder(self, device)


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

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the network; see `BaseEncoderConfig.preparer`."""
        from ecmf_pipeline.encoders.vision import video_preparer

        return video_preparer(self.source())

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.vision import VideoEncoder

        return VideoEncoder(self, device)


class EgemapsConfig(BaseEncoderConfig):
    """The 88 functionals of eGeMAPSv02, one row a clip."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})
    uses_torch: ClassVar[bool] = False
    computed_by: ClassVar[frozenset[str]] = frozenset({"opensmile"})

    type: Literal["egemaps"] = "egemaps"

    def preparer(self) -> Preparer[Any]:
        """Load openSMILE, which does all the work."""
        from ecmf_pipeline.encoders.embedded.egemaps import EgemapsPreparer

        return EgemapsPreparer()

    def build(self, device: str = "auto") -> Encoder[Any]:  # noqa: ARG002 - openSMILE knows the CPU alone
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.embedded.egemaps import EgemapsEncoder

        return EgemapsEncoder(self)


class AudioConfig(TransformersConfig):
    """A transformers speech model (HuBERT, wav2vec2, WavLM, data2vec-audio, Whisper's encoder), 50 rows a second.

    Attributes:
        layers: Which hidden states; see `Layers`.
        frames_per_row: Rows of the model that are averaged into one, to keep stores of long clips small.
        window_seconds: A longer clip is cut into equal windows that are described one by one, since attention's cost
            grows with the square of the length. Whisper's own limit of 30 s holds too.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})
    added_later: ClassVar[frozenset[str]] = TransformersConfig.added_later | {"window_seconds"}

    type: Literal["transformers_audio"] = "transformers_audio"
    batch_size: int = Field(8, gt=0)
    layers: Layers = "last"
    frames_per_row: int = Field(1, gt=0)
    window_seconds: float = Field(30.0, ge=1.0)

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the network; see `BaseEncoderConfig.preparer`."""
        from ecmf_pipeline.encoders.audio import audio_preparer

        return audio_preparer(self)

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.audio import audio_encoder

        return audio_encoder(self, device)


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


__all__ = [
    "DEFAULT_TEXT_COLUMNS",
    "MODELS",
    "AudioConfig",
    "BaseEncoderConfig",
    "EfficientNetConfig",
    "EgemapsConfig",
    "EncoderConfig",
    "ImportedConfig",
    "Layers",
    "MiniXceptionConfig",
    "TextColumn",
    "TextConfig",
    "TransformersConfig",
    "VideoConfig",
    "VisionConfig",
    "settings_of_imported",
    "text_columns",
]


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

    def preparer(self) -> Preparer[Any]:
        """Imported features cannot be computed.

        Raises:
            ModelError: Always.
        """
        raise self._not_computed()

    def build(self, device: str = "auto") -> Encoder[Any]:  # noqa: ARG002
        """Imported features cannot be computed.

        Raises:
            ModelError: Always.
        """
        raise self._not_computed()

    def _not_computed(self) -> ModelError:
        return ModelError(
            f"{self.name!r} is a name for imported features: they cannot be computed here",
            f"run `ecmf-pipe store import PATH --modality MODALITY --encoder {self.name}`",
        )


def settings_of_imported(settings: Mapping[str, Any]) -> bool:
    """Whether a store's settings are those of imported features (of which nobody here knows the input)."""
    encoder = settings.get("encoder")
    return isinstance(encoder, Mapping) and encoder.get("type") == "imported"


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

    Attributes:
        members: The encoders, in the order of their columns; of them the settings are made.
        batch_size: Not used: each member has its own.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset(Modality)
    """In principle all; params see to it that each member can serve the modality."""

    members: tuple[EncoderConfig, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if any(isinstance(member, ImportedConfig) for member in self.members):
            raise ValueError("imported features cannot be joined with others: their rows were made elsewhere")
        if len({_frames(member) for member in self.members}) > 1:
            raise ValueError("encoders that are joined must say the same of `frames`: their rows stand side by side")
        return self

    @property
    def frames(self) -> Frames | None:
        """Pictures of a clip that the members read; None: as ``media.frames`` says."""
        return _frames(self.members[0])

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

    def half_types(self) -> frozenset[str]:
        """Those of all members."""
        return frozenset[str]().union(*(member.half_types() for member in self.members))

    def libraries(self) -> frozenset[str]:
        """Those of all members."""
        return frozenset[str]().union(*(member.libraries() for member in self.members))

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the members' networks."""
        from ecmf_pipeline.encoders.joined import JoinedPreparer

        return JoinedPreparer([member.preparer() for member in self.members])

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load all members; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.joined import JoinedEncoder

        return JoinedEncoder(self, device)


def _frames(member: BaseEncoderConfig) -> Frames | None:
    """What a member says of `frames`; those that read no pictures say nothing."""
    frames: Frames | None = getattr(member, "frames", None)
    return frames


_EMBEDDED: Mapping[type[BaseEncoderConfig], int] = {
    EfficientNetConfig: 1280,
    MiniXceptionConfig: 180,
    EgemapsConfig: 88,
}


def known_dim(config: BaseEncoderConfig) -> int | None:
    """D, the width of a feature row; None where the model's own config is not on this machine, or does not say.

    Args:
        config: The encoder's params.
    """
    if isinstance(config, JoinedConfig):
        widths = [known_dim(member) for member in config.members]
        return None if None in widths else sum(width or 0 for width in widths)
    if not isinstance(config, TransformersConfig):
        return _EMBEDDED.get(type(config))
    shape = model_shape(config)
    vision = shape.get("vision_config", shape)  # of a model with two towers
    width = shape.get("projection_dim") if getattr(config, "token_pool", "") == "projection" else None
    width = width or vision.get("hidden_size") or vision.get("d_model")
    if not isinstance(width, int):
        return None
    return width * len(config.text_columns) if isinstance(config, TextConfig) else width


def model_shape(config: TransformersConfig) -> dict[str, Any]:
    """The model's config.json, from its folder or from what the hub's client has fetched; empty where it is neither."""
    path = _config_path(config.model, config.revision)
    try:
        shape = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return shape if isinstance(shape, dict) else {}


def _config_path(model: str, revision: str) -> Path:
    if Path(model).is_dir():
        return Path(model) / "config.json"
    reference = hub_reference(model, revision)
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    return hub_cache() / f"models--{model.replace('/', '--')}" / "snapshots" / commit / "config.json"
