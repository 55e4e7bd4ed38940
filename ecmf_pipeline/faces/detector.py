"""Find the faces of each picture with MediaPipe's BlazeFace (arXiv 1907.05047), and follow the main one through a clip.

The weights are those of the short range: they see 128 x 128 pixels of whatever they are given and find a face of about
a seventh of its side. So the range is a matter of which views of the picture they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.console import native_stderr_silenced
from ecmf_pipeline.core.errors import ModelError, NoFaceFound
from ecmf_pipeline.faces.config import CROP_MARGIN, FaceConfig
from ecmf_pipeline.faces.tracking import (
    KEYPOINTS,
    Box,
    Detection,
    crop_level,
    crop_square,
    eye_angle,
    find_cuts,
    intersection_over_union,
    landmark_quality,
    main_track,
    share_inside,
    signature,
)

INPUT_SIDE = 128
"""Pixels of the network's square input: a smaller view would show it nothing new."""

_SAME_FACE = 0.3
_PART_OF_A_FACE = 0.7
_TILES_OVERLAP = 0.4  # of a tile's side: a face that the next larger views may miss lies whole in one of them
_EDGE = 0.02  # of a tile's side: a box that ends nearer to an inner edge shows a face that the edge cuts


@dataclass(frozen=True, slots=True)
class View:
    """A part of a picture that is looked at by itself.

    Attributes:
        box: Left, top, width and height in pixels.
        is_tile: Whether it is one of the small ones, in which a face that an edge cuts is left to its neighbours.
    """

    box: tuple[int, int, int, int]
    is_tile: bool = False


def views(width: int, height: int, reach: Literal["short", "full"]) -> list[View]:
    """The parts of a picture that are looked at.

    A small face is lost in the whole of a wide picture: such pictures are looked at once whole and once in overlapping
    squares as high as the picture (or as wide, where it is tall). That is the short range. The full range goes on with
    tiles of half the squares' side, a quarter, and so on as long as they have more pixels than the detector sees.
    """
    side, length = min(width, height), max(width, height)
    chosen = [View((0, 0, width, height))]
    if length >= 1.2 * side:
        count = int(np.ceil(2 * (length - side) / side)) + 1
        chosen += [
            View((start, 0, side, side) if width > height else (0, start, side, side))
            for start in _starts(length, side, count)
        ]
    if reach == "full":
        tile = side // 2
        while tile >= INPUT_SIDE:
            step = tile * (1 - _TILES_OVERLAP)
            lefts = _starts(width, tile, int(np.ceil((width - tile) / step)) + 1)
            tops = _starts(height, tile, int(np.ceil((height - tile) / step)) + 1)
            chosen += [View((left, top, tile, tile), is_tile=True) for top in tops for left in lefts]
            tile //= 2
    return chosen


def _starts(length: int, side: int, count: int) -> list[int]:
    starts: list[int] = np.linspace(0, length - side, count).round().astype(int).tolist()
    return starts


def _moved(found: Any, view: View) -> Detection:
    """MediaPipe's detection in a view as one in the picture."""
    left, top, width, height = view.box
    box, score = found.bounding_box, float(found.categories[0].score)
    points = [(left + point.x * width, top + point.y * height) for point in found.keypoints]
    return Detection(
        (left + box.origin_x, top + box.origin_y, box.width, box.height), score, np.array(points, np.float32)
    )


def _is_cut(box: Box, view: View, width: int, height: int) -> bool:
    """Whether a face reaches an edge of its tile that is none of the picture's."""
    left, top, side, _ = view.box
    near = _EDGE * side
    return (
        (left > 0 and box[0] < left + near)
        or (top > 0 and box[1] < top + near)
        or (left + side < width and box[0] + box[2] > left + side - near)
        or (top + side < height and box[1] + box[3] > top + side - near)
    )


def _distinct(large: Sequence[Detection], small: Sequence[Detection]) -> list[Detection]:
    """One detection a face, where several views show it: the surest of the large views, else of the tiles.

    What a tile shows inside a face that a large view has found is a part of that face.
    """
    kept: list[Detection] = []
    for detection in sorted(large, key=lambda one: -one.score):
        if all(intersection_over_union(detection.box, other.box) < _SAME_FACE for other in kept):
            kept.append(detection)
    for detection in sorted(small, key=lambda one: -one.score):
        if all(
            intersection_over_union(detection.box, other.box) < _SAME_FACE
            and share_inside(detection.box, other.box) < _PART_OF_A_FACE
            for other in kept
        ):
            kept.append(detection)
    return sorted(kept, key=lambda one: -one.score)


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """The main face of a clip.

    Attributes:
        crops: Square RGB crops, the box's side being ``1 / CROP_MARGIN`` of theirs, uint8 (F, S, S, 3).
        frames: The sampled frame (or, of crops that were cut already, the crop in the file) that each comes from, (F,).
        boxes: Boxes in pixels of the sampled frames: left, top, width, height, float32 (F, 4).
        scores: The detector's confidence, float32 (F,); NaN where no detector was asked.
        landmarks: BlazeFace's keypoints in pixels of the sampled frames, float32 (F, 6, 2); NaN where unknown.
        landmark_quality: See `tracking.landmark_quality`, float32 (F,); NaN where unknown.
    """

    crops: NDArray[np.uint8]
    frames: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    landmark_quality: NDArray[np.float32]

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
        from mediapipe.tasks.python import BaseOptions, vision

        if not config.detector.is_file():
            raise ModelError(f"the face detector {config.detector} is missing", "run `ecmf-pipe models`")
        self._config = config
        options = vision.FaceDetectorOptions(
            base_options=BaseOptions(model_asset_path=str(config.detector)),
            min_detection_confidence=config.min_confidence,
        )
        with native_stderr_silenced():
            self._detector = vision.FaceDetector.create_from_options(options)
            self.detect(np.zeros((64, 64, 3), np.uint8))  # the first picture brings more chatter

    def __enter__(self) -> FaceFinder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the native detector."""
        with native_stderr_silenced():
            self._detector.close()

    def detect(self, picture: NDArray[np.uint8]) -> list[Detection]:
        """All faces of one RGB picture, uint8 (H, W, 3), the surest first."""
        height, width = picture.shape[:2]
        large, small = [], []
        for view in views(width, height, self._config.range):
            found = self._look(picture, view)
            if view.is_tile:
                small += [face for face in found if not _is_cut(face.box, view, width, height)]
            else:
                large += found
        return _distinct(large, small)

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
        nearer = self._find_again(crop, whole) or face
        return crop_level(picture, face.box, eye_angle(nearer.box, nearer.landmarks), size)

    def _find_again(self, crop: NDArray[np.uint8], box: Box) -> Detection | None:
        """The face that a crop, uint8 (S, S, 3), was cut for and that fills a box in it; None when it is not found."""
        found = self._look(crop, View((0, 0, crop.shape[1], crop.shape[0])))
        there = [face for face in found if intersection_over_union(face.box, box) > _SAME_FACE]
        return max(there, key=lambda face: intersection_over_union(face.box, box), default=None)

    def _look(self, picture: NDArray[np.uint8], view: View) -> list[Detection]:
        import mediapipe

        left, top, width, height = view.box
        part = np.ascontiguousarray(picture[top : top + height, left : left + width])
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=part)
        return [_moved(found, view) for found in self._detector.detect(image).detections]
