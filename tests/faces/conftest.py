from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.faces.detector import FaceFinder
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames

Picture = NDArray[np.uint8]


@pytest.fixture(scope="session")
def detector(models):
    return models / "face_landmarker" / "face_detector.tflite"


@pytest.fixture(scope="session")
def finder(detector):
    with FaceFinder(FaceConfig(detector=detector)) as opened:
        yield opened


@pytest.fixture(scope="session")
def full_range_finder(detector):
    with FaceFinder(FaceConfig(detector=detector, range="full")) as opened:
        yield opened


@pytest.fixture(scope="session")
def person(shared_data) -> Callable[[int], Picture]:
    """Return a 256 x 256 picture with one real face: number 0 is the astronaut, others are from real clips."""

    def read_picture(number: int) -> Picture:
        if number == 0:
            return data.astronaut()[:256, 96:352]
        frames, _ = read_frames(shared_data / f"clips/video/clip_{number:03d}.mp4", MediaConfig(frames=1))
        return frames[0]

    return read_picture
