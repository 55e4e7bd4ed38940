"""Read the words of subtitles: files beside a recording, and text streams in it."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.core.encodings import decode_file
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.media.containers import by_preference, open_container

if TYPE_CHECKING:
    from av.container import InputContainer
    from pysubs2 import SSAEvent

SUBTITLE_EXTENSIONS = (".srt", ".vtt", ".ass", ".ssa")
"""The extensions of subtitle files that are read, in lower case."""

_TEXT_CODECS = {"ass", "mov_text", "srt", "ssa", "subrip", "text", "webvtt"}
"""FFmpeg's names of the codecs of subtitles that are text; others are pictures."""

_MAX_BYTES = 2**25
"""Larger files are not subtitles."""

_MAX_SHOWN = 80
"""Characters of a damaged line in messages."""

_TIME = r"(-?)(?:(\d{1,2}):)?(\d{1,2}):(\d{1,2})(?:[.,:](\d+))?"
_TIMING = re.compile(rf"^[ \t]*{_TIME}[ \t]*-->[ \t]*{_TIME}(?![\d:.,]).*$", re.MULTILINE)
"""The line with the times of a cue in SubRip and WebVTT. Hours and fractions may be missing."""

_DAMAGED_TIMING = re.compile(r"^(?:.*\d:\d.*-->.*|.*-->.*\d:\d.*|[ \t]*\d+:\d+:\d+[.,]\d+[ \t-]*)$", re.MULTILINE)

_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_SCRIPT = re.compile(r"^\[(?:script info|events)\]", re.IGNORECASE | re.MULTILINE)
"""Headers of SubStation Alpha."""

_LAST_INDEX = "\n\n0\n"
"""pysubs2 removes a number in the last line of a cue, because the number of the next cue follows in SubRip."""

_LINE_BREAK = re.compile(r"<br[ \t]*/?>", re.IGNORECASE)
_VTT_COMMENT = re.compile(r"NOTE(?:\s|$)")
_VTT_TIME = re.compile(r"<[\d:.]+>")
_REMARK = re.compile(
    r"\[[^]]*\]|\([^)]*\)|\{[^}]*\}|\u3010[^\u3011]*\u3011|\uff08[^\uff09]*\uff09|\uff3b[^\uff3d]*\uff3d"
)
"""Sounds, speakers and remarks in brackets, over line ends too."""

_MUSIC = re.compile(r"[\u2669\u266a\u266b\u266c\u266d\u266f\u00b6]+")
_DIALOGUE_MARK = re.compile(r"^(?:(?:[-\u2010\u2011\u2013\u2014\u2022]+|>{2,})(?!\d)\s*)+")
_SPEAKER = re.compile(r"^([^\W\d_][\w .,'\u2019&/#-]{0,30}?)\s*:(?:\s+|$)")
_MAX_GAP = 0.02
"""Seconds between two cues of which the second repeats the lines of the first, as captions that roll up do."""


@dataclass(frozen=True, slots=True)
class Cue:
    """Words and the time at which they are shown.

    Attributes:
        start: Start in seconds.
        end: End in seconds, not before the start.
        text: The words, with a line end between lines; without markup, speaker names and remarks, and not empty.
    """

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Subtitles:
    """The subtitles of a recording.

    Attributes:
        cues: The cues with words, sorted by start.
        language: The language that the container declares (ISO 639: eng); empty if unknown, or for a file.
        encoding: The encoding of a file; empty for UTF-8.
    """

    cues: tuple[Cue, ...]
    language: str = ""
    encoding: str = ""

    @property
    def text(self) -> str:
        """The words of all cues as one line; lines that a cue repeats from the one before are joined once."""
        lines: list[str] = []
        previous: list[str] = []
        end = 0.0
        for cue in self.cues:
            shown = cue.text.split("\n")
            repeated = _repeated_lines(previous, shown) if cue.start <= end + _MAX_GAP else 0
            lines += shown[repeated:]
            previous, end = shown, max(end, cue.end)
        return " ".join(lines)

    @property
    def overlaps(self) -> int:
        """The number of cues that start while another is shown and do not only repeat its words."""
        count, end = 0, 0.0
        previous: Sequence[str] = ()
        for cue in self.cues:
            shown = cue.text.split("\n")
            count += cue.start < end - _MAX_GAP and not _repeated_lines(previous, shown)
            previous, end = shown, max(end, cue.end)
        return count

    @property
    def end(self) -> float:
        """The end of the last cue in seconds; 0 without cues."""
        return max((cue.end for cue in self.cues), default=0.0)


def read_cues(path: Path) -> list[Cue]:
    """Return the cues of a subtitle file, or of the text subtitles in a media file, sorted by start.

    Raises:
        OSError: If a subtitle file cannot be read.
        InputError: If a subtitle file is damaged, or its encoding is unknown.
        FileUnreachable: If a media file cannot be read.
        UnreadableMedia: If a media file is damaged.
    """
    is_file = path.suffix.lower() in SUBTITLE_EXTENSIONS
    return list((read_subtitle_file(path) if is_file else read_subtitle_stream(path)).cues)


def read_subtitle_file(path: Path) -> Subtitles:
    """Read a subtitle file in one of the formats SubRip, WebVTT and SubStation Alpha; its content shows which.

    Raises:
        OSError: If the file cannot be read.
        InputError: If it is damaged, has another format, or its encoding is unknown.
    """
    import pysubs2

    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path} is too large for subtitles", "remove the file if it has none")
    decoded = decode_file(path)
    text = decoded.text.replace("\r\n", "\n").replace("\r", "\n")
    is_script = _SCRIPT.search(text) is not None
    if not text.strip() or (not is_script and not _TIMING.search(text)):
        raise InputError(f"{path} has no subtitles in SubRip, WebVTT or SubStation Alpha", "replace or remove it")
    is_vtt = text.lstrip().startswith("WEBVTT")
    if not is_script:
        text = _with_full_times(path, "\n\n".join(_vtt_blocks(text)) if is_vtt else text)
        text = _LAST_INDEX.join([*(_vtt_cues(text) if is_vtt else [text]), ""])
    try:
        with warnings.catch_warnings(action="ignore"):
            events = pysubs2.SSAFile.from_string(text, "ass" if is_script else "srt")
    except (pysubs2.exceptions.Pysubs2Error, ArithmeticError, LookupError, ValueError) as error:
        raise InputError(f"{path} is a damaged subtitle file ({error})", "replace or remove it") from error
    cues = ((event.start / 1000, event.end / 1000, _plain(event)) for event in events if not event.is_comment)
    if not is_script:
        cues = ((start, end, html.unescape(text)) for start, end, text in cues)
    return Subtitles(_sorted_cues(cues), encoding=decoded.encoding)


def read_subtitle_stream(path: Path) -> Subtitles:
    """Read the text subtitles in a media file, in the stream that players choose; no cues if it has none.

    Raises:
        FileUnreachable: If the file cannot be read.
        UnreadableMedia: If it is damaged.
    """
    with open_container(path) as container:
        streams = subtitle_streams(container)
        if not streams:
            return Subtitles(())
        cues = _sorted_cues(_decoded(container, streams[0]))
        return Subtitles(cues, language=streams[0].language or "")


def subtitle_streams(container: InputContainer) -> list[Any]:
    """Return the subtitle streams that are text, in the order in which players choose; forced ones come last.

    Streams of forced subtitles have only the words in another language than that of the recording.
    """
    from av.stream import Disposition

    streams = by_preference(container.streams.subtitles)
    text = [stream for stream in streams if stream.codec_context.name in _TEXT_CODECS]
    return sorted(text, key=lambda stream: bool(stream.disposition & Disposition.forced))


def _plain(event: SSAEvent) -> str:
    """Return the text of an event of SubStation Alpha without tags and drawings."""
    from pysubs2 import SSAEvent
    from pysubs2.formats.substation import parse_tags

    shown = "".join(fragment for fragment, style in parse_tags(event.text) if not style.drawing)
    return SSAEvent(text=shown).plaintext


def _with_full_times(path: Path, text: str) -> str:
    """Return SubRip or WebVTT with all times as ``00:00:01,000``, and line ends for those of HTML.

    pysubs2 takes a line whose times it does not know for words.

    Raises:
        InputError: If the times of a cue cannot be read.
    """
    if damaged := next((line for line in _DAMAGED_TIMING.findall(text) if not _TIMING.match(line)), None):
        raise InputError(
            f"{path} has a cue whose times cannot be read: {damaged.strip()[:_MAX_SHOWN]!r}",
            "write its times as 00:00:01,000 --> 00:00:02,000, or remove it",
        )
    return _LINE_BREAK.sub("\n", _TIMING.sub(_full_times, text))


def _full_times(timing: re.Match[str]) -> str:
    parts = timing.groups(default="")
    return " --> ".join(_full_time(*parts[first : first + 5]) for first in (0, 5))


def _full_time(sign: str, hours: str, minutes: str, seconds: str, fraction: str) -> str:
    if sign:
        return "00:00:00,000"
    return f"{int(hours or 0):02d}:{minutes:0>2}:{seconds:0>2},{fraction[:3]:0<3}"


def _vtt_blocks(text: str) -> Iterator[str]:
    """Yield the blocks of WebVTT that are no comments."""
    return (block for block in _BLANK_LINE.split(text) if not _VTT_COMMENT.match(block.lstrip("\n")))


def _vtt_cues(text: str) -> Iterator[str]:
    """Yield the times and lines of each cue of WebVTT, without its identifier; styles are left out."""
    for block in _BLANK_LINE.split(text):
        if timing := _TIMING.search(block):
            yield _VTT_TIME.sub("", block[timing.start() :])


def _decoded(container: InputContainer, stream: Any) -> Iterator[tuple[float, float, str]]:
    """Yield start, end and text of the cues of a stream; packets that cannot be decoded are left out."""
    import av
    from pysubs2 import SSAEvent

    for packet in container.demux(stream):
        if not packet.size or packet.pts is None:
            continue
        try:
            rects = packet.decode()
        except av.error.InvalidDataError:
            continue
        start = float(packet.pts * packet.time_base)
        text = "\n".join(rect.dialogue.decode("utf-8", "replace") for rect in rects if rect.type == b"ass")
        yield (
            start,
            start + float((packet.duration or 0) * packet.time_base),
            html.unescape(_plain(SSAEvent(text=text))),
        )


def _sorted_cues(timed: Iterable[tuple[float, float, str]]) -> tuple[Cue, ...]:
    """Clean the text of cues, and sort those with words by start."""
    cues = [Cue(start, max(start, end), words) for start, end, text in timed if (words := clean_words(text))]
    return tuple(sorted(cues, key=lambda cue: cue.start))


def clean_words(text: str) -> str:
    """Return the words of a cue, one line of it a line: without remarks in brackets, notes and speaker names."""
    lines = (_without_speaker(_MUSIC.sub(" ", line)) for line in _REMARK.sub(" ", text).split("\n"))
    return "\n".join(filter(None, lines))


def _without_speaker(line: str) -> str:
    line = _DIALOGUE_MARK.sub("", " ".join(line.split()))
    speaker = _SPEAKER.match(line)
    line = line[speaker.end() :] if speaker and speaker[1].isupper() else line
    return line if any(character.isalnum() for character in line) else ""


def _repeated_lines(previous: Sequence[str], shown: Sequence[str]) -> int:
    """Return how many of the first lines of a cue are the last lines of the cue before."""
    longest = min(len(previous), len(shown))
    return next((count for count in range(longest, 0, -1) if list(previous[-count:]) == list(shown[:count])), 0)
