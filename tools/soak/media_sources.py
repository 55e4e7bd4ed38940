"""Small valid media files with pictures and audio, in the containers and codecs that clips have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np

from tests.zoo.films import move_header_to_front

SIZE = (160, 120)
"""Width and height of the pictures."""

_PICTURES, _PICTURES_PER_SECOND = 25, 25
_TONE = 220.0  # Hertz
_BIT_RATE = 64_000  # of the audio, bits in a second


@dataclass(frozen=True)
class Source:
    """A valid file of one second.

    Attributes:
        video: Video encoder; None: no pictures.
        audio: Audio encoder; None: no audio.
        options: Options of the video encoder.
        pixels: Pixel format.
        channels: Layout of the audio.
        rate: Sampling rate of the audio, Hertz.
        container: FFmpeg's name of the container; None: from the file extension.
        is_streamable: Whether an MP4 file has its header at the front.
    """

    video: str | None = "libx264"
    audio: str | None = "aac"
    options: Mapping[str, str] = field(default_factory=lambda: {"preset": "ultrafast", "crf": "30", "g": "10"})
    pixels: str = "yuv420p"
    channels: str = "mono"
    rate: int = 16_000
    container: str | None = None
    is_streamable: bool = False

    def write(self, path: Path) -> None:
        """Write the file. It has the same bytes each time."""
        with av.open(str(path), "w", format=self.container, options={"fflags": "+bitexact"}) as container:
            streams: list[tuple[Any, list[Any]]] = []
            if self.video:
                stream: Any = container.add_stream(self.video, rate=_PICTURES_PER_SECOND, options=dict(self.options))
                (stream.width, stream.height), stream.pix_fmt = SIZE, self.pixels
                streams.append((stream, _pictures()))
            if self.audio:
                stream = container.add_stream(self.audio, rate=self.rate, layout=self.channels, bit_rate=_BIT_RATE)
                streams.append((stream, [_tone(self.rate)]))
            for packet in [
                packet for stream, frames in streams for f in (*frames, None) for packet in stream.encode(f)
            ]:
                container.mux(packet)
        if self.is_streamable:
            move_header_to_front(path)


def _pictures() -> list[Any]:
    """Return noise in front of which a bar moves."""
    rng = np.random.default_rng(0)
    pictures = []
    for index in range(_PICTURES):
        picture = rng.integers(90, 110, (*SIZE[::-1], 3), np.uint8)
        picture[:, 4 * index : 4 * index + 40] = (200, 9 * index, 60)
        pictures.append(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    return pictures


def _tone(rate: int) -> Any:
    samples = (0.3 * np.sin(2 * np.pi * _TONE * np.arange(rate) / rate)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    return frame


_X264 = Source().options
_H264 = Source()
_INTERLACED = Source(options={**_X264, "flags": "+ilme+ildct", "x264-params": "tff=1:log-level=none"})
_H265 = Source("libx265", options={"preset": "ultrafast", "x265-params": "log-level=none"})
_MPEG2 = Source("mpeg2video", "mp2", {"b": "300k", "bf": "2", "flags": "+ilme+ildct"}, rate=32_000)
_MPEG4 = Source("mpeg4", "libmp3lame", {"b": "300k", "bf": "1"})
_MJPEG = Source("mjpeg", "pcm_s16le", {"b": "200k"}, "yuvj420p")
_VP8 = Source("libvpx", "libopus", {"deadline": "good", "cpu-used": "5", "b": "300k"}, rate=48_000)
_VP9 = Source(
    "libvpx-vp9", "libopus", {"deadline": "good", "cpu-used": "5", "b": "300k"}, channels="stereo", rate=48_000
)


def _sound(codec: str, channels: str = "mono", rate: int = 16_000, container: str | None = None) -> Source:
    return Source(None, codec, channels=channels, rate=rate, container=container)


SOURCES: Mapping[str, Sequence[Source]] = MappingProxyType(
    {
        "mp4": (_H264, _H265, Source("mpeg4", "libmp3lame", {"b": "300k"}, is_streamable=True), _INTERLACED),
        "mkv": (_INTERLACED, _MPEG2, Source("ffv1", "flac", {}), Source(audio="ac3", channels="stereo", rate=32_000)),
        "avi": (_MPEG4, _MJPEG, Source(audio="ac3", rate=32_000), Source("mpeg4", "adpcm_ms", {"b": "300k"})),
        "webm": (_VP8, _VP9),
        "flv": (_H264, Source("flv", "libmp3lame", {"b": "300k"}, rate=22_050)),
        "wav": (
            _sound("pcm_s16le"),
            _sound("pcm_f32le", "stereo"),
            _sound("pcm_u8"),
            _sound("pcm_s24le", "5.1", 8_000),
            _sound("adpcm_ms"),
            _sound("pcm_mulaw", rate=8_000),
            _sound("libmp3lame"),
        ),
        "ts": (_MPEG2, _H264),
        "mpg": (_MPEG2, Source("mpeg1video", "mp2", {"b": "300k"}, rate=32_000)),
        "wmv": (Source("wmv2", "wmav2", {"b": "300k"}, rate=44_100),),
        "ogg": (_sound("libopus", rate=48_000), _sound("flac")),
        "m4a": (_sound("aac", "stereo", 44_100, "mp4"), _sound("alac", container="mp4")),
        "mp3": (_sound("libmp3lame", "stereo"),),
        "flac": (_sound("flac"),),
    }
)
"""The valid files of each container, by file extension."""


def write_sources(folder: Path, container: str) -> list[bytes]:
    """Write the valid files of a container into a folder; return their bytes."""
    paths = [folder / f"{number}.{container}" for number in range(len(SOURCES[container]))]
    for path, source in zip(paths, SOURCES[container], strict=True):
        source.write(path)
    return [path.read_bytes() for path in paths]
