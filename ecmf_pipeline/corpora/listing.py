"""The listing of a corpus: its clips and findings."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.errors import CorpusError


class FindingKind(StrEnum):
    """The kind of a problem in a usable corpus; the values are stored in findings.csv."""

    LABEL_WITHOUT_FILE = "label_without_file"
    CANDIDATE_WITHOUT_FILE = "candidate_without_file"
    FILE_WITHOUT_LABEL = "file_without_label"
    TRANSCRIPT_WITHOUT_CLIP = "transcript_without_clip"
    GROUP_WITHOUT_CLIP = "group_without_clip"
    CLIP_WITHOUT_GROUP = "clip_without_group"
    UNKNOWN_GROUP = "unknown_group"
    NAMES_BY_RULE = "names_by_rule"
    DIFFERENT_CASE = "different_case"
    RARE_LABEL = "rare_label"
    SINGLE_LABEL = "single_label"
    LABEL_MEANS_UNKNOWN = "label_means_unknown"
    GOLD_LABEL_NOT_GIVEN = "gold_label_not_given"
    EMPTY_CLASS = "empty_class"
    NUMERIC_LABEL = "numeric_label"
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
    UNUSED_TABLE = "unused_table"
    UNUSED_COLUMN = "unused_column"
    MALFORMED_TIME = "malformed_time"
    WRONG_LENGTH = "wrong_length"
    ENCODING = "encoding"
    UNREAD_FILES = "unread_files"
    NOT_FETCHED = "not_fetched"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    NO_VIDEO_STREAM = "no_video_stream"
    NO_FACE_CROPS = "no_face_crops"
    FACE_CROPS_WITHOUT_CLIP = "face_crops_without_clip"
    SOUND_NOT_USED = "sound_not_used"
    SUBTITLES_WITHOUT_CLIP = "subtitles_without_clip"
    SEVERAL_SUBTITLES = "several_subtitles"
    TWO_TRANSCRIPTS = "two_transcripts"
    NO_SPEECH = "no_speech"
    NO_SUBTITLES = "no_subtitles"
    CUES_CHANGED = "cues_changed"
    ONE_RECORDING = "one_recording"
    OUTDATED_SEGMENTS = "outdated_segments"
    OVERLAPPING_SUBTITLES = "overlapping_subtitles"
    SUBTITLES_BEYOND_END = "subtitles_beyond_end"
    FORGOTTEN = "forgotten"


MISTAKES = (
    FindingKind.NAMES_BY_RULE,
    FindingKind.LABEL_WITHOUT_FILE,
    FindingKind.CANDIDATE_WITHOUT_FILE,
    FindingKind.PREFIX_MISMATCH,
    FindingKind.DIFFERENT_CASE,
    FindingKind.UNKNOWN_LABEL,
    FindingKind.RARE_LABEL,
    FindingKind.SINGLE_LABEL,
    FindingKind.LABEL_MEANS_UNKNOWN,
    FindingKind.GOLD_LABEL_NOT_GIVEN,
    FindingKind.EMPTY_CLASS,
    FindingKind.NUMERIC_LABEL,
    FindingKind.GROUP_WITHOUT_CLIP,
    FindingKind.CLIP_WITHOUT_GROUP,
    FindingKind.UNKNOWN_GROUP,
)
"""The kinds that are probably mistakes in names, labels and groups; `doctor` reports them too."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem that leaves the corpus usable.

    Attributes:
        kind: The kind.
        clip_id: The clip concerned; empty for several clips, or a name that is not a valid clip id.
        message: A sentence with the file, the clip, the problem and how to fix it.
        count: How many clips, rows or files are concerned.
    """

    kind: FindingKind
    clip_id: str
    message: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class SubtitleFile:
    """The subtitle file beside a clip.

    Attributes:
        path: The file, relative to the corpus folder.
        language: The language code in its name (en); empty if it has none.
    """

    path: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class CorpusListing:
    """A corpus as defined by its csv files and file names.

    Attributes:
        root: The corpus folder; the paths of clips are relative to it.
        clips: The clips, sorted by id. Digest, bytes, duration and streams are not filled in yet.
        labels: The classes, in the order of the model's outputs; may be empty for a folder without labels.
        candidate_order: The candidates, in the order that the submission requires.
        findings: The problems of the corpus.
        synthetic: Whether the corpus is generated; reports state it.
        expected_seconds: The length of clips in the tables, if they have it.
        quarantines_wrong_length: Whether a file of another length is quarantined.
        subtitles: The subtitle file of each clip that has one.
        groups: The meaning of a group, such as "actor"; empty if unknown.
        splits: How the clips are split, in words; empty if the split is that of the user's tables.
        votes: The probability of each label, by source of votes and clip; votes that come with the corpus.
        cut_digests: SHA-256 of each file at the time when it was cut into clips, by path.
    """

    root: Path
    clips: tuple[Clip, ...]
    labels: tuple[str, ...]
    candidate_order: tuple[ClipId, ...]
    findings: tuple[Finding, ...] = ()
    synthetic: bool = False
    expected_seconds: Mapping[ClipId, float] = field(default_factory=dict)
    quarantines_wrong_length: bool = False
    subtitles: Mapping[ClipId, SubtitleFile] = field(default_factory=dict)
    groups: str = ""
    splits: str = ""
    votes: Mapping[str, Mapping[ClipId, Mapping[str, float]]] = field(default_factory=dict)
    cut_digests: Mapping[str, str] = field(default_factory=dict)


def count_by_kind(findings: Iterable[Finding]) -> dict[str, int]:
    """Sum `Finding.count` by kind, sorted by the name of the kind."""
    counts: Counter[str] = Counter()
    for finding in findings:
        counts[finding.kind.value] += finding.count
    return dict(sorted(counts.items()))


def first_finding_suffix(findings: Sequence[Finding]) -> str:
    """Return the first finding as the end of an error message about an empty corpus; it may be the cause."""
    return f"; first finding: {findings[0].message}" if findings else ""


def quote_names(names: Iterable[str], shown: int = 3) -> str:
    """Quote the first few names and count the rest, such as ``'a', 'b', 'c' and 4 more``."""
    listed = list(names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(repr(name) for name in listed[:shown]) + more


def require_folder(root: Path, hint: str, *, command: str | None = None) -> Path:
    """Return ``root`` if it is a readable folder.

    Args:
        root: The corpus folder.
        hint: The hint of the error.
        command: The command of the error.

    Raises:
        CorpusError: If ``root`` does not exist, is not a folder or cannot be read.
    """
    try:
        if root.is_dir() and os.access(root, os.R_OK | os.X_OK):
            return root
        if not root.exists():
            problem = "does not exist"
        else:
            problem = "cannot be read (permission denied)" if root.is_dir() else "is not a folder"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if (pointer := Path(f"{root}.dvc")).is_file():
        hint, command = "fetch it from the DVC remote", f"dvc pull {shlex.quote(str(pointer))}"
    raise CorpusError(f"corpus folder {root} {problem}", hint, command=command)
