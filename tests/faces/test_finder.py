"""The main face of a clip."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from ecmf_pipeline.core.errors import ModelError, NoFaceFound
from ecmf_pipeline.faces.config import CROP_MARGIN, FaceConfig
from ecmf_pipeline.faces.detector import FaceFinder
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames


def test_face_in_a_photograph_is_found_at_its_position(finder):
    picture = data.astronaut()
    (face,) = finder.detect(picture)
    left, top, width, height = face.box
    assert left < 224 < left + width
    assert top < 130 < top + height
    track = finder.track(np.stack([picture, picture]))
    assert track.crops.shape == (2, 256, 256, 3)
    assert track.frames.tolist() == [0, 1]
    (face_in_crop,) = finder.detect(track.crops[0])
    assert face_in_crop.box[2] == pytest.approx(256 / CROP_MARGIN, rel=0.2)


def test_small_face_in_a_wide_picture_is_found_once(finder):
    wide = np.full((720, 1280, 3), 90, np.uint8)
    wide[180:540, 700:1212] = data.astronaut()[:360]
    (face,) = finder.detect(wide)
    assert face.box[2] < 130
    assert 700 + 177 - 30 < face.box[0] < 700 + 177 + 30


def test_frames_without_the_face_are_left_out(finder):
    picture = data.astronaut()
    track = finder.track(np.stack([np.zeros_like(picture), picture, np.zeros_like(picture)]))
    assert track.frames.tolist() == [1]


def test_clip_without_a_face_raises_no_face_found(finder):
    with pytest.raises(NoFaceFound, match="3 sampled frames"):
        finder.track(np.zeros((3, 64, 64, 3), np.uint8))


def test_missing_detector_raises_model_error_with_command(tmp_path):
    config = FaceConfig(detector=tmp_path / "none.tflite")
    for use in (lambda: FaceFinder(config), config.settings):
        with pytest.raises(ModelError) as caught:
            use()
        assert str(config.detector) in caught.value.message
        assert caught.value.command == "ecmf-pipe models"


def test_main_face_is_found_in_all_frames_of_a_real_clip(finder, shared_data):
    frames, _ = read_frames(shared_data / "clips/video/clip_005.mp4", MediaConfig())
    assert len(finder.track(frames).frames) == len(frames)


def test_all_crops_have_landmarks_and_landmark_quality(finder):
    picture = data.astronaut()
    track = finder.track(np.stack([picture, picture]))
    assert track.landmarks.shape == (2, 6, 2)
    right_eye, left_eye, nose, mouth, *_ = track.landmarks[0].tolist()
    assert right_eye[0] < nose[0] < left_eye[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < mouth[1]
    assert (track.landmark_quality > 0.5).all()
    assert (track.landmark_quality <= 1).all()
    arrays = track.side_arrays(np.array([0.5, 1.5], np.float32))
    assert arrays["times"].tolist() == [0.5, 1.5]
    assert arrays["landmarks"].shape == (2, 12)
    np.testing.assert_array_equal(arrays["landmarks"].reshape(2, 6, 2), track.landmarks)


def test_options_that_change_the_crops_change_the_settings(detector):
    default = FaceConfig(detector=detector)
    changes = [
        {"range": "full"},
        {"align": "eyes"},
        {"source": "openface"},
        {"crop_size": 128},
        {"min_confidence": 0.7},
    ]
    settings = [default.settings(), *(FaceConfig(detector=detector, **change).settings() for change in changes)]
    assert len({str(values) for values in settings}) == len(settings)


def test_openface_source_needs_no_detector(tmp_path):
    assert FaceConfig(source="openface", detector=tmp_path / "none").settings()["source"] == "openface"
