"""Synthetic films with known content: each picture holds its number, as in the film matrix; the sound is a tone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.media.film_writing import draw, write_display_matrix

TONE = 440
"""Hertz."""

_CLOCK = Fraction(1, 1000)
_LEVEL_TOLERANCE = 14  # the most that a codec may change the mean colour of a part of a picture
_TIME_TOLERANCE = 0.012  # seconds; containers round times, GIF to hundredths


@dataclass(frozen=True)
class Film:
    """The content and the encoding of a synthetic clip.

    Attributes:
        size: Width and height of the upright pictures.
        durations: Duration of each picture, in milliseconds.
        codec: Video encoder; None: no pictures.
        pixels: Pixel format.
        options: Options of the video encoder.
        sound: Amplitude of the tone; None: no sound.
        sound_codec: Audio encoder.
        container: FFmpeg's name of the container; None: from the file extension.
        turn: Clockwise quarter turns that a player must apply to show the pictures upright.
        mirrored: Whether a player must also mirror the pictures.
        texture: Amplitude of added noise; it makes files large enough to damage.
    """

    size: tuple[int, int] = (64, 48)
    durations: Sequence[int] = (40,) * 25
    codec: str | None = "libx264"
    pixels: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=lambda: {"preset": "ultrafast", "crf": "10"})
    sound: float | None = 0.3
    sound_codec: str = "aac"
    container: str | None = None
    turn: int = 0
    mirrored: bool = False
    texture: int = 0

    @property
    def seconds(self) -> float:
        return sum(self.durations) / 1000

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Draw an upright picture."""
        picture = draw(index, self.size)
        if self.texture:
            noise = np.random.default_rng(index).integers(-self.texture, self.texture, picture.shape)
            picture = (picture + noise).clip(0, 255).astype(np.uint8)
        return picture

    def starts(self) -> list[float]:
        """Return the start of each picture, in seconds."""
        return [sum(self.durations[:index]) / 1000 for index in range(len(self.durations))]

    def picture_at(self, moment: float) -> int:
        """Return the index of the picture that is visible at a moment."""
        return sum(start <= moment + 1e-3 for start in self.starts()) - 1

    def picture_faults(self, pictures: NDArray[np.uint8], times: NDArray[np.float32], count: int) -> list[str]:
        """Return the faults of ``count`` sampled pictures; empty if they are right."""
        if pictures.shape[1:] != (*self.size[::-1], 3):
            return [f"pictures are {pictures.shape[1:]}, not {(*self.size[::-1], 3)}"]
        indices = sorted({self.picture_at((index + 0.5) * self.seconds / count) for index in range(count)})
        expected = [self.starts()[index] for index in indices]
        if (
            len(times) != len(expected)
            or np.abs(times - times[0] - np.array(expected) + expected[0]).max() > _TIME_TOLERANCE
        ):
            return [f"pictures of {np.round(times, 2).tolist()} s, not {np.round(expected, 2).tolist()}"]
        return [
            f"picture {index} is off by {worst:.0f} of 255 levels"
            for picture, index in zip(pictures, indices, strict=True)
            if (worst := float(np.abs(_parts(picture) - _parts(self.picture(index))).max())) > _LEVEL_TOLERANCE
        ]

    def sound_faults(self, samples: NDArray[np.float32]) -> list[str]:
        """Return the faults of the sound at 16 kHz; empty if it is right."""
        seconds = len(samples) / 16_000
        if abs(seconds - self.seconds) > 0.15:
            return [f"{seconds:.2f} s of sound, not {self.seconds:.2f}"]
        spectrum = np.abs(np.fft.rfft(samples))
        loudest = float(spectrum.argmax() / seconds)
        return [] if abs(loudest - TONE) < 1 / seconds + 3 else [f"a tone of {loudest:.0f} Hz, not {TONE}"]

    def write(self, path: Path) -> Path:
        """Encode the film into a file."""
        import av

        with av.open(str(path), "w", format=self.container) as container:
            video = None if self.codec is None else self.add_video_stream(container)
            audio = None if self.sound is None else self.add_audio_stream(container)
            packets = self.encode_pictures(video) if video else []
            for packet in packets + (self.encode_tone(audio) if audio else []):
                container.mux(packet)
        if self.turn or self.mirrored:
            write_display_matrix(path, self.turn, mirrored=self.mirrored)
        return path

    def add_video_stream(self, container: Any) -> Any:
        """Add a stream for the pictures."""
        stream = container.add_stream(self.codec, rate=25)
        stream.width, stream.height = self.size[::-1] if self.turn % 2 else self.size
        stream.pix_fmt, stream.options = self.pixels, dict(self.options)
        stream.codec_context.time_base = _CLOCK
        return stream

    def encode_pictures(self, stream: Any) -> list[Any]:
        """Encode the pictures, rotated and mirrored so that the display matrix makes them upright."""
        import av

        packets = []
        for index, (start, duration) in enumerate(zip(self.starts(), self.durations, strict=True)):
            stored = np.rot90(self.picture(index), self.turn)
            stored = stored[::-1] if self.mirrored else stored
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
            frame.pts, frame.time_base, frame.duration = round(start * 1000), _CLOCK, duration
            packets += stream.encode(frame)
        packets += stream.encode()
        for packet in packets:  # encoders do not set the duration of the last picture
            packet.duration = round(self._duration_at(packet.pts * packet.time_base) / packet.time_base)
        return packets

    def add_audio_stream(self, container: Any) -> Any:
        """Add a stream for the tone."""
        stream = container.add_stream(self.sound_codec, rate=48000 if self.sound_codec == "libopus" else 16000)
        stream.layout = "mono"
        return stream

    def encode_tone(self, stream: Any) -> list[Any]:
        """Encode the tone."""
        import av

        moments = np.arange(int(self.seconds * stream.rate)) / stream.rate
        samples = ((self.sound or 0) * np.sin(2 * np.pi * TONE * moments)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, 0, Fraction(1, stream.rate)
        return [*stream.encode(frame), *stream.encode()]

    def _duration_at(self, start: Fraction) -> Fraction:
        nearest = min(range(len(self.durations)), key=lambda index: abs(self.starts()[index] - start))
        return self.durations[nearest] * _CLOCK


def move_header_to_front(path: Path) -> Path:
    """Move the header of an mp4 file to its front, as in files for streaming: truncation then keeps the header."""
    import av

    temporary = path.with_suffix(".front.mp4")
    with av.open(str(path)) as source, av.open(str(temporary), "w", options={"movflags": "faststart"}) as target:
        streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                target.mux(packet)
    return temporary.replace(path)


def _parts(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean colours of the parts of a picture that keep their place: bits, mark and their neighbours."""
    height, width = picture.shape[:2]
    parts = [(0, 2, bit, bit + 1) for bit in range(8)]  # quarters of the height, eighths of the width
    parts += [(row, row + 1, column, column + 2) for row in (2, 3) for column in (0, 2)]
    means = []
    for top, bottom, left, right in parts:
        rows, columns = (
            slice(round((start + 0.2 * (end - start)) * size), round((end - 0.2 * (end - start)) * size))
            for start, end, size in ((top / 4, bottom / 4, height), (left / 8, right / 8, width))
        )
        means.append(picture[rows, columns].mean(axis=(0, 1)))
    return np.stack(means)
