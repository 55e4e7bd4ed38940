"""The tables of `tools.soak.matrix`."""

from __future__ import annotations

from tests.media import films
from tools.soak import matrix
from tools.soak.matrix import Result, film_results, table


def test_table_counts_outcomes_by_codec_and_container():
    results = [
        Result("vp9", "webm", "right"),
        Result("vp9", "webm", "right"),
        Result("vp9", "mp4", "wrong", "a"),
        Result("h264", "mp4", "right"),
        Result("h264", "mp4", "refused (UnreadableMedia)", "b"),
    ]
    assert table(results) == [
        "| codec | mp4 | webm |",
        "|---|---:|---:|",
        "| vp9 | 0, 1 wrong | 2 |",
        "| h264 | 1, 1 refused (UnreadableMedia) |  |",
    ]


def test_films_are_wrong_if_one_reader_is(tmp_path, monkeypatch):
    cases = [case for case in films.all_cases() if case.codec == "qtrle"][:3]
    monkeypatch.setattr(films, "all_cases", lambda: cases)
    assert [result.outcome for result in film_results(tmp_path)] == ["right", "right", "right"]
    faults = {"auto": "refused: NoVideoStream: none", "pyav": None, "decord": None}
    monkeypatch.setattr(matrix.films, "check", lambda _case, _path, reader: faults[reader])
    assert [result.outcome for result in film_results(tmp_path)] == ["refused (NoVideoStream)"] * 3
    faults["decord"] = "1 samples: times"
    assert [result.outcome for result in film_results(tmp_path)] == ["wrong"] * 3
