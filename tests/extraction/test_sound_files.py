"""Audio features of clips whose sound is in another file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Half, Modality, content_digest
from ecmf_pipeline.core.errors import ChangedSinceIndex
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.extraction.run import input_digests
from ecmf_pipeline.extraction.step import BranchEncoder, ClipToExtract, ExtractOpener, ExtractStepFactory, OpenedView
from ecmf_pipeline.faces.config import FaceConfig
from tests.corpora.test_sidecars import write_sound, write_video
from tests.extraction.brightness import MEDIA, IdentityPreparer, MeanConfig

USED = (Modality.GLOBAL, Modality.AUDIO)


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    film, sound = write_video(tmp_path / "a.mp4"), write_sound(tmp_path / "a.wav", seconds=1.5)
    digest = sha256_file(film)
    return Clip(
        ClipId("a"),
        film.name,
        digest,
        film.stat().st_size,
        has_video=True,
        has_audio=True,
        audio_path=sound.name,
        audio_digest=sha256_file(sound),
        audio_bytes=sound.stat().st_size,
        file_digest=digest,
    )


def digests(clip: Clip) -> dict[Modality, str]:
    return {modality: input_digests(modality, [clip], {})[clip.clip_id] for modality in USED}


def opened(clip: Clip, root: Path) -> dict[Modality, object]:
    branches = {modality: BranchEncoder(modality, MeanConfig(), {}, root) for modality in USED}
    plan = ExtractStepFactory(branches, root, MEDIA, FaceConfig(), "cpu")
    opener = ExtractOpener(plan, dict.fromkeys(USED, IdentityPreparer()))
    return dict(opener.open(ClipToExtract(clip, digests(clip))))


def test_sound_comes_from_the_sound_file_and_pictures_from_the_film(clip: Clip, tmp_path: Path) -> None:
    assert digests(clip) == {Modality.GLOBAL: clip.digest, Modality.AUDIO: clip.audio_digest}
    views = opened(clip, tmp_path)
    audio, pictures = views[Modality.AUDIO], views[Modality.GLOBAL]
    assert isinstance(audio, OpenedView)
    assert isinstance(pictures, OpenedView)
    assert audio.prepared.shape == (24_000,)
    assert np.abs(audio.prepared).max() > 0.2
    assert len(pictures.prepared) == MEDIA.frames


def test_another_sound_file_fails_only_the_audio_branch(clip: Clip, tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav", 300, seconds=1.5)
    views = opened(clip, tmp_path)
    assert isinstance(views[Modality.AUDIO], ChangedSinceIndex)
    assert isinstance(views[Modality.GLOBAL], OpenedView)


def test_the_sound_of_a_part_of_a_film_has_a_digest_of_its_own(clip: Clip) -> None:
    parts = [replace(clip, start=start, end=start + 1) for start in (0.0, 1.0)]
    assert len({digests(part)[Modality.AUDIO] for part in (clip, *parts)}) == 3


def test_halves_of_a_film_have_features_of_their_own(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    photograph = np.zeros((48, 64, 3), np.uint8)
    photograph[:, 32:] = 200
    film = make_clip(tmp_path / "two.mp4", pictures=10, photograph=photograph, audio_seconds=0.4)
    digest = sha256_file(film)
    brightness: dict[Half, float] = {}
    inputs = []
    for half in (Half.LEFT, Half.RIGHT):
        clip = Clip(
            ClipId(half.value),
            film.name,
            content_digest(digest, 0, 0.3, half),
            film.stat().st_size,
            has_video=True,
            has_audio=True,
            file_digest=digest,
            end=0.3,
            half=half,
        )
        inputs.append(digests(clip))
        view = opened(clip, tmp_path)[Modality.GLOBAL]
        assert isinstance(view, OpenedView)
        brightness[half] = float(np.mean(view.prepared))
    assert brightness[Half.LEFT] < 10
    assert brightness[Half.RIGHT] > 190
    assert inputs[0][Modality.GLOBAL] != inputs[1][Modality.GLOBAL]
    assert inputs[0][Modality.AUDIO] == inputs[1][Modality.AUDIO]
