"""Read csv tables that this package writes, and write tables for people.

A damaged table gives one error: the file, the row, and the command that writes it again.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import csv_bytes, sha256_bytes, write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

Row = TypeVar("Row")

CATEGORY = "category"
"""Type of a column of texts of which few differ; see `TableFile.arrow`."""

_MAX_DIGITS = 18
"""Maximum number of digits of a whole number: 64 bits hold it."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """The content of a csv table, with the reaction to damage.

    Attributes:
        path: The csv file.
        data: Its bytes, in UTF-8.
        command: The shell command that writes the file; None if a person writes it.
        hint: How to fix the file.
        error: Class of the errors.
        is_altered: Whether the file differs from its seal; see `check_seal`.
    """

    path: Path
    data: bytes
    command: str | None
    hint: str
    error: type[InputError] = InputError
    is_altered: bool = False

    @property
    def text(self) -> str:
        """The text.

        Raises:
            InputError: If the bytes are not UTF-8.
        """
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.damaged(f"byte {error.start} is not UTF-8", self._row_of_byte(error.start)) from error

    def check_seal(self) -> None:
        """Raise if the file differs from its seal; called last, since other errors name the row.

        Raises:
            InputError: If it differs.
        """
        if self.is_altered:
            raise self.damaged(
                f"it has changed since it was written: its SHA-256 differs from {seal_of(self.path).name}"
            )

    def damaged(self, problem: str, row: int | None = None) -> InputError:
        """Return the error of a damaged table.

        Args:
            problem: The damage.
            row: Number of the row as a spreadsheet shows it: the header is row 1. None if no single row is the cause.
        """
        where = f"{self.path}: row {row}" if row else f"{self.path}"
        return self.error(f"{where} is damaged: {problem}", self.hint, command=self.command)

    def rows(self) -> Iterator[list[str]]:
        """Yield the header and all rows; each row has as many cells as the header.

        Blank lines of tables that a person writes are skipped.

        Raises:
            InputError: If the table is empty or not UTF-8, a quote is not closed, a row has another number of cells,
                two columns have the same name, or there is a NUL.
        """
        if b"\0" in self.data:
            raise self.damaged("it holds a NUL byte", self._row_of_byte(self.data.index(b"\0")))
        records = csv.reader(io.TextIOWrapper(io.BytesIO(self.data), "utf-8-sig", newline=""), strict=True)
        number = 0
        width = -1
        try:
            for number, record in enumerate(records, start=1):
                if not record and self.command is None:
                    continue
                if len(record) != width:
                    if width >= 0:
                        raise self.damaged(f"{len(record)} cells instead of {width}", number)
                    width = len(record)
                    if len(set(record)) < width:
                        raise self.damaged("two columns have the same name", number)
                yield record
        except csv.Error as error:
            raise self.damaged(str(error), number + 1) from error
        except UnicodeDecodeError:
            _ = self.text  # raises with the position in the file
            raise
        if width < 1:
            raise self.damaged("it is empty")

    def _row_of_byte(self, position: int) -> int:
        return self.data.count(b"\n", 0, position) + 1

    def arrow(self, types: Mapping[str, str]) -> pa.Table | None:
        """Read all rows as columns, 20 times as fast as `parse`.

        The columns are not checked, apart from their number and types. Tables with any damage, and those that differ
        from their seal, are left to `parse`, whose errors name the row. Only text after a closing quote is accepted.

        Args:
            types: Arrow type of each column, in order: string, int64, double, bool (``1`` and ``0``), or `CATEGORY`.

        Returns:
            The columns, of which those of numbers may hold null for empty cells; None if `parse` must read the table.
        """
        import pyarrow as pa  # takes 0.15 s
        import pyarrow.csv as pa_csv

        if self.is_altered or b"\0" in self.data or self.data.count(b'"') % 2:
            return None
        try:
            table = pa_csv.read_csv(
                pa.py_buffer(self.data),
                read_options=pa_csv.ReadOptions(use_threads=False),  # a third of the CPU time, and as fast
                parse_options=pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                convert_options=pa_csv.ConvertOptions(
                    column_types={
                        name: pa.dictionary(pa.int32(), pa.string()) if kind == CATEGORY else pa.type_for_alias(kind)
                        for name, kind in types.items()
                    },
                    null_values=[""],
                    true_values=["1"],
                    false_values=["0"],
                ),
            )
        except pa.ArrowInvalid:
            return None
        return table if table.column_names == list(types) else None

    def header(self) -> list[str]:
        """Return the names of the columns."""
        return next(self.rows())

    def parse(self, parse: Callable[[list[str]], Row], columns: Sequence[str] = (), *, key: int = 1) -> list[Row]:
        """Convert each row.

        Args:
            parse: Function of the cells of a row; raises ValueError if they are damaged.
            columns: The expected header; empty if it is already checked.
            key: Number of leading columns that identify a row; 0 if rows may repeat.

        Raises:
            InputError: If the header differs, a row is damaged, two rows have the same key, or the file differs from
                its seal.
        """
        records = self.rows()
        header = next(records)
        if columns and header != list(columns):
            raise self.damaged(_wrong_header(header, columns), 1)
        parsed: list[Row] = []
        seen: set[object] = set()
        for number, record in enumerate(records, start=2):
            try:
                parsed.append(parse(record))
            except ValueError as error:
                raise self.damaged(str(error), number) from error
            if key:
                seen.add(record[0] if key == 1 else tuple(record[:key]))
                if len(seen) < len(parsed):
                    raise self.damaged(f"{', '.join(map(repr, record[:key]))} occurs twice", number)
        self.check_seal()
        return parsed

    def outdated(self, problem: str, row: int | None = None) -> MissingInput:
        """Return the error of a table that does not belong to the current manifest; see `damaged`."""
        where = f"{self.path}: row {row}" if row else f"{self.path}"
        return MissingInput(f"{where} differs from the manifest: {problem}", self.hint, command=self.command)

    def check_covers(self, found: Sequence[str], expected: Sequence[str]) -> None:
        """Check that the table has the clips of the manifest, all of them, in their order.

        Args:
            found: Clip ids of the table.
            expected: Clip ids of the manifest.

        Raises:
            MissingInput: If it has other clips.
        """
        if list(found) == list(expected):
            return
        missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        problem = "it has other clips"
        if missing:
            problem = f"it has other clips, and no row for {missing[0]!r}"
        elif unknown:
            problem = f"it has other clips, such as {unknown[0]!r}"
        raise self.outdated(f"{problem} ({len(found)} clips instead of {len(expected)})")


def open_table(
    path: Path, *, command: str | None, hint: str = "write it again", error: type[InputError] = InputError
) -> TableFile:
    """Read a csv table that `write_csv` or `write_sealed` wrote, without parsing it.

    `TableFile.parse` compares it with its seal; callers that do not use it call `TableFile.check_seal`.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If the last row is cut.
    """
    if not path.is_file():
        raise MissingInput(f"{path} does not exist", "run the stage that writes it", command=command)
    data = path.read_bytes()
    seal = seal_of(path)
    is_altered = seal.is_file() and seal.read_bytes() != _seal(path, data)
    table = TableFile(path, data, command, hint, error, is_altered)
    if data and not data.endswith(b"\n"):
        raise table.damaged("the last row is cut off", data.count(b"\n") + 1)
    return table


def write_sealed_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> bool:
    """Write a csv table with its seal; see `write_sealed`."""
    return write_sealed(path, csv_bytes(header, rows))


def write_sealed(path: Path, content: str | bytes) -> bool:
    """Write a text and its SHA-256 beside it, in the format of ``sha256sum``; return whether its bytes changed.

    For tables that nobody edits: nothing else shows that a cell holds another valid value.
    """
    data = content.encode() if isinstance(content, str) else content
    changed = write_atomic(path, data, only_if_changed=True)
    write_atomic(seal_of(path), _seal(path, data), only_if_changed=True)
    return changed


def drop_rows(path: Path, unwanted: Callable[[Mapping[str, str]], bool], *, dry_run: bool = False) -> int:
    """Remove rows of a csv file, atomically, and seal it again if it was sealed; all other bytes stay as they are.

    Args:
        path: A csv file with commas, semicolons or tabs, also one that a person wrote.
        unwanted: Returns whether a row is removed, given its cells by column; column names are in lower case.
        dry_run: Whether they are only counted.

    Returns:
        The number of removed rows.

    Raises:
        InputError: If the file is not UTF-8, or a quote is not closed.
    """
    data = path.read_bytes()
    try:
        text = data.decode()
        mark = "\ufeff" if text.startswith("\ufeff") else ""
        lines = list(io.StringIO(text.removeprefix(mark), newline=""))
        separator = max(",;\t", key=(lines or [""])[0].count)
        records = csv.reader(lines, strict=True, delimiter=separator)
        header = [cell.strip().casefold() for cell in next(records, [])]
        kept, start, removed = lines[: records.line_num], records.line_num, 0
        for record in records:
            if unwanted(dict(zip(header, record, strict=False))):
                removed += 1
            else:
                kept += lines[start : records.line_num]
            start = records.line_num
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a csv file in UTF-8 ({error})", "save it as one, then run again") from error
    if removed and not dry_run:
        content = mark + "".join(kept)
        if seal_of(path).is_file():
            write_sealed(path, content)
        else:
            write_atomic(path, content)
    return removed


def seal_of(path: Path) -> Path:
    """Return the file with the SHA-256 of a sealed table."""
    return path.with_name(f"{path.name}.sha256")


def _seal(path: Path, content: bytes) -> bytes:
    return f"{sha256_bytes(content)}  {path.name}\n".encode()


def one_of(cell: str, values: Collection[str], what: str) -> str:
    """Return a cell that must be one of ``values``.

    Raises:
        ValueError: If it is not.
    """
    if cell not in values:
        raise ValueError(f"unknown {what} {cell!r}")
    return cell


def parse_flag(cell: str) -> bool:
    """Return the boolean of ``1`` or ``0``.

    Raises:
        ValueError: If the cell is something else.
    """
    return one_of(cell, ("0", "1"), "flag") == "1"


def parse_count(cell: str) -> int:
    """Return a whole number of at least 0, written in ASCII digits only.

    Raises:
        ValueError: If the cell is something else.
    """
    if not (cell.isascii() and cell.isdigit() and len(cell) <= _MAX_DIGITS):
        raise ValueError(f"{cell!r} is not a whole number")
    return int(cell)


def parse_number(cell: str, low: float = 0.0, high: float = float("inf")) -> float:
    """Return a finite number from ``low`` to ``high``.

    Raises:
        ValueError: If the cell is something else.
    """
    number = float(cell)
    if not (low <= number <= high and abs(number) < float("inf")) or "_" in cell:
        raise ValueError(f"{cell!r} is not a number from {low:g} to {high:g}")
    return number


def _wrong_header(header: Sequence[str], columns: Sequence[str]) -> str:
    if missing := [name for name in columns if name not in header]:
        return f"no column {missing[0]!r}"
    return f"the columns are {', '.join(header)} instead of {', '.join(columns)}"


_FORMULA = re.compile("'*[=+\\-@\t\r]")
"""Start of a cell that spreadsheets evaluate, or that has been escaped already."""


def as_spreadsheet_text(cell: str) -> str:
    """Return a cell that spreadsheets show as text: one that could be a formula gets an apostrophe in front.

    For tables that people open. `from_spreadsheet_text` is the inverse.
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def from_spreadsheet_text(cell: str) -> str:
    """Return the cell without the apostrophe of `as_spreadsheet_text`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
