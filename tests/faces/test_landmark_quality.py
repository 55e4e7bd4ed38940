"""Landmark quality."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ecmf_pipeline.faces.tracking import _FRONTAL, Detection, frontal_fit, landmark_quality
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames


def test_fit_of_a_frontal_face_is_invariant_to_similarity_transforms():
    angle = np.radians(25)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert frontal_fit((40 * _FRONTAL @ rotation.T + [300, 200]).astype(np.float32)) == pytest.approx(1.0)


@pytest.mark.parametrize("yaw", [15, 30, 45])
def test_fit_decreases_with_yaw(yaw):
    # Nose and mouth are in front of the eyes, the ears behind them.
    depth = np.array([0.0, 0.0, 0.6, 0.3, -0.9, -0.9])

    def project(degrees: float) -> np.ndarray:
        angle = np.radians(degrees)
        x = _FRONTAL[:, 0] * np.cos(angle) + depth * np.sin(angle)
        return np.stack([x, _FRONTAL[:, 1]], axis=1).astype(np.float32)

    assert frontal_fit(project(yaw)) < 0.8 * frontal_fit(project(yaw - 15))
    assert frontal_fit(project(yaw)) == pytest.approx(frontal_fit(project(-yaw)), abs=1e-6)


def test_fit_of_coincident_points_is_zero_and_quality_of_unknown_points_is_nan():
    assert frontal_fit(np.full((6, 2), 7, np.float32)) == 0.0
    unknown = Detection((0, 0, 10, 10), 0.9, np.full((6, 2), np.nan, np.float32))
    assert np.isnan(landmark_quality(np.zeros((20, 20, 3), np.uint8), unknown))


def test_landmarks_outside_the_box_lower_the_quality(finder, person):
    picture = person(0)
    (face,) = finder.detect(picture)
    left, top, side, _ = face.box
    lower_half_outside = Detection((left, top, side, side / 2), face.score, face.landmarks)
    assert landmark_quality(picture, lower_half_outside) < 0.8 * landmark_quality(picture, face)


@pytest.mark.parametrize("number", [1, 5, 6, 24])
def test_blur_lowers_the_quality_of_real_faces(finder, person, number):
    picture = person(number)
    (face, *_) = finder.detect(picture)
    sharp = landmark_quality(picture, face)
    qualities = [
        landmark_quality(cv2.GaussianBlur(picture, (0, 0), share * face.box[2]), face) for share in (0.02, 0.04, 0.08)
    ]
    assert 0 <= qualities[2] < qualities[1] < qualities[0] < sharp <= 1


def test_turned_and_bowed_heads_have_lower_quality_than_frontal_ones(finder, shared_data):
    def quality(number: int) -> float:
        frames, _ = read_frames(shared_data / f"clips/video/clip_{number:03d}.mp4", MediaConfig())
        return float(np.median(finder.track(frames).landmark_quality))

    frontal = [quality(number) for number in (13, 21, 28)]
    turned, bowed = quality(17), quality(5)
    assert min(frontal) > 0.9
    assert turned < 0.35
    assert bowed < 0.5
