"""The film matrix: films whose pictures hold their own number, and the check of pictures that are read from them."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames
from tests.media.film_cases import SECOND_STREAM, VARIANTS, FilmCase, all_cases, drawn_cases
from tests.media.film_writing import ASPECTS, TURNS, read_number, write_film

__all__ = ["READERS", "REFUSED", "VARIANTS", "FilmCase", "all_cases", "check", "check_film", "drawn_cases", "make"]

READERS = ("auto", "pyav", "decord")
REFUSED = "refused: "
"""Start of the fault of a film that cannot be read; the reason of the error follows."""

_CHANGED = ("interlaced", *ASPECTS, "turn", "mirrored", "resized")
"""Variants whose pictures differ from those of the decoder: they are compared by number."""
_EXACT_FORMATS = ("yuv420p", "yuvj420p")
"""Pixel formats of which all libraries return the same RGB values."""
_TIME_TOLERANCE = {"mpg": 1.5, "vob": 1.5}
"""Tolerance of times in pictures, if it is not half a picture: MPEG-PS stores one time for several pictures."""
_MAX_MEAN_DIFFERENCE = 1.0
"""Allowed mean difference from a sequential decode in levels: libraries interpolate colours differently."""


def make(case: FilmCase, folder: Path) -> Path:
    """Write the film of a case into a folder."""
    return write_film(case, folder / f"{case.id}.{case.container}")


def check(case: FilmCase, path: Path, reader: str, counts: tuple[int, ...] = (1, 5, 16)) -> str | None:
    """Return the first fault of the pictures that are sampled from a film; None if all are right."""
    for count in counts:
        try:
            frames, times = read_frames(path, MediaConfig(frames=count, reader=reader))
        except ClipError as error:
            if case.variant == "empty":
                return None
            return f"{REFUSED}{error.reason}: {error}"
        if case.variant == "empty":
            return f"{len(frames)} pictures of a film without pictures"
        fault = _fault(case, path, frames, times, count)
        if fault:
            return f"{count} samples: {fault}"
    return None


def check_film(case: FilmCase, path: Path) -> str | None:
    """Return the fault of a film itself: a sequential decode must give the numbers of the case in order."""
    if case.variant == "empty":
        return None
    turn = TURNS.get(case.variant, 0)
    pictures = [np.rot90(picture, -turn) for picture in decoded_pictures(case, path)]  # like the display matrix
    numbers = [read_number(picture[::-1] if case.variant == "mirrored" else picture) for picture in pictures]
    expected = [shown.number for shown in case.shown]
    return None if numbers == expected else f"a sequential decode gives {numbers}, not {expected}"


@lru_cache(maxsize=1)
def decoded_pictures(case: FilmCase, path: Path) -> tuple[NDArray[np.uint8], ...]:
    """Return all pictures of the stream that is shown, in order of a sequential decode."""
    import av
    from av.stream import Disposition

    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        stream = streams[1 if case.variant in SECOND_STREAM else 0]
        return tuple(frame.to_ndarray(format="rgb24") for frame in container.decode(stream))


def _fault(case: FilmCase, path: Path, frames: NDArray[np.uint8], times: NDArray[np.float32], count: int) -> str | None:
    numbers = [read_number(frame) for frame in frames]
    moments = [_allowed(case, count, index) for index in range(count)]
    spans = {shown.number: shown for shown in case.shown}
    if unknown := [number for number in numbers if number not in spans]:
        return f"pictures that are not in the film, or not upright: {unknown}"
    if any(second <= first for first, second in pairwise(numbers)):
        return f"pictures out of order: {numbers}"
    if not all(allowed & set(numbers) for allowed in moments) or not set(numbers) <= set().union(*moments):
        wanted = [min(allowed) if len(allowed) == 1 else tuple(sorted(allowed)) for allowed in moments]
        return f"pictures {numbers}, on screen are {wanted}"
    tolerance = _TIME_TOLERANCE.get(case.container, 0.5)
    wrong_times = [
        f"{number} at {time:.3f} s, not {spans[number].start:.3f}"
        for number, time in zip(numbers, times.tolist(), strict=True)
        if abs(time - spans[number].start) > tolerance * (spans[number].end - spans[number].start)
    ]
    if wrong_times:
        return f"times of pictures: {', '.join(wrong_times[:4])}"
    return _fault_of_content(case, path, frames, numbers)


def _allowed(case: FilmCase, count: int, index: int) -> set[int]:
    """Return the numbers of the pictures that are on screen at the middle of a span of time.

    Most containers store no length of the last picture, so that the end is known to one picture, and the middles of
    the spans in proportion. Half a picture more is for the rounding of times.
    """
    share = (index + 0.5) / count
    moment = share * case.shown[-1].end
    unit = 1 / float(case.rate)
    tolerance = (0.5 + share) * unit
    return {shown.number for shown in case.shown if shown.start - tolerance <= moment < shown.end + tolerance}


def _fault_of_content(case: FilmCase, path: Path, frames: NDArray[np.uint8], numbers: list[int]) -> str | None:
    height, width = frames.shape[1:3]
    stored_width, stored_height = case.size
    pixel_aspect = ASPECTS.get(case.variant, Fraction(12, 11) if case.codec == "h263" else Fraction(1))
    if case.codec != "dvvideo" and abs(width / height / (pixel_aspect * stored_width / stored_height) - 1) > 0.03:
        return f"pictures are {width} x {height}"
    if case.codec in ("dvvideo", "h263") or case.variant.startswith(_CHANGED):
        return None
    decoded = decoded_pictures(case, path)
    first = case.shown[0].number
    limit = 0.0 if case.pixels in _EXACT_FORMATS else _MAX_MEAN_DIFFERENCE
    for frame, number in zip(frames, numbers, strict=True):
        difference = float(np.abs(frame.astype(np.int16) - decoded[number - first]).mean())
        if difference > limit:
            return f"picture {number} differs by {difference:.2f} levels from a sequential decode"
    return None
