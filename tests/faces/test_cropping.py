"""Face crops with and without rotation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from ecmf_pipeline.faces.config import CROP_MARGIN, FaceConfig
from ecmf_pipeline.faces.detector import FaceFinder
from ecmf_pipeline.faces.tracking import crop_aligned, crop_square, eye_angle


@pytest.fixture(scope="module")
def aligning_finder(detector):
    with FaceFinder(FaceConfig(detector=detector, align="eyes")) as opened:
        yield opened


def rotated_astronaut(degrees: float):
    """Return the astronaut, rotated counterclockwise about the face."""
    rotation = cv2.getRotationMatrix2D((224, 130), degrees, 1.0)
    return cv2.warpAffine(data.astronaut(), rotation, (512, 512), borderMode=cv2.BORDER_REFLECT)


def eye_slope(finder, crop) -> float:
    """Return the slope of the line through the eyes in a crop, in degrees."""
    (face,) = finder.detect(crop)
    return float(np.degrees(eye_angle(face.box, face.landmarks)))


@pytest.mark.parametrize("degrees", [-30, -15, 15, 30])
def test_eyes_are_level_after_alignment(aligning_finder, finder, degrees):
    picture = rotated_astronaut(degrees)
    unaligned, aligned = finder.track(picture[None]).crops[0], aligning_finder.track(picture[None]).crops[0]
    assert aligned.shape == unaligned.shape
    assert abs(eye_slope(finder, unaligned)) > abs(degrees) - 8
    assert abs(eye_slope(finder, aligned)) < 4
    (face,) = finder.detect(aligned)
    assert face.box[2] == pytest.approx(256 / CROP_MARGIN, rel=0.25)


def test_crops_are_not_rotated_by_default(finder):
    picture = rotated_astronaut(20)
    (face,) = finder.detect(picture)
    np.testing.assert_array_equal(finder.track(picture[None]).crops[0], crop_square(picture, face.box, 256))


def test_crop_with_angle_zero_is_unchanged():
    picture, box = data.astronaut(), (180.0, 90.0, 90.0, 90.0)
    np.testing.assert_array_equal(crop_aligned(picture, box, 0.0, 128), crop_square(picture, box, 128))


@pytest.mark.parametrize("size", [64, 128, 256])
def test_crop_with_a_tiny_angle_is_nearly_unchanged(size):
    """Rotation must neither shift nor scale."""
    picture, box = cv2.GaussianBlur(data.astronaut(), (0, 0), 2), (180.0, 90.0, 91.0, 90.0)
    unrotated = crop_square(picture, box, size).astype(int)
    difference = crop_aligned(picture, box, 1e-4, size).astype(int) - unrotated
    difference_of_one_pixel = np.abs(np.roll(unrotated, 1, axis=1) - unrotated).mean()
    assert np.abs(difference).mean() < 0.25 * difference_of_one_pixel


def test_eye_angle_of_profiles_and_unknown_landmarks_is_zero():
    box = (0.0, 0.0, 100.0, 100.0)
    profile = np.array([[50, 30], [55, 40], [60, 50], [55, 70], [20, 40], [50, 40]], np.float32)
    assert eye_angle(box, profile) == 0.0
    assert eye_angle(box, np.full((6, 2), np.nan, np.float32)) == 0.0
    frontal = profile.copy()
    frontal[1] = (80, 60)
    assert eye_angle(box, frontal) == pytest.approx(np.pi / 4)


def test_crop_beyond_the_edge_repeats_edge_pixels():
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:, :5] = 200
    crop = crop_square(picture, (-10, 10, 30, 30), 64)
    assert crop.shape == (64, 64, 3)
    assert (crop[:, 0] == 200).all()
