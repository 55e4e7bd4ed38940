"""Write the films of the matrix with PyAV; each picture holds its own number."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.media.film_cases import CUT_AT, SECOND_STREAM, FilmCase

_DARK, _BRIGHT = 40, 220
_MARK, _BAR = (230, 190, 90), (200, 120, 40)
_THRESHOLD = 130
ASPECTS = {"aspect_2_1": Fraction(2), "declared_aspect": Fraction(2), "aspect_8_9": Fraction(8, 9)}
TURNS = {"turn_90": 1, "turn_180": 2, "turn_270": 3}
_MP4_OPTIONS = {
    "fragmented": {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    "no_edit_list": {"use_editlist": "0"},
    "negative_offsets": {"movflags": "negative_cts_offsets"},
}
_OFFSET_SECONDS = {"offset": Fraction(10), "wrap": Fraction(2**33, 90_000) - 1}

_VPX = {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "2M", "auto-alt-ref": "0"}
_VPX_ALT_REF = {"deadline": "good", "cpu-used": "5", "crf": "10", "b": "2M", "auto-alt-ref": "1", "lag-in-frames": "16"}


def draw(number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a picture: its number as eight bits above, below a mark at the left and a moving bar at the right."""
    width, height = size
    picture = np.full((height, width, 3), _DARK, np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            picture[: height // 2, bit * width // 8 : (bit + 1) * width // 8] = _BRIGHT
    picture[height // 2 : 3 * height // 4, : width // 4] = _MARK
    start = width // 2 + 3 * number % (width // 2 - 8)
    picture[height // 2 :, start : start + 8] = _BAR
    return picture


def read_number(picture: NDArray[np.uint8]) -> int:
    """Return the number in a picture of any size; -1 if the picture is not upright."""
    height, width = picture.shape[:2]

    def is_bright(top: float, bottom: float, left: float, right: float) -> bool:
        rows, columns = (
            slice(round((start + 0.2 * (end - start)) * size), round((end - 0.2 * (end - start)) * size))
            for start, end, size in ((top, bottom, height), (left, right, width))
        )
        return float(picture[rows, columns].mean()) > _THRESHOLD

    # In other orientations the bits or the bar fill the whole height or width of these parts.
    is_upright = (
        is_bright(1 / 2, 3 / 4, 0, 1 / 4)
        and not is_bright(3 / 4, 1, 0, 1 / 4)
        and not is_bright(1 / 2, 3 / 4, 1 / 4, 1 / 2)
    )
    return sum(is_bright(0, 1 / 2, bit / 8, (bit + 1) / 8) << bit for bit in range(8)) if is_upright else -1


def write_film(case: FilmCase, path: Path) -> Path:
    """Write the film of a case."""
    import av

    os.environ.setdefault("SVT_LOG", "1")  # silences the AV1 encoder
    if case.variant.startswith("cut"):
        return _write_cut(case, path)
    if case.variant in (*TURNS, "mirrored"):
        return _write_turned(case, path)
    with av.open(str(path), "w", options=_MP4_OPTIONS.get(case.variant, {})) as container:
        for packet in _packets(case, container):
            container.mux(packet)
    return path


def _packets(case: FilmCase, container: Any) -> Iterator[Any]:
    """Add the streams of a film to a container, and yield the packets of all."""
    from av.stream import Disposition

    cover = _cover(container) if case.variant == "cover_first" else []
    stream = _add_stream(case, container)
    cover = _cover(container) if case.variant == "cover" else cover
    yield from cover
    numbers = range(case.pictures)
    if case.variant == "resized":
        yield from _encode(case, stream, numbers[: case.pictures // 2])
        yield from _encode_smaller(case, stream, numbers[case.pictures // 2 :])
    elif case.variant == "hidden":
        yield from _with_hidden_packets(case, stream)
    elif case.variant in ("second_video", *SECOND_STREAM):
        second = _add_stream(case, container)
        stream.disposition = Disposition(0) if case.variant == "second_is_default" else Disposition.default
        second.disposition = Disposition.default if case.variant == "second_is_default" else Disposition(0)
        first_packets = [] if case.variant == "first_is_empty" else _encode(case, stream, numbers)
        yield from _interleaved([*first_packets], [*_encode(case, second, numbers, mark=128)])
    elif case.variant == "empty":
        container.start_encoding()
    else:
        yield from _encode(case, stream, numbers)


def _interleaved(first: list[Any], second: list[Any]) -> list[Any]:
    return sorted([*first, *second], key=lambda packet: packet.dts * packet.time_base)


def _add_stream(case: FilmCase, container: Any, size: tuple[int, int] | None = None) -> Any:
    stream = container.add_stream(case.codec, rate=case.rate, options=_options(case))
    stream.width, stream.height = size or (case.size[::-1] if TURNS.get(case.variant, 0) % 2 else case.size)
    stream.pix_fmt = case.pixels
    stream.codec_context.time_base = case.unit
    if case.codec != "libx265":  # which then cannot encode a single picture
        stream.codec_context.thread_count = 1
    if case.variant in ASPECTS:
        stream.codec_context.sample_aspect_ratio = ASPECTS[case.variant]
    return stream


def _encode(case: FilmCase, stream: Any, numbers: Sequence[int], mark: int = 0) -> Iterator[Any]:
    """Encode pictures; ``mark`` is added to the numbers that they hold."""
    import av

    offset = int(_OFFSET_SECONDS.get(case.variant, 0) / case.unit)
    lengths = {start + offset: length for start, length in zip(case.starts, case.lengths, strict=True)}
    size = (stream.width, stream.height)
    turn = TURNS.get(case.variant, 0)
    for number in numbers:
        picture = np.rot90(draw(number + mark, size[::-1] if turn % 2 else size), turn)
        picture = picture[::-1] if case.variant == "mirrored" else picture
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base, frame.duration = case.starts[number] + offset, case.unit, case.lengths[number]
        yield from _with_durations(stream.encode(frame), lengths)
    yield from _with_durations(stream.encode(), lengths)


def _with_durations(packets: Sequence[Any], lengths: dict[int, int]) -> Sequence[Any]:
    for packet in packets:  # encoders do not set the duration of the last picture
        packet.duration = lengths.get(packet.pts, packet.duration)
    return packets


def _encode_smaller(case: FilmCase, stream: Any, numbers: Sequence[int]) -> Iterator[Any]:
    """Encode pictures of half the size as further packets of a stream."""
    import av

    format = {"libx264": "mpegts", "mjpeg": "avi"}.get(case.codec, "webm")  # H.264: parameter sets within the stream
    with av.open(os.devnull, "w", format=format) as elsewhere:
        small = _add_stream(case, elsewhere, (case.size[0] // 2, case.size[1] // 2))
        packets = list(_encode(case, small, numbers))
    for packet in packets:
        packet.stream = stream
        yield packet


def _with_hidden_packets(case: FilmCase, stream: Any) -> Iterator[Any]:
    """Yield packets in which hidden pictures have packets of their own, as old WebM muxers wrote them."""
    import av
    from av.bitstream import BitStreamFilterContext

    split = BitStreamFilterContext("vp9_superframe_split", stream) if case.codec == "libvpx-vp9" else None
    for index, packet in enumerate(_encode(case, stream, range(case.pictures))):
        if split:
            parts = [bytes(part) for part in split.filter(packet)]
        else:  # a hidden copy of every fifth key picture: bit 4 of a VP8 frame is `show_frame`
            data = bytes(packet)
            parts = [bytes([data[0] & ~0x10]) + data[1:], data] if index % 5 == 4 else [data]
        for place, part in enumerate(parts, start=1):
            new = av.Packet(part)
            new.time_base = Fraction(1, 1000)
            new.pts = new.dts = round(case.starts[index] * case.unit * 1000) - (place < len(parts))
            new.is_keyframe, new.stream = packet.is_keyframe, stream
            yield new


def _cover(container: Any) -> list[Any]:
    """Add a cover picture."""
    import av
    from av.stream import Disposition

    picture = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 250, np.uint8), format="rgb24")
    picture.pts, picture.time_base = 0, Fraction(1)
    if "matroska" in container.format.name:
        image = io.BytesIO()
        with av.open(image, "w", format="mjpeg") as jpeg:
            stream = jpeg.add_stream("mjpeg", rate=1, width=320, height=240, pix_fmt="yuvj420p")
            jpeg.mux([*stream.encode(picture), *stream.encode()])
        container.add_attachment("cover.jpg", "image/jpeg", image.getvalue())
        return []
    cover = container.add_stream("mjpeg", rate=1, width=320, height=240, pix_fmt="yuvj420p")
    cover.disposition = Disposition.attached_pic
    return [*cover.encode(picture), *cover.encode()]


def _write_cut(case: FilmCase, path: Path) -> Path:
    """Write a film and cut it like `ffmpeg -ss ... -c copy`: an edit list hides the pictures before the cut."""
    import av

    whole = path.with_suffix(f".whole.{case.container}")
    with av.open(str(whole), "w") as container:
        container.mux(list(_encode(case, _add_stream(case, container), range(case.pictures))))
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        cut = int(case.starts[CUT_AT] * case.unit / stream.time_base)
        keys = [index for index, packet in enumerate(packets) if packet.is_keyframe and packet.pts <= cut]
        for packet in packets[keys[-1] :]:
            packet.pts, packet.dts, packet.stream = packet.pts - cut, packet.dts - cut, copy
            target.mux(packet)
    whole.unlink()
    return path


def _write_turned(case: FilmCase, path: Path) -> Path:
    """Write a film with a display matrix; Matroska gets it from an MP4 file that is copied."""
    import av

    stored = path.with_suffix(".stored.mp4") if case.container == "mkv" else path
    with av.open(str(stored), "w") as container:
        container.mux(list(_encode(case, _add_stream(case, container), range(case.pictures))))
    write_display_matrix(stored, TURNS.get(case.variant, 0), mirrored=case.variant == "mirrored")
    if stored != path:
        with av.open(str(stored)) as source, av.open(str(path), "w") as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    target.mux(packet)
        stored.unlink()
    return path


def write_display_matrix(path: Path, turn: int, *, mirrored: bool) -> None:
    """Write a display matrix into the first track header of an mp4 file, like phones (ISO 14496-12, 8.3.2)."""
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[turn % 4]
    flip = -1 if mirrored else 1
    one = 1 << 16
    matrix = (cosine * one, sine * one, 0, -sine * one * flip, cosine * one * flip, 0, 0, 0, 1 << 30)
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    start = header + (40 if content[header] == 0 else 52)
    content[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


def _options(case: FilmCase) -> dict[str, str]:
    """Return the options of an encoder."""
    codec, variant, gop, b_pictures = case.codec, case.variant, str(case.gop), str(case.b_pictures)
    interlaced = variant == "interlaced"
    if codec in ("libx264", "libx264rgb"):
        x264 = [
            *(["open-gop=1"] if variant == "open_gop" else []),
            *(["b-pyramid=none"] if variant == "no_pyramid" else []),
            *(["ref=4:slices=3"] if variant == "two_refs" else []),
            *(["interlaced=1"] if interlaced else []),
        ]
        options = {"preset": "ultrafast", "crf": "12", "g": gop, "bf": b_pictures}
        return options | ({"x264-params": ":".join(x264)} if x264 else {})
    if codec == "libx265":
        pyramid = int(variant != "no_pyramid")
        # Open groups of pictures are the default of x265.
        x265 = f"log-level=none:pools=1:frame-threads=1:keyint={gop}:bframes={b_pictures}:b-pyramid={pyramid}"
        return {"preset": "ultrafast", "crf": "12", "x265-params": x265}
    if codec in ("libvpx", "libvpx-vp9"):
        if codec == "libvpx" and variant == "hidden":
            return _VPX | {"g": "1"}
        return (_VPX_ALT_REF if variant in ("alt_ref", "hidden") else _VPX) | {"g": gop}
    if codec == "libsvtav1":
        return {"preset": "8", "crf": "15", "g": gop, "svtav1-params": "lp=1"}
    options = {"b": "2M", "g": gop}
    if codec == "dnxhd":
        options |= {"profile": "dnxhr_sq"}
    if case.b_pictures:
        options |= {"bf": b_pictures}
    if interlaced and codec != "dvvideo":
        options |= {"flags": "+ildct+ilme"}
    if variant == "two_refs":
        options |= {"slices": "3"} if codec == "mpeg2video" else {"ps": "200"}
    return options
