"""Read the audio of a clip as mono samples at 16 kHz."""

from __future__ import annotations

import ctypes
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import NoAudioStream, SilentAudio, TruncatedMedia, UnreadableMedia
from ecmf_pipeline.media.config import SAMPLE_RATE, MediaConfig
from ecmf_pipeline.media.containers import Extent, PacketReader, by_preference, declared_length, open_container
from ecmf_pipeline.media.timeline import Span

if TYPE_CHECKING:
    from av.container import InputContainer

_RESAMPLER = {"filter_size": "128", "cutoff": "0.955", "kaiser_beta": "9"}
"""Options of FFmpeg's resampler. On speech, the difference to the resampler of SoX at high quality, which openSMILE for
Python uses, is 55 to 63 dB below the signal; with the default options it is 36 to 45 dB, mostly aliases above 7 kHz."""

_MIN_RATE, _MAX_RATE = 1_000, 1_000_000
"""Hertz. With a damaged rate the resampled audio or the filter of the resampler would fill the memory."""

_CANCELLED = 10**-1.2
"""Power of the mean relative to that of the loudest channel (-12 dB) below which the channels cancel each other."""

_MAX_PEAK = 4.0
"""Lossy codecs and float recorders exceed 1, which players clip. Larger samples have another full scale."""

_FULL_SCALE = {
    "u8": (np.uint8, 2.0**7),
    "s16": (np.int16, 2.0**15),
    "s32": (np.int32, 2.0**31),
    "s64": (np.int64, 2.0**63),
    "flt": (np.float32, 1.0),
    "dbl": (np.float64, 1.0),
}
"""The type and the full scale of each sample format of FFmpeg."""


_MAX_DRIFT = 0.05
"""Seconds by which the time of a frame may differ from the samples before it; by more, there is a gap in the sound."""


@dataclass(frozen=True, slots=True)
class DecodedSound:
    """The sound of a file.

    Attributes:
        samples: Mono samples at 16 kHz, float32 (n,) in [-1, 1].
        anchors: Pairs of a time of the file in seconds, and the seconds of samples before it: the first sample, and the
            first sample after each gap. Both increase.
    """

    samples: NDArray[np.float32]
    anchors: tuple[tuple[float, float], ...] = ((0.0, 0.0),)

    def part(self, span: Span) -> NDArray[np.float32]:
        """Return the samples of a span of the file, a view, (m,); players are silent in gaps, which have none.

        Raises:
            NoAudioStream: If the sound has no samples there.
            SilentAudio: If all of them are zero.
        """
        if span.is_whole:
            return self.samples
        samples = self.samples[self._position(span.start) : self._position(span.end)]
        where = f"from {span.start:.2f} to {span.end:.2f} s"
        if len(samples) == 0:
            raise NoAudioStream(f"the sound has no samples {where}")
        if not samples.any():
            raise SilentAudio(f"all samples {where} are zero")
        return samples

    def time_of(self, seconds: float) -> float:
        """Return the time of the file at which a sample is played; ``seconds`` is its place among the samples."""
        anchor, before = self.anchors[max(bisect_right(self.anchors, seconds, key=itemgetter(1)) - 1, 0)]
        return max(0.0, anchor + seconds - before)

    def _position(self, time: float) -> int:
        """Return the index of the first sample that is played at a time or later."""
        number = bisect_right(self.anchors, time, key=itemgetter(0)) - 1
        anchor, before = self.anchors[max(number, 0)]
        end = self.anchors[number + 1][1] if number + 1 < len(self.anchors) else math.inf
        return max(0, round(min(before + time - anchor, end) * SAMPLE_RATE))


def read_audio(path: Path, config: MediaConfig) -> NDArray[np.float32]:
    """Read the sound of a file; see `read_sound`. Returns mono samples at 16 kHz, float32 (n,) in [-1, 1]."""
    return read_sound(path, config).samples


def read_sound(path: Path, config: MediaConfig) -> DecodedSound:
    """Read the audio stream that players choose; if it is empty or silent, the next one.

    The channels are averaged. If they cancel each other, so that the mean has 12 dB less power than the loudest
    channel, that channel is returned instead.

    Args:
        path: The file.
        config: How to read it.

    Raises:
        NoAudioStream: If there is none, or it has no samples.
        SilentAudio: If all samples are zero.
        TruncatedMedia: If less of the file can be read than ``config.least_readable`` allows.
        UnreadableMedia: If it cannot be decoded, or samples are not numbers or far beyond 1.
    """
    problems: list[NoAudioStream | SilentAudio] = []
    for rank in itertools.count():
        with open_container(path) as container:
            streams = by_preference(container.streams.audio)
            if not streams and container.streams.audio:
                raise UnreadableMedia("no decoder exists for the codec of the audio stream")
            if rank == len(streams):
                break
            try:
                return _read_stream(path, container, streams[rank], config)
            except (NoAudioStream, SilentAudio) as problem:
                problems.append(problem)
    raise problems[0] if problems else NoAudioStream("the file has no audio stream")


def _read_stream(path: Path, container: InputContainer, stream: Any, config: MediaConfig) -> DecodedSound:
    reader = PacketReader(container)
    mixer = _Mixer({})
    samples = _resample(mixer.mix(_decode(reader.packets(stream))))
    seconds = len(samples) / SAMPLE_RATE
    extent = reader.extent()
    if len(samples) and stream.duration and declared_length(container):  # for an empty stream, FFmpeg invents a length
        start = float((stream.start_time or 0) * stream.time_base)
        # A sound with a gap has fewer samples than its length; players are silent there.
        readable = max(seconds, reader.ends.get(stream.index, 0.0) - start)
        own_extent = Extent(readable, float(stream.duration * stream.time_base))
        extent = min(extent, own_extent, key=lambda extent: extent.share)
    if extent.share < config.least_readable:
        raise TruncatedMedia(f"truncated audio: {extent}", limit=extent.share)
    if len(samples) == 0:
        raise NoAudioStream("the audio stream has no samples")
    if channels := mixer.loudest_if_cancelled():
        del samples  # before as many are read again
        with open_container(path) as again:
            packets = again.demux(again.streams[stream.index])
            samples = _resample(_Mixer(channels).mix(_decode(packets)))
    if not samples.any():
        raise SilentAudio(f"all samples in {seconds:.2f} s of audio are zero")
    start = float(container.start_time or 0) / 1e6
    anchors = tuple((time - start, before) for time, before in mixer.anchors) or ((0.0, 0.0),)
    return DecodedSound(samples.clip(-1, 1, out=samples), anchors)


def _decode(packets: Iterable[Any]) -> Iterator[Any]:
    """Yield the frames of one stream. The last packet of a truncated file is incomplete and may be undecodable."""
    import av

    problem: av.FFmpegError | None = None
    has_frames = False
    for packet in packets:
        if problem and (packet.size or not has_frames):
            raise problem
        try:
            frames = packet.decode()
        except av.error.InvalidDataError as error:
            problem = error
        else:
            has_frames = has_frames or bool(frames)
            yield from frames
    if problem and not has_frames:
        raise problem


class _Mixer:
    """Mix the channels of decoded frames down to one, and measure the power of each.

    Args:
        channels: The index of the channel to return for some layouts; for others it is the mean of the channels.

    Attributes:
        anchors: Time of the first frame and of each frame after a gap in seconds, with the seconds of sound before it.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        self._channels = channels
        self.anchors: list[tuple[float, float]] = []
        self._seconds = 0.0
        # For each layout: the names of its channels, and (3, C + 1): the number, the sum and the sum of squares of the
        # samples of each channel and of the mean.
        self._sums: dict[str, tuple[list[str], NDArray[np.float64]]] = {}

    def mix(self, frames: Iterable[Any]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the sampling rate and the mono samples, (n,), of each frame."""
        for frame in frames:
            keep_layout(frame)
            samples, name = _channel_samples(frame), frame.layout.name
            if name in self._channels:
                mono = samples[self._channels[name]].copy()  # contiguous, without a reference to the other channels
            else:
                mono = samples.mean(axis=0)
                if len(samples) > 1:
                    self._add(frame.layout, np.vstack([samples, mono]))
            self._note_time(frame)
            yield frame.sample_rate, mono

    def _note_time(self, frame: Any) -> None:
        if frame.time is not None:
            time, before = self.anchors[-1] if self.anchors else (-math.inf, 0.0)
            if frame.time - time - (self._seconds - before) > _MAX_DRIFT:
                self.anchors.append((frame.time, self._seconds))
        self._seconds += frame.samples / (frame.sample_rate or math.inf)

    def _add(self, layout: Any, rows: NDArray[np.float32]) -> None:
        if layout.name not in self._sums:
            self._sums[layout.name] = [channel.name for channel in layout.channels], np.zeros((3, len(rows)))
        wide = rows.astype(np.float64)
        self._sums[layout.name][1][...] += [np.full(len(rows), rows.shape[1]), wide.sum(axis=1), (wide**2).sum(axis=1)]

    def loudest_if_cancelled(self) -> dict[str, int]:
        """Return the loudest channel of each layout whose channels cancel each other.

        Offsets do not count as power, and the channel of low-frequency effects holds no speech.
        """
        loudest = {}
        for layout, (names, (count, sums, squares)) in self._sums.items():
            *powers, mix_power = squares / count - (sums / count) ** 2
            speech = [0.0 if name.startswith("LFE") else power for name, power in zip(names, powers, strict=True)]
            if mix_power < _CANCELLED * max(speech):
                loudest[layout] = int(np.argmax(speech))
        return loudest


def keep_layout(frame: Any) -> None:
    """Keep the channel layout of a frame for ever, unless it is a standard one.

    PyAV frees the list of channels of an unusual layout twice, with the layout and with the frame, which ends the
    process (7.1 in AIFF or CAF). A layout that is never freed takes less than 100 bytes.
    """
    name = frame.layout.name
    if "channels (" in name or name.startswith("ambisonic"):  # others are stored without a list
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(frame.layout))


def _channel_samples(frame: Any) -> NDArray[np.float32]:
    """Return the samples of a frame, (C, n), with a full scale of 1."""
    name, count = frame.format.name.removesuffix("p"), frame.layout.nb_channels
    dtype, full_scale = _FULL_SCALE[name]
    # Not `frame.to_ndarray()`: it returns planes that do not exist, or ends the process, for 8 planar channels.
    if frame.format.is_planar:
        stored = np.stack([np.frombuffer(plane, dtype, frame.samples) for plane in frame.planes[:count]])
    else:
        stored = np.frombuffer(frame.planes[0], dtype, frame.samples * count).reshape(-1, count).T
    with np.errstate(over="ignore", invalid="ignore"):  # samples that are no numbers are refused below
        samples = stored.astype(np.float32)
        if name == "u8":
            samples -= 128
        samples /= np.float32(full_scale)
        peak = np.abs(samples).max(initial=0.0)
    if not peak <= _MAX_PEAK:  # also if it is not a number
        raise UnreadableMedia(f"the audio has samples of {peak:.4g}; their range is -1 to 1")
    return samples


def _resample(blocks: Iterable[tuple[int, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Return mono blocks at 16 kHz, (n,). A stream may change its rate: each run gets its own resampler."""
    import av

    resampled = [np.empty(0, np.float32)]
    for rate, run in itertools.groupby(blocks, key=itemgetter(0)):
        if not _MIN_RATE <= rate <= _MAX_RATE:
            raise UnreadableMedia(f"the audio has a sampling rate of {rate} Hz")
        if rate == SAMPLE_RATE:
            resampled += [block for _, block in run]
            continue
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE, options=_RESAMPLER)
        for _, block in run:
            frame = av.AudioFrame.from_ndarray(block[None], format="flt", layout="mono")
            frame.sample_rate = rate
            resampled += [output.to_ndarray()[0] for output in resampler.resample(frame)]
        resampled += [output.to_ndarray()[0] for output in resampler.resample(None)]
    return np.concatenate(resampled)
