"""The params of every encoder. No torch here: planning a run that has nothing to do must not load it.

Adding an encoder is one subclass of `base.Encoder`, one config here whose name joins the union `EncoderConfig`, and one
entry in params.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ecmf_pipeline.clips import Modality
from ecmf_pipeline.config import Config
from ecmf_pipeline.encoders.weights import ModelSource, locate, weights_hash
from ecmf_pipeline.errors import ModelError
from ecmf_pipeline.media import Frames

if TYPE_CHECKING:
    from ecmf_pipeline.encoders.base import Encoder, Preparer

MODELS = Path("data/models")
"""Where `ecmf-pipe models` lays the weights, relative to the project folder."""

Layers = Literal["last", "last4_mean", "last4_sum"] | tuple[int, ...]
"""The last hidden layer, the mean or sum of the last four, or the mean of those named: 0 is what enters the first
layer, -1 what leaves the last."""

Precision = Literal["fp32", "bf16", "fp16", "auto"]
"""The type that matrices are multiplied in; ``auto``: the fastest that the device has instructions for."""


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

    batch_size: int = Field(16, gt=0)

    def named(self, name: str) -> Self:  # noqa: ARG002 - computed features do not depend on what they are called
        """These params as those of the entry ``name`` under ``encoders``."""
        return self

    def resolved(self, device: str) -> Self:  # noqa: ARG002 - what a device decides is told by those that have it
        """The same with all that is left to the device decided.

        Args:
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        """
        return self

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
        from ecmf_pipeline.encoders.efficientnet import efficientnet_preprocessing
        from ecmf_pipeline.encoders.pictures import PicturePreparer

        return PicturePreparer(efficientnet_preprocessing(self))

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.efficientnet import EfficientNetEncoder

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
        from ecmf_pipeline.encoders.face import MiniXceptionPreparer

        return MiniXceptionPreparer(self)

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.face import MiniXceptionEncoder

        return MiniXceptionEncoder(self, device)


class EgemapsConfig(BaseEncoderConfig):
    """The 88 functionals of eGeMAPSv02, one row a clip."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})
    uses_torch: ClassVar[bool] = False

    type: Literal["egemaps"] = "egemaps"

    def preparer(self) -> Preparer[Any]:
        """Load openSMILE, which does all the work."""
        from ecmf_pipeline.encoders.egemaps import EgemapsPreparer

        return EgemapsPreparer()

    def build(self, device: str = "auto") -> Encoder[Any]:  # noqa: ARG002 - openSMILE knows the CPU alone
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.egemaps import EgemapsEncoder

        return EgemapsEncoder(self)


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

    model: str = Field(min_length=1)
    revision: str = "main"
    precision: Precision = "fp32"

    def resolved(self, device: str) -> Self:
        """The same with ``precision: auto`` decided; see `BaseEncoderConfig.resolved`."""
        if self.precision != "auto":
            return self
        from ecmf_pipeline.encoders.inference import best_precision

        return self.model_copy(update={"precision": best_precision(device)})

    def source(self) -> ModelSource:
        """Where the model is loaded from; what `settings` hashes is what `build` loads.

        Raises:
            ModelError: When it cannot be found.
        """
        return locate(self.model, self.revision)

    def weights_settings(self) -> dict[str, Any]:
        """The hub's commit, or the SHA-256 of each file of the folder."""
        return self.source().settings()


TokenPool = Literal["auto", "cls", "mean", "pooler", "projection"]
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
    token_pool: TokenPool = "auto"
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
        from ecmf_pipeline.encoders.pictures import PicturePreparer

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
        from ecmf_pipeline.encoders.video import video_preparer

        return video_preparer(self.source())

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.video import VideoEncoder

        return VideoEncoder(self, device)


class AudioConfig(TransformersConfig):
    """A transformers speech model that reads waveforms (HuBERT, wav2vec2, WavLM...), 50 rows a second.

    Attributes:
        layers: The last hidden layer, or the mean or sum of the last four.
        frames_per_row: Rows of the model that are averaged into one, to keep stores of long clips small.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})

    type: Literal["transformers_audio"] = "transformers_audio"
    batch_size: int = Field(8, gt=0)
    layers: Layers = "last"
    frames_per_row: int = Field(1, gt=0)

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the network; see `BaseEncoderConfig.preparer`."""
        from ecmf_pipeline.encoders.audio import AudioPreparer

        return AudioPreparer(self.source())

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.audio import AudioEncoder

        return AudioEncoder(self, device)


class TextConfig(TransformersConfig):
    """A transformers text model (BERT, sentence embeddings, a decoder LM...), one row a clip.

    The row is pooled from the tokens as a sentence-transformers folder says, else it is their mean.

    Attributes:
        inputs: Which transcript is embedded: the original, the LLM-enriched one, or both (side by side, so twice as
            wide).
        max_tokens: Tokens after which a text is cut off; the model's own limit holds too.
        layers: The last hidden layer, or the mean or sum of the last four.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT})

    type: Literal["transformers_text"] = "transformers_text"
    batch_size: int = Field(32, gt=0)
    model: str = Field(str(MODELS / "minilm"), min_length=1)
    inputs: Literal["original", "enriched", "both"] = "original"
    max_tokens: int = Field(256, gt=0)
    layers: Layers = "last"

    def preparer(self) -> Preparer[Any]:
        """Load what comes before the network; see `BaseEncoderConfig.preparer`."""
        from ecmf_pipeline.encoders.text import TextPreparer

        return TextPreparer(self)

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.text import TextEncoder

        return TextEncoder(self, device)


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
