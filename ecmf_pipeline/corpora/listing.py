"""What a reader says about a corpus before any clip is opened, and what is odd about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ecmf_pipeline.clips import Clip, ClipId


class FindingKind(StrEnum):
    """What can be missing or inconsistent in a corpus that is usable all the same."""

    LABEL_WITHOUT_FILE = "label_without_file"
    CANDIDATE_WITHOUT_FILE = "candidate_without_file"
    FILE_WITHOUT_LABEL = "file_without_label"
    TRANSCRIPT_WITHOUT_CLIP = "transcript_without_clip"
    GROUP_WITHOUT_CLIP = "group_without_clip"
    NO_MEDIA = "no_media"
    NO_LABELS = "no_labels"
    PREFIX_MISMATCH = "prefix_mismatch"
    DUPLICATE_CLIP = "duplicate_clip"
    DUPLICATE_CONTENT = "duplicate_content"
    DUPLICATE_ROW = "duplicate_row"
    CONFLICTING_ROW = "conflicting_row"
    CONFLICTING_SPLIT = "conflicting_split"
    MALFORMED_ROW = "malformed_row"
    AMBIGUOUS_NAME = "ambiguous_name"
    BAD_CLIP_ID = "bad_clip_id"
    UNKNOWN_LABEL = "unknown_label"
    UNKNOWN_SPLIT = "unknown_split"
    UNUSED_TABLE = "unused_table"
    UNUSED_COLUMN = "unused_column"
    UNREADABLE = "unreadable"
    NO_VIDEO_STREAM = "no_video_stream"
    NO_FACE_CROPS = "no_face_crops"
    FACE_CROPS_WITHOUT_CLIP = "face_crops_without_clip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One oddity; the run goes on.

    Attributes:
        kind: Which.
        clip_id: The clip it concerns; empty when it concerns several, or a name that cannot be a clip id.
        message: What, where, and how to mend it.
        count: How many clips, rows or files it stands for.
    """

    kind: FindingKind
    clip_id: str
    message: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class CorpusListing:
    """A corpus as its csv files and file names describe it.

    Attributes:
        root: The corpus folder; the clips' paths are relative to it.
        clips: Sorted by clip id; what only the file can tell (digest, bytes, duration, streams) is not filled in yet.
        labels: The classes, in the order of the model's outputs; may be empty for a folder without labels.
        candidate_order: The candidates in the order their submission must have.
        findings: What is odd.
        synthetic: Whether the corpus is generated, so that reports must say so.
    """

    root: Path
    clips: tuple[Clip, ...]
    labels: tuple[str, ...]
    candidate_order: tuple[ClipId, ...]
    findings: tuple[Finding, ...] = ()
    synthetic: bool = False


def count_by_kind(findings: Iterable[Finding]) -> dict[str, int]:
    """How many clips, rows or files each kind of finding stands for, by name of kind."""
    counts: Counter[str] = Counter()
    for finding in findings:
        counts[finding.kind.value] += finding.count
    return dict(sorted(counts.items()))


def first_of(findings: Sequence[Finding]) -> str:
    """What an error about an empty corpus adds, when there is something odd that may explain it."""
    return f"; besides: {findings[0].message}" if findings else ""


def naming_some(names: Iterable[str], shown: int = 3) -> str:
    """The first few names, quoted, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(repr(name) for name in listed[:shown]) + more
