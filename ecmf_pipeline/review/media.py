"""The media of clips as browsers play them: the file itself, or an encoded copy in a bounded cache."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import ChangedSinceIndex, ClipError, FileUnreachable
from ecmf_pipeline.core.files import hide_folder
from ecmf_pipeline.media.clip_reader import span_of
from ecmf_pipeline.review.transcoding import is_playable, target, transcode

CACHE_BYTES = 1_000_000_000
"""Largest size of the encoded copies of a project."""
_VERSION = "1"
"""Part of the names of encoded copies; changed if they are encoded in another way."""
_ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Playable:
    """What the browser plays for a clip.

    Attributes:
        path: The file.
        start: Start of the clip in this file, in seconds.
        end: End of the clip in this file; 0 for the whole file.
    """

    path: Path
    start: float = 0.0
    end: float = 0.0


def media_file(clip: Clip, root: Path) -> Path:
    """Return the media file of a clip.

    Raises:
        FileUnreachable: If the manifest names a file outside of the corpus folder, or the file does not exist.
        ChangedSinceIndex: If it has another size than when it was indexed.
    """
    return _inside(root, clip.path, 0 if clip.face_path and not clip.bytes else clip.bytes)


def _inside(root: Path, name: str, size: int) -> Path:
    relative = Path(os.path.normpath(name))
    if not name or relative.is_absolute() or relative.parts[:1] == ("..",):
        raise FileUnreachable(f"the manifest has no file in the corpus folder for this clip ({name or 'no file'})")
    path = root / relative
    if not path.is_file():
        raise FileUnreachable(
            f"{path} does not exist", "if the corpus was moved, correct corpus.root in params.yaml and restart"
        )
    if size and path.stat().st_size != size:
        raise ChangedSinceIndex(f"{path} has changed since it was indexed", command="ecmf-pipe index")
    return path


def find_playable(clip: Clip, root: Path, cache: Path) -> Playable | None:
    """Return what the browser plays if it needs no encoding now; None if it must be encoded first.

    Raises:
        ClipError: If a file of the clip is missing, has changed, or cannot be opened.
    """
    path = media_file(clip, root)
    if not clip.audio_path and not clip.half and is_playable(path):
        return Playable(path, clip.start, clip.end)
    copy = cache / f"{_key(clip)}.{target().extension}"
    try:
        os.utime(copy)  # it is used: others are removed first
    except FileNotFoundError:
        return None
    return Playable(copy)


def encode_clip(clip: Clip, root: Path, cache: Path) -> Playable:
    """Encode a clip for the browser and keep the copy; the copies used least recently are removed.

    Raises:
        ClipError: If the clip cannot be read.
    """
    found = find_playable(clip, root, cache)
    if found is not None:
        return found
    path = media_file(clip, root)
    sound = _inside(root, clip.audio_path, clip.audio_bytes) if clip.audio_path else None
    hide_folder(cache.parent)
    copy = transcode(path, cache, _key(clip), span_of(clip), sound)
    shrink(cache, CACHE_BYTES, keep=copy)
    return Playable(copy)


def shrink(cache: Path, limit: int, *, keep: Path) -> None:
    """Remove abandoned temporary files, and the copies used least recently until the rest is not larger than a limit.

    Args:
        cache: The folder of encoded copies.
        limit: Largest size in bytes.
        keep: A copy that is not removed.
    """
    files = []
    for path in cache.iterdir():
        try:
            status = path.stat()
        except FileNotFoundError:  # another server removed it
            continue
        if path.name.startswith("."):
            if status.st_mtime < time.time() - _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
        elif path != keep:
            files.append((status.st_mtime, status.st_size, path))
    size = keep.stat().st_size + sum(bytes_ for _, bytes_, _ in files)
    for _, bytes_, path in sorted(files):
        if size <= limit:
            break
        path.unlink(missing_ok=True)
        size -= bytes_


def _key(clip: Clip) -> str:
    content = f"{_VERSION} {clip.digest} {clip.start:.3f} {clip.end:.3f} {clip.audio_digest}"
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def describe(error: ClipError) -> str:
    """Return the message of an error, with its hint on the same line."""
    remedy = "; ".join(part for part in (error.hint, f"run {error.command}" if error.command else "") if part)
    return f"{error.message}. {remedy[:1].upper()}{remedy[1:]}." if remedy else f"{error.message}."
