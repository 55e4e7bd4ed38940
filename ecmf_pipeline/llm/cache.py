"""Scores already paid for: an append-only file of whole lines, one file per fingerprint.

A line is ``{"key": <SHA-256 of the text>, "scores": [...]}``. A line that a crash tore is dropped when read and closed
off by the next writer. Writers take turns by a lock, so two processes may append at the same time; a text that both
paid for merely stands twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.files import sha256_text

DIGITS = 6
"""Decimals that are kept of a score."""

Scores = NDArray[np.float64]


class ScoreCache:
    """Scores by text.

    Args:
        folder: Where new scores are written.
        fingerprint: Of all that changes a score (model, prompt, labels...); names the file.
        also: Further folders that are read only, such as that of a stage which asked the same before.

    Attributes:
        path: The file that is appended to.
        dropped: How many damaged lines were passed over while reading.
    """

    def __init__(self, folder: Path, fingerprint: str, *, also: Sequence[Path] = ()) -> None:
        self.path = folder / f"{fingerprint}.jsonl"
        self.dropped = 0
        self._scores: dict[str, Scores] = {}
        for path in (*(other / self.path.name for other in also), self.path):
            self._read(path)

    def __len__(self) -> int:
        """How many texts have scores."""
        return len(self._scores)

    def get_many(self, texts: Iterable[str]) -> dict[str, Scores]:
        """The scores, (K,) each, of those texts that have them."""
        keys = {text: sha256_text(text) for text in texts}
        return {text: self._scores[key] for text, key in keys.items() if key in self._scores}

    def put_many(self, scores: Mapping[str, Scores]) -> None:
        """Append scores, rounded to `DIGITS`; they are on the disk when this returns.

        Raises:
            ValueError: When a score is not finite.
        """
        rounded = {sha256_text(text): np.asarray(np.round(row, DIGITS), np.float64) for text, row in scores.items()}
        lines = [
            json.dumps({"key": key, "scores": row.tolist()}, allow_nan=False, separators=(",", ":")) + "\n"
            for key, row in rounded.items()
        ]
        if lines:
            _append(self.path, "".join(lines).encode())
            self._scores.update(rounded)

    def _read(self, path: Path) -> None:
        if not path.is_file():
            return
        for line in path.read_bytes().split(b"\n"):
            if not line:
                continue
            try:
                entry = json.loads(line)
                self._scores[entry["key"]] = np.array([float(score) for score in entry["scores"]])
            except (ValueError, TypeError, KeyError):
                self.dropped += 1


def _append(path: Path, lines: bytes) -> None:
    """Append whole lines durably, after closing off a line that a crash left torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        with path.open("rb") as written:
            size = written.seek(0, os.SEEK_END)
            if size:
                written.seek(size - 1)
                if written.read(1) != b"\n":
                    lines = b"\n" + lines
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
