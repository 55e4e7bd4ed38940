"""Crops that come with a corpus."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from ecmf_pipeline.core.errors import FileUnreachable, UnusableFaceCrops
from ecmf_pipeline.faces.config import CROP_MARGIN
from ecmf_pipeline.faces.openface import SIDE, even_rows, read_openface


def stored(path: Path, count: int) -> NDArray[np.uint8]:
    """As OpenFace leaves them: BGR, tight; here each is brighter than the last."""
    face = cv2.resize(data.astronaut()[75:180, 172:277], (SIDE, SIDE))[..., ::-1]
    crops = np.stack([np.clip(face.astype(int) + 2 * number, 0, 255) for number in range(count)]).astype(np.uint8)
    np.save(path, crops)
    return crops


def test_crops_are_rgb_and_sampled_evenly(tmp_path):
    crops = stored(tmp_path / "a.npy", 20)
    track = read_openface(tmp_path / "a.npy", count=4, size=180)
    assert track.frames.tolist() == [2, 7, 12, 17]
    assert track.crops.shape == (4, 180, 180, 3)
    inner = track.crops[:, 34 : 34 + SIDE, 34 : 34 + SIDE, ::-1]
    np.testing.assert_array_equal(inner, crops[track.frames])
    assert np.isnan(track.scores).all()
    assert np.isnan(track.landmarks).all()
    assert np.isnan(track.landmark_quality).all()
    assert track.boxes.tolist() == [[0, 0, SIDE, SIDE]] * 4
    assert {name: array.shape for name, array in track.side_arrays().items()} == {
        "frames": (4,),
        "boxes": (4, 4),
        "scores": (4,),
        "landmarks": (4, 12),
        "landmark_quality": (4,),
    }


def test_the_face_has_its_usual_share_of_the_crop(tmp_path, finder):
    stored(tmp_path / "a.npy", 1)
    track = read_openface(tmp_path / "a.npy", count=1, size=256)
    (face,) = finder.detect(track.crops[0])
    assert face.box[2] == pytest.approx(256 / CROP_MARGIN, rel=0.25)
    corner = track.crops[0, :40, :40].astype(int)
    assert np.abs(corner - corner[0, 0]).max() <= 3, "edge pixels continue"


@pytest.mark.parametrize(("length", "count", "rows"), [(3, 16, [0, 1, 2]), (1, 16, [0]), (16, 16, list(range(16)))])
def test_fewer_crops_than_asked_for_are_each_taken_once(length, count, rows):
    assert even_rows(length, count).tolist() == rows


def test_all(tmp_path):
    stored(tmp_path / "a.npy", 7)
    assert read_openface(tmp_path / "a.npy", count="all", size=64).frames.tolist() == list(range(7))


def test_only_what_is_sampled_is_read(tmp_path):
    """A file far larger than memory would allow: sparse, so that it takes no room on the disk."""
    path = tmp_path / "long.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (4_000_000, SIDE, SIDE, 3)).flush()  # 150 GB
    assert read_openface(path, count=2, size=64).frames.tolist() == [1_000_000, 3_000_000]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, SIDE, SIDE, 3), np.float32), "float32"),
        (np.zeros((3, 64, 64, 3), np.uint8), r"\(3, 64, 64, 3\)"),
        (np.zeros((SIDE, SIDE, 3), np.uint8), r"\(112, 112, 3\)"),
        (np.zeros((0, SIDE, SIDE, 3), np.uint8), "no crop at all"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, says):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnusableFaceCrops, match=says):
        read_openface(tmp_path / "a.npy", count=4, size=64)


def test_what_is_no_npy_file_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    objects = path.read_bytes()
    stored(path, 3)
    whole = path.read_bytes()
    for content in (b"", b"no array", whole[:60], whole[:-5], objects, whole[:8] + b"\xff\xff" + whole[10:]):
        path.write_bytes(content)
        with pytest.raises(UnusableFaceCrops, match=r"a\.npy .*expected uint8 \(T, 112, 112, 3\)"):
            read_openface(path, count=4, size=64)
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(UnusableFaceCrops, match="archive"):
        read_openface(path, count=4, size=64)


def test_a_file_that_is_gone_may_come_back(tmp_path):
    with pytest.raises(FileUnreachable, match="vanished"):
        read_openface(tmp_path / "none.npy", count=4, size=64)
    with pytest.raises(FileUnreachable, match="cannot be read"):
        read_openface(tmp_path, count=4, size=64)
