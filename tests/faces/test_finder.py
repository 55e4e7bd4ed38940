"""The main face."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from ecmf_pipeline.errors import ModelError, NoFaceFound
from ecmf_pipeline.faces import CROP_MARGIN, FaceConfig, FaceFinder, crop_square
from ecmf_pipeline.media import MediaConfig, read_frames


def test_a_photograph_has_one_face_where_it_is(finder):
    picture = data.astronaut()
    (found,) = finder.detect(picture)
    left, top, width, height = found.box
    assert left < 224 < left + width
    assert top < 130 < top + height
    track = finder.track(np.stack([picture, picture]))
    assert track.crops.shape == (2, 256, 256, 3)
    assert track.frames.tolist() == [0, 1]
    (inside,) = finder.detect(track.crops[0])
    assert inside.box[2] == pytest.approx(256 / CROP_MARGIN, rel=0.2)


def test_a_small_face_in_a_wide_picture_is_found_once(finder):
    wide = np.full((720, 1280, 3), 90, np.uint8)
    wide[180:540, 700:1212] = data.astronaut()[:360]
    (found,) = finder.detect(wide)
    assert found.box[2] < 130
    assert 700 + 177 - 30 < found.box[0] < 700 + 177 + 30


def test_frames_without_the_face_are_left_out(finder):
    picture = data.astronaut()
    track = finder.track(np.stack([np.zeros_like(picture), picture, np.zeros_like(picture)]))
    assert track.frames.tolist() == [1]


def test_a_clip_without_a_face_says_so(finder):
    with pytest.raises(NoFaceFound, match="0 of 3 sampled frames"):
        finder.track(np.zeros((3, 64, 64, 3), np.uint8))


def test_a_missing_detector_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="ecmf-pipe models"):
        FaceFinder(FaceConfig(detector=tmp_path / "none.tflite"))
    with pytest.raises(ModelError, match="ecmf-pipe models"):
        FaceConfig(detector=tmp_path / "none.tflite").settings()


def test_a_crop_beyond_the_edge_repeats_edge_pixels():
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:, :5] = 200
    crop = crop_square(picture, (-10, 10, 30, 30), 64)
    assert crop.shape == (64, 64, 3)
    assert (crop[:, 0] == 200).all()


def test_the_main_face_is_found_in_every_sampled_frame_of_a_real_clip(finder, shared_data):
    frames, _ = read_frames(shared_data / "clips/video/clip_005.mp4", MediaConfig())
    assert len(finder.track(frames).frames) == len(frames)
