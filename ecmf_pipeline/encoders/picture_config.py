"""The params of encoders of frames and face crops."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ecmf_pipeline.clips import Modality
from ecmf_pipeline.config import Frames
from ecmf_pipeline.encoders.base_config import MODELS, BaseEncoderConfig, Layers, TransformersConfig
from ecmf_pipeline.encoders.weights import weights_hash

if TYPE_CHECKING:
    from ecmf_pipeline.encoders.base import Encoder, Preparer


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
        from ecmf_pipeline.encoders.face import MiniXceptionPreparer

        return MiniXceptionPreparer(self)

    def build(self, device: str = "auto") -> Encoder[Any]:
        """Load the encoder; see `BaseEncoderConfig.build`."""
        from ecmf_pipeline.encoders.face import MiniXceptionEncoder

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
