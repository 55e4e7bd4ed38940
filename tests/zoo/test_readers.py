"""Each file of the zoo is decoded correctly, or refused with the right reason."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.pictures import Orientation
from ecmf_pipeline.media.sampling import read_frames
from tests.zoo.checks import check_pictures, check_sound
from tests.zoo.films import Film
from tests.zoo.specimens import Specimen, zoo

READERS = ["auto", "decord", "pyav"]
FILES = [
    pytest.param(
        specimen,
        id=ascii(specimen.name[:40]),
        marks=[pytest.mark.skip(specimen.skip_reason)] if specimen.skip_reason else [],
    )
    for specimen in zoo()
    if not specimen.finding
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("specimen", FILES)
def test_pictures_are_correct_or_rejected_with_expected_reason(zoo_folder, specimen: Specimen, reader):
    outcome, message = check_pictures(zoo_folder / specimen.name, specimen.film, reader)
    assert outcome in specimen.pictures, message


@pytest.mark.parametrize("specimen", FILES)
def test_sound_is_correct_or_rejected_with_expected_reason(zoo_folder, specimen: Specimen):
    outcome, message = check_sound(zoo_folder / specimen.name, specimen.film)
    assert outcome in specimen.sound, message


def test_the_zoo_is_large_enough():
    assert len(zoo()) >= 40


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("turn", "mirrored"), list(product(range(4), [False, True])))
def test_scaled_pictures_are_upright(tmp_path, reader, turn, mirrored):
    path = Film(size=(96, 160), turn=turn, mirrored=mirrored).write(tmp_path / "a.mp4")
    frames, times = read_frames(path, MediaConfig(frames=4, max_side=80, reader=reader))
    assert Film(size=(48, 80)).picture_faults(frames, times, 4) == []


def test_check_detects_rotated_pictures():
    film = Film(size=(64, 64))
    upright = film.picture(film.picture_at(0.5))
    assert film.picture_faults(upright[None], np.array([0.48], np.float32), 1) == []
    for orientation in (Orientation(1), Orientation(2), Orientation(3), Orientation(0, mirrored=True)):
        assert film.picture_faults(orientation.turned(upright)[None], np.array([0.48], np.float32), 1)


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
    """Key pictures are one second apart, and damage lasts until the next one. Samples are pictures 6, 18, 31, 43."""
    film = Film(texture=40, durations=(40,) * 50, sound=None, options={"preset": "ultrafast", "crf": "10", "g": "25"})
    for picture in (20, 24, 45):
        assert check_pictures(_damaged(film, tmp_path / "after.mp4", picture), film, reader) == ("right", "")
    for picture in (3, 26):
        outcome, message = check_pictures(_damaged(film, tmp_path / "before.mp4", picture), film, reader)
        assert outcome == "UnreadableMedia"
        assert "damaged" in message


def test_decoder_output_does_not_reach_terminal(zoo_folder, capfd):
    check_pictures(zoo_folder / "bit_flips.mp4", Film(), "decord")
    check_pictures(zoo_folder / "one_byte_off.mp4", Film(), "decord")
    os.write(2, b"stderr is open")
    assert capfd.readouterr() == ("", "stderr is open")


def test_decoder_messages_are_reproducible(zoo_folder):
    for specimen in zoo():
        if not specimen.finding and not specimen.skip_reason and "right" not in specimen.pictures:
            _, message = check_pictures(zoo_folder / specimen.name, specimen.film, "decord")
            assert "/" not in message
            assert message == check_pictures(zoo_folder / specimen.name, specimen.film, "decord")[1]


def _damaged(film: Film, path: Path, picture: int) -> Path:
    """Write the film and overwrite 50 bytes of one picture with zeros."""
    film.write(path)
    content = bytearray(path.read_bytes())
    start = _offset_of_picture(path, picture)
    content[start + 40 : start + 90] = bytes(50)
    path.write_bytes(content)
    return path


def _offset_of_picture(path: Path, number: int) -> int:
    import av

    with av.open(str(path)) as container:
        return sorted(packet.pos for packet in container.demux(video=0) if packet.size)[number]
