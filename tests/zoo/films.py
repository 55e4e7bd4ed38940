"""Films whose every picture says when it is shown and which way up it is, and a tone: what is right is known."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RED, GREEN, BLUE = (200, 30, 30), (30, 180, 30), (30, 30, 200)
DARKEST, BRIGHTEST = 60, 220
TONE = 440
"""Hertz."""

_CLOCK = Fraction(1, 1000)
_LEVELS = 14  # that codecs may change a quarter's mean colour by
_FRACTION = 0.012  # seconds: containers round times, GIF to hundredths


@dataclass(frozen=True)
class Film:
    """What a made clip shows and sounds like.

    Attributes:
        size: Width and height as they are shown, upright.
        lengths: Milliseconds each picture stands.
        codec: Encoder of the pictures; None: there are none.
        pixels: Its pixel format.
        options: Further settings of the encoder.
        sound: Amplitude of the tone; None: there is no sound.
        container: FFmpeg's name of the container; None: by the file's extension.
        turn: Quarter turns (clockwise) by which a player must turn the pictures to show them upright.
        mirrored: Whether a player must turn them over, too.
        texture: Levels of noise on top, so that there are bytes to damage.
    """

    size: tuple[int, int] = (64, 48)
    lengths: Sequence[int] = (40,) * 25
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
        return sum(self.lengths) / 1000

    def level(self, time: float) -> float:
        """Brightness of the lower right quarter of the picture that starts at ``time``."""
        return DARKEST + (BRIGHTEST - DARKEST) * time / self.seconds

    def picture(self, time: float) -> NDArray[np.uint8]:
        """The upright picture: red and green above, blue and a grey that tells the time below."""
        width, height = self.size
        picture = np.empty((height, width, 3), np.uint8)
        picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = RED, GREEN
        picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = BLUE, round(self.level(time))
        if self.texture:
            noise = np.random.default_rng(round(time * 1000)).integers(-self.texture, self.texture, picture.shape)
            picture = (picture + noise).clip(0, 255).astype(np.uint8)
        return picture

    def starts(self) -> list[float]:
        """Seconds at which each picture begins."""
        return [sum(self.lengths[:index]) / 1000 for index in range(len(self.lengths))]

    def shown_at(self, moment: float) -> float:
        """Start of the picture on screen at a moment."""
        return max(start for start in self.starts() if start <= moment + 1e-3)

    def faults(self, pictures: NDArray[np.uint8], times: NDArray[np.float32], count: int) -> list[str]:
        """What is wrong with ``count`` sampled pictures; nothing where they are right."""
        if pictures.shape[1:] != (*self.size[::-1], 3):
            return [f"pictures are {pictures.shape[1:]}, not {(*self.size[::-1], 3)}"]
        wanted = sorted({self.shown_at((index + 0.5) * self.seconds / count) for index in range(count)})
        if len(times) != len(wanted) or np.abs(times - times[0] - np.array(wanted) + wanted[0]).max() > _FRACTION:
            return [f"pictures of {np.round(times, 2).tolist()} s, not {np.round(wanted, 2).tolist()}"]
        return [
            f"the picture at {time:.2f} s is off by {worst:.0f} of 255 levels"
            for picture, time in zip(pictures, wanted, strict=True)
            if (worst := float(np.abs(_quarters(picture) - _quarters(self.picture(time))).max())) > _LEVELS
        ]

    def sound_faults(self, samples: NDArray[np.float32]) -> list[str]:
        """What is wrong with the sound at 16 kHz; nothing where it is right."""
        seconds = len(samples) / 16_000
        if abs(seconds - self.seconds) > 0.15:
            return [f"{seconds:.2f} s of sound, not {self.seconds:.2f}"]
        spectrum = np.abs(np.fft.rfft(samples))
        loudest = float(spectrum.argmax() / seconds)
        return [] if abs(loudest - TONE) < 1 / seconds + 3 else [f"a tone of {loudest:.0f} Hz, not {TONE}"]

    def write(self, path: Path) -> Path:
        """Encode it into a file."""
        import av

        with av.open(str(path), "w", format=self.container) as container:
            pictures = None if self.codec is None else self.video_stream(container)
            sound = None if self.sound is None else self.audio_stream(container)
            packets = self.packets(pictures) if pictures else []
            for packet in packets + (self.tone(sound) if sound else []):
                container.mux(packet)
        if self.turn or self.mirrored:
            turn_header(path, self.turn, mirrored=self.mirrored)
        return path

    def video_stream(self, container: Any) -> Any:
        """A new stream for the pictures."""
        stream = container.add_stream(self.codec, rate=25)
        stream.width, stream.height = self.size[::-1] if self.turn % 2 else self.size
        stream.pix_fmt, stream.options = self.pixels, dict(self.options)
        stream.codec_context.time_base = _CLOCK
        return stream

    def packets(self, stream: Any, *, since: float = 0, until: float = float("inf")) -> list[Any]:
        """The encoded pictures of a span of time, as a stream holds them: turned so that a player turns them back."""
        import av

        made = []
        for start, length in zip(self.starts(), self.lengths, strict=True):
            if not since <= start < until:
                continue
            stored = np.rot90(self.picture(start), self.turn)
            stored = stored[::-1] if self.mirrored else stored
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
            frame.pts, frame.time_base, frame.duration = round(start * 1000), _CLOCK, length
            made += stream.encode(frame)
        made += stream.encode()
        for packet in made:  # encoders do not tell how long the last picture stands
            packet.duration = round(self._length_at(packet.pts * packet.time_base) / packet.time_base)
        return made

    def audio_stream(self, container: Any) -> Any:
        """A new stream for the tone."""
        stream = container.add_stream(self.sound_codec, rate=48000 if self.sound_codec == "libopus" else 16000)
        stream.layout = "mono"
        return stream

    def tone(self, stream: Any) -> list[Any]:
        """The encoded tone."""
        import av

        moments = np.arange(int(self.seconds * stream.rate)) / stream.rate
        samples = ((self.sound or 0) * np.sin(2 * np.pi * TONE * moments)).astype(np.float32)
        tone = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        tone.sample_rate, tone.pts, tone.time_base = stream.rate, 0, Fraction(1, stream.rate)
        return [*stream.encode(tone), *stream.encode()]

    def _length_at(self, start: Fraction) -> Fraction:
        nearest = min(range(len(self.lengths)), key=lambda index: abs(self.starts()[index] - start))
        return self.lengths[nearest] * _CLOCK


def to_streaming(path: Path) -> Path:
    """Move an mp4's header to its front, as files for streaming have it: what is cut off is then not the header."""
    import av

    aside = path.with_suffix(".front.mp4")
    with av.open(str(path)) as source, av.open(str(aside), "w", options={"movflags": "faststart"}) as target:
        streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                target.mux(packet)
    return aside.replace(path)


def turn_header(path: Path, turn: int, *, mirrored: bool) -> None:
    """Write a display matrix into an mp4's first track header, as phones do (ISO 14496-12, 8.3.2)."""
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[turn % 4]
    over = -1 if mirrored else 1
    one = 1 << 16
    matrix = (cosine * one, sine * one, 0, -sine * one * over, cosine * one * over, 0, 0, 0, 1 << 30)
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    at = header + (40 if content[header] == 0 else 52)
    content[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


def _quarters(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colour of the middle of each quarter, (4, 3)."""
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    quarters = [picture[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    inner = (slice(height // 8, -(height // 8) or None), slice(width // 8, -(width // 8) or None))
    return np.stack([quarter[inner].mean(axis=(0, 1)) for quarter in quarters])
