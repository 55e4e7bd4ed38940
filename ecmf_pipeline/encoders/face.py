"""The face branch's default encoder: what a small expression network and MediaPipe's blendshapes see in a crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ecmf_pipeline.encoders import xception
from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer
from ecmf_pipeline.encoders.config import MiniXceptionConfig
from ecmf_pipeline.encoders.inference import Inference
from ecmf_pipeline.encoders.weights import MODELS_HINT
from ecmf_pipeline.errors import ModelError
from ecmf_pipeline.faces import CROP_MARGIN, FaceTrack
from ecmf_pipeline.quiet import native_stderr_silenced

BLENDSHAPES = 52
_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, which OpenCV's grey pictures (and so FER2013's users) go by."""


class BlendshapeReader:
    """MediaPipe's face landmarker, asked for its 52 blendshapes alone. Holds a native object: close it.

    The blendshapes are those of ARKit less ``tongueOut``, after ``_neutral``; `names` gives their order.
    """

    def __init__(self, bundle: Path) -> None:
        from mediapipe.tasks.python import BaseOptions, vision

        if not bundle.is_file():
            raise ModelError(f"the face landmarker {bundle} is missing", MODELS_HINT)
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(bundle)), output_face_blendshapes=True, num_faces=1
        )
        try:
            with native_stderr_silenced():
                self._landmarker = vision.FaceLandmarker.create_from_options(options)
                self.read(
                    np.zeros((xception.SIDE, xception.SIDE, 3), np.uint8)
                )  # the first picture brings more chatter
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{bundle} is not a face landmarker ({error})", MODELS_HINT) from error

    def close(self) -> None:
        """Free the native landmarker."""
        with native_stderr_silenced():
            self._landmarker.close()

    def read(self, crop: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Blendshapes in [0, 1], (52,), of the face in an RGB crop, uint8 (S, S, 3); None when none is found."""
        import mediapipe

        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(crop))
        found = self._landmarker.detect(image).face_blendshapes
        if not found:
            return None
        return np.array([shape.score for shape in sorted(found[0], key=lambda shape: shape.index)], np.float32)


@dataclass(frozen=True, slots=True)
class PreparedFaces:
    """What the mini-Xception takes of a face track, and what stands beside its features.

    Attributes:
        grey: Faces as `MiniXceptionPreparer.grey_faces` makes them, float32 (T, 1, 64, 64).
        blendshapes: (T, 52).
        kept: The crops in which a face was found, (T,).
    """

    grey: NDArray[np.float32]
    blendshapes: NDArray[np.float32]
    kept: NDArray[np.int64]


class MiniXceptionPreparer(Preparer[FaceTrack]):
    """Reads the blendshapes of a track's crops, and makes small grey faces of them. Holds a native object: close it."""

    def __init__(self, config: MiniXceptionConfig) -> None:
        self._face_scale = config.face_scale
        self._reader = BlendshapeReader(config.face_landmarker)

    def close(self) -> None:
        """Free the native landmarker."""
        self._reader.close()

    def described(self) -> dict[str, Any]:
        """What the mini-Xception sees of a crop; the landmarker sees all of it."""
        return {"face_scale": self._face_scale, "side": xception.SIDE, "grey": True}

    def prepare(self, view: FaceTrack) -> PreparedFaces:
        """The crops in which a face is found."""
        shapes = [self._reader.read(crop) for crop in view.crops]
        kept = np.array([index for index, shape in enumerate(shapes) if shape is not None], np.int64)
        blendshapes = np.array([shapes[index] for index in kept], np.float32).reshape(-1, BLENDSHAPES)
        return PreparedFaces(self.grey_faces(view.crops[kept]).numpy(), blendshapes, kept)

    def grey_faces(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """What the mini-Xception sees of crops, uint8 (F, S, S, 3): grey levels in [-1, 1], float32 (F, 1, 64, 64).

        As `fer` prepares faces: the square around the face, grey, 64 x 64, scaled to [0, 1], less 0.5, times 2.
        """
        size = crops.shape[1]
        side = round(size * self._face_scale / CROP_MARGIN)
        start = (size - side) // 2
        centre = crops[:, start : start + side, start : start + side]
        grey = torch.from_numpy(np.ascontiguousarray(centre)).float() @ torch.tensor(_LUMA)  # (F, side, side)
        small = F.interpolate(grey[:, None], (xception.SIDE, xception.SIDE), mode="bilinear", antialias=True)
        return small / 127.5 - 1


class MiniXceptionEncoder(Encoder[FaceTrack]):
    """Mini-Xception features (128) beside blendshapes (52): a row a crop in which a face is found."""

    preparer: MiniXceptionPreparer
    inference: Inference

    def __init__(self, config: MiniXceptionConfig, device: str = "auto") -> None:
        self._settings = config.settings()
        self.inference = Inference(device, config.batch_size)
        self.network = self.inference.place(xception.load_mini_xception(config.weights))
        self.preparer = MiniXceptionPreparer(config)

    @property
    def dim(self) -> int:
        """D: 180."""
        return xception.DIM + BLENDSHAPES

    @property
    def settings(self) -> dict[str, Any]:
        """See `MiniXceptionConfig.settings`."""
        return self._settings

    def encode_prepared(self, prepared: Sequence[PreparedFaces]) -> list[Encoding]:
        """Encode face tracks: (T, 180) a clip, T being the crops in which a face was found; ``kept`` tells which."""
        rows = self.inference.rows_of_clips([faces.grey for faces in prepared], lambda faces: self.network(faces)[0])
        return [
            Encoding(np.concatenate([deep, faces.blendshapes], axis=1), faces.kept)
            for deep, faces in zip(rows, prepared, strict=True)
        ]
