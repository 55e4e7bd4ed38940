"""Reading text as people save it, and writing files that are either whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.errors import InputError, MissingInput


def read_text(path: Path) -> str:
    r"""Read UTF-8 text, with or without a byte-order mark, with any line ends (returned as they are).

    Raises:
        InputError: When the bytes are not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start})",
            f"save it as UTF-8 (in a shell: iconv -f ENCODING -t UTF-8 {path.name})",
        ) from error


def read_json(path: Path, *, made_by: str) -> Any:
    """Read a JSON file that the stage ``made_by`` writes.

    Raises:
        MissingInput: When that stage has not run yet.
        InputError: When the file is damaged.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing", f"run `ecmf-pipe {made_by}` (or `dvc repro`) first")
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error})", f"run `ecmf-pipe {made_by}` again") from error


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_atomic(path: Path, content: str | bytes, *, only_if_changed: bool = False) -> bool:
    """Write a file aside and rename it into place, so that no reader ever sees half of it.

    Returns:
        Whether the file was written; with ``only_if_changed``, False when it already held these bytes.
    """
    data = content.encode() if isinstance(content, str) else content
    if only_if_changed and path.is_file() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return True


def flush_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk: without it, a power cut may undo what was renamed into it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(settings: object) -> str:
    """Twelve hex digits that change whenever ``settings`` (plain JSON values) do."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256_text(canonical)[:12]
