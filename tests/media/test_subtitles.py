"""The words of subtitle files and of subtitle streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import InputError, UnreadableMedia
from ecmf_pipeline.media.subtitles import Cue, clean_words, read_cues, read_subtitle_file, read_subtitle_stream
from tests.media.subtitled import write_sound_with_subtitles

SRT = """1
00:00:00,500 --> 00:00:01,500
<i>ANNA:</i> It was in
1994

2
00:00:01,600 --> 00:00:02,000
[door slams]

3
00:00:02,100 --> 00:00:03,000
- Who &amp; why?
- <font color="red">You!</font>

4
00:00:03,100 --> 00:00:04,000
1995
"""
VTT = """WEBVTT - a title

STYLE
::cue { color: red }

NOTE a comment --> with an arrow

intro
00:00.500 --> 00:01.500 align:start position:0%
<v Anna>It was in
1994

00:00:01.600 --> 00:00:02.000
(music) ♪

00:00:02.100 --> 00:00:03.000
- Who &amp; <00:00:02.500><c>why?</c>
- You!

00:00:03.100 --> 00:00:04.000
1995"""
ASS = r"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:09.00,Default,,0,0,0,,Not said
Dialogue: 0,0:00:02.10,0:00:03.00,Default,,0,0,0,,- Who & {\b1}why?{\b0}\N- You!
Dialogue: 0,0:00:00.50,0:00:01.50,Default,Anna,0,0,0,,{\an8}It was in\N1994
Dialogue: 0,0:00:01.60,0:00:02.00,Default,,0,0,0,,{\p1}m 0 0 l 100 0{\p0}
Dialogue: 0,0:00:03.10,0:00:04.00,Default,,0,0,0,,1995
"""
CUES = [Cue(0.5, 1.5, "It was in\n1994"), Cue(2.1, 3.0, "Who & why?\nYou!"), Cue(3.1, 4.0, "1995")]
TIMED = [
    (0.5, 1.5, r"{\i1}ANNA:{\i0} It was in\N1994"),
    (1.6, 2.0, "[door slams]"),
    (2.1, 3.0, r"- Who & {\b1}why?{\b0}\N- You!"),
    (3.1, 4.0, "1995"),
]


@pytest.mark.parametrize(("name", "content"), [("a.srt", SRT), ("a.vtt", VTT), ("a.ass", ASS), ("A.SSA", ASS)])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_each_format_gives_the_words_and_their_times(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.replace("\n", "\r\n").encode(encoding))
    assert read_cues(path) == CUES
    assert read_subtitle_file(path).text == "It was in 1994 Who & why? You! 1995"


@pytest.mark.parametrize(
    ("container", "codec"), [("mkv", "srt"), ("mkv", "ass"), ("mp4", "mov_text"), ("webm", "webvtt")]
)
def test_subtitle_streams_give_the_words_and_their_times(tmp_path: Path, container: str, codec: str) -> None:
    path = write_sound_with_subtitles(tmp_path / f"a.{container}", codec, {"eng": TIMED})
    assert read_cues(path) == [Cue(pytest.approx(cue.start), pytest.approx(cue.end), cue.text) for cue in CUES]  # type: ignore[arg-type]
    assert read_subtitle_stream(path).language == "eng"


def test_the_default_stream_is_read_and_forced_streams_come_last(tmp_path: Path) -> None:
    streams = {"ger": [(0.5, 1.5, "Ja")], "eng": TIMED}
    path = write_sound_with_subtitles(tmp_path / "a.mkv", "srt", streams, forced=("ger",))
    assert read_subtitle_stream(path).language == "eng"


def test_a_file_without_subtitle_streams_has_no_cues(tmp_path: Path) -> None:
    assert read_cues(write_sound_with_subtitles(tmp_path / "a.mkv", "srt", {})) == []


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("ANNA: Hello", "Hello"),
        ("DR. O'NEIL (V.O.): Hello", "Hello"),
        ("Anna said: hello", "Anna said: hello"),
        ("AT 10:30", "AT 10:30"),
        (">> Hello", "Hello"),
        ("- - Hello - there", "Hello - there"),
        ("[door\nslams] Hello", "Hello"),
        ("\uff08音乐\uff09你好", "你好"),
        ("♪ la la ♪", "la la"),
        ("...", ""),
        ("-5 degrees", "-5 degrees"),
    ],
)
def test_speakers_and_sounds_are_not_words(shown: str, words: str) -> None:
    assert clean_words(shown) == words


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("00:00:01 --> 00:00:02", "00:00:02 --> 00:00:03"),
        ("00:01.000 --> 00:02.000", "00:02,000 --> 00:03,000"),
        ("0:0:1,0 --> 0:0:2,00", "00:00:02:000 --> 00:00:03:000"),
        ("-00:00:01,000 --> 00:00:02,000", "00:00:02,0000-->00:00:03,000 X1:100 X2:200"),
    ],
)
def test_times_of_other_spellings_are_no_words(tmp_path: Path, first: str, second: str) -> None:
    path = tmp_path / "a.srt"
    path.write_text(f"1\n{first}\nOne<br>1994\n\n2\n{second}\nTwo\n")
    start = 0.0 if first[0] == "-" else 1.0
    assert read_cues(path) == [Cue(start, 2.0, "One\n1994"), Cue(2.0, 3.0, "Two")]


@pytest.mark.parametrize(
    "line", ["00:00:0x,000 --> 00:00:03,000", "00:00:02,000", "00:00:02,000 -->", "123:00:02,000 --> 123:00:03,000"]
)
def test_times_that_cannot_be_read_are_an_input_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.srt"
    path.write_text(f"1\n00:00:01,000 --> 00:00:02,000\nOne\n\n2\n{line}\nTwo\n")
    with pytest.raises(InputError, match=line):
        read_cues(path)


def test_cues_in_comments_are_no_cues(tmp_path: Path) -> None:
    path = tmp_path / "a.vtt"
    path.write_text("WEBVTT\n\nNOTE\n00:01.000 --> 00:02.000\nOld\n\nNOTE 1:5 --> 2\n\n00:01.000 --> 00:02.000\nNew\n")
    assert read_cues(path) == [Cue(1.0, 2.0, "New")]


@pytest.mark.parametrize("name", ["a.ass", "a.mkv"])
def test_drawings_are_no_words_and_the_words_beside_them_are(tmp_path: Path, name: str) -> None:
    shown = r"{\k20}Hel{\k30}lo{\p1}m 0 0 l 100 0{\p0}\Nyou"
    path = tmp_path / name
    if name == "a.ass":
        path.write_text(f"[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{shown}\n")
    else:
        write_sound_with_subtitles(path, "ass", {"eng": [(1.0, 2.0, shown)]})
    assert [cue.text for cue in read_cues(path)] == ["Hello\nyou"]


def _srt(tmp_path: Path, *cues: tuple[float, float, Sequence[str]]) -> Path:
    path = tmp_path / "a.srt"
    lines = ("\n".join([f"{n}\n00:00:{a:06.3f} --> 00:00:{b:06.3f}", *text, ""]) for n, (a, b, text) in enumerate(cues))
    path.write_text("\n".join(lines).replace(".", ","))
    return path


def test_captions_that_roll_up_are_joined_once(tmp_path: Path) -> None:
    path = _srt(tmp_path, (0, 2, ["one"]), (2, 2.01, ["one"]), (2.01, 4, ["one", "two"]), (3.5, 6, ["two", "three"]))
    subtitles = read_subtitle_file(path)
    assert (subtitles.text, subtitles.overlaps) == ("one two three", 0)


def test_repeated_words_with_a_pause_between_are_kept(tmp_path: Path) -> None:
    assert read_subtitle_file(_srt(tmp_path, (0, 1, ["No"]), (1.2, 2, ["No"]))).text == "No No"


def test_overlapping_cues_are_counted_and_joined_in_order(tmp_path: Path) -> None:
    subtitles = read_subtitle_file(_srt(tmp_path, (1, 3, ["two"]), (0, 2, ["one"]), (4, 5, ["three"])))
    assert (subtitles.text, subtitles.overlaps, subtitles.end) == ("one two three", 1, 5.0)


@pytest.mark.parametrize(
    "content", [b"", b"no times at all", b"\x00\x01\x02\xff" * 50, b"[Events]\nDialogue: x\n\xff", b"WEBVTT"]
)
def test_a_damaged_file_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.srt"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_cues(path)


def test_a_damaged_recording_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.mkv").write_bytes(b"nothing")
    with pytest.raises(UnreadableMedia):
        read_cues(tmp_path / "a.mkv")
