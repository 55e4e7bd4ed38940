"""Face crops that come with a corpus."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from ecmf_pipeline.core.errors import FileUnreachable, UnusableFaceCrops
from ecmf_pipeline.faces.config import CROP_MARGIN
from ecmf_pipeline.faces.openface import SIDE, even_rows, read_openface


def save_crops(path: Path, count: int) -> NDArray[np.uint8]:
    """Write crops as OpenFace does: BGR, tight; each is brighter than the previous one."""
    face = cv2.resize(data.astronaut()[75:180, 172:277], (SIDE, SIDE))[..., ::-1]
    crops = np.stack([np.clip(face.astype(int) + 2 * number, 0, 255) for number in range(count)]).astype(np.uint8)
    np.save(path, crops)
    return crops


def test_crops_are_rgb_and_sampled_evenly(tmp_path):
    crops = save_crops(tmp_path / "a.npy", 20)
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


def test_face_has_its_usual_share_of_the_crop(tmp_path, finder):
    save_crops(tmp_path / "a.npy", 1)
    track = read_openface(tmp_path / "a.npy", count=1, size=256)
    (face,) = finder.detect(track.crops[0])
    assert face.box[2] == pytest.approx(256 / CROP_MARGIN, rel=0.25)
    corner = track.crops[0, :40, :40].astype(int)
    assert np.abs(corner - corner[0, 0]).max() <= 3, "edge pixels are not repeated"


@pytest.mark.parametrize(("length", "count", "rows"), [(3, 16, [0, 1, 2]), (1, 16, [0]), (16, 16, list(range(16)))])
def test_each_row_is_sampled_at_most_once(length, count, rows):
    assert even_rows(length, count).tolist() == rows


@pytest.mark.parametrize("extension", ["png", "BMP"])
def test_pictures_in_a_folder_are_the_rows_in_order_of_their_numbers(tmp_path, extension):
    crops = save_crops(tmp_path / "a.npy", 12)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, crop in enumerate(crops):
        cv2.imwrite(str(folder / f"frame_det_00_{number}.{extension}"), crop)
    (folder / "._frame_det_00_1.png").write_bytes(b"x")
    (folder / "readme.txt").write_bytes(b"x")
    from_file = read_openface(tmp_path / "a.npy", count=3, size=112)
    from_folder = read_openface(folder, count=3, size=112)
    assert from_folder.frames.tolist() == from_file.frames.tolist()
    np.testing.assert_array_equal(from_folder.crops, from_file.crops)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "not a readable picture"),
        (b"not a picture", "not a readable picture"),
        (cv2.imencode(".png", np.zeros((64, 112, 3), np.uint8))[1].tobytes(), "(64, 112, 3)"),
    ],
)
def test_damaged_pictures_raise_unusable_face_crops(tmp_path, content, cause):
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(UnusableFaceCrops) as caught:
        read_openface(tmp_path, count=1, size=112)
    assert cause in caught.value.message


def test_count_all_reads_all_crops(tmp_path):
    save_crops(tmp_path / "a.npy", 7)
    assert read_openface(tmp_path / "a.npy", count="all", size=64).frames.tolist() == list(range(7))


def test_only_sampled_rows_are_read(tmp_path):
    """The file is larger than memory; it is sparse, so it takes no disk space."""
    path = tmp_path / "long.npy"
    np.lib.format.open_memmap(path, "w+", np.uint8, (4_000_000, SIDE, SIDE, 3)).flush()  # 150 GB
    assert read_openface(path, count=2, size=64).frames.tolist() == [1_000_000, 3_000_000]


@pytest.mark.parametrize(
    ("array", "cause"),
    [
        (np.zeros((3, SIDE, SIDE, 3), np.float32), "float32"),
        (np.zeros((3, 64, 64, 3), np.uint8), "(3, 64, 64, 3)"),
        (np.zeros((SIDE, SIDE, 3), np.uint8), "shape (112, 112, 3)"),
        (np.zeros((0, SIDE, SIDE, 3), np.uint8), "no crops"),
    ],
)
def test_other_arrays_raise_unusable_face_crops(tmp_path, array, cause):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnusableFaceCrops) as caught:
        read_openface(tmp_path / "a.npy", count=4, size=64)
    assert "a.npy" in caught.value.message
    assert cause in caught.value.message


def test_other_files_raise_unusable_face_crops(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    objects = path.read_bytes()
    save_crops(path, 3)
    complete = path.read_bytes()
    wrong_length = complete[:8] + b"\xff\xff" + complete[10:]
    for content in (b"", b"no array", complete[:60], complete[:-5], objects, wrong_length):
        path.write_bytes(content)
        with pytest.raises(UnusableFaceCrops, match=r"a\.npy .*uint8 \(T, 112, 112, 3\)"):
            read_openface(path, count=4, size=64)
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    with pytest.raises(UnusableFaceCrops, match="archive"):
        read_openface(path, count=4, size=64)


def test_missing_and_unreadable_files_raise_file_unreachable(tmp_path):
    with pytest.raises(FileUnreachable, match=r"none\.npy"):
        read_openface(tmp_path / "none.npy", count=4, size=64)
    with pytest.raises(FileUnreachable) as caught:
        read_openface(tmp_path, count=4, size=64)
    assert tmp_path.name in caught.value.message
    assert os.strerror(errno.EISDIR) in caught.value.message
