"""Measured files, remembered by path, size and time of modification, so that only new and changed ones are read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.errors import ClipTimeout, InputError
from ecmf_pipeline.core.files import read_text, write_atomic

VERSION = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """What one file's content says.

    Attributes:
        digest: SHA-256 of its bytes, in hex; empty when they could not be read.
        duration: Seconds.
        has_video: Whether it holds a video stream.
        has_audio: Whether it holds an audio stream.
        reason: Class of the error when it is no usable clip, else empty.
        message: That error's text.
    """

    digest: str
    duration: float = 0.0
    has_video: bool = False
    has_audio: bool = False
    reason: str = ""
    message: str = ""


class IndexCache:
    """Measured files by path, size and time of change. It may be deleted at will: all files are then read anew.

    Args:
        path: The JSON file it is kept in. A damaged one, or one of another corpus or version, counts as empty.
        root: The corpus folder, as the settings name it.
        clip_timeout: Seconds that a file may take now. Files that took too long under another limit are not known.

    Attributes:
        path: The same.
        head: What tells its measurements from those of other corpora and versions.
    """

    def __init__(self, path: Path, root: Path, clip_timeout: float = 60.0) -> None:
        self.path = path
        self.head = {"version": VERSION, "root": root.as_posix()}
        self._limit = {"clip_timeout": clip_timeout}
        self._rows: dict[str, list[Any]] = _load(path, self.head, self._limit)
        self._changed = False

    def get(self, path: str, size: int, mtime_ns: int) -> Measured | None:
        """What is known of a file, None when it is new or has changed."""
        row = self._rows.get(path)
        if row is None or row[0] != size or row[1] != mtime_ns:
            return None
        return Measured(*row[2:])

    def put(self, path: str, size: int, mtime_ns: int, measured: Measured) -> None:
        """Remember a file."""
        self._rows[path] = [size, mtime_ns, *asdict(measured).values()]
        self._changed = True

    def save(self) -> None:
        """Write what is new, whole or not at all."""
        if self._changed:
            document = {**self.head, **self._limit, "files": self._rows}
            write_atomic(self.path, json.dumps(document, ensure_ascii=False))
            self._changed = False


def _load(path: Path, head: dict[str, Any], limit: dict[str, Any]) -> dict[str, list[Any]]:
    try:
        content = json.loads(read_text(path))
    except (OSError, InputError, ValueError):
        return {}
    if not isinstance(content, dict) or any(content.get(key) != value for key, value in head.items()):
        return {}
    files = content.get("files")
    if not isinstance(files, dict) or not all(_is_row(row) for row in files.values()):
        return {}
    if any(content.get(key) != value for key, value in limit.items()):
        return {path: row for path, row in files.items() if row[-2] != ClipTimeout.__name__}
    return files


def _is_row(row: object) -> bool:
    return isinstance(row, list) and tuple(map(type, row)) == (int, int, str, float, bool, bool, str, str)
