"""Every file of the zoo is read right, or refused for a true reason."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.pyav_reader import Orientation
from ecmf_pipeline.media.sampling import read_frames
from tests.zoo.films import Film
from tests.zoo.judging import pictures_of, sound_of
from tests.zoo.specimens import Specimen, zoo

READERS = ["auto", "decord", "pyav"]
FILES = [
    pytest.param(
        specimen, id=ascii(specimen.name[:40]), marks=[pytest.mark.skip(specimen.why_not)] if specimen.why_not else []
    )
    for specimen in zoo()
    if not specimen.finding
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("specimen", FILES)
def test_pictures_are_right_or_refused_with_expected_reason(zoo_folder, specimen: Specimen, reader):
    outcome, message = pictures_of(zoo_folder / specimen.name, specimen.film, reader)
    assert outcome in specimen.pictures, message


@pytest.mark.parametrize("specimen", FILES)
def test_sound_is_right_or_refused_with_expected_reason(zoo_folder, specimen: Specimen):
    outcome, message = sound_of(zoo_folder / specimen.name, specimen.film)
    assert outcome in specimen.sound, message


def test_the_zoo_is_large_enough():
    assert len(zoo()) >= 40


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("turn", "mirrored"), list(product(range(4), [False, True])))
def test_scaled_pictures_are_upright(tmp_path, reader, turn, mirrored):
    path = Film(size=(96, 160), turn=turn, mirrored=mirrored).write(tmp_path / "a.mp4")
    frames, times = read_frames(path, MediaConfig(frames=4, max_side=80, reader=reader))
    assert Film(size=(48, 80)).faults(frames, times, 4) == []


def test_check_detects_rotated_pictures():
    film = Film(size=(64, 64))
    upright = film.picture(film.shown_at(0.5))
    assert film.faults(upright[None], np.array([0.48], np.float32), 1) == []
    for orientation in (Orientation(1), Orientation(2), Orientation(3), Orientation(0, mirrored=True)):
        assert film.faults(orientation.turned(upright)[None], np.array([0.48], np.float32), 1)


def test_rotation_and_inverse_rotation_restore_picture():
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for turns in range(4):
        np.testing.assert_array_equal(Orientation(4 - turns).turned(Orientation(turns).turned(picture)), picture)
    mirror = Orientation(1, mirrored=True)
    np.testing.assert_array_equal(mirror.turned(mirror.turned(picture)), picture)
    assert Orientation(1).turned(picture).shape == (3, 2, 3)
    np.testing.assert_array_equal(Orientation(1).turned(picture)[0, -1], picture[0, 0])  # clockwise


@pytest.mark.parametrize("reader", READERS)
def test_damage_matters_only_for_sampled_pictures(tmp_path, reader):
    """A key picture every second; what is damaged in between is damaged until the next. Samples are 6, 18, 31, 43."""
    film = Film(texture=40, lengths=(40,) * 50, sound=None, options={"preset": "ultrafast", "crf": "10", "g": "25"})
    for picture in (20, 24, 45):
        assert pictures_of(_damaged(film, tmp_path / "after.mp4", picture), film, reader) == ("right", "")
    for picture in (3, 26):
        outcome, message = pictures_of(_damaged(film, tmp_path / "before.mp4", picture), film, reader)
        assert outcome == "UnreadableMedia"
        assert "damaged" in message


def test_decoder_output_does_not_reach_terminal(zoo_folder, capfd):
    pictures_of(zoo_folder / "bit_flips.mp4", Film(), "decord")
    pictures_of(zoo_folder / "one_byte_off.mp4", Film(), "decord")
    os.write(2, b"still here")
    assert capfd.readouterr() == ("", "still here")


def test_decoder_messages_are_reproducible(zoo_folder):
    for specimen in zoo():
        if not specimen.finding and not specimen.why_not and "right" not in specimen.pictures:
            _, message = pictures_of(zoo_folder / specimen.name, specimen.film, "decord")
            assert "/" not in message
            assert message == pictures_of(zoo_folder / specimen.name, specimen.film, "decord")[1]


def _damaged(film: Film, path: Path, picture: int) -> Path:
    """The film with some bytes of one picture blanked."""
    film.write(path)
    content = bytearray(path.read_bytes())
    at = _offset_of_picture(path, picture)
    content[at + 40 : at + 90] = bytes(50)
    path.write_bytes(content)
    return path


def _offset_of_picture(path: Path, number: int) -> int:
    import av

    with av.open(str(path)) as container:
        return sorted(packet.pos for packet in container.demux(video=0) if packet.size)[number]
