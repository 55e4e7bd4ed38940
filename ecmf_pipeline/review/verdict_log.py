"""Append answers to the file of verdicts: crash-safe, without doubles, also with several servers on one project.

Each answer is one `write` with O_APPEND, flushed to disk before the page learns that it is stored. An answer that the
reviewer has already given is not written again, so the page may repeat a request whose response was lost.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from ecmf_pipeline.core.errors import InputError, StoreBusy
from ecmf_pipeline.core.files import FileState, exclusive_lock, flush_folder, write_atomic
from ecmf_pipeline.core.tables import as_spreadsheet_text
from ecmf_pipeline.corpora.tables import EXCEL_EXTENSIONS, SYNONYMS, Table, read_table
from ecmf_pipeline.labels.verdicts import COLUMNS, Answer, latest_answers, parse_answers

MAX_NAME = 60
"""Maximum length of a reviewer's name."""
_LOCK_SECONDS = 10.0
"""Longest wait for another server that is writing."""


def clean_reviewer(name: str) -> str:
    """Return a reviewer's name on one line, without control characters, at most `MAX_NAME` characters long."""
    printable = "".join(character if character.isprintable() else " " for character in name)
    return " ".join(unicodedata.normalize("NFC", printable).split())[:MAX_NAME].strip()


@dataclass(slots=True)
class VerdictLog:
    """The file of verdicts of a project.

    Attributes:
        path: The csv file; it need not exist.
        lock: The lock file of its writers.
        labels: Returns the labels of the corpus.
        clip_ids: Returns the clips of the manifest.
    """

    path: Path
    lock: Path
    labels: Callable[[], Sequence[str]]
    clip_ids: Callable[[], Sequence[str]]
    _state: tuple[FileState | None, Sequence[str]] = field(default=(None, ()), init=False)
    _answers: dict[tuple[str, str], Answer] = field(default_factory=dict, init=False)
    _header: tuple[str, ...] = field(default=(), init=False)
    """Columns of the file if rows can be appended to it; empty if it must be written in this form first."""

    def answers(self) -> dict[tuple[str, str], Answer]:
        """Return the answers that count, by clip and reviewer, in order of time.

        The file is read if it or the labels have changed.

        Raises:
            InputError: If a person has damaged the file; it is not changed.
        """
        state = (FileState.of(self.path) if self.path.is_file() else None, self.labels())
        if state != self._state:
            self._answers, self._header = {}, ()
            self._state = (None, ())
            if state[0] is not None:
                table = self._read()
                self._answers = latest_answers(parse_answers(table, self.labels(), self.clip_ids())[0])
                self._header = _appendable_header(self.path)
            self._state = state
        return self._answers

    def reviewer(self, name: str) -> str:
        """Return a reviewer's name in the spelling of the file: `anna` and `Anna` are one person."""
        name = clean_reviewer(name)
        present = {reviewer: None for _, reviewer in self.answers()}
        if name in present:
            return name
        folded = name.casefold()
        return next((one for one in present if one.casefold() == folded), name)

    def record(self, answers: Iterable[Answer]) -> int:
        """Append answers that differ from the present ones, and return their number.

        Args:
            answers: The answers; an empty label withdraws the answer of the reviewer. Answers without a time get the
                present one.

        Raises:
            InputError: If a person has damaged the file; nothing is written.
            StoreBusy: If another server holds the lock for long.
            OSError: If the file cannot be written; it has its former content.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._locked():
            known = dict(self.answers())
            new: list[Answer] = []
            for given in answers:
                answer = replace(given, reviewer=self.reviewer(given.reviewer))
                key = (answer.clip_id, answer.reviewer)
                present = known.get(key)
                if (present.label if present else "") == answer.label and (
                    present is None or present.digest == answer.digest
                ):
                    continue
                known.pop(key, None)
                if answer.label:
                    known[key] = answer
                new.append(answer)
            if not new:
                return 0
            header = self._header or self._write_header()
            rows = [_row(answer, header, now) for answer in new]
            _append(self.path, _as_csv(rows))
            self._answers, self._header = known, header
            self._state = (FileState.of(self.path), self.labels())
        return len(new)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        deadline = time.monotonic() + _LOCK_SECONDS
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(exclusive_lock(self.lock, str(self.path)))
                    break
                except StoreBusy:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)
            yield

    def _read(self) -> Table:
        if self.path.suffix.lower() in EXCEL_EXTENSIONS:
            raise InputError(f"{self.path} is a spreadsheet: rows cannot be appended", "save it as a csv file")
        return read_table(self.path, COLUMNS[:2], strict=True)

    def _write_header(self) -> tuple[str, ...]:
        """Create the file, or write the rows of a person in the form to which rows can be appended."""
        rows: list[Sequence[str]] = []
        header: tuple[str, ...] = COLUMNS
        if self.path.is_file():
            table = self._read()
            header = (*table.columns, *(name for name in COLUMNS if name not in table.columns))
            rows = [(*row, *[""] * (len(header) - len(row))) for row in table.rows]
        write_atomic(self.path, _as_csv([header, *rows]))
        flush_folder(self.path.parent)
        return header


def _appendable_header(path: Path) -> tuple[str, ...]:
    """Return the columns of a file with commas, in UTF-8, that has all of `COLUMNS`; otherwise no columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            cells = [cell.strip().casefold() for cell in next(csv.reader(file), [])]
            for _ in file:  # the rest must be UTF-8, too
                pass
    except UnicodeDecodeError:
        return ()
    names = tuple(next((first for first, second in SYNONYMS if second == cell), cell) for cell in cells)
    return names if set(COLUMNS) <= set(names) else ()


def _row(answer: Answer, header: Sequence[str], now: str) -> list[str]:
    cells = {
        "name": as_spreadsheet_text(answer.clip_id),
        "label": as_spreadsheet_text(answer.label),
        "reviewer": as_spreadsheet_text(answer.reviewer),
        "time": answer.time or now,
        "seconds": f"{answer.seconds:.1f}",
        "digest": answer.digest,
    }
    return [cells.get(name, "") for name in header]


def _as_csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _append(path: Path, text: str) -> None:
    """Append a text in one write and flush it to disk; a line that an editor or a crash left unfinished is ended."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            text = f"\n{text}"
        data = text.encode()
        is_whole = False
        try:
            is_whole = os.write(descriptor, data) == len(data)
        finally:
            if not is_whole:
                os.ftruncate(descriptor, size)
        if not is_whole:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
