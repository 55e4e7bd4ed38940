"""Answers already paid for: immutable parts of whole lines, in a folder per fingerprint.

A line is ``{"key": <SHA-256 of the text>, "scores": [...]}``, with ``"cut": true`` where only the beginning of the text
was read. A text on which the model gave no valid answer has no scores but ``"raw": [...]``, what it said instead: it is
not asked again either. Where a form was filled in, ``values`` stands for the scores.

Nothing is ever appended to a part, so that DVC sends new parts alone and a file that its cache shares stays as it was;
parts are made aside and renamed into place. What the workers of a run have finished waits in a spool until it is sealed
into a part. A text that was paid for twice merely stands twice; a damaged line costs that line.

Questions that take several answers have `Drafts` beside the spool until they are finished: what a server said before a
run was cut short is not asked for again.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter

from ecmf_pipeline.core.files import flush_folder, sha256_text, write_atomic
from ecmf_pipeline.llm.schema import Value
from ecmf_pipeline.runner.step import PartWriter, Spool

DIGITS = 6
"""Decimals that are kept of a score."""
RAW = 2000
"""Characters that are kept of an answer that was not valid."""
DRAFTS_FILE = "drafts.jsonl"
"""Its name in the folder of a fingerprint's spool."""
TRIES = 2
"""An answer that the schema forbids is asked for once more; then the model abstains."""
_PART = re.compile(r"part-(\d{6,})-[0-9a-f]{8}\.jsonl")


class CacheRow(Protocol):
    """One line."""

    @property
    def key(self) -> str:
        """SHA-256 of what was asked about."""

    def line(self) -> str:
        """The line, with its end."""


RowT = TypeVar("RowT", bound=CacheRow)


@dataclass(frozen=True, slots=True)
class TextScores:
    """What a model said of one text.

    Attributes:
        key: SHA-256 of the text.
        scores: A score for each label, (K,), rounded to `DIGITS`.
        cut: Whether the text was too long and only its beginning was read.
        raw: The answers that were not valid, with the reason before each. Without scores: the model abstains.
    """

    key: str
    scores: tuple[FiniteFloat, ...]
    cut: bool = False
    raw: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, scores: NDArray[np.float64], *, cut: bool = False) -> TextScores:
        """Scores of a text, rounded.

        Raises:
            ValueError: When a score is not finite.
        """
        if not np.isfinite(scores).all():
            raise ValueError(f"scores {scores} are not finite")
        return cls(key, tuple(np.round(scores, DIGITS).tolist()), cut)

    @classmethod
    def abstained(cls, key: str, raw: Sequence[str], *, cut: bool = False) -> TextScores:
        """A text on which every answer was invalid."""
        return cls(key, (), cut, tuple(answer[:RAW] for answer in raw))

    def line(self) -> str:
        """The line of the cache, with its end."""
        entry: dict[str, object] = {"key": self.key, "scores": list(self.scores)}
        entry |= ({"cut": True} if self.cut else {}) | ({"raw": list(self.raw)} if self.raw else {})
        return json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> TextScores:
        """Read a line.

        Raises:
            ValueError: When it is damaged.
        """
        return _SCORES.validate_json(line)


@dataclass(frozen=True, slots=True)
class Written:
    """What a model filled in, kept as a line.

    Attributes:
        key: SHA-256 of the question.
        values: The value of each field; None where every answer was invalid: the model abstains.
        raw: The answers that were not valid, each with the reason before it.
    """

    key: str
    values: Mapping[str, Value] | None = None
    raw: tuple[str, ...] = ()

    def line(self) -> str:
        """The line of the cache, with its end."""
        entry: dict[str, object] = {"key": self.key}
        entry |= {} if self.values is None else {"values": dict(self.values)}
        entry |= {"raw": [answer[:RAW] for answer in self.raw]} if self.raw else {}
        return json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> Written:
        """Read a line.

        Raises:
            ValueError: When it is damaged.
        """
        found = _WRITTEN.validate_json(line)
        if found.values is None and not found.raw:
            raise ValueError(f"not a line of answers: {line!r}")
        return found


_SCORES, _WRITTEN = TypeAdapter(TextScores), TypeAdapter(Written)


class AnswerCache(Generic[RowT]):
    """Answers by what was asked about. Reading needs no lock; `AnswerWriter` adds.

    Args:
        folder: Where this cache stands; need not exist yet.
        fingerprint: Of all that changes an answer (model, prompt, labels...); names the folder of the parts.
        parse: Reads a line, and raises a ValueError where it is damaged.
        also: Further caches that are read only, such as that of a stage which asked the same before.

    Attributes:
        root: Where this cache stands.
        folder: The parts of this fingerprint.
        dropped: How many damaged lines were passed over while reading.
    """

    def __init__(
        self, folder: Path, fingerprint: str, parse: Callable[[bytes], RowT], *, also: Sequence[Path] = ()
    ) -> None:
        self.root = folder
        self.folder = folder / fingerprint
        self.dropped = 0
        self._parse = parse
        self._places = [*also, folder]
        self._read: set[Path] = set()
        self._rows: dict[str, RowT] = {}
        self.refresh()

    def __len__(self) -> int:
        """How many answers there are."""
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        """Whether there is an answer about what has that SHA-256."""
        return key in self._rows

    def __getitem__(self, key: str) -> RowT:
        """The answer about what has that SHA-256."""
        return self._rows[key]

    def get(self, key: str) -> RowT | None:
        """The answer about what has that SHA-256; None where there is none."""
        return self._rows.get(key)

    def rows(self) -> Iterable[RowT]:
        """All that is known."""
        return self._rows.values()

    def refresh(self) -> None:
        """Read the files that were not there before."""
        for place in self._places:
            for path in parts(place / self.folder.name):
                if path not in self._read:
                    self._read.add(path)
                    self._rows |= {row.key: row for row in self.parse(path.read_bytes())}

    def parse(self, content: bytes) -> list[RowT]:
        """The rows of a file; damaged lines are counted in `dropped`."""
        rows = []
        for line in content.split(b"\n"):
            try:
                if line:
                    rows.append(self._parse(line))
            except ValueError:
                self.dropped += 1
        return rows


class ScoreCache(AnswerCache[TextScores]):
    """Scores by text; see `AnswerCache`."""

    def __init__(self, folder: Path, fingerprint: str, *, also: Sequence[Path] = ()) -> None:
        super().__init__(folder, fingerprint, TextScores.parse, also=also)


class AnswerWriter(PartWriter[RowT], Generic[RowT]):
    """The one writer of a cache; see `PartWriter`. On entering it also reads what other runs have added meanwhile.

    Args:
        cache: What is written to; knows each row as soon as it is added.
        waiting: Folder outside of what DVC tracks and on the cache's file system, for the lock and for what is not yet
            sealed.
        keys: SHA-256 of what is asked about each clip; None: batches are not sealed by clip, only appended to.

    Raises:
        StoreBusy: On entering, when another run writes to the cache.
    """

    def __init__(self, cache: AnswerCache[RowT], waiting: Path, keys: Mapping[str, str] | None = None) -> None:
        spool: Spool[RowT] = Spool(waiting / cache.folder.name, pack_rows)
        super().__init__(spool, lock=waiting / "lock", what=f"the answers in {cache.root}")
        self.cache = cache
        self._keys = keys or {}

    def append(self, rows: Iterable[RowT], number: int | None = None) -> int:
        """Add rows as one new part, whole or not at all; what has an answer already is left out.

        Args:
            rows: What to add.
            number: Place of the part among those of this run; None for the next free one.

        Returns:
            How many rows were added.
        """
        new = {row.key: row for row in rows if row.key not in self.cache}
        if not new:
            return 0
        content = "".join(row.line() for row in new.values())
        name = f"part-{self._place(number):06d}-{sha256_text(content)[:8]}.jsonl"
        aside = self.spool.folder / name
        write_atomic(aside, content)
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        aside.rename(self.cache.folder / name)
        flush_folder(self.cache.folder)
        flush_folder(self.cache.folder.parent)
        self.cache.refresh()
        return len(new)

    def seal(self, number: int, tasks: Sequence[str], clip_ids: Sequence[str]) -> int:
        """Make one part of what workers kept; see `PartWriter`. An answer counts once however many clips share it."""
        keys = [self._keys[clip_id] for clip_id in clip_ids]
        with self._kept(tasks) as batches:
            kept = {row.key: row for payload in batches for row in self.cache.parse(payload)}
            self.append((kept[key] for key in dict.fromkeys(keys) if key in kept), number)
        return len(kept)

    def _refresh(self) -> None:
        self.cache.refresh()

    def _adopt(self, leftovers: Sequence[Path]) -> int:
        adopted = self.append(row for path in leftovers for row in self.cache.parse(path.read_bytes()))
        for path in leftovers:
            path.unlink()
        return adopted

    def _next_number(self) -> int:
        return 1 + max((_number(path) for path in parts(self.cache.folder)), default=-1)


def pack_rows(rows: Sequence[CacheRow]) -> bytes:
    """Return the lines of a finished batch; several clips may share a row."""
    unique = {row.key: row for row in rows}
    return "".join(row.line() for row in unique.values()).encode()


def parts(folder: Path) -> list[Path]:
    """The parts of one fingerprint, in order of their numbers."""
    found = [path for path in folder.glob("part-*") if _PART.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=lambda path: (_number(path), path.name))


def _number(path: Path) -> int:
    return int(path.name.split("-")[1])


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
        self._own = _read_drafts(path)
        self._others = {place: draft for other in also for place, draft in _read_drafts(other).items()}

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
            _append_line(self._path, _draft_line(key, number, draft))
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
                content = "".join(_draft_line(*place, draft) for place, draft in self._own.items())
                write_atomic(self._path, content, only_if_changed=True)
            else:
                self._path.unlink()

    def remove(self) -> None:
        """Drop all of them, and the folder where nothing else waits in it."""
        self._own = {}
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self._path.parent.rmdir()


def _draft_line(key: str, number: int, draft: Draft) -> str:
    said = {"raw": draft.raw} if draft.label is None else {"label": draft.label}
    return json.dumps({"key": key, "number": number, **said}, separators=(",", ":")) + "\n"


def _append_line(path: Path, line: str) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(f"\n{line}".encode())  # a line that a crash cut short before must not take this one with it
        file.flush()
        os.fsync(file.fileno())
    if new:
        flush_folder(path.parent)


def _read_drafts(path: Path) -> dict[tuple[str, int], Draft]:
    found: dict[tuple[str, int], Draft] = {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return found
    for line in content.split(b"\n"):
        try:
            if line:
                place, draft = _parse_draft(json.loads(line))
                found[place] = draft
        except (ValueError, TypeError, KeyError):
            continue  # torn by a crash: it is asked for again
    return found


def _parse_draft(entry: Any) -> tuple[tuple[str, int], Draft]:
    place = str(entry["key"]), int(entry["number"])
    return place, Draft(int(entry["label"])) if "label" in entry else Draft(None, str(entry["raw"]))
