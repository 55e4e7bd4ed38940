"""Which faces are found, and what is looked at for it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from ecmf_pipeline.faces.detector import INPUT_SIDE, detection_views

SIDE = 95
"""Pixels of the astronaut's face, as the detector sees it."""


def with_face(width: int, height: int, pixels: int, across: float, down: float):
    """A grey picture with one face whose box is so many pixels wide, and the face's middle."""
    scale = pixels / SIDE
    cut = cv2.resize(data.astronaut()[:400, 60:400], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    picture = np.full((height, width, 3), 100, np.uint8)
    left, top = round(across * (width - cut.shape[1])), round(down * (height - cut.shape[0]))
    picture[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return picture, left + (224.5 - 60) * scale, top + 129.5 * scale


def found_share(finder, width: int, height: int, pixels: int) -> float:
    """In how many of nine places a face is found where it is."""
    hits = 0
    for across in (0.02, 0.5, 0.77):
        for down in (0.02, 0.4, 0.98):
            picture, x, y = with_face(width, height, pixels, across, down)
            boxes = [face.box for face in finder.detect(picture)]
            hits += any(
                abs(left + side / 2 - x) < pixels / 2 and abs(top + side / 2 - y) < pixels / 2
                for left, top, side, _ in boxes
            )
    return hits / 9


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1280, 720)])
def test_the_short_range_finds_faces_of_a_seventh_of_the_shorter_side(finder, width, height):
    assert found_share(finder, width, height, height // 7) == 1.0
    assert found_share(finder, width, height, height // 15) < 0.5


@pytest.mark.parametrize(("width", "height", "pixels"), [(640, 480, 36), (1280, 720, 26)])
def test_the_full_range_finds_small_faces(full_range, width, height, pixels):
    assert found_share(full_range, width, height, pixels) == 1.0


def test_the_full_range_finds_each_large_face_once(full_range, finder):
    picture, _, _ = with_face(1280, 720, 160, 0.5, 0.5)
    near = [face for face in full_range.detect(picture) if face.box[2] > 100]
    (alone,) = finder.detect(picture)
    assert [face.box for face in near] == [alone.box]


def test_the_full_range_finds_two_distant_people_where_the_short_range_finds_none(full_range, finder, shared_data):
    from ecmf_pipeline.media.config import MediaConfig
    from ecmf_pipeline.media.sampling import read_frames

    frames, _ = read_frames(shared_data / "clips/video/clip_017.mp4", MediaConfig())
    assert finder.detect(frames[8]) == []
    assert len(full_range.detect(frames[8])) == 2


@pytest.mark.parametrize(("width", "height"), [(256, 256), (640, 360), (1280, 720), (300, 900), (64, 64), (130, 2000)])
@pytest.mark.parametrize("reach", ["short", "full"])
def test_the_views_cover_the_picture_and_stay_in_it(width, height, reach):
    seen = np.zeros((height, width), int)
    small = np.zeros((height, width), int)
    chosen = detection_views(width, height, reach)
    for view in chosen:
        left, top, across, down = view.box
        assert left >= 0
        assert top >= 0
        assert left + across <= width
        assert top + down <= height
        seen[top : top + down, left : left + across] += 1
        if view.is_tile:
            assert across == down >= INPUT_SIDE
            small[top : top + down, left : left + across] += 1
    assert (seen >= 1).all()
    assert len(set(chosen)) == len(chosen)
    if reach == "full" and min(width, height) >= 2 * INPUT_SIDE:
        assert (small >= 1).all()
    assert any(view.is_tile for view in chosen) == (reach == "full" and min(width, height) >= 2 * INPUT_SIDE)
