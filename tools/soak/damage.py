"""Damage the files between the stages: bytes, rows, cells and JSON values."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

Mutation = Callable[[bytes, random.Random], bytes]
Rows = list[list[str]]

_ODD_CELLS: Final = (
    "x",
    "-1",
    "nan",
    "inf",
    "1e999",
    "9" * 400,
    "0",
    "1",
    "1_0",
    "happy",
    "train",
    "=1+1",
    "\0",
    "\x92",
)
_ODD_VALUES: Final[Sequence[Any]] = (
    None, True, 0, 1, -1, 2.5, 10**12, float("nan"), float("inf"), "", "x", "train", "float32", [], {}, [6, 5],
)  # fmt: skip


def cut_at_byte(data: bytes, rng: random.Random) -> bytes:
    """Remove the end of the file, from a random byte."""
    return data[: rng.randrange(len(data))]


def flip_byte(data: bytes, rng: random.Random) -> bytes:
    """Replace one byte."""
    position = rng.randrange(len(data))
    return data[:position] + bytes([data[position] ^ rng.randrange(1, 256)]) + data[position + 1 :]


def insert_bytes(data: bytes, rng: random.Random) -> bytes:
    """Insert a NUL, another odd byte, or a copy of a part of the file."""
    start, position = rng.randrange(len(data)), rng.randrange(len(data) + 1)
    inserted = rng.choice([b"\0", b"\xff", b"\n", b'"', data[start : start + 40]])
    return data[:position] + inserted + data[position:]


def convert_lines(data: bytes, rng: random.Random) -> bytes:
    """Add a byte-order mark, or convert the ends of lines, as editors do."""
    return rng.choice([b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n"), data + b"\n", data.rstrip()])


def cut_at_line(data: bytes, rng: random.Random) -> bytes:
    """Remove the end of the file, from the start of a line."""
    lines = data.splitlines(keepends=True)
    return b"".join(lines[: rng.randrange(len(lines))])


def remove_line(data: bytes, rng: random.Random) -> bytes:
    """Remove one line."""
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def repeat_line(data: bytes, rng: random.Random) -> bytes:
    """Insert a copy of a line at another place."""
    lines = data.splitlines(keepends=True)
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return b"".join(lines)


def swap_lines(data: bytes, rng: random.Random) -> bytes:
    """Swap two lines."""
    lines = data.splitlines(keepends=True)
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def damage_cell(data: bytes, rng: random.Random) -> bytes:
    """Empty a cell, or replace it by a value that is odd in most columns."""
    rows = _load_rows(data)
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = rng.choice(["", *_ODD_CELLS])
    return _dump_rows(rows)


def exchange_cell(data: bytes, rng: random.Random) -> bytes:
    """Replace a cell by one of the same column: another valid value."""
    rows = _load_rows(data)
    column = rng.randrange(len(rows[0]))
    body = rows[1:] or rows
    rng.choice(body)[column] = rng.choice(body)[column]
    return _dump_rows(rows)


def change_columns(data: bytes, rng: random.Random) -> bytes:
    """Rename, remove, add or swap a column."""
    rows = _load_rows(data)
    one, other = rng.randrange(len(rows[0])), rng.randrange(len(rows[0]))
    kind = rng.randrange(4)
    if kind == 0:
        rows[0][one] = rng.choice(["", "label", "clip_id", f"{rows[0][one]} "])
    for row in rows:
        if kind == 1:
            row.insert(one, "0")
        elif kind == 2:
            del row[one]
        elif kind == 3:
            row[one], row[other] = row[other], row[one]
    return _dump_rows(rows)


def edit_json(data: bytes, rng: random.Random) -> bytes:
    """Change, remove, replace or nest one value at a random depth of a document."""
    try:
        document: Any = json.loads(data)
    except ValueError:
        return flip_byte(data, rng)
    place: Any = document
    if not isinstance(place, dict | list) or not place:
        return b"[]"
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else list(range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or rng.randrange(3) == 0:
            break
        place = place[key]
    kind = rng.randrange(5)
    if kind == 0:
        del place[key]
    elif kind == 1:
        place[key] = "DEEP"
        return json.dumps(document).encode().replace(b'"DEEP"', b"[" * 100_000 + b"]" * 100_000)
    elif kind == 2 and isinstance(place[key], int | float):
        place[key] = "HUGE"
        return json.dumps(document).encode().replace(b'"HUGE"', rng.choice([b"1e999", b"9" * 5000, b"-0", b"NaN"]))
    else:
        place[key] = rng.choice(_ODD_VALUES)
    return json.dumps(document, indent=1).encode()


def edit_json_line(data: bytes, rng: random.Random) -> bytes:
    """Edit one line of a file of JSON lines; see `edit_json`."""
    lines = data.splitlines()
    number = rng.choice([number for number, line in enumerate(lines) if line])
    lines[number] = edit_json(lines[number], rng).replace(b"\n", b"")
    return b"\n".join(lines) + b"\n"


BYTES: Final[Sequence[Mutation]] = (cut_at_byte, flip_byte, insert_bytes)
LINES: Final[Sequence[Mutation]] = (convert_lines, cut_at_line, remove_line, repeat_line, swap_lines)
CSV: Final[Sequence[Mutation]] = (
    *BYTES,
    *LINES,
    damage_cell,
    damage_cell,
    exchange_cell,
    exchange_cell,
    change_columns,
)
JSON: Final[Sequence[Mutation]] = (*BYTES, *LINES, edit_json, edit_json, edit_json)
JSON_LINES: Final[Sequence[Mutation]] = (*BYTES, *LINES, edit_json_line, edit_json_line)


def mutations_of(path: Path) -> Sequence[Mutation]:
    """Return the mutations for a file of this name."""
    return {".csv": CSV, ".json": JSON, ".jsonl": JSON_LINES}.get(path.suffix, BYTES)


def _load_rows(data: bytes) -> Rows:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def _dump_rows(rows: Rows) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
