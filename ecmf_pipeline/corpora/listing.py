"""The listing of a corpus: clips, findings, and a scan for media files.

The scan is fast for 100,000 files and handles link loops, pipes and folders without read permission.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, ClipId, validate_clip_id
from ecmf_pipeline.core.errors import CorpusError

MEDIA_EXTENSIONS = (".mp4", ".mkv", ".avi", ".mov", ".flv", ".webm")


class FindingKind(StrEnum):
    """The kind of a problem in a usable corpus; the values are stored in findings.csv."""

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
    TRUNCATED = "truncated"
    NO_VIDEO_STREAM = "no_video_stream"
    NO_FACE_CROPS = "no_face_crops"
    FACE_CROPS_WITHOUT_CLIP = "face_crops_without_clip"


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
class CorpusListing:
    """A corpus as defined by its csv files and file names.

    Attributes:
        root: The corpus folder; the paths of clips are relative to it.
        clips: The clips, sorted by id. Digest, bytes, duration and streams are not filled in yet.
        labels: The classes, in the order of the model's outputs; may be empty for a folder without labels.
        candidate_order: The candidates, in the order that the submission requires.
        findings: The problems of the corpus.
        synthetic: Whether the corpus is generated; reports state it.
    """

    root: Path
    clips: tuple[Clip, ...]
    labels: tuple[str, ...]
    candidate_order: tuple[ClipId, ...]
    findings: tuple[Finding, ...] = ()
    synthetic: bool = False


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


def strip_media_extension(name: str) -> str:
    """Remove a media file extension, in upper or lower case; return other names unchanged."""
    stem, dot, extension = name.rpartition(".")
    return stem if stem and f"{dot}{extension}".lower() in MEDIA_EXTENSIONS else name


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
    raise CorpusError(f"corpus folder {root} {problem}", hint, command=command)


def scan_media(root: Path, below: str = "", *, nested: bool) -> tuple[list[str], list[Finding]]:
    """List the media files in ``root/below``.

    Hidden files and folders are skipped (macOS writes ``._clip.mp4`` next to clips). Links are followed; each folder
    is visited once, which ends link loops. Real folders are visited before links.

    Args:
        root: The corpus folder.
        below: A folder relative to ``root``; it need not exist.
        nested: Whether to descend into subfolders.

    Returns:
        The sorted paths relative to ``root``, and a finding for each path that cannot be read.
    """
    paths: list[str] = []
    findings: list[Finding] = []
    folders, links = ([below], list[str]())
    visited: set[tuple[int, int]] = set()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = (root / folder).stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if folder == below and isinstance(error, FileNotFoundError):
                return paths, findings
            message = f"folder {folder or '.'!r} cannot be read ({error.strerror}): its clips are skipped; "
            findings.append(Finding(FindingKind.UNREADABLE, "", f"{message}allow reading it, or remove it"))
            continue
        prefix = f"{folder}/" if folder else ""
        for entry in listed:
            _add_entry(entry, prefix, paths, (links if entry.is_symlink() else folders) if nested else [], findings)
    return sorted(paths), findings


def _add_entry(
    entry: os.DirEntry[str], prefix: str, paths: list[str], folders: list[str], findings: list[Finding]
) -> None:
    """Append a folder entry to ``paths``, ``folders`` or ``findings``."""
    name = entry.name
    if name.startswith("."):
        return
    is_media = strip_media_extension(name) != name
    try:
        if is_media and entry.is_file():
            paths.append(prefix + name)
        elif entry.is_dir():
            folders.append(prefix + name)
        elif is_media:
            problem = "is a broken link" if entry.is_symlink() else "is not a regular file"
            findings.append(_unreadable(prefix + name, problem))
    except OSError as error:  # for example a link to itself
        findings.append(_unreadable(prefix + name, f"cannot be read ({error.strerror})"))


def name_files(paths: Iterable[str], name_of: Callable[[str], str]) -> tuple[dict[ClipId, str], list[Finding]]:
    """Assign a clip id to each file.

    Args:
        paths: Sorted relative paths. If several files share an id, the first is kept.
        name_of: Return the clip id of a path, before validation.

    Returns:
        The path of each clip id, and a finding for each file that is skipped.
    """
    files: dict[ClipId, str] = {}
    findings: list[Finding] = []
    for path in paths:
        try:
            clip_id = validate_clip_id(unicodedata.normalize("NFC", name_of(path)))
        except CorpusError as error:
            message = f"{path!r} is skipped: {error.message}; rename the file"
            findings.append(Finding(FindingKind.BAD_CLIP_ID, "", message))
            continue
        if clip_id in files:
            message = (
                f"{path!r} is skipped: clip id {clip_id!r} belongs to {files[clip_id]!r}; remove or rename one of the "
                "two files"
            )
            findings.append(Finding(FindingKind.DUPLICATE_CLIP, clip_id, message))
        else:
            files[clip_id] = path
    return files, findings


def _unreadable(path: str, problem: str) -> Finding:
    message = f"{path!r} {problem}: the clip is skipped; replace or remove the file"
    return Finding(FindingKind.UNREADABLE, "", message)
