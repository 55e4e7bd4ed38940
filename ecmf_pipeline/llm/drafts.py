"""Paid answers of questions that take several: what a server said before a run was cut short is not asked for again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.files import flush_folder, write_atomic
from ecmf_pipeline.llm.cache import RAW

FILE = "drafts.jsonl"
"""Its name in the folder of a fingerprint's spool."""
TRIES = 2
"""An answer that the schema forbids is asked for once more; then the model abstains."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One paid answer.

    Attributes:
        label: Index of the label that it names; None where it is not valid.
        raw: What was said instead, with the reason before it.
    """

    label: int | None
    raw: str = ""


class Drafts:
    """The drafts of one fingerprint; safe to use from several threads of the run that holds the cache's lock.

    Args:
        path: Where they stand; need not exist yet.
        also: Files of other stages that ask the same; they are read only.
    """

    def __init__(self, path: Path, *, also: Sequence[Path] = ()) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._own = _read(path)
        self._others = {place: draft for other in also for place, draft in _read(other).items()}

    def __len__(self) -> int:
        """How many there are, without those of other stages."""
        return len(self._own)

    def get(self, key: str, number: int) -> Draft | None:
        """The answer to a question's ``number``-th request, where it has been paid for."""
        with self._lock:
            return self._own.get((key, number)) or self._others.get((key, number))

    def keep(self, key: str, number: int, draft: Draft) -> Draft:
        """Make an answer durable before the next is asked for; ``raw`` is cut to what a cache keeps of it."""
        draft = Draft(draft.label, draft.raw[:RAW])
        with self._lock:
            self._own[key, number] = draft
            _append(self._path, _line(key, number, draft))
        return draft

    def settled(self, key: str, samples: int) -> int:
        """How many of a question's samples need no request any more: they are valid, or were not in all tries."""
        tries = ([self.get(key, number + attempt * samples) for attempt in range(TRIES)] for number in range(samples))
        return sum(all(drafts) or any(draft and draft.label is not None for draft in drafts) for drafts in tries)

    def tidy(self, finished: Container[str]) -> None:
        """Drop what belongs to finished questions; without any left, the file goes.

        Args:
            finished: The keys that the cache has a row of.
        """
        if not self._path.is_file():
            return
        with self._lock:
            self._own = {place: draft for place, draft in self._own.items() if place[0] not in finished}
            if self._own:
                content = "".join(_line(*place, draft) for place, draft in self._own.items())
                write_atomic(self._path, content, only_if_changed=True)
            else:
                self._path.unlink()

    def remove(self) -> None:
        """Drop all of them, and the folder where nothing else waits in it."""
        self._own = {}
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self._path.parent.rmdir()


def _line(key: str, number: int, draft: Draft) -> str:
    said = {"raw": draft.raw} if draft.label is None else {"label": draft.label}
    return json.dumps({"key": key, "number": number, **said}, separators=(",", ":")) + "\n"


def _append(path: Path, line: str) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(f"\n{line}".encode())  # a line that a crash cut short before must not take this one with it
        file.flush()
        os.fsync(file.fileno())
    if new:
        flush_folder(path.parent)


def _read(path: Path) -> dict[tuple[str, int], Draft]:
    found: dict[tuple[str, int], Draft] = {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return found
    for line in content.split(b"\n"):
        try:
            if line:
                place, draft = _parse(json.loads(line))
                found[place] = draft
        except (ValueError, TypeError, KeyError):
            continue  # torn by a crash: it is asked for again
    return found


def _parse(entry: Any) -> tuple[tuple[str, int], Draft]:
    place = str(entry["key"]), int(entry["number"])
    return place, Draft(int(entry["label"])) if "label" in entry else Draft(None, str(entry["raw"]))
