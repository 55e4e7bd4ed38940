"""Landmark quality."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ecmf_pipeline.faces.tracking import _FRONTAL, Detection, frontal_fit, landmark_quality
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames


def test_a_frontal_face_fits_however_it_is_moved_turned_and_scaled():
    angle = np.radians(25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert frontal_fit((40 * _FRONTAL @ turn.T + [300, 200]).astype(np.float32)) == pytest.approx(1.0)


@pytest.mark.parametrize("yaw", [15, 30, 45])
def test_a_face_that_is_turned_away_fits_less_the_further_it_turns(yaw):
    # Nose and mouth stand before the eyes, the ears behind them.
    depth = np.array([0.0, 0.0, 0.6, 0.3, -0.9, -0.9])

    def seen(degrees: float) -> np.ndarray:
        angle = np.radians(degrees)
        across = _FRONTAL[:, 0] * np.cos(angle) + depth * np.sin(angle)
        return np.stack([across, _FRONTAL[:, 1]], axis=1).astype(np.float32)

    assert frontal_fit(seen(yaw)) < 0.8 * frontal_fit(seen(yaw - 15))
    assert frontal_fit(seen(yaw)) == pytest.approx(frontal_fit(seen(-yaw)), abs=1e-6)


def test_points_in_one_place_fit_nothing_and_unknown_ones_say_so():
    assert frontal_fit(np.full((6, 2), 7, np.float32)) == 0.0
    unknown = Detection((0, 0, 10, 10), 0.9, np.full((6, 2), np.nan, np.float32))
    assert np.isnan(landmark_quality(np.zeros((20, 20, 3), np.uint8), unknown))


def test_landmarks_outside_the_box_count_less(finder, person):
    picture = person(0)
    (face,) = finder.detect(picture)
    left, top, side, _ = face.box
    moved = Detection((left, top, side, side / 2), face.score, face.landmarks)
    assert landmark_quality(picture, moved) < 0.8 * landmark_quality(picture, face)


@pytest.mark.parametrize("number", [1, 5, 6, 24])
def test_blur_lowers_the_quality_of_real_faces(finder, person, number):
    picture = person(number)
    (face, *_) = finder.detect(picture)
    sharp = landmark_quality(picture, face)
    qualities = [
        landmark_quality(cv2.GaussianBlur(picture, (0, 0), share * face.box[2]), face) for share in (0.02, 0.04, 0.08)
    ]
    assert 0 <= qualities[2] < qualities[1] < qualities[0] < sharp <= 1


def test_turned_and_bowed_heads_of_real_clips_are_worse_than_frontal_ones(finder, shared_data):
    def quality(number: int) -> float:
        frames, _ = read_frames(shared_data / f"clips/video/clip_{number:03d}.mp4", MediaConfig())
        return float(np.median(finder.track(frames).landmark_quality))

    frontal = [quality(number) for number in (13, 21, 28)]
    turned, bowed = quality(17), quality(5)
    assert min(frontal) > 0.9
    assert turned < 0.35
    assert bowed < 0.5
