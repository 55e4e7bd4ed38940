"""A corpus of eight small clips, rendered once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.corpora.sample.config import SampleConfig
from ecmf_pipeline.corpora.sample.face import FaceRig, find_landmarks, make_rig
from ecmf_pipeline.corpora.sample.generate import SampleSummary, generate
from ecmf_pipeline.corpora.sample.speech import Synthesizer


@pytest.fixture(scope="session")
def face_landmarker(models: Path) -> Path:
    return models / "face_landmarker" / "face_landmarker.task"


@pytest.fixture(scope="session")
def sample_config() -> SampleConfig:
    return SampleConfig(
        labelled=6, unlabeled=2, speakers=3, noise=0.34, silent=0.125, untranscribed=0.125, size=160, seed=3
    )


@pytest.fixture(scope="session")
def sample_corpus(
    sample_config: SampleConfig, face_landmarker: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SampleSummary]:
    root = tmp_path_factory.mktemp("sample")
    return root, generate(sample_config, root, face_landmarker=face_landmarker, workers=2)


@pytest.fixture
def sample_copy(sample_corpus: tuple[Path, SampleSummary], tmp_path: Path) -> Path:
    """A copy of the corpus, for tests that change it."""
    return Path(shutil.copytree(sample_corpus[0], tmp_path / "copy"))


@pytest.fixture(scope="session")
def landmarks(face_landmarker: Path) -> NDArray[np.float64]:
    return find_landmarks(face_landmarker)


@pytest.fixture(scope="session")
def rig(landmarks: NDArray[np.float64]) -> FaceRig:
    return make_rig(landmarks)


@pytest.fixture
def synthesizer() -> Iterator[Synthesizer]:
    with Synthesizer() as synthesizer:
        yield synthesizer
