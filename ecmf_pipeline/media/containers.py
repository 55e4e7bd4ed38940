"""Open media files, choose the streams that players choose, and compare a file with the length that it declares."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecmf_pipeline.core.errors import FileUnreachable, UnreadableMedia
from ecmf_pipeline.core.files import LFS_COMMAND, LFS_PROBLEM, is_lfs_pointer

if TYPE_CHECKING:
    from av import FFmpegError
    from av.container import InputContainer

_FORMATS = (
    "mov,matroska,webm,avi,flv,live_flv,mpegts,mpeg,mpegvideo,asf,asf_o,ogg,mxf,mxf_opatom,gxf,nut,dv,rm,ivf,gif,apng,"
    "png_pipe,jpeg_pipe,webp_pipe,h264,hevc,vvc,av1,obu,m4v,h263,mjpeg,yuv4mpegpipe,"
    "wav,w64,aiff,au,caf,flac,mp3,aac,loas,ac3,eac3,dts,amr,wv,tta,ape"
)
"""FFmpeg's names of the formats of clips. Playlists and scripts are not among them: they name other files."""

_ELEMENTARY_STREAMS = {"h264", "hevc", "vvc", "mpegvideo", "m4v", "h263", "mjpeg", "obu"}

_TIMELESS_FORMATS = {"avi", "asf", "asf_o", "mxf", "mxf_opatom", "gxf", "rm", *_ELEMENTARY_STREAMS}
"""Formats whose pictures have times in decoding order at most; FFmpeg guesses when they are shown."""

_UNDECLARED_FORMATS = {"mpegts", "mpeg", "mp3", "aac", "ac3", "eac3", "dts", "loas", *_ELEMENTARY_STREAMS}
"""Formats that declare no length; FFmpeg estimates it from the end of the file or from the bit rate."""

_MAX_MISSING = 0.1
"""Seconds that may be missing from the declared length: containers round it, and include the start offset."""

_BLOCK_BYTES = 2**20

_MAX_RIFF_BYTES = 0x7FFF_0000
"""Sizes from here on are placeholders of programs that do not know the size while they write."""

_ASF_PROPERTIES = bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365")
"""Identifier of the object that holds the size of an ASF file."""

_NOT_READABLE = "not a readable media file"

_TRANSIENT_ERRNOS = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.ENETUNREACH,
}
"""Errors of disks, networks and limits of the machine; they may not occur in the next run."""

_AMBIGUOUS_ERRNOS = {errno.ENOENT, errno.EPERM, errno.EIO, errno.EAGAIN}
"""Those of them that demuxers and decoders of FFmpeg also report for damaged content."""


@contextmanager
def open_container(path: str | os.PathLike[str]) -> Iterator[InputContainer]:
    """Open a container for reading. Errors of FFmpeg, now or while it is read, become a `ClipError`.

    Raises:
        FileUnreachable: If the file does not exist or is not readable, or if a limit of the machine is reached. This
            depends on the machine, not on the content.
        UnreadableMedia: If FFmpeg cannot decode it.
        MemoryError: If memory runs out.
    """
    import av

    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    problem = _NOT_READABLE
    try:
        # `file:` prevents FFmpeg from parsing a colon in a name as a protocol. Broken tags are accepted.
        with av.open(f"file:{os.fspath(path)}", options=options, metadata_errors="replace") as container:
            problem = "damaged media file, only a part can be decoded"
            yield container
    except MemoryError:  # also a base class of FFmpeg's own
        raise
    except av.FFmpegError as error:
        if _is_transient(error, path):
            raise FileUnreachable(f"cannot read the file: {error.strerror}") from error
        if is_lfs_pointer(Path(path)):
            raise UnreadableMedia(f"the file {LFS_PROBLEM}; run {LFS_COMMAND}") from error
        if isinstance(error, av.ArgumentError) and problem == _NOT_READABLE:
            raise UnreadableMedia("not a media file, or of a format that no clip has") from error
        cause = "" if error.errno in _AMBIGUOUS_ERRNOS else f": {error.strerror}"  # it would seem to be the machine's
        raise UnreadableMedia(problem + cause) from error


def _is_transient(error: FFmpegError, path: str | os.PathLike[str]) -> bool:
    """Return whether an error concerns the machine, not the content of the file: it may not occur in the next run."""
    if error.errno not in _AMBIGUOUS_ERRNOS:
        return error.errno in _TRANSIENT_ERRNOS
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - also takes str
            while file.read(_BLOCK_BYTES):
                pass
    except OSError:
        return True
    return False


def stores_times(container: InputContainer) -> bool:
    """Return whether the container stores when its pictures are shown."""
    return container.format.name not in _TIMELESS_FORMATS


def _is_cover_art(stream: Any) -> bool:
    """Return whether a video stream is a picture that belongs to a sound."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def by_preference(streams: Sequence[Any]) -> list[Any]:
    """Return streams of one type in the order in which players choose among them.

    Streams flagged as default come first, those for listeners or viewers with impairments and comments last. Cover art
    and streams without a decoder are left out.
    """
    from av.stream import Disposition

    special = Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.comment
    usable = [s for s in streams if s.codec_context is not None and not _is_cover_art(s)]
    return sorted(usable, key=lambda s: (bool(s.disposition & special), not s.disposition & Disposition.default))


def video_streams(container: InputContainer) -> list[Any]:
    """Return the video streams in the order in which players choose among them.

    Raises:
        UnreadableMedia: If no decoder exists for any of the video streams.
    """
    streams = by_preference(container.streams.video)
    if not streams and any(stream.codec_context is None for stream in container.streams.video):
        raise UnreadableMedia("no decoder exists for the codec of the video stream")
    return streams


@dataclass(frozen=True, slots=True)
class Extent:
    """The declared length of a file or stream, and the part of it that can be read.

    Attributes:
        readable: End of the last packet or picture, in seconds.
        declared: Declared length in seconds; 0 if the file declares none.
    """

    readable: float
    declared: float

    @property
    def share(self) -> float:
        """The readable share of the declared length, at most 1; a missing tenth of a second is ignored."""
        if self.readable >= self.declared - _MAX_MISSING:
            return 1.0
        return self.readable / self.declared

    def __str__(self) -> str:
        return f"{self.readable:.2f} of {self.declared:.2f} declared seconds"


def declared_length(container: InputContainer) -> float:
    """Return the length in seconds that the header of a container declares, for its longest stream; 0 if none.

    The header of AVI files also has a number of pictures, which remains true if the file was cut off.
    """
    name = container.format.name
    if name in _UNDECLARED_FORMATS and not (name == "mp3" and _has_mp3_length(container)):
        return 0.0
    if name == "flv" and any(stream.duration for stream in container.streams):
        return 0.0  # FLV has no length of streams: FFmpeg estimates it, and that of the container, from the bit rate
    lengths = [float(container.duration or 0) / 1e6]  # AV_TIME_BASE is microseconds
    if name == "avi":
        counted = [(stream.frames, stream.average_rate) for stream in container.streams.video]
        lengths += [float(count / rate) for count, rate in counted if rate]
    return max(lengths)


def _declared_bytes(container: InputContainer) -> int:
    """Return the size of a RIFF (WAV, AVI) or ASF (WMA, WMV) file by its header; 0 if unknown.

    FFmpeg replaces the declared length of such a file by an estimate if it was cut off.
    """
    if container.format.name not in {"wav", "avi", "asf"}:
        return 0
    header = _read_bytes(container, 0, 1 << 16)
    properties = header.find(_ASF_PROPERTIES)
    if properties >= 0:
        return int.from_bytes(header[properties + 40 : properties + 48], "little")
    if header[:4] != b"RIFF":
        return 0
    declared = 8 + int.from_bytes(header[4:8], "little")
    chunk = 12
    while header[8:12] == b"WAVE" and chunk + 8 <= len(header):
        size = int.from_bytes(header[chunk + 4 : chunk + 8], "little")
        if header[chunk : chunk + 4] == b"data":
            declared = max(declared, chunk + 8 + size)
            break
        chunk += 8 + size + size % 2
    return declared if declared < _MAX_RIFF_BYTES else 0


def _has_mp3_length(container: InputContainer) -> bool:
    """Return whether the first frame of an MP3 file stores the number of frames."""
    tag = _read_bytes(container, 0, 10)
    size = 0
    if tag[:3] == b"ID3":
        size = 10 + sum(byte << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True))
    first_frame = _read_bytes(container, size, 2048)
    return any(name in first_frame for name in (b"Xing", b"Info", b"VBRI"))


def _read_bytes(container: InputContainer, start: int, count: int) -> bytes:
    try:
        with Path(container.name.removeprefix("file:")).open("rb") as file:
            file.seek(start)
            return file.read(count)
    except OSError as error:
        raise FileUnreachable(f"cannot read the file: {error.strerror}") from error


class PacketReader:
    """The packets of chosen streams; notes where each audio and video stream of the container ends.

    Args:
        container: The opened file, at its start.

    Attributes:
        ends: End of the last packet of each stream, in seconds, by stream index.
    """

    def __init__(self, container: InputContainer) -> None:
        self._container = container
        self.ends: dict[int, float] = {}

    def packets(self, *streams: Any) -> Iterator[Any]:
        """Yield the packets of some streams, in the order of the file, then an empty packet for each."""
        wanted = {stream.index for stream in streams}
        for packet in self._container.demux([*self._container.streams.video, *self._container.streams.audio]):
            time = packet.pts if packet.pts is not None else packet.dts
            if packet.size and time is not None and packet.time_base:
                end = float((time + (packet.duration or 0)) * packet.time_base)
                self.ends[packet.stream_index] = max(self.ends.get(packet.stream_index, 0.0), end)
            if packet.stream.index in wanted:  # `stream_index` of a final, empty packet is 0
                yield packet

    def extent(self) -> Extent:
        """Compare the packets read so far with the length that the container declares, in seconds or in bytes."""
        start = min(0.0, float(self._container.start_time or 0) / 1e6)
        readable = max(self.ends.values(), default=0.0) - start
        declared, size = declared_length(self._container), self._container.size
        if 0 < size < (declared_size := _declared_bytes(self._container)):
            declared = max(declared, readable * declared_size / size)
        return Extent(readable, declared)


@dataclass(frozen=True, slots=True)
class Probe:
    """The streams of a file.

    Attributes:
        duration: Length in seconds, to the millisecond; 0 if unknown.
        has_video: Whether it has a video stream; cover art does not count.
        has_audio: Whether it has an audio stream.
        readable: Seconds that can be read, if they are fewer than the file declares; otherwise the same as `duration`.
        has_subtitles: Whether it has a stream of subtitles, as text or pictures.
    """

    duration: float
    has_video: bool
    has_audio: bool
    readable: float = 0.0
    has_subtitles: bool = False


def probe_media(path: str | os.PathLike[str]) -> Probe:
    """Open the container of a file and read its packets without decoding them.

    Raises:
        UnreadableMedia: If there is no readable container, or it has neither video nor audio.
        FileUnreachable: If the file does not exist or is not readable; this does not depend on its content.
    """
    import av

    with open_container(path) as container:
        audio = container.streams.audio
        # Without a decoder for the pictures, the sound is still usable.
        video = (
            [s for s in container.streams.video if not _is_cover_art(s)]
            if by_preference(audio)
            else video_streams(container)
        )
        if not video and not audio:
            raise UnreadableMedia("the file has neither a video nor an audio stream")
        reader = PacketReader(container)
        try:
            for _ in reader.packets():
                pass
        except av.FFmpegError as error:
            if _is_transient(error, path):
                raise
        extent = reader.extent()
        duration = round(extent.declared or float(container.duration or 0) / 1e6 or extent.readable, 3)
        readable = duration if extent.share == 1 else round(extent.readable, 3)
        has_subtitles = bool(container.streams.subtitles)
        return Probe(duration, bool(video), bool(audio), readable, has_subtitles)
