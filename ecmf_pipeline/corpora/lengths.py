"""Compare the length of clips in the tables of a corpus with the measured length of their files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind, quote_names
from ecmf_pipeline.corpora.tables import Table

LENGTH_COLUMNS = ("start", "end", "duration")
"""The columns of the folder layout, in seconds or as HH:MM:SS,mmm."""

MAX_DIFFERENCE = 1.0
"""Seconds by which a file may differ: cutting at key frames moves the ends of a clip by less."""
MAX_DIFFERENCE_SHARE = 0.25
"""Share of the length in the table by which a file may differ."""

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")


class _Measured(Protocol):
    @property
    def duration(self) -> float: ...


def parse_seconds(text: str) -> float | None:
    """Return a time in seconds from a number of seconds or ``HH:MM:SS,mmm``; None for other text."""
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, seconds = (float((part or "0").replace(",", ".")) for part in clock.groups())
        return 3600 * hours + 60 * minutes + seconds
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def table_lengths(table: Table, start: str, end: str, duration: str = "") -> tuple[list[float], list[Finding]]:
    """Return the length of each row in seconds, 0 if unknown, and a finding about cells that are not times.

    Args:
        table: The table.
        start: The column with the start of each clip.
        end: The column with its end.
        duration: The column with its length; used if it is not empty.
    """
    lengths: list[float] = []
    invalid: list[str] = []
    for cells in zip(*(table.column(name) for name in (start, end, duration)), strict=True):
        first, last, length = (parse_seconds(cell) for cell in cells)
        if length is None and first is not None and last is not None:
            length = last - first
        if (length is not None and length <= 0) or any(cell and parse_seconds(cell) is None for cell in cells):
            invalid.append(" ".join(filter(None, cells)))
        lengths.append(max(length or 0.0, 0.0))
    if not invalid:
        return lengths, []
    names = ", ".join(name for name in (start, end, duration) if name in table.columns)
    message = (
        f"{table.path.name}: {format_count(len(invalid), 'row')} without valid times in {names}: "
        f"{quote_names(invalid)}; write seconds or HH:MM:SS,mmm"
    )
    return lengths, [Finding(FindingKind.MALFORMED_TIME, "", message, count=len(invalid))]


def spans_past_end(clips: Iterable[Clip], measured: Mapping[str, _Measured]) -> Iterator[Finding]:
    """Yield a finding about parts of files that start after the end of their file, and one about those that end there.

    Args:
        clips: The clips.
        measured: The measurement of each file by path; one without a duration is not compared.
    """
    outside, longer = list[str](), list[str]()
    for clip in clips:
        seconds = measured[clip.path].duration if clip.end and clip.path in measured else 0.0
        if seconds > 0 and clip.start >= seconds:
            outside.append(f"{clip.clip_id} from {clip.start:g} s of {seconds:g} s")
        elif seconds > 0 and clip.end > seconds + MAX_DIFFERENCE:
            longer.append(f"{clip.clip_id} to {clip.end:g} s of {seconds:g} s")
    for names, problem in ((outside, "after the end of its file"), (longer, "that ends after its file")):
        if names:
            message = f"{format_count(len(names), 'clip')} {problem}: {quote_names(names)}; correct the times"
            yield Finding(FindingKind.WRONG_LENGTH, "", message, count=len(names))


def wrong_lengths(listing: CorpusListing, measured: Mapping[str, _Measured]) -> Iterator[tuple[str, Finding]]:
    """Yield the path and a finding for each file whose length differs from that in the tables.

    Args:
        listing: The listing.
        measured: The measurement of each file by path; one without a duration is not compared.
    """
    for clip in listing.clips:
        expected = listing.expected_seconds.get(clip.clip_id, 0.0)
        seconds = measured[clip.path].duration if clip.path in measured else 0.0
        is_known = expected > 0 and seconds > 0
        if is_known and abs(seconds - expected) > max(MAX_DIFFERENCE, MAX_DIFFERENCE_SHARE * expected):
            message = (
                f"{clip.path!r} lasts {seconds:g} s, but clip {clip.clip_id!r} has {expected:g} s in the tables; "
                "replace the file or correct the times"
            )
            yield clip.path, Finding(FindingKind.WRONG_LENGTH, clip.clip_id, message)
