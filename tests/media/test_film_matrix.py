"""Each sampled picture of the film matrix is the one on screen at the moment asked. `make soak` checks all films."""

from __future__ import annotations

import numpy as np
import pytest

from tests.media import films
from tests.media.film_writing import draw, read_number


@pytest.mark.parametrize("case", films.drawn_cases(), ids=lambda case: case.id)
def test_sampled_pictures_are_those_on_screen(tmp_path, case):
    path = films.make(case, tmp_path)
    assert films.check_film(case, path) is None
    assert {reader: films.check(case, path, reader) for reader in films.READERS} == dict.fromkeys(films.READERS)


def test_the_draw_holds_each_encoder_and_each_variant():
    cases, drawn = films.all_cases(), films.drawn_cases()
    assert len(cases) >= 300
    assert len({case.id for case in cases}) == len(cases)
    assert len(cases) / 10 <= len(drawn) == len(set(drawn))
    assert {case.codec for case in drawn} == {case.codec for case in cases}
    assert {case.variant for case in cases} == {"", *films.VARIANTS}
    assert {case.variant for case in drawn} == {"", *films.VARIANTS}


def test_numbers_are_read_from_upright_pictures_only():
    for number in (0, 1, 85, 128, 255):
        picture = draw(number, (160, 120))
        assert read_number(picture) == read_number(picture[::2, ::2]) == number
        for turned in (np.rot90(picture), np.rot90(picture, 2), np.rot90(picture, 3), picture[::-1]):
            assert read_number(turned) == -1
