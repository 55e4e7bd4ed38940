"""The table of segments: the clips of each recording that `segment` has cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import ClipId
from ecmf_pipeline.core.tables import (
    as_spreadsheet_text,
    from_spreadsheet_text,
    open_table,
    parse_number,
    seal_of,
    write_sealed_csv,
)
from ecmf_pipeline.corpora.listing import Finding, FindingKind

_COLUMNS = ["path", "start", "end", "text", "language", "digest"]
_FINDING_COLUMNS = ["kind", "clip_id", "message", "count"]
_COMMAND = "ecmf-pipe segment"

OUTPUTS = (
    paths.SEGMENTS,
    seal_of(paths.SEGMENTS),
    paths.SEGMENT_FINDINGS,
    seal_of(paths.SEGMENT_FINDINGS),
    paths.quarantine("segment"),
)
"""The files that `segment` writes."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A clip of a recording.

    Attributes:
        start: Start in seconds from the start of the recording.
        end: End in seconds; 0 for the whole file.
        text: The words of its subtitles; empty if unknown.
        language: Language code of the words; empty if unknown.
    """

    start: float = 0.0
    end: float = 0.0
    text: str = ""
    language: str = ""


WHOLE_FILE = Segment()


@dataclass(frozen=True, slots=True)
class CutRecording:
    """A recording that was cut.

    Attributes:
        digest: SHA-256 of the file at that time.
        segments: Its clips, in order; none if it has no subtitles or no speech.
    """

    digest: str
    segments: tuple[Segment, ...]


Segments = Mapping[str, CutRecording]
"""The recordings that were cut, by path relative to the corpus folder. A file that is not among them is one clip."""


def segment_id(recording: ClipId, segment: Segment) -> ClipId:
    """Return the clip id of a segment: the recording and its start, which other segments do not change."""
    milliseconds = round(segment.start * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    seconds, rest = divmod(rest, 1000)
    return ClipId(f"{recording}__{hours:02d}h{minutes:02d}m{seconds:02d}s{rest:03d}")


def write_segments(path: Path, recordings: Segments, findings_path: Path, findings: Iterable[Finding]) -> bool:
    """Write the table and its findings; a recording without clips has one row without times.

    Returns:
        Whether the table changed.
    """
    rows = [
        [
            as_spreadsheet_text(name),
            f"{segment.start:.3f}",
            f"{segment.end:.3f}",
            as_spreadsheet_text(segment.text),
            segment.language,
            recording.digest,
        ]
        for name, recording in sorted(recordings.items())
        for segment in recording.segments or (WHOLE_FILE,)
    ]
    texts = (
        [one.kind, as_spreadsheet_text(one.clip_id), as_spreadsheet_text(one.message), one.count] for one in findings
    )
    write_sealed_csv(findings_path, _FINDING_COLUMNS, texts)
    return write_sealed_csv(path, _COLUMNS, rows)


def read_segments(path: Path) -> Segments:
    """Read the table.

    Raises:
        MissingInput: If `segment` has not run yet.
        InputError: If the table is damaged.
    """
    recordings: dict[str, CutRecording] = {}
    for name, digest, segment in open_table(path, command=_COMMAND).parse(_parse, _COLUMNS, key=2):
        known = recordings.get(name, CutRecording(digest, ()))
        recordings[name] = CutRecording(digest, (*known.segments, segment) if segment.end else known.segments)
    return recordings


def _parse(row: Sequence[str]) -> tuple[str, str, Segment]:
    name, start, end, text, language, digest = row
    segment = Segment(parse_number(start), parse_number(end), from_spreadsheet_text(text), language)
    return from_spreadsheet_text(name), digest, segment


def read_segment_findings(path: Path) -> list[Finding]:
    """Read the findings of `segment`.

    Raises:
        MissingInput: If `segment` has not run yet.
        InputError: If the table is damaged.
    """
    return open_table(path, command=_COMMAND).parse(_parse_finding, _FINDING_COLUMNS, key=0)


def _parse_finding(row: Sequence[str]) -> Finding:
    kind, clip_id, message, count = row
    return Finding(FindingKind(kind), from_spreadsheet_text(clip_id), from_spreadsheet_text(message), int(count))
