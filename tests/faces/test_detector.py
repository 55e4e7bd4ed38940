"""Detected faces, and the views on which the detector runs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from ecmf_pipeline.faces.detector import INPUT_SIDE, detection_views

SIDE = 95
"""Width of the detected box of the astronaut's face in pixels."""


def picture_with_face(width: int, height: int, face_width: int, across: float, down: float):
    """Return a grey picture with one face whose box has the given width, and the centre of the face."""
    scale = face_width / SIDE
    portrait = cv2.resize(data.astronaut()[:400, 60:400], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    picture = np.full((height, width, 3), 100, np.uint8)
    left, top = round(across * (width - portrait.shape[1])), round(down * (height - portrait.shape[0]))
    picture[top : top + portrait.shape[0], left : left + portrait.shape[1]] = portrait
    return picture, left + (224.5 - 60) * scale, top + 129.5 * scale


def detection_rate(finder, width: int, height: int, face_width: int) -> float:
    """Return the share of nine positions at which a face is detected at its position."""
    hits = 0
    for across in (0.02, 0.5, 0.77):
        for down in (0.02, 0.4, 0.98):
            picture, x, y = picture_with_face(width, height, face_width, across, down)
            boxes = [face.box for face in finder.detect(picture)]
            hits += any(
                abs(left + side / 2 - x) < face_width / 2 and abs(top + side / 2 - y) < face_width / 2
                for left, top, side, _ in boxes
            )
    return hits / 9


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1280, 720)])
def test_short_range_detects_faces_of_a_seventh_of_the_shorter_side(finder, width, height):
    assert detection_rate(finder, width, height, height // 7) == 1.0
    assert detection_rate(finder, width, height, height // 15) < 0.5


@pytest.mark.parametrize(("width", "height", "face_width"), [(640, 480, 36), (1280, 720, 26)])
def test_full_range_detects_small_faces(full_range_finder, width, height, face_width):
    assert detection_rate(full_range_finder, width, height, face_width) == 1.0


def test_full_range_detects_each_large_face_once(full_range_finder, finder):
    picture, _, _ = picture_with_face(1280, 720, 160, 0.5, 0.5)
    large = [face for face in full_range_finder.detect(picture) if face.box[2] > 100]
    (expected,) = finder.detect(picture)
    assert [face.box for face in large] == [expected.box]


def test_full_range_detects_two_distant_people_that_short_range_misses(full_range_finder, finder, shared_data):
    from ecmf_pipeline.media.config import MediaConfig
    from ecmf_pipeline.media.sampling import read_frames

    frames, _ = read_frames(shared_data / "clips/video/clip_017.mp4", MediaConfig())
    assert finder.detect(frames[8]) == []
    assert len(full_range_finder.detect(frames[8])) == 2


@pytest.mark.parametrize(("width", "height"), [(256, 256), (640, 360), (1280, 720), (300, 900), (64, 64), (130, 2000)])
@pytest.mark.parametrize("detection_range", ["short", "full"])
def test_views_cover_the_picture_and_do_not_exceed_it(width, height, detection_range):
    n_views = np.zeros((height, width), int)
    n_tiles = np.zeros((height, width), int)
    views = detection_views(width, height, detection_range)
    for view in views:
        left, top, view_width, view_height = view.box
        assert left >= 0
        assert top >= 0
        assert left + view_width <= width
        assert top + view_height <= height
        n_views[top : top + view_height, left : left + view_width] += 1
        if view.is_tile:
            assert view_width == view_height >= INPUT_SIDE
            n_tiles[top : top + view_height, left : left + view_width] += 1
    assert (n_views >= 1).all()
    assert len(set(views)) == len(views)
    if detection_range == "full" and min(width, height) >= 2 * INPUT_SIDE:
        assert (n_tiles >= 1).all()
    assert any(view.is_tile for view in views) == (detection_range == "full" and min(width, height) >= 2 * INPUT_SIDE)
