"""The main face of a clip: found, followed and cut out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import NoFaceFound
from ecmf_pipeline.core.native_stderr import native_stderr_silenced
from ecmf_pipeline.faces.boxes import KEYPOINTS, Detection
from ecmf_pipeline.faces.config import CROP_MARGIN, FaceConfig
from ecmf_pipeline.faces.cropping import crop_level, crop_square, eye_angle, landmark_quality
from ecmf_pipeline.faces.detector import FaceDetector
from ecmf_pipeline.faces.tracking import find_cuts, main_track, signature


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """The main face of a clip.

    Attributes:
        crops: Square RGB crops, the box's side being ``1 / CROP_MARGIN`` of theirs, uint8 (F, S, S, 3).
        frames: The sampled frame (or, of crops that were cut already, the crop in the file) that each comes from, (F,).
        boxes: Boxes in pixels of the sampled frames: left, top, width, height, float32 (F, 4).
        scores: The detector's confidence, float32 (F,); NaN where no detector was asked.
        landmarks: BlazeFace's keypoints in pixels of the sampled frames, float32 (F, 6, 2); NaN where unknown.
        landmark_quality: See `cropping.landmark_quality`, float32 (F,); NaN where unknown.
    """

    crops: NDArray[np.uint8]
    frames: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, KEYPOINTS, 2), np.float32))
    landmark_quality: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        count = len(self.frames)
        if len(self.landmarks) == 0:
            object.__setattr__(self, "landmarks", np.full((count, KEYPOINTS, 2), np.nan, np.float32))
        if len(self.landmark_quality) == 0:
            object.__setattr__(self, "landmark_quality", np.full(count, np.nan, np.float32))

    def side_arrays(self, times: NDArray[np.float32] | None = None) -> dict[str, NDArray[Any]]:
        """What is kept beside the features, with one entry a crop.

        Args:
            times: Seconds at which the sampled frames are shown. None where that is unknown, as of crops that were cut
                already: then ``frames``, the number of the crop in its file, stands in place of ``times``.
        """
        when = {"frames": self.frames} if times is None else {"times": times[self.frames]}
        return {
            **when,
            "boxes": self.boxes,
            "scores": self.scores,
            "landmarks": self.landmarks.reshape(len(self.landmarks), 2 * KEYPOINTS),
            "landmark_quality": self.landmark_quality,
        }


class FaceFinder:
    """Finds the main face of clips; holds a native detector, so close it (or use it as a context manager)."""

    def __init__(self, config: FaceConfig) -> None:
        self._config = config
        self._detector = FaceDetector(config)

    def __enter__(self) -> FaceFinder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the native detector."""
        self._detector.close()

    def detect(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """All faces of one RGB picture, uint8 (H, W, 3), the surest first."""
        return self._detector.detect(picture)

    def track(self, frames: NDArray[np.uint8]) -> FaceTrack:
        """Follow the main face through sampled frames, uint8 (T, H, W, 3); see `tracking`.

        Raises:
            NoFaceFound: When no frame shows a face.
        """
        with native_stderr_silenced():
            detections = [self.detect(frame) for frame in frames]
        looks = [
            [signature(frame, face.box) for face in faces] for frame, faces in zip(frames, detections, strict=True)
        ]
        height, width = frames.shape[1:3]
        steps = main_track(detections, height=height, width=width, looks=looks, cuts=find_cuts(frames))
        if not steps:
            raise NoFaceFound(f"0 of {len(frames)} sampled frames show a face")
        with native_stderr_silenced():
            crops = np.stack([self._crop(frames[index], face) for index, face in steps])
        return FaceTrack(
            crops=crops,
            frames=np.array([index for index, _ in steps], np.int64),
            boxes=np.array([face.box for _, face in steps], np.float32),
            scores=np.array([face.score for _, face in steps], np.float32),
            landmarks=np.stack([face.landmarks for _, face in steps]),
            landmark_quality=np.array([landmark_quality(frames[index], face) for index, face in steps], np.float32),
        )

    def _crop(self, picture: NDArray[np.uint8], face: Detection) -> NDArray[np.uint8]:
        size = self._config.crop_size
        crop = crop_square(picture, face.box, size)
        if self._config.align == "none":
            return crop
        # The eyes of a face that was small in its view are a few pixels off: they are looked for again in the crop.
        side = size / CROP_MARGIN
        whole = ((size - side) / 2, (size - side) / 2, side, side)
        nearer = self._detector.find_again(crop, whole) or face
        return crop_level(picture, face.box, eye_angle(nearer.box, nearer.landmarks), size)
