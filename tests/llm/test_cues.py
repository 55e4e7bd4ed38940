"""Cues are unusual in the corpus; unknown values have no cues."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import opensmile
import pytest
from mediapipe.tasks.python.vision.face_landmarker import Blendshapes

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.llm.cues import (
    ACTIONS,
    LOUDNESS,
    PITCH,
    PITCH_SPREAD,
    face_cues,
    read_cues,
    speech_rate,
    voice_cues,
    write_cues,
)
from ecmf_pipeline.llm.prompt import CUES


def test_action_indices_match_the_blendshapes_of_mediapipe() -> None:
    names = {action: {Blendshapes(place).name for place in places} for action, places in ACTIONS.items()}
    assert names["brows_down"] == {"BROW_DOWN_LEFT", "BROW_DOWN_RIGHT"}
    assert names["inner_brows_up"] == {"BROW_INNER_UP"}
    assert names["brows_up"] == {"BROW_OUTER_UP_LEFT", "BROW_OUTER_UP_RIGHT"}
    assert names["eyes_wide"] == {"EYE_WIDE_LEFT", "EYE_WIDE_RIGHT"}
    assert names["eyes_squinting"] == {"EYE_SQUINT_LEFT", "EYE_SQUINT_RIGHT"}
    assert names["cheeks_up"] == {"CHEEK_SQUINT_LEFT", "CHEEK_SQUINT_RIGHT"}
    assert names["nose_wrinkled"] == {"NOSE_SNEER_LEFT", "NOSE_SNEER_RIGHT"}
    assert names["jaw_open"] == {"JAW_OPEN"}
    assert names["smile"] == {"MOUTH_SMILE_LEFT", "MOUTH_SMILE_RIGHT"}
    assert names["frown"] == {"MOUTH_FROWN_LEFT", "MOUTH_FROWN_RIGHT"}
    assert names["lips_pressed"] == {"MOUTH_PRESS_LEFT", "MOUTH_PRESS_RIGHT"}
    assert names["mouth_stretched"] == {"MOUTH_STRETCH_LEFT", "MOUTH_STRETCH_RIGHT"}
    assert names["upper_lip_up"] == {"MOUTH_UPPER_UP_LEFT", "MOUTH_UPPER_UP_RIGHT"}
    assert names["lips_rolled"] == {"MOUTH_ROLL_LOWER", "MOUTH_ROLL_UPPER"}
    assert names["pucker"] == {"MOUTH_PUCKER"}
    assert set(ACTIONS) < set(CUES)


def test_functional_indices_match_opensmile() -> None:
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    names = smile.feature_names
    assert names[PITCH] == "F0semitoneFrom27.5Hz_sma3nz_amean"
    assert names[PITCH_SPREAD] == "F0semitoneFrom27.5Hz_sma3nz_stddevNorm"
    assert names[LOUDNESS] == "loudness_sma3_amean"


def faces(count: int = 40) -> np.ndarray:
    """Return neutral faces with small differences."""
    return np.random.default_rng(0).uniform(0, 0.1, (count, 52))


def test_rare_active_blendshapes_are_cues_rarest_first() -> None:
    shapes = faces()
    shapes[3, [44, 45]] = 0.9
    shapes[3, 25] = 0.5
    shapes[5, 25] = 0.6
    shapes[7] = np.nan
    cues = face_cues(shapes)
    assert cues[3] == ("smile", "jaw_open")
    assert cues[5] == ("jaw_open",)
    assert cues[7] == ()
    assert sum(map(bool, cues)) == 2, "an activation of a tenth is neutral, however rare"


def test_a_clip_has_at_most_three_face_cues() -> None:
    shapes = faces()
    shapes[0] = 1.0
    assert len(face_cues(shapes)[0]) == 3


def test_common_actions_are_not_cues() -> None:
    shapes = faces()
    shapes[:, [44, 45]] = 0.8
    assert not any(face_cues(shapes))


def test_fewer_than_twenty_clips_have_no_cues() -> None:
    shapes = faces(19)
    shapes[0, [44, 45]] = 0.9
    assert not any(face_cues(shapes))
    assert face_cues(np.empty((0, 52))) == []


def test_voice_cues_compare_with_the_corpus() -> None:
    count = 50
    sounds = np.full((count, 88), 0.5)
    sounds[:, PITCH] = np.linspace(20, 40, count)
    sounds[:, LOUDNESS] = np.linspace(1, 0.1, count)
    sounds[25] = np.nan
    sounds[0, PITCH] = 0.0  # no voiced frame: unknown, not the lowest pitch
    rates = np.full(count, np.nan)
    cues = voice_cues(sounds, rates)
    assert cues[49] == ("pitch_high", "quiet")
    assert cues[2] == ("pitch_low", "loud")
    assert cues[0] == ("loud",)
    assert cues[24] == cues[25] == ()
    rates[:] = np.linspace(1, 6, count)
    cues = voice_cues(sounds, rates)
    assert cues[49] == ("pitch_high", "quiet", "fast")
    assert cues[1][-1] == "slow"


@pytest.mark.parametrize(
    ("text", "seconds", "rate"),
    [
        ("one two three four", 2.0, 2.0),
        ("I don't know", 1.0, 3.0),
        ("我不知道", 2.0, 2.0),
        ("OK 我不知道", 1.0, 5.0),
        ("no", 1.0, math.nan),
        ("one two three", 0.0, math.nan),
        ("", 3.0, math.nan),
    ],
)
def test_speech_rate(text: str, seconds: float, rate: float) -> None:
    assert speech_rate(text, seconds) == pytest.approx(rate, nan_ok=True)


def test_cues_round_trip_through_a_table(tmp_path: Path) -> None:
    path = tmp_path / "face.csv"
    with pytest.raises(MissingInput) as missing:
        read_cues(path, ["a"])
    assert missing.value.command == "ecmf-pipe cues"
    cues = {"b": ("smile", "jaw_open"), "a": (), "c": ("loud",)}
    assert write_cues(path, cues)
    assert not write_cues(path, dict(reversed(cues.items())))
    assert read_cues(path, ["a", "b", "c"]) == cues
    with pytest.raises(MissingInput, match="'d'"):
        read_cues(path, ["a", "b", "c", "d"])
    path.write_text("clip_id,cues\na,happy\n")
    with pytest.raises(InputError, match="row 2") as caught:
        read_cues(path, ["a"])
    assert not isinstance(caught.value, MissingInput)
    assert str(path) in caught.value.message
