"""Cache of the answers of language models.

The cache is a folder for each fingerprint with immutable parts of whole lines. A line is
``{"key": <SHA-256 of the text>, "scores": [...]}``, with ``"cut": true`` if the text was truncated. A text without a
valid answer has no scores but ``"raw": [...]``, the invalid answers; it is not sent again either. A filled-in form has
``values`` instead of scores.

Parts are never modified: DVC transfers new parts only, and files that its cache shares stay intact. Parts are written
elsewhere and renamed into place. Finished batches wait in a spool until they are sealed into a part. If a text was paid
for twice, the cache holds it twice. The name of a part ends with a hash of its content, which is checked when it is
read: an altered answer would change the features of a text without a trace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat, TypeAdapter

from ecmf_pipeline.core.console import warn
from ecmf_pipeline.core.errors import (
    InputError,
    StoreError,
)
from ecmf_pipeline.core.files import flush_folder, sha256_bytes, sha256_text, with_sha256, without_sha256, write_atomic
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.llm.schema import Value
from ecmf_pipeline.llm.server_run import DRAFTS_FILE, MAX_RAW_CHARACTERS, Drafts
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.runner.step import PartWriter, Spool
from ecmf_pipeline.store.dvc_links import share_with_dvc
from ecmf_pipeline.store.kept import KeptParts
from ecmf_pipeline.store.spools import adopt_spools, orphaned_spools, spool_of

SCORE_DECIMALS = 6
"""Number of decimals of a stored score."""
_HASH_DIGITS = 8
_PART = re.compile(r"part-(\d{6,})-[0-9a-f]{8}\.jsonl")


class CacheRow(Protocol):
    """One line of the cache."""

    @property
    def key(self) -> str:
        """SHA-256 of the question."""

    def line(self) -> str:
        """Return the line, with its line break."""


RowT = TypeVar("RowT", bound=CacheRow)


@dataclass(frozen=True, slots=True)
class TextScores:
    """Label scores of one text.

    Attributes:
        key: SHA-256 of the text.
        scores: A score for each label, (K,), rounded to `SCORE_DECIMALS`; empty if the model abstains.
        cut: Whether the text was too long and truncated.
        raw: The invalid answers, each with its reason in front.
    """

    key: str
    scores: tuple[FiniteFloat, ...]
    cut: bool = False
    raw: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, scores: NDArray[np.float64], *, cut: bool = False) -> TextScores:
        """Return the scores of a text, rounded.

        Raises:
            ValueError: If a score is not finite.
        """
        if not np.isfinite(scores).all():
            raise ValueError(f"scores {scores} are not finite")
        return cls(key, tuple(np.round(scores, SCORE_DECIMALS).tolist()), cut)

    def line(self) -> str:
        """Return the line of the cache, with its line break."""
        entry: dict[str, object] = {"key": self.key, "scores": list(self.scores)}
        entry |= ({"cut": True} if self.cut else {}) | ({"raw": list(self.raw)} if self.raw else {})
        return json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> TextScores:
        """Parse a line.

        Raises:
            ValueError: If the line is damaged.
        """
        return _SCORES.validate_json(line)


@dataclass(frozen=True, slots=True)
class FormAnswer:
    """A form filled in by a model, as a line of the cache.

    Attributes:
        key: SHA-256 of the question.
        values: The value of each field; None if every answer was invalid and the model abstains.
        raw: The invalid answers, each with its reason in front.
    """

    key: str
    values: Mapping[str, Value] | None = None
    raw: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the line of the cache, with its line break."""
        entry: dict[str, object] = {"key": self.key}
        entry |= {} if self.values is None else {"values": dict(self.values)}
        entry |= {"raw": [answer[:MAX_RAW_CHARACTERS] for answer in self.raw]} if self.raw else {}
        return json.dumps(entry, allow_nan=False, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: bytes) -> FormAnswer:
        """Parse a line.

        Raises:
            ValueError: If the line is damaged.
        """
        row = _WRITTEN.validate_json(line)
        if row.values is None and not row.raw:
            raise ValueError(f"the line contains neither values nor raw answers: {line!r}")
        return row


_SCORES, _WRITTEN = TypeAdapter(TextScores), TypeAdapter(FormAnswer)


class AnswerCache(Generic[RowT]):
    """Answers by question. Reading needs no lock; `AnswerWriter` adds answers.

    Args:
        folder: Folder of this cache; it may not exist yet.
        fingerprint: Fingerprint of all that changes an answer (model, prompt, labels...); the folder name of the parts.
        parse: Parser of a line; raises a ValueError if the line is damaged.
        also: Further caches that are only read, for example of a stage that sends the same questions.

    Attributes:
        root: Folder of this cache.
        fingerprint: Fingerprint of all that changes an answer.
        folder: Folder of the parts of this fingerprint.
        dropped: Number of lines that could not be parsed and were skipped.
    """

    def __init__(
        self, folder: Path, fingerprint: str, parse: Callable[[bytes], RowT], *, also: Sequence[Path] = ()
    ) -> None:
        self.root = folder
        self.fingerprint = fingerprint
        self.folder = folder / fingerprint
        self.dropped = 0
        self._parse = parse
        self._folders = [*also, folder]
        self._read: set[Path] = set()
        self._rows: dict[str, RowT] = {}
        self.refresh()

    def __len__(self) -> int:
        """Return the number of answers."""
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        """Return whether an answer to the question with this SHA-256 exists."""
        return key in self._rows

    def __getitem__(self, key: str) -> RowT:
        """Return the answer to the question with this SHA-256."""
        return self._rows[key]

    def get(self, key: str) -> RowT | None:
        """Return the answer to the question with this SHA-256; None if there is none."""
        return self._rows.get(key)

    def rows(self) -> Iterable[RowT]:
        """Return all answers."""
        return self._rows.values()

    def in_folder(self, folder: Path) -> AnswerCache[RowT]:
        """Return the cache of the same questions in another folder."""
        return AnswerCache(folder, self.fingerprint, self._parse)

    def refresh(self) -> None:
        """Read parts that were added since the last call, and kept parts that the folder lacks.

        Raises:
            InputError: If a part was changed since it was written.
        """
        for folder in self._folders:
            kept = KeptParts(folder / self.fingerprint)
            lost = [kept.folder / name for name in kept.missing()] if kept.folder else []
            for path in [*part_files(folder / self.fingerprint), *filter(_has_its_hash, lost)]:
                if path not in self._read:
                    self._rows |= {row.key: row for row in self.parse(_read_part(path))}
                    self._read.add(path)

    def parse(self, content: bytes) -> list[RowT]:
        """Return the rows of a part or batch; lines that cannot be parsed are counted in `dropped`."""
        rows = []
        for line in content.split(b"\n"):
            try:
                if line:
                    rows.append(self._parse(line))
            except ValueError:
                self.dropped += 1
        return rows


class ScoreCache(AnswerCache[TextScores]):
    """Label scores by text; see `AnswerCache`."""

    def __init__(self, folder: Path, fingerprint: str, *, also: Sequence[Path] = ()) -> None:
        super().__init__(folder, fingerprint, TextScores.parse, also=also)


class AnswerWriter(PartWriter[RowT], Generic[RowT]):
    """The only writer of a cache; see `PartWriter`. On entry it also reads the parts that other runs have added.

    Args:
        cache: The cache; it contains each row as soon as the row is added.
        spool_folder: Folder of the lock and of unsealed batches, not tracked by DVC, on the file system of the cache.
        keys: SHA-256 of the question about each clip; None if batches are only appended and not sealed by clip.

    Raises:
        StoreBusy: On entry, if another run writes to the cache.
    """

    def __init__(self, cache: AnswerCache[RowT], spool_folder: Path, keys: Mapping[str, str] | None = None) -> None:
        folder, lock = spool_of(spool_folder / cache.fingerprint, spool_folder / "lock")
        spool: Spool[RowT] = Spool(folder, pack_rows)
        super().__init__(spool, lock=lock, what=f"the answers in {cache.root}")
        self.cache = cache
        self._spool_folder = spool_folder / cache.fingerprint
        self._keys = keys or {}

    def append(self, rows: Iterable[RowT], number: int | None = None) -> int:
        """Add rows as one new part, atomically; rows whose key already has an answer are skipped.

        Args:
            rows: The rows.
            number: Number of the part among those of this run; None for the next free one.

        Returns:
            The number of added rows.
        """
        new = {row.key: row for row in rows if row.key not in self.cache}
        if not new:
            return 0
        self._write_part(self._place(number), "".join(row.line() for row in new.values()))
        self.cache.refresh()
        return len(new)

    def _write_part(self, number: int, content: str) -> None:
        name = f"part-{number:06d}-{sha256_text(content)[:_HASH_DIGITS]}.jsonl"
        temporary_path = self.spool.folder / name
        write_atomic(temporary_path, content)
        self.cache.folder.mkdir(parents=True, exist_ok=True)
        temporary_path.rename(self.cache.folder / name)
        flush_folder(self.cache.folder)
        flush_folder(self.cache.folder.parent)
        KeptParts(self.cache.folder).keep([name])

    def drop(self, unwanted: Callable[[str], bool]) -> int:
        """Drop answers, also from kept parts: parts with such answers are written anew without them.

        If the process is killed in between, some answers are in two parts, and the next call finishes the work.

        Args:
            unwanted: Returns whether the answer with a key is dropped.

        Returns:
            The number of dropped answers.
        """
        keys = set(filter(unwanted, (row.key for row in self.cache.rows())))
        if not keys:
            return len(keys)
        self.spool.folder.mkdir(parents=True, exist_ok=True)
        for path in part_files(self.cache.folder):
            rows = self.cache.parse(_read_part(path))
            left = [row for row in rows if row.key not in keys]
            if len(left) == len(rows):
                continue
            if left:
                self._write_part(_part_number(path), "".join(row.line() for row in left))
            KeptParts(self.cache.folder).drop([path.name])
            path.unlink()
        flush_folder(self.cache.folder)
        return len(keys)

    def seal(self, number: int, tasks: Sequence[str], clip_ids: Sequence[str]) -> int:
        """Combine finished batches into one part; see `PartWriter`. An answer that several clips share counts once."""
        keys = [self._keys[clip_id] for clip_id in clip_ids]
        with self._kept(tasks) as batches:
            rows = {row.key: row for payload in batches for row in self.cache.parse(unpack_lines(payload))}
            self.append((rows[key] for key in dict.fromkeys(keys) if key in rows), number)
        return len(rows)

    def _refresh(self) -> None:
        adopt_spools(self._spool_folder, self.spool.folder, DRAFTS_FILE)
        kept = KeptParts(self.cache.folder)
        kept.restore(kept.missing(), _has_its_hash, self.spool.folder)
        kept.keep()
        share_with_dvc(kept)
        self.cache.refresh()

    def _adopt(self, leftovers: Sequence[Path]) -> int:
        adopted = self.append(row for path in leftovers for row in self.cache.parse(_read_batch(path)))
        for path in leftovers:
            path.unlink()
        return adopted

    def _next_number(self) -> int:
        return 1 + max((_part_number(path) for path in part_files(self.cache.folder)), default=-1)


def pack_rows(rows: Sequence[CacheRow]) -> bytes:
    """Return the lines of a finished batch and their SHA-256; several clips may share a row."""
    unique = {row.key: row for row in rows}
    lines = "".join(row.line() for row in unique.values()).encode()
    return with_sha256(lines)


def unpack_lines(payload: bytes) -> bytes:
    """Return the lines of `pack_rows`.

    Raises:
        StoreError: If the batch is damaged.
    """
    try:
        return without_sha256(payload)
    except ValueError as error:
        message = f"a finished batch of answers is damaged ({error})"
        raise StoreError(message, "run the same command again: it asks for them") from error


def _read_batch(path: Path) -> bytes:
    """Return the lines of the batch of a killed run; none if it is damaged."""
    try:
        return unpack_lines(path.read_bytes())
    except StoreError as error:
        warn(f"{path}: {error.message}", "its questions are sent again")
        return b""


def part_files(folder: Path) -> list[Path]:
    """Return the parts of one fingerprint, sorted by number."""
    paths = [path for path in folder.glob("part-*") if _PART.fullmatch(path.name) and path.is_file()]
    return sorted(paths, key=lambda path: (_part_number(path), path.name))


def _has_its_hash(path: Path) -> bool:
    """Return whether the content of a part has the hash in its name."""
    return _matches_name(path.read_bytes(), path)


def _matches_name(content: bytes, path: Path) -> bool:
    return sha256_bytes(content)[:_HASH_DIGITS] == path.stem.rpartition("-")[2]


def _read_part(path: Path) -> bytes:
    """Read a part.

    Raises:
        InputError: If its content does not have the hash in its name.
    """
    content = path.read_bytes()
    if not _matches_name(content, path):
        raise InputError(
            f"{path} was changed since it was written: its content does not have the hash in its name",
            "restore it from the DVC cache, or only remove it: its questions are then sent again",
            command=f"rm {path} && dvc checkout {path}",
        )
    return content


def _part_number(path: Path) -> int:
    return int(path.name.split("-")[1])


@dataclass(frozen=True, slots=True)
class AnswerFiles:
    """Files in which a stage keeps its answers, and whether it retries quarantined questions.

    Attributes:
        stage: Name of the stage.
        cache: Folder of the cached answers.
        spool_folder: Folder of unsealed answers, not tracked by DVC.
        quarantine: Table of the quarantined clips.
        earlier: Stages that sent the same questions before: their answers are read, and questions that they quarantined
            are not sent.
        retry_quarantined: Whether questions that the stage quarantined are retried although nothing changed.
        shard: The shard whose questions are sent; None: all questions.
    """

    stage: str
    cache: Path
    spool_folder: Path
    quarantine: Path
    earlier: tuple[AnswerFiles, ...] = ()
    retry_quarantined: bool = False
    shard: Shard | None = None


def open_drafts(answer_files: AnswerFiles, fingerprint: str) -> Drafts:
    """Open the paid answers to unfinished questions; their file is next to the spool."""
    own, *others = (each.spool_folder / fingerprint for each in (answer_files, *answer_files.earlier))
    others += [spool for folder in (own, *others) for spool in orphaned_spools(folder)]
    spool, _ = spool_of(own, own)
    return Drafts(spool / DRAFTS_FILE, also=[folder / DRAFTS_FILE for folder in others])


def write_empty_quarantine(answer_files: AnswerFiles) -> None:
    """Write the empty quarantine table of a stage without questions: it is an output of the DVC stage."""
    quarantine = Quarantine(answer_files.quarantine, stage=answer_files.stage)
    quarantine.clear()
    quarantine.write()
