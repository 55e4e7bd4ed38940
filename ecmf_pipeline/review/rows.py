"""Find single rows of large csv files without parsing the rest, so that the first clip is shown at once."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ecmf_pipeline.core.errors import InputError, MissingInput


class RowFile:
    """A csv file of this project whose first column is a unique clip id; only rows that are looked up are parsed.

    The file is read, not mapped: the server would be killed if an editor shortened it. Rows are single lines sorted by
    clip id, as `index` and `refine` write them.

    Args:
        path: The file.
        command: The command that writes it.

    Raises:
        MissingInput: If it does not exist.
        InputError: If it is empty.
    """

    def __init__(self, path: Path, command: str) -> None:
        self.path = path
        self.command = command
        try:
            self._bytes = path.read_bytes()
        except FileNotFoundError:
            raise MissingInput(f"{path} does not exist", "run the stage that writes it", command=command) from None
        if not self._bytes:
            raise InputError(f"{path} is empty", "write it again", command=command)
        self.columns = self._parse(self._bytes[: self._line_end(0)])
        self._first_row = self._line_end(0) + 1

    def find(self, clip_id: str) -> dict[str, str] | None:
        """Return the row of a clip by column; None if there is none.

        Raises:
            InputError: If the row has another number of cells than the header.
        """
        low, high = self._first_row, len(self._bytes)
        while low < high:
            start = self._bytes.rfind(b"\n", 0, (low + high) // 2) + 1
            key = self._key(start, self._line_end(start))
            if key == clip_id:
                return self._row(start)
            if key < clip_id:
                low = self._line_end(start) + 1
            else:
                high = start
        return None

    def keys(self) -> list[str]:
        """Return all clip ids in the order of the rows."""
        found = []
        start = self._first_row
        while start < len(self._bytes):
            end = self._line_end(start)
            found.append(self._key(start, end))
            start = end + 1
        return found

    def first(self, count: int) -> Iterator[dict[str, str]]:
        """Yield the first rows by column."""
        start = self._first_row
        while count > 0 and start < len(self._bytes):
            yield self._row(start)
            start = self._line_end(start) + 1
            count -= 1

    def _key(self, start: int, end: int) -> str:
        """Return the first cell of a line."""
        if self._bytes[start] == ord('"'):
            return self._parse(self._bytes[start:end])[0]
        comma = self._bytes.find(b",", start, end)
        return self._bytes[start : end if comma < 0 else comma].decode(errors="replace")

    def _row(self, start: int) -> dict[str, str]:
        cells = self._parse(self._bytes[start : self._line_end(start)])
        if len(cells) != len(self.columns):
            raise InputError(
                f"{self.path} is damaged: {len(cells)} cells instead of {len(self.columns)} in the row of {cells[0]!r}",
                "write it again",
                command=self.command,
            )
        return dict(zip(self.columns, cells, strict=True))

    def _line_end(self, start: int) -> int:
        end = self._bytes.find(b"\n", start)
        return len(self._bytes) if end < 0 else end

    def _parse(self, line: bytes) -> list[str]:
        try:
            return next(csv.reader([line.decode("utf-8-sig")]), [""])
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self.path} is damaged: {error}", "write it again", command=self.command) from error
