"""What a corpus lists: its clips, what is odd about it, and the media files below a folder.

Files are found fast on 100,000 of them, and safely on link loops, pipes and forbidden folders.
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


def without_media_extension(name: str) -> str:
    """``name`` without the extension of a media file, in any case; other names stay as they are."""
    stem, dot, extension = name.rpartition(".")
    return stem if stem and f"{dot}{extension}".lower() in MEDIA_EXTENSIONS else name


def existing_folder(root: Path, hint: str) -> Path:
    """``root`` when it is a folder that may be read.

    Raises:
        CorpusError: When it is not; ``hint`` says how to mend that.
    """
    try:
        if root.is_dir() and os.access(root, os.R_OK | os.X_OK):
            return root
        what = "does not exist" if not root.exists() else "may not be read" if root.is_dir() else "is not a folder"
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
    raise CorpusError(f"the corpus folder {root} {what}", hint)


def scan_media(root: Path, below: str = "", *, nested: bool) -> tuple[list[str], list[Finding]]:
    """List the media files in ``root/below``.

    Hidden files and folders (macOS leaves ``._clip.mp4`` beside clips) are passed over. Linked files and folders are
    followed, each folder once, so that loops end; real folders come before links to them.

    Args:
        root: The corpus folder.
        below: A folder in it, relative; need not exist.
        nested: Whether to go into folders inside.

    Returns:
        Paths relative to ``root``, sorted, and what could not be listed.
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
            findings.append(_unreadable(folder or ".", f"the folder cannot be read ({error.strerror})"))
            continue
        prefix = f"{folder}/" if folder else ""
        for entry in listed:
            _sort_in(entry, prefix, paths, (links if entry.is_symlink() else folders) if nested else [], findings)
    return sorted(paths), findings


def _sort_in(
    entry: os.DirEntry[str], prefix: str, paths: list[str], folders: list[str], findings: list[Finding]
) -> None:
    name = entry.name
    if name.startswith("."):
        return
    is_media = without_media_extension(name) != name
    try:
        if is_media and entry.is_file():
            paths.append(prefix + name)
        elif entry.is_dir():
            folders.append(prefix + name)
        elif is_media:
            what = "a link to a file that is not there" if entry.is_symlink() else "not a regular file"
            findings.append(_unreadable(prefix + name, f"it is {what}"))
    except OSError as error:  # a link that leads to itself
        findings.append(_unreadable(prefix + name, str(error.strerror)))


def name_files(paths: Iterable[str], name_of: Callable[[str], str]) -> tuple[dict[ClipId, str], list[Finding]]:
    """Give each file its clip id.

    Args:
        paths: Relative paths, sorted: of files that would share an id, the first is kept.
        name_of: The wanted clip id of a path, with all of it that may be odd, since the id alone is checked.

    Returns:
        Path by clip id, and the files that have none, each with its reason.
    """
    files: dict[ClipId, str] = {}
    findings: list[Finding] = []
    for path in paths:
        try:
            clip_id = validate_clip_id(unicodedata.normalize("NFC", name_of(path)))
        except CorpusError as error:
            message = f"file {path!r} is left out: {error.args[0]}; rename it"
            findings.append(Finding(FindingKind.BAD_CLIP_ID, "", message))
            continue
        if clip_id in files:
            message = f"{path!r} has the same clip id as {files[clip_id]!r} and is left out: remove or rename one"
            findings.append(Finding(FindingKind.DUPLICATE_CLIP, clip_id, message))
        else:
            files[clip_id] = path
    return files, findings


def _unreadable(path: str, why: str) -> Finding:
    return Finding(FindingKind.UNREADABLE, "", f"{path!r} is passed over: {why}")
