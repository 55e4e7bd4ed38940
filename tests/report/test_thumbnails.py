"""Thumbnails: shown, blurred or off; damaged clips have none; all pictures fit into the limit."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.report import thumbnails
from ecmf_pipeline.report.thumbnails import Thumbnail, describe_thumbnails, make_thumbnails

MEDIA = MediaConfig(reader="pyav")


@pytest.fixture
def clips(tmp_path: Path, make_clip) -> list[Clip]:
    path = make_clip(tmp_path / "a.mp4", pictures=8, photograph=data.astronaut()[:256, 64:384])
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    return [
        Clip(ClipId("a"), path.name, has_video=True),
        Clip(ClipId("bad"), "bad.mp4", has_video=True),
        Clip(ClipId("gone"), "gone.mp4", has_video=True),
        Clip(ClipId("sound"), "a.mp4", has_video=False),
    ]


def pixels(one: Thumbnail) -> np.ndarray:
    encoded = base64.b64decode(one.address.partition(",")[2])
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (one.height, one.width)
    return picture.astype(float)


def test_a_readable_clip_has_three_frames_side_by_side(clips: list[Clip], tmp_path: Path) -> None:
    made = make_thumbnails(clips, root=tmp_path, media=MEDIA, pictures="show")
    assert set(made) == {"a"}
    assert made["a"].width == 3 * 200
    assert describe_thumbnails(made, 4, "show").startswith("1 of 4 cards")


def test_blurred_pictures_have_no_detail(clips: list[Clip], tmp_path: Path) -> None:
    sharp, blurred = (
        pixels(make_thumbnails(clips, root=tmp_path, media=MEDIA, pictures=how)["a"])[:, :200]
        for how in ("show", "blur")
    )
    detail = [float(np.abs(cv2.Laplacian(picture, cv2.CV_64F)).mean()) for picture in (sharp, blurred)]
    assert detail[1] < detail[0] / 4


def test_pictures_can_be_off(clips: list[Clip], tmp_path: Path) -> None:
    assert make_thumbnails(clips, root=tmp_path, media=MEDIA, pictures="off") == {}
    assert "off" in describe_thumbnails({}, 4, "off")


def test_all_pictures_fit_into_the_limit(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Clip(ClipId(f"clip{number}"), "a.mp4", has_video=True) for number in range(5)]
    size = len(make_thumbnails(clips, root=tmp_path, media=MEDIA, pictures="show")["a"].address)
    monkeypatch.setattr(thumbnails, "MAX_BYTES", 2 * size + 10)
    assert list(make_thumbnails(many, root=tmp_path, media=MEDIA, pictures="show")) == ["clip0", "clip1"]
