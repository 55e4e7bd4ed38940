"""Crops, upright and turned."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from ecmf_pipeline.faces.config import CROP_MARGIN, FaceConfig
from ecmf_pipeline.faces.detector import FaceFinder
from ecmf_pipeline.faces.tracking import crop_level, crop_square, eye_angle


@pytest.fixture(scope="module")
def level(detector):
    with FaceFinder(FaceConfig(detector=detector, align="eyes")) as found:
        yield found


def turned(degrees: float):
    """The astronaut, turned about the face, counterclockwise."""
    turn = cv2.getRotationMatrix2D((224, 130), degrees, 1.0)
    return cv2.warpAffine(data.astronaut(), turn, (512, 512), borderMode=cv2.BORDER_REFLECT)


def slope(finder, crop) -> float:
    """Degrees by which the eyes in a crop are off the level."""
    (face,) = finder.detect(crop)
    return float(np.degrees(eye_angle(face.box, face.landmarks)))


@pytest.mark.parametrize("degrees", [-30, -15, 15, 30])
def test_eyes_of_a_turned_photograph_are_level(level, finder, degrees):
    picture = turned(degrees)
    as_it_is, aligned = finder.track(picture[None]).crops[0], level.track(picture[None]).crops[0]
    assert aligned.shape == as_it_is.shape
    assert abs(slope(finder, as_it_is)) > abs(degrees) - 8
    assert abs(slope(finder, aligned)) < 4
    (found,) = finder.detect(aligned)
    assert found.box[2] == pytest.approx(256 / CROP_MARGIN, rel=0.25)


def test_by_default_nothing_is_turned(finder):
    picture = turned(20)
    (face,) = finder.detect(picture)
    np.testing.assert_array_equal(finder.track(picture[None]).crops[0], crop_square(picture, face.box, 256))


def test_level_eyes_leave_the_crop_as_it_is():
    picture, box = data.astronaut(), (180.0, 90.0, 90.0, 90.0)
    np.testing.assert_array_equal(crop_level(picture, box, 0.0, 128), crop_square(picture, box, 128))


@pytest.mark.parametrize("size", [64, 128, 256])
def test_a_turn_of_nearly_nothing_is_nearly_the_same_crop(size):
    """Turning must neither shift nor scale."""
    picture, box = cv2.GaussianBlur(data.astronaut(), (0, 0), 2), (180.0, 90.0, 91.0, 90.0)
    straight = crop_square(picture, box, size).astype(int)
    difference = crop_level(picture, box, 1e-4, size).astype(int) - straight
    shifted = np.abs(np.roll(straight, 1, axis=1) - straight).mean()
    assert np.abs(difference).mean() < 0.25 * shifted


def test_a_profile_and_unknown_landmarks_are_not_turned():
    box = (0.0, 0.0, 100.0, 100.0)
    profile = np.array([[50, 30], [55, 40], [60, 50], [55, 70], [20, 40], [50, 40]], np.float32)
    assert eye_angle(box, profile) == 0.0
    assert eye_angle(box, np.full((6, 2), np.nan, np.float32)) == 0.0
    across = profile.copy()
    across[1] = (80, 60)
    assert eye_angle(box, across) == pytest.approx(np.pi / 4)


def test_a_crop_beyond_the_edge_repeats_edge_pixels():
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:, :5] = 200
    crop = crop_square(picture, (-10, 10, 30, 30), 64)
    assert crop.shape == (64, 64, 3)
    assert (crop[:, 0] == 200).all()
