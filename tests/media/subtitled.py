"""Recordings with subtitle streams, written for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.subtitles.subtitle import SubtitleSet

RATE = 48_000
_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""

TimedText = tuple[float, float, str]
"""Start and end in seconds, and text with the markup of SubStation Alpha."""


def write_sound_with_subtitles(
    path: Path,
    codec: str,
    subtitles: Mapping[str, Sequence[TimedText]],
    *,
    seconds: float = 4.0,
    forced: Sequence[str] = (),
) -> Path:
    """Write a quiet tone with subtitle streams.

    Args:
        path: The file.
        codec: The codec of the subtitles: ``srt``, ``ass``, ``webvtt`` or ``mov_text``.
        subtitles: The cues of each stream by language (three letters).
        seconds: Length of the tone.
        forced: Languages whose stream is flagged as forced.
    """
    tone = (3000 * np.sin(np.arange(int(seconds * RATE)) * 0.05)).astype(np.int16)
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac" if path.suffix == ".mp4" else "libopus", rate=RATE, layout="mono")
        streams = [container.add_stream(codec) for _ in subtitles]
        for stream, language in zip(streams, subtitles, strict=True):
            stream.metadata["language"] = language
            stream.codec_context.subtitle_header = _HEADER
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
            stream.codec_context.open()
            if language in forced:
                stream.disposition = Disposition.forced
        container.start_encoding()
        for stream, cues in zip(streams, subtitles.values(), strict=True):
            for start, end, text in cues:
                line = f"0,0,Default,,0,0,0,,{text}".encode()
                packet = stream.codec_context.encode_subtitle(
                    SubtitleSet.create(line, 0, round((end - start) * 1000), round(start * 1000))
                )
                packet.stream = stream
                packet.pts = packet.dts = round(start * 1000)
                packet.duration = round((end - start) * 1000)
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*sound.encode(frame), *sound.encode(None)]:
            container.mux(packet)
    return path
