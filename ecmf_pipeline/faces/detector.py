"""Detect the faces of each picture with MediaPipe's BlazeFace (arXiv 1907.05047), and track the main face of a clip.

The weights are those of the short-range model: its input is 128 x 128 pixels, and it finds faces of about a seventh of
the input side. The range is therefore extended by running the model on several views of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.console import silence_native_stderr
from ecmf_pipeline.core.errors import ModelError, NoFaceFound
from ecmf_pipeline.faces.config import CROP_MARGIN, FaceConfig
from ecmf_pipeline.faces.tracking import (
    KEYPOINTS,
    Box,
    Detection,
    colour_signature,
    crop_aligned,
    crop_square,
    eye_angle,
    find_cuts,
    intersection_over_union,
    landmark_quality,
    main_track,
    share_inside,
)

INPUT_SIDE = 128
"""Side of the square input of the network in pixels; smaller views would contain no more detail."""

_MIN_SAME_IOU = 0.3
_MIN_PART_SHARE = 0.7
_TILE_OVERLAP = 0.4
"""Overlap as a share of the tile side. A face that larger views may miss is then complete in at least one tile."""
_EDGE_MARGIN = 0.02
"""Margin as a share of the tile side. A box that ends closer to an inner edge is a truncated face."""


@dataclass(frozen=True, slots=True)
class View:
    """A region of a picture on which the detector runs.

    Attributes:
        box: Left, top, width and height in pixels.
        is_tile: Whether it is a small tile. Faces truncated by the edge of a tile are ignored: a neighbour contains
            them.
    """

    box: tuple[int, int, int, int]
    is_tile: bool = False


def detection_views(width: int, height: int, detection_range: Literal["short", "full"]) -> list[View]:
    """Return the regions of a picture on which the detector runs.

    Small faces are lost in the whole of a wide picture. The short range therefore uses the whole picture and, if it is
    wide or tall, overlapping squares over its shorter side. The full range adds tiles of half the side of the squares,
    a quarter, and so on, as long as they have at least as many pixels as the input of the detector.
    """
    side, length = min(width, height), max(width, height)
    regions = [View((0, 0, width, height))]
    if length >= 1.2 * side:
        count = int(np.ceil(2 * (length - side) / side)) + 1
        regions += [
            View((start, 0, side, side) if width > height else (0, start, side, side))
            for start in _tile_starts(length, side, count)
        ]
    if detection_range == "full":
        tile = side // 2
        while tile >= INPUT_SIDE:
            step = tile * (1 - _TILE_OVERLAP)
            lefts = _tile_starts(width, tile, int(np.ceil((width - tile) / step)) + 1)
            tops = _tile_starts(height, tile, int(np.ceil((height - tile) / step)) + 1)
            regions += [View((left, top, tile, tile), is_tile=True) for top in tops for left in lefts]
            tile //= 2
    return regions


def _tile_starts(length: int, side: int, count: int) -> list[int]:
    starts: list[int] = np.linspace(0, length - side, count).round().astype(int).tolist()
    return starts


def _to_detection(detected: Any, view: View) -> Detection:
    """Convert MediaPipe's detection in a view to a detection in the picture."""
    left, top, width, height = view.box
    box, score = detected.bounding_box, float(detected.categories[0].score)
    points = [(left + point.x * width, top + point.y * height) for point in detected.keypoints]
    return Detection(
        (left + box.origin_x, top + box.origin_y, box.width, box.height), score, np.array(points, np.float32)
    )


def _is_truncated(box: Box, view: View, width: int, height: int) -> bool:
    """Return whether a face reaches an edge of its tile that is not an edge of the picture."""
    left, top, side, _ = view.box
    margin = _EDGE_MARGIN * side
    return (
        (left > 0 and box[0] < left + margin)
        or (top > 0 and box[1] < top + margin)
        or (left + side < width and box[0] + box[2] > left + side - margin)
        or (top + side < height and box[1] + box[3] > top + side - margin)
    )


def _remove_duplicates(large: Sequence[Detection], small: Sequence[Detection]) -> list[Detection]:
    """Keep one detection for each face: the most confident of the large views, otherwise of the tiles.

    A detection in a tile that lies inside a detection of a large view is a part of that face.
    """
    kept: list[Detection] = []
    for detection in sorted(large, key=lambda detection: -detection.score):
        if all(intersection_over_union(detection.box, other.box) < _MIN_SAME_IOU for other in kept):
            kept.append(detection)
    for detection in sorted(small, key=lambda detection: -detection.score):
        if all(
            intersection_over_union(detection.box, other.box) < _MIN_SAME_IOU
            and share_inside(detection.box, other.box) < _MIN_PART_SHARE
            for other in kept
        ):
            kept.append(detection)
    return sorted(kept, key=lambda detection: -detection.score)


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """The main face of a clip.

    Attributes:
        crops: Square RGB crops, uint8 (F, S, S, 3); the side of the face box is ``1 / CROP_MARGIN`` of their side.
        frames: Index of the sampled frame of each crop, or its row in a file of crops, (F,).
        boxes: Boxes in pixels of the sampled frames: left, top, width, height, float32 (F, 4).
        scores: Confidence of the detector, float32 (F,); NaN if no detector was run.
        landmarks: BlazeFace's keypoints in pixels of the sampled frames, float32 (F, 6, 2); NaN if unknown.
        landmark_quality: See `tracking.landmark_quality`, float32 (F,); NaN if unknown.
    """

    crops: NDArray[np.uint8]
    frames: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    landmark_quality: NDArray[np.float32]

    def side_arrays(self, times: NDArray[np.float32] | None = None) -> dict[str, NDArray[Any]]:
        """Return the arrays that are stored with the features, with one entry for each crop.

        Args:
            times: Times of the sampled frames in seconds. None if unknown, as for a file of crops: then ``frames``, the
                number of the crop in its file, replaces ``times``.
        """
        positions = {"frames": self.frames} if times is None else {"times": times[self.frames]}
        return {
            **positions,
            "boxes": self.boxes,
            "scores": self.scores,
            "landmarks": self.landmarks.reshape(len(self.landmarks), 2 * KEYPOINTS),
            "landmark_quality": self.landmark_quality,
        }


class FaceFinder:
    """Detector and tracker of the main face of a clip.

    Close it or use it as a context manager, to free its native detector.
    """

    def __init__(self, config: FaceConfig) -> None:
        from mediapipe.tasks.python import BaseOptions, vision

        if not config.detector.is_file():
            raise ModelError(
                f"face detector {config.detector} does not exist",
                "fetch the default weights",
                command="ecmf-pipe models",
            )
        self._config = config
        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_path=str(config.detector)),
            min_detection_confidence=config.min_confidence,
        )
        with silence_native_stderr():
            self._detector = vision.FaceDetector.create_from_options(options)
            self.detect(np.zeros((64, 64, 3), np.uint8))  # the first picture prints more native messages

    def __enter__(self) -> FaceFinder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the native detector."""
        with silence_native_stderr():
            self._detector.close()

    def detect(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """Return all faces of an RGB picture, uint8 (H, W, 3), the most confident first."""
        height, width = picture.shape[:2]
        large, small = [], []
        for view in detection_views(width, height, self._config.range):
            faces = self._detect_in_view(picture, view)
            if view.is_tile:
                small += [face for face in faces if not _is_truncated(face.box, view, width, height)]
            else:
                large += faces
        return _remove_duplicates(large, small)

    def track(self, frames: NDArray[np.uint8]) -> FaceTrack:
        """Track the main face in sampled frames, uint8 (T, H, W, 3); see `tracking`.

        Raises:
            NoFaceFound: If no frame contains a face.
        """
        with silence_native_stderr():
            detections = [self.detect(frame) for frame in frames]
        signatures = [
            [colour_signature(frame, face.box) for face in faces]
            for frame, faces in zip(frames, detections, strict=True)
        ]
        height, width = frames.shape[1:3]
        track = main_track(detections, height=height, width=width, signatures=signatures, cuts=find_cuts(frames))
        if not track:
            raise NoFaceFound(f"no face found in {len(frames)} sampled frames")
        with silence_native_stderr():
            crops = np.stack([self._crop(frames[index], face) for index, face in track])
        return FaceTrack(
            crops=crops,
            frames=np.array([index for index, _ in track], np.int64),
            boxes=np.array([face.box for _, face in track], np.float32),
            scores=np.array([face.score for _, face in track], np.float32),
            landmarks=np.stack([face.landmarks for _, face in track]),
            landmark_quality=np.array([landmark_quality(frames[index], face) for index, face in track], np.float32),
        )

    def _crop(self, picture: NDArray[np.uint8], face: Detection) -> NDArray[np.uint8]:
        size = self._config.crop_size
        crop = crop_square(picture, face.box, size)
        if self._config.align == "none":
            return crop
        # In a large view the eyes of a small face are a few pixels off, so they are detected again in the crop.
        side = size / CROP_MARGIN
        box_in_crop = ((size - side) / 2, (size - side) / 2, side, side)
        refined = self._redetect(crop, box_in_crop) or face
        return crop_aligned(picture, face.box, eye_angle(refined.box, refined.landmarks), size)

    def _redetect(self, crop: NDArray[np.uint8], box: Box) -> Detection | None:
        """Detect the face of a crop, uint8 (S, S, 3), again at its box in the crop; return None if it is not found."""
        faces = self._detect_in_view(crop, View((0, 0, crop.shape[1], crop.shape[0])))
        matching = [face for face in faces if intersection_over_union(face.box, box) > _MIN_SAME_IOU]
        return max(matching, key=lambda face: intersection_over_union(face.box, box), default=None)

    def _detect_in_view(self, picture: NDArray[np.uint8], view: View) -> list[Detection]:
        import mediapipe

        left, top, width, height = view.box
        region = np.ascontiguousarray(picture[top : top + height, left : left + width])
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=region)
        return [_to_detection(detected, view) for detected in self._detector.detect(image).detections]
