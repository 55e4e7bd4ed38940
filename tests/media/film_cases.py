"""The cases of the film matrix: codecs, containers, groups of pictures, pixel formats, rates, and unusual files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import chain, pairwise
from typing import Literal

import numpy as np

SIZE = (160, 120)
SIZES = {"h261": (176, 144), "h263": (176, 144), "dvvideo": (720, 576), "dnxhd": (256, 128)}
"""Width and height of the stored pictures, for encoders that accept few sizes."""

NTSC = Fraction(30000, 1001)
GAPS = (1, 1, 3, 1, 2, 1)
"""Lengths of pictures in frames: pictures that repeat are left out, as in recorded screens."""
JITTER_MS = (33, 41, 50, 17, 34, 66)
PAUSE = 12
"""Length of one long picture in the middle of a film with gaps, in frames."""
CUT_AT = 31
"""First picture of a film that is cut without encoding it again; its key picture is earlier."""

Timing = Literal["constant", "gaps", "jitter"]


@dataclass(frozen=True)
class Shown:
    """A picture that a player shows: its number, and its start and end in seconds from the start of the film."""

    number: int
    start: float
    end: float


@dataclass(frozen=True)
class FilmCase:
    """A film of the matrix.

    Attributes:
        codec: Name of the encoder.
        container: File extension.
        gop: Largest distance of key pictures.
        b_pictures: Number of B-pictures in a row.
        pixels: Pixel format.
        rate: Pictures per second.
        timing: Whether all pictures have one length; ``gaps``: multiples of it; ``jitter``: milliseconds.
        pictures: Number of pictures.
        variant: An unusual property, a key of `VARIANTS`; empty: none.
    """

    codec: str
    container: str
    gop: int = 12
    b_pictures: int = 0
    pixels: str = "yuv420p"
    rate: Fraction = Fraction(25)
    timing: Timing = "constant"
    pictures: int = 60
    variant: str = ""

    @property
    def id(self) -> str:
        """Short name: codec and container, then the properties that differ from the default."""
        words = [f"{self.codec}-{self.container}-g{self.gop}"]
        words += [f"b{self.b_pictures}"] if self.b_pictures else []
        words += [self.pixels] if self.pixels != "yuv420p" else []
        words += [f"{float(self.rate):.4g}fps"] if self.rate != 25 else []
        words += [self.timing] if self.timing != "constant" else []
        words += [f"{self.pictures}pic"] if self.pictures != 60 else []
        words += [self.variant] if self.variant else []
        return "-".join(words)

    @property
    def unit(self) -> Fraction:
        """Seconds of one unit of `lengths`."""
        return Fraction(1, 1000) if self.timing == "jitter" else 1 / self.rate

    @cached_property
    def lengths(self) -> list[int]:
        """Length of each encoded picture in units; the last has the regular length, which few containers store."""
        if self.timing == "constant":
            return [1] * self.pictures
        pattern = GAPS if self.timing == "gaps" else JITTER_MS
        lengths = [pattern[index % len(pattern)] for index in range(self.pictures)]
        if self.timing == "gaps":
            lengths[self.pictures // 2] = PAUSE
        lengths[-1] = 1 if self.timing == "gaps" else 40
        return lengths

    @cached_property
    def starts(self) -> list[int]:
        """Start of each encoded picture in units."""
        return [0, *np.cumsum(self.lengths).tolist()][:-1]

    @cached_property
    def shown(self) -> list[Shown]:
        """The pictures that a player shows, in order."""
        first = CUT_AT if self.variant.startswith("cut") else 0
        edges = [float((start - self.starts[first]) * self.unit) for start in [*self.starts, sum(self.lengths)]]
        spans = list(pairwise(edges))
        offset = 128 if self.variant in SECOND_STREAM else 0
        return [Shown(index + offset, *spans[index]) for index in range(first, self.pictures)]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the stored pictures."""
        return SIZES.get(self.codec, SIZE)


SECOND_STREAM = ("second_is_default", "first_is_empty")
"""Variants in which the second video stream is shown."""

VARIANTS = {
    "open_gop": "B-pictures before a key picture reference pictures before it",
    "no_pyramid": "B-pictures are not referenced",
    "two_refs": "several slices and references",
    "interlaced": "pictures consist of two fields",
    "aspect_2_1": "pixels are twice as wide as high",
    "aspect_8_9": "pixels are narrow, as in NTSC DVDs",
    "declared_aspect": "only the container declares that pixels are twice as wide as high",
    "turn_90": "the display matrix turns pictures by a quarter turn clockwise",
    "turn_180": "the display matrix turns pictures by half a turn",
    "turn_270": "the display matrix turns pictures by a quarter turn anticlockwise",
    "mirrored": "the display matrix mirrors pictures",
    "hidden": "reference pictures that are not shown are in packets of their own",
    "alt_ref": "the encoder uses hidden reference pictures",
    "offset": "the first picture is at 10 s",
    "wrap": "times of MPEG-TS overflow after one second",
    "fragmented": "MP4 in fragments",
    "no_edit_list": "MP4 without an edit list",
    "negative_offsets": "MP4 with negative composition offsets",
    "cut": "cut without encoding it again: pictures before the cut are decoded but not shown",
    "second_video": "a second, longer video stream",
    "second_is_default": "the second of two video streams has the default flag",
    "first_is_empty": "the first video stream has no pictures",
    "cover": "cover art after the film",
    "cover_first": "cover art before the film",
    "resized": "the size halves midway",
    "empty": "a video stream without pictures",
}

_H264 = "mp4 mkv mov avi flv ts mpg m4v 3gp wmv nut mxf"
_CONTAINERS = {
    "libx264": _H264,
    "libx264rgb": "mp4 mkv avi",
    "libx265": "mp4 mkv mov flv ts mpg nut",
    "libvpx": "webm mkv avi wmv ogv nut ivf",
    "libvpx-vp9": "webm mp4 mkv avi flv wmv nut ivf",
    "libsvtav1": "mp4 mkv webm avi flv wmv nut ivf",
    "mpeg4": "mp4 avi mkv mov ts mpg m4v 3gp wmv nut",
    "msmpeg4v2": "avi wmv",
    "msmpeg4": "avi mkv wmv",
    "mpeg2video": "mpg mkv ts mp4 mov avi wmv mxf nut vob",
    "mpeg1video": "mpg mkv avi ts mp4 mov wmv nut",
    "h261": "avi wmv",
    "h263": "3gp avi mov wmv nut",
    "h263p": "avi wmv",
    "flv": "flv avi wmv nut",
    "wmv1": "wmv avi",
    "wmv2": "wmv avi",
    "rv20": "rm",
    "svq1": "mov avi",
    "snow": "mkv avi",
    "flashsv": "flv avi",
    "mjpeg": "avi mov mkv mp4 wmv nut",
    "ljpeg": "avi nut",
    "jpeg2000": "mxf mov mkv",
    "prores_ks": "mov mkv mxf",
    "dnxhd": "mov mxf",
    "cfhd": "mov avi",
    "dvvideo": "avi mov mxf",
    "ffv1": "mkv avi mp4 mxf nut",
    "ffvhuff": "avi nut",
    "huffyuv": "avi nut",
    "utvideo": "avi nut",
    "magicyuv": "mov avi",
    "rawvideo": "avi mkv nut y4m",
    "v210": "mov avi",
    "gif": "gif mov",
    "png": "mov avi mp4",
    "qtrle": "mov",
    "msvideo1": "avi",
    "rpza": "mov",
    "cinepak": "avi",
    "zlib": "avi",
}
"""The containers of each encoder, the most usual first."""

_PIXELS = {
    "libx264": "yuv420p yuvj420p yuv422p yuv444p yuv420p10le yuv422p10le gray",
    "libx264rgb": "rgb24",
    "libx265": "yuv420p yuv422p yuv444p yuv420p10le yuv422p12le gray gbrp",
    "libvpx": "yuv420p yuva420p",
    "libvpx-vp9": "yuv420p yuv422p yuv444p yuva420p gbrp",
    "libsvtav1": "yuv420p yuv420p10le",
    "mpeg2video": "yuv420p yuv422p",
    "svq1": "yuv410p",
    "snow": "yuv420p gray",
    "flashsv": "bgr24",
    "mjpeg": "yuvj420p yuvj422p yuvj444p",
    "ljpeg": "yuvj420p bgr24",
    "jpeg2000": "rgb24 gray yuv420p",
    "prores_ks": "yuv422p10le yuv444p10le",
    "dnxhd": "yuv422p",
    "cfhd": "yuv422p10le gbrp12le",
    "ffv1": "yuv420p yuv422p yuv444p10le gray bgr0",
    "ffvhuff": "yuv420p gray gbrp",
    "huffyuv": "yuv422p rgb24",
    "utvideo": "yuv420p yuv422p gbrp",
    "magicyuv": "yuv420p gray gbrp",
    "rawvideo": "yuv420p",
    "v210": "yuv422p10le",
    "gif": "rgb8",
    "png": "rgb24 gray rgba",
    "qtrle": "rgb24",
    "msvideo1": "rgb555le",
    "rpza": "rgb555le",
    "cinepak": "rgb24",
    "zlib": "bgr24",
}
"""The pixel formats of each encoder that has others than yuv420p."""

_WITH_B_PICTURES = ("libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video")
_ONLY_KEY_PICTURES = (
    "mjpeg",
    "ljpeg",
    "jpeg2000",
    "prores_ks",
    "dnxhd",
    "cfhd",
    "dvvideo",
    "ffvhuff",
    "huffyuv",
    "utvideo",
    "magicyuv",
    "rawvideo",
    "v210",
    "png",
    "msvideo1",
    "zlib",
)
_IN_MILLISECONDS = {
    "libx264": "mp4 mkv mov flv ts",
    "libx265": "mp4 mkv ts",
    "libvpx": "webm mkv",
    "libvpx-vp9": "webm mp4",
    "libsvtav1": "mp4 mkv webm",
    "mpeg4": "mp4 mkv",
    "mjpeg": "mov mkv",
    "ffv1": "mkv",
}
"""Encoders and containers for pictures of any length."""


_ALWAYS_DRAWN = (
    "libx264-mp4-g12-b2-gaps",
    "libx264-wmv-g12-b2",
    "libx264-mxf-g12-b2",
    "libx264-ts-g25-b3-no_pyramid",
    "libx265-mkv-g12-b2",
    "libvpx-vp9-mp4-g12-1pic",
    "mpeg4-avi-g12-b2-gaps",
    "mpeg2video-wmv-g12-b2",
)
"""Films of which wrong pictures or times were returned once, each for its own reason."""


def all_cases() -> list[FilmCase]:
    """Return all films of the matrix."""
    cases = chain.from_iterable(_cases_of_codec(codec) for codec in _CONTAINERS)
    return list(dict.fromkeys([*cases, *_unusual()]))


def drawn_cases(share: float = 0.1, seed: int = 0) -> list[FilmCase]:
    """Return a draw of the matrix with at least one film of each encoder and each variant."""
    rng = np.random.default_rng(seed)
    cases = all_cases()
    drawn = [case for case in cases if case.id in _ALWAYS_DRAWN]
    groups: dict[str, list[FilmCase]] = {}
    for case in cases:
        groups.setdefault(case.variant or case.codec, []).append(case)
    for group in groups.values():
        count = max(1, round(share * len(group)))
        drawn += [group[index] for index in rng.choice(len(group), count, replace=False)]
    return list(dict.fromkeys(drawn))


def _cases_of_codec(codec: str) -> Iterator[FilmCase]:
    containers = _CONTAINERS[codec].split()
    pixels, *other_pixels = _PIXELS.get(codec, "yuv420p").split()
    b_pictures = 2 if codec in _WITH_B_PICTURES else 0

    def case(container: str, **properties: object) -> FilmCase:
        return FilmCase(codec, container, **{"pixels": pixels, **properties})  # type: ignore[arg-type]

    if codec == "dvvideo":  # large pictures of one rate
        yield from (case(container, gop=1, pictures=20) for container in containers)
        return
    gop = 1 if codec in _ONLY_KEY_PICTURES else 12
    for container in containers:
        yield from (case(container, gop=gop, b_pictures=number) for number in sorted({0, b_pictures}))
    for container in containers[: 2 if codec in _IN_MILLISECONDS else 1]:
        if gop > 1:
            yield from (case(container, gop=number) for number in (1, 250))
        if b_pictures:
            yield from (case(container, gop=number, b_pictures=3) for number in (25, 250))
        yield from (case(container, gop=gop, b_pictures=b_pictures, pixels=format) for format in other_pixels)
    for container in containers[: 3 if codec in _IN_MILLISECONDS else 1]:
        # MPEG-1, MPEG-2 and MXF have no rate of 15, H.261 and H.263 only that of NTSC, GIF only hundredths of a second.
        if codec not in ("gif", "h261"):
            yield case(container, gop=gop, b_pictures=b_pictures, rate=NTSC)
        if codec not in ("mpeg1video", "mpeg2video", "gif", "h261", "h263", "rv20") and container != "mxf":
            yield case(container, gop=gop, b_pictures=b_pictures, rate=Fraction(15))
        if codec != "rv20" and container not in ("mxf", "y4m", "mpg"):  # these have one rate
            yield case(container, gop=gop, b_pictures=b_pictures, timing="gaps")
        yield case(container, gop=gop, pictures=1)
        yield case(container, gop=gop, b_pictures=b_pictures, pictures=3)
    for container in _IN_MILLISECONDS.get(codec, "").split():
        yield from (case(container, gop=gop, b_pictures=n, timing="jitter") for n in sorted({0, b_pictures}))


def _unusual() -> Iterator[FilmCase]:
    def films(variant: str, **containers: str) -> Iterator[FilmCase]:
        for name, names in containers.items():
            codec = {"vp9": "libvpx-vp9"}.get(name, name)
            b_pictures = 3 if codec in _WITH_B_PICTURES else 0
            pixels = _PIXELS.get(codec, "yuv420p").split()[0]
            for container in names.split():
                yield FilmCase(codec, container, 25, b_pictures, pixels, variant=variant)

    yield from films("open_gop", libx264="mp4 mkv ts avi flv", libx265="mp4 mkv ts")
    yield from films("no_pyramid", libx264="mp4 mkv ts avi", libx265="mp4 mkv")
    yield from films("two_refs", libx264="mp4 avi", mpeg2video="mpg", mpeg4="avi")
    yield from films("interlaced", libx264="mp4 mkv ts avi mpg", mpeg2video="mpg ts mkv mxf vob", mpeg4="avi mp4")
    yield from films("aspect_2_1", libx264="mp4 mkv ts avi flv", libx265="mp4", mpeg4="mp4 avi")
    yield from films("declared_aspect", vp9="mp4", libsvtav1="mp4", ffv1="mp4", png="mov")
    yield from films("aspect_8_9", libx264="mp4 mkv mov", libx265="mkv", mpeg4="mkv", mjpeg="mov")
    for turned in ("turn_90", "turn_180", "turn_270", "mirrored"):
        yield from films(turned, libx264="mp4 mov mkv", libx265="mp4", mpeg4="mp4", libsvtav1="mp4")
    yield from films("hidden", libvpx="webm mkv", vp9="webm mkv")
    yield from films("alt_ref", libvpx="webm mkv avi ivf", vp9="webm mkv mp4 ivf", libsvtav1="mp4 mkv webm ivf")
    yield from films("offset", libx264="mp4 mkv mov flv ts mpg", libx265="mp4 ts", mpeg2video="mpg ts", mpeg4="mkv")
    yield from films("offset", libvpx="webm", vp9="webm mp4", libsvtav1="mp4")
    yield from films("wrap", libx264="ts", libx265="ts", mpeg2video="ts")
    for variant in ("fragmented", "no_edit_list", "negative_offsets"):
        yield from films(variant, libx264="mp4 mov", libx265="mp4", mpeg4="mp4")
    yield from films("cut", libx264="mp4 mov", libx265="mp4 mov", mpeg4="mp4", mpeg2video="mp4", vp9="mp4")
    for variant in ("second_video", "second_is_default"):
        yield from films(variant, libx264="mp4 mkv mov", libx265="mkv", libvpx="webm", mpeg4="mkv")
    yield from films("second_video", libx264="ts avi", mpeg2video="mpg")
    yield from films("first_is_empty", libx264="mkv", libvpx="webm")
    yield from films("cover", libx264="mp4 mkv", libx265="mkv", mpeg4="mp4")
    yield from films("cover_first", libx264="mp4", mpeg4="mp4")
    yield from films("resized", libx264="ts mkv mp4 flv", libvpx="webm", vp9="webm mkv", mjpeg="avi")
    yield from films("empty", libx264="mkv avi", libvpx="webm")
