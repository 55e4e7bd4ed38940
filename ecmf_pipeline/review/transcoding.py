"""Encode what browsers cannot play as H.264 and AAC in MP4, or VP8 and Opus in WebM if these encoders are missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecmf_pipeline.core.clips import Half
from ecmf_pipeline.core.errors import ClipError, UnreadableMedia
from ecmf_pipeline.media.clip_reader import crop_half
from ecmf_pipeline.media.containers import by_preference, open_container, video_streams
from ecmf_pipeline.media.pictures import deinterlaced, read_orientation, shown_size
from ecmf_pipeline.media.timeline import Span

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer

_MAX_SIDE = 854
"""Pictures with a longer side are scaled down: the page shows them smaller than this."""
_MAX_SECONDS = 600.0
"""A clip that is longer is cut: nobody judges one emotion in more than ten minutes."""
_SAMPLE_RATE = 48_000
_TIME_BASE = Fraction(1, 90_000)

_PLAYABLE = {
    "mp4": ({"mov,mp4,m4a,3gp,3g2,mj2"}, {"h264"}, {"aac", "mp3"}),
    "m4v": ({"mov,mp4,m4a,3gp,3g2,mj2"}, {"h264"}, {"aac", "mp3"}),
    "m4a": ({"mov,mp4,m4a,3gp,3g2,mj2"}, set(), {"aac", "mp3"}),
    "webm": ({"matroska,webm"}, {"vp8", "vp9"}, {"vorbis", "opus"}),
    "mp3": ({"mp3"}, set(), {"mp3", "mp3float"}),
    "wav": ({"wav"}, set(), {"pcm_s16le", "pcm_u8", "pcm_s24le", "pcm_f32le"}),
    "ogg": ({"ogg"}, set(), {"vorbis", "opus"}),
    "oga": ({"ogg"}, set(), {"vorbis", "opus"}),
    "opus": ({"ogg"}, set(), {"opus"}),
    "flac": ({"flac"}, set(), {"flac"}),
}
"""Formats, video and audio codecs that Chromium, Firefox and Safari play, by extension."""

MEDIA_TYPES = {
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "m4a": "audio/mp4",
    "webm": "video/webm",
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "ogg": "audio/ogg",
    "oga": "audio/ogg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
}
"""Content types by extension."""


class Target(NamedTuple):
    """Container and encoders of transcoded media."""

    extension: str
    video: str
    audio: str
    video_options: dict[str, str]


@cache
def target() -> Target:
    """Return the encoders of this FFmpeg."""
    import av

    def has_encoder(name: str) -> bool:
        try:
            av.codec.Codec(name, "w")
        except ValueError:
            return False
        return True

    if has_encoder("libx264") and has_encoder("aac"):
        return Target("mp4", "libx264", "aac", {"preset": "ultrafast", "crf": "24"})
    return Target("webm", "libvpx", "libopus", {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "1M"})


def is_playable(path: Path) -> bool:
    """Return whether browsers play a file as it is.

    Raises:
        ClipError: If the file cannot be opened.
    """
    formats, video_codecs, audio_codecs = _PLAYABLE.get(path.suffix[1:].lower(), (set(), set(), set()))
    if not formats:
        return False
    with open_container(path) as container:
        video, audio = by_preference(container.streams.video), by_preference(container.streams.audio)
        return (
            container.format.name in formats
            and len(container.streams.video) <= 1
            and all(
                stream.codec_context.name in video_codecs and stream.codec_context.pix_fmt in {"yuv420p", "yuvj420p"}
                for stream in video
            )
            and all(stream.codec_context.name in audio_codecs for stream in audio)
            and bool(video or audio)
        )


def transcode(source: Path, folder: Path, key: str, part: Span, sound: Path | None) -> Path:
    """Encode a clip for browsers.

    Args:
        source: The media file.
        folder: Folder of the result.
        key: Name of the result without extension.
        part: The part of the file.
        sound: File with the sound if it is not in the media file.

    Raises:
        ClipError: If nothing can be decoded.
    """
    import av

    encoders = target()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{key}.{os.getpid()}.{encoders.extension}"
    options = {"movflags": "+faststart"} if encoders.extension == "mp4" else {}
    span = (part.start, part.end or part.start + _MAX_SECONDS)
    try:
        with (
            av.open(str(temporary), "w", options=options) as output,
            open_container(source) as pictures,
            open_container(sound or source) as sounds,
        ):
            # All streams are added before the first packet is written.
            video = _VideoEncoder.of(pictures, output, encoders, part.half)
            audio = _AudioEncoder.of(sounds, output, encoders)
            packets = 0
            if video is not None:  # first: the size of its pictures is known only when one is decoded
                packets += video.encode(span)
            if audio is not None:
                packets += audio.encode(span)
            if not packets:
                raise UnreadableMedia("nothing of this clip can be decoded")
        result = folder / f"{key}.{encoders.extension}"
        temporary.replace(result)
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
            raise
        raise ClipError(f"cannot be encoded for the browser: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return result


def _frames(container: InputContainer, stream: Any, span: tuple[float, float]) -> Iterator[Any]:
    """Yield the decoded frames of a stream from a key picture before the span to its end; damaged ones are left out."""
    import av

    origin = _origin(container)
    if span[0] > 0:
        container.seek(int((origin + span[0]) * 1e6))
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue
        for frame in frames:
            if frame.time is not None and frame.time - origin >= span[1]:
                return
            yield frame


def _origin(container: InputContainer) -> float:
    return float(container.start_time or 0) / 1e6


class _VideoEncoder:
    def __init__(
        self, container: InputContainer, stream: Any, output: OutputContainer, encoders: Target, half: Half
    ) -> None:
        self._container, self._stream, self._output, self._half = container, stream, output, half
        rate = stream.average_rate or stream.guessed_rate or 25
        encoder: Any = output.add_stream(encoders.video, rate=min(max(Fraction(rate), Fraction(1)), Fraction(60)))
        self._encoder = encoder
        self._encoder.options = encoders.video_options
        self._encoder.pix_fmt = "yuv420p"
        self._encoder.codec_context.time_base = _TIME_BASE

    @classmethod
    def of(
        cls, container: InputContainer, output: OutputContainer, encoders: Target, half: Half
    ) -> _VideoEncoder | None:
        streams = video_streams(container)
        return cls(container, streams[0], output, encoders, half) if streams else None

    def encode(self, span: tuple[float, float]) -> int:
        """Encode the pictures of the span; return the number of packets."""
        origin = _origin(self._container) + span[0]
        context = self._stream.codec_context
        width, height = shown_size((context.width, context.height), self._stream.sample_aspect_ratio, _MAX_SIDE)
        count, last = 0, -1
        step = int(90_000 / float(self._encoder.codec_context.framerate or 25))
        is_set = False
        for decoded, shown in deinterlaced(_frames(self._container, self._stream, span)):
            time = decoded.time if decoded.time is not None else origin + (last + step) / 90_000
            if time < origin - 1e-3:
                continue
            orientation = read_orientation(decoded)
            frame = shown.reformat(width - width % 2, height - height % 2, "yuv420p")
            if orientation.turns or orientation.mirrored or self._half:
                frame = _upright(frame, orientation, self._half)
            if not is_set:
                self._encoder.width, self._encoder.height = frame.width, frame.height
                is_set = True
            elif (frame.width, frame.height) != (self._encoder.width, self._encoder.height):
                frame = frame.reformat(self._encoder.width, self._encoder.height)
            last = max(last + 1, round((time - origin) * 90_000))
            frame.pts, frame.time_base = last, _TIME_BASE
            count += _mux(self._output, self._encoder.encode(frame))
        return count + (_mux(self._output, self._encoder.encode()) if is_set else 0)


def _upright(frame: Any, orientation: Any, half: Half) -> Any:
    """Return a half of a stored frame, upright; its sides are even."""
    import av
    import numpy as np

    picture = np.ascontiguousarray(crop_half(orientation.turned(frame.to_ndarray(format="rgb24")), half))
    height, width = (max(2, side - side % 2) for side in picture.shape[:2])
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(width, height, "yuv420p")


class _AudioEncoder:
    def __init__(self, container: InputContainer, stream: Any, output: OutputContainer, encoders: Target) -> None:
        self._container, self._stream, self._output = container, stream, output
        encoder: Any = output.add_stream(encoders.audio, rate=_SAMPLE_RATE)
        self._encoder = encoder
        self._encoder.layout = "stereo"

    @classmethod
    def of(cls, container: InputContainer, output: OutputContainer, encoders: Target) -> _AudioEncoder | None:
        streams = by_preference(container.streams.audio)
        return cls(container, streams[0], output, encoders) if streams else None

    def encode(self, span: tuple[float, float]) -> int:
        """Encode the sound of the span; return the number of packets."""
        import av

        resampler = av.AudioResampler(self._encoder.format, "stereo", _SAMPLE_RATE)
        origin = _origin(self._container) + span[0]
        count, offset = 0, None
        for frame in _frames(self._container, self._stream, span):
            if frame.time is not None and frame.time + frame.samples / frame.sample_rate <= origin:
                continue
            if offset is None:  # a sound that begins later than the pictures keeps its delay
                offset = max(0, round(((frame.time or 0.0) - origin) * _SAMPLE_RATE))
            frame.pts = None
            for resampled in resampler.resample(frame):
                offset = self._place(resampled, offset)
                count += _mux(self._output, self._encoder.encode(resampled))
        if offset is None:
            return 0
        for resampled in resampler.resample(None):
            offset = self._place(resampled, offset)
            count += _mux(self._output, self._encoder.encode(resampled))
        return count + _mux(self._output, self._encoder.encode())

    @staticmethod
    def _place(frame: Any, offset: int) -> int:
        frame.pts, frame.time_base = offset, Fraction(1, _SAMPLE_RATE)
        return offset + int(frame.samples)


def _mux(output: OutputContainer, packets: Any) -> int:
    output.mux(packets)
    return len(packets)
