"""Scan a corpus folder for media files, and report the files that are not read.

The scan is fast for 100,000 files and handles link loops, pipes and folders without read permission.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ecmf_pipeline.core.clips import ClipId, validate_clip_id
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.listing import Finding, FindingKind, quote_names
from ecmf_pipeline.media.subtitles import SUBTITLE_EXTENSIONS

VIDEO_EXTENSIONS = (
    *(".mp4", ".m4v", ".mov", ".f4v", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".flv"),
    *(".wmv", ".asf", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".ogv", ".mxf"),
)
"""The extensions of files with pictures, in lower case."""

SOUND_EXTENSIONS = (
    *(".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".aac", ".wma", ".aiff", ".aif", ".aifc"),
    *(".amr", ".awb", ".mka", ".weba", ".caf", ".spx", ".ac3", ".eac3", ".dts", ".ape", ".wv", ".mp2", ".mpa"),
    *(".au", ".snd", ".w64", ".tta"),
)
"""The extensions of sound files, in lower case."""

MEDIA_EXTENSIONS = (*VIDEO_EXTENSIONS, *SOUND_EXTENSIONS)
"""The extensions of clips, in lower case."""

_KIND_OF = {
    **dict.fromkeys(VIDEO_EXTENSIONS, "video"),
    **dict.fromkeys(SOUND_EXTENSIONS, "sound"),
    **dict.fromkeys(SUBTITLE_EXTENSIONS, "subtitles"),
}

DVC_EXTENSION = ".dvc"
"""The extension of the file that git stores in place of a file that DVC tracks."""


class _UnreadKind(NamedTuple):
    """A kind of files that are not read: its name, its extensions, and how to use such files."""

    name: str
    extensions: frozenset[str]
    hint: str


def _extensions(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


_UNREAD_KINDS = (
    _UnreadKind(
        "video file in another format",
        _extensions(
            "rm rmvb divx dv m2v mjpeg ogm swf h264 hevc y4m qt mpe m1v mpv m2p m2t ps trp tp tod mod vro amv nut ivf "
            "k3g xvid 264 265 h265 avc mjpg bik wtv dvr-ms dav gxf obu"
        ),
        "convert each: ffmpeg -i NAME.rm NAME.mp4",
    ),
    _UnreadKind(
        "picture",
        _extensions("jpg jpeg png bmp gif tif tiff webp heic heif avif jp2"),
        "frames are read from media files only",
    ),
    _UnreadKind(
        "subtitle file in another format",
        _extensions("sub lrc textgrid eaf txt sbv ttml dfxp smi sami sup idx stl scc cha trs"),
        "convert each to srt (ffmpeg -i NAME.lrc NAME.srt), or put the words into the table of transcripts",
    ),
    _UnreadKind(
        "table",
        _extensions(
            "csv tsv xlsx xlsm xls ods json jsonl ndjson parquet feather arrow npz pkl pickle mat h5 hdf5 sav dta "
            "rds rdata sqlite sqlite3 db arff csd"
        ),
        "this corpus.kind reads other names",
    ),
    _UnreadKind("archive", _extensions("zip tar gz tgz bz2 xz zst rar 7z"), "unpack it, or remove it"),
    _UnreadKind(
        "unfinished download",
        _extensions("part crdownload download partial opdownload ytdl aria2"),
        "finish or remove it",
    ),
)
_UNREAD_KIND_OF = {extension: kind for kind in _UNREAD_KINDS for extension in kind.extensions}
_TEXT_EXTENSION = ".txt"
"""A text file belongs to a clip only if it has its name."""


@dataclass
class Scan:
    """The files of a corpus folder.

    Attributes:
        media: The sorted paths of video files, relative to the corpus folder.
        sounds: The sorted paths of sound files.
        subtitles: The sorted paths of subtitle files.
        unread: The paths of files that seem to belong to the corpus but are not media files.
        not_fetched: The paths of DVC files whose data do not exist.
        folders: The paths of subfolders, if they are not scanned.
        findings: A finding for each path that cannot be read.
    """

    media: list[str] = field(default_factory=list)
    sounds: list[str] = field(default_factory=list)
    subtitles: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    not_fetched: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def strip_media_extension(name: str) -> str:
    """Remove a media file extension, in upper or lower case; return other names unchanged."""
    stem, dot, extension = name.rpartition(".")
    return stem if stem and _KIND_OF.get(f"{dot}{extension}".lower(), "subtitles") != "subtitles" else name


def is_sound_file(path: str) -> bool:
    """Return whether a path has the extension of a sound file."""
    return _KIND_OF.get(PurePosixPath(path).suffix.lower()) == "sound"


def scan_media(root: Path, below: str = "", *, nested: bool) -> Scan:
    """List the files in ``root/below``.

    Hidden files and folders are skipped (macOS writes ``._clip.mp4`` next to clips). Links are followed; each folder
    is visited once, which ends link loops. Real folders are visited before links.

    Args:
        root: The corpus folder.
        below: A folder relative to ``root``; it need not exist.
        nested: Whether to descend into subfolders.
    """
    scan = Scan()
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
                return scan
            message = f"folder {folder or '.'!r} cannot be read ({error.strerror}): its clips are skipped; "
            scan.findings.append(Finding(FindingKind.UNREADABLE, "", f"{message}allow reading it, or remove it"))
            continue
        prefix = f"{folder}/" if folder else ""
        names = {entry.name for entry in listed}
        for entry in listed:
            if entry.name.endswith(DVC_EXTENSION) and not entry.name.startswith("."):
                if entry.name.removesuffix(DVC_EXTENSION) not in names:
                    scan.not_fetched.append(prefix + entry.name)
                continue
            _add_entry(entry, prefix, scan, (links if entry.is_symlink() else folders) if nested else scan.folders)
    for paths in (scan.media, scan.sounds, scan.subtitles):
        paths.sort()
    return scan


def _add_entry(entry: os.DirEntry[str], prefix: str, scan: Scan, folders: list[str]) -> None:
    """Append a folder entry to the lists of ``scan``, or to ``folders``."""
    name = entry.name
    if name.startswith("."):
        return
    kind = _KIND_OF.get(PurePosixPath(name).suffix.lower())
    try:
        if kind and entry.is_file():
            {"video": scan.media, "sound": scan.sounds, "subtitles": scan.subtitles}[kind].append(prefix + name)
        elif entry.is_dir():
            folders.append(prefix + name)
        elif kind:
            problem = "is a broken link" if entry.is_symlink() else "is not a regular file"
            scan.findings.append(_unreadable(prefix + name, problem))
        elif _unread_kind(name):
            scan.unread.append(prefix + name)
    except OSError as error:  # for example a link to itself
        scan.findings.append(_unreadable(prefix + name, f"cannot be read ({error.strerror})"))


def _unread_kind(path: str) -> _UnreadKind | None:
    return _UNREAD_KIND_OF.get(PurePosixPath(path).suffix.lower())


def unread_findings(scan: Scan, tables: Collection[str] = ()) -> Iterator[Finding]:
    """Yield one finding for each kind of files that are not read.

    Args:
        scan: The scanned files.
        tables: The paths of tables that the corpus reader reads.
    """
    by_kind: defaultdict[_UnreadKind, list[str]] = defaultdict(list)
    clips = {path.rpartition(".")[0] for path in (*scan.media, *scan.sounds)}
    for path in scan.unread:
        stem, _, extension = path.rpartition(".")
        if path not in tables and (f".{extension}".lower() != _TEXT_EXTENSION or stem in clips):
            by_kind[_UNREAD_KIND_OF[f".{extension}".lower()]].append(path)
    for kind, paths in by_kind.items():
        extensions = Counter(PurePosixPath(path).suffix for path in paths).most_common()
        counts = ", ".join(f"{count} {extension}" for extension, count in extensions)
        hint = f"{kind.hint}: {', '.join(tables)}" if kind.name == "table" and tables else kind.hint
        listed = f"{format_count(len(paths), kind.name)} not read ({counts}): {quote_names(paths)}"
        yield Finding(FindingKind.UNREAD_FILES, "", f"{listed}; {hint}", count=len(paths))
    if scan.not_fetched:
        paths = scan.not_fetched
        message = f"{format_count(len(paths), 'DVC file')} without data: {quote_names(paths)}; run dvc pull"
        yield Finding(FindingKind.NOT_FETCHED, "", message, count=len(paths))


def unread_by_name(scan: Scan, name_of: Callable[[str], str]) -> Mapping[str, str]:
    """Return why a clip has no file, by its name with and without extension, for names with a file that is not read.

    Args:
        scan: The scanned files.
        name_of: Return the name of a path.
    """
    reasons: dict[str, str] = {}
    for path in (*scan.not_fetched, *scan.unread):
        kind = _unread_kind(path)
        name = name_of(path.removesuffix(DVC_EXTENSION))
        reason = f"{path!r} exists but is not read: {kind.hint if kind else 'run dvc pull'}"
        for spelling in (name, name.rpartition(".")[0]):
            reasons.setdefault(spelling, reason)
    return reasons


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
    message = f"{path!r} {problem}: the file is skipped; replace or remove it"
    return Finding(FindingKind.UNREADABLE, "", message)
