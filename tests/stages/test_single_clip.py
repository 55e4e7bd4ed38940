"""The file of a clip that is predicted alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, WordsFrom
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.stages.shared.single_clip import measure_clip
from tests.corpora.test_sidecars import srt, write_sound, write_video

CLIP = ClipId("clip")


def test_sound_and_subtitles_beside_a_film_are_read(tmp_path: Path) -> None:
    write_sound(tmp_path / "other.wav")
    write_sound(tmp_path / "a.wav")
    (tmp_path / "a.en.srt").write_text(srt("Hello"))
    clip = measure_clip(Clip(CLIP), write_video(tmp_path / "a.mp4"), tmp_path)
    assert (clip.clip_id, clip.path, clip.audio_path, clip.has_video, clip.has_audio) == (
        CLIP,
        "a.mp4",
        "a.wav",
        True,
        True,
    )
    assert (clip.transcript, clip.language, clip.words_from) == ("Hello", "en", WordsFrom.SUBTITLES)


def test_a_given_text_comes_before_subtitles(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(srt("Hello"))
    clip = measure_clip(Clip(CLIP, transcript="Bye"), write_sound(tmp_path / "a.wav"), tmp_path)
    assert (clip.transcript, clip.words_from) == ("Bye", WordsFrom.CORPUS)
    assert (clip.has_video, clip.has_audio, clip.audio_path) == (False, True, "")


@pytest.mark.parametrize("name", ["nowhere.wav", "damaged.wav", "words.srt"])
def test_a_file_that_is_no_clip_is_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "damaged.wav").write_bytes(b"damaged")
    (tmp_path / "words.srt").write_text(srt("Hello"))
    with pytest.raises(InputError):
        measure_clip(Clip(CLIP), tmp_path / name, tmp_path)
