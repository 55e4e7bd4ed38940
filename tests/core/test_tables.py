"""Tests of the reader of csv tables, and of cells for spreadsheets."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import example as sample
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.core.errors import EcmfError, MissingInput
from ecmf_pipeline.core.tables import (
    as_spreadsheet_text,
    drop_rows,
    from_spreadsheet_text,
    open_table,
    write_sealed_csv,
)

COMMAND = "ecmf-pipe index"


def read(path: Path) -> list[list[str]]:
    return open_table(path, command=COMMAND).parse(lambda row: row, ["clip_id", "text"])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "it is empty"),
        (b"clip_id,text\na,b\nc,d", "row 3 is damaged: the last row is cut"),
        (b"clip_id,text\na,\xffb\n", "row 2 is damaged: byte 15 is not UTF-8"),
        (b"clip_id,text\na,b\nc,\0\n", "row 3 is damaged: it holds a NUL"),
        (b"clip_id,text\na\n", "row 2 is damaged: 1 cells"),
        (b'clip_id,text\na,"b\n', "row 2 is damaged"),
        (b"clip_id,text\na,b\n\n", "row 3 is damaged: 0 cells"),
        (b"clip_id,text\na,b\nc,d\na,e\n", "row 4 is damaged: 'a' occurs twice"),
        (b"clip_id,txt\na,b\n", "row 1 is damaged: no column 'text'"),
        (b"clip_id,clip_id\na,b\n", "row 1 is damaged: two columns"),
    ],
)
def test_each_kind_of_damage_is_one_error_with_file_row_and_command(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(EcmfError) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert part in caught.value.message
    assert (caught.value.command, caught.value.exit_code) == (COMMAND, 2)


def test_a_missing_table_is_reported_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingInput) as caught:
        read(tmp_path / "table.csv")
    assert caught.value.command == COMMAND


def test_a_sealed_table_is_read_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    rows = [["a", 'x, "y"\nz'], ["b", ""]]
    assert write_sealed_csv(path, ["clip_id", "text"], rows)
    assert not write_sealed_csv(path, ["clip_id", "text"], rows)
    assert read(path) == rows
    path.write_text(path.read_text().replace("x,", "w,"))
    with pytest.raises(EcmfError, match="SHA-256"):
        read(path)


@sample("=1+1")
@sample("'=1+1")
@sample("-clip")
@sample("'quoted'")
@given(st.text(st.sampled_from("=+-@\t\r'a ,\""), max_size=6))
def test_cells_for_spreadsheets_round_trip_and_are_no_formulas(cell: str) -> None:
    shown = as_spreadsheet_text(cell)
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert from_spreadsheet_text(shown) == cell


def test_plain_cells_are_unchanged() -> None:
    for cell in ("", "clip_001", "3 of 4 sources vote", "l'amour", "'", "0.5"):
        assert as_spreadsheet_text(cell) == from_spreadsheet_text(cell) == cell
    assert list(csv.reader([as_spreadsheet_text("@SUM(A1)")])) == [["'@SUM(A1)"]]


def test_rows_are_dropped_and_all_other_bytes_stay(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes('\ufeffName;Text\r\na;"x;\r\ny"\r\n\r\nb;"z"\r\na;"'.encode() + b'w"')
    assert drop_rows(path, lambda row: row.get("name") == "a", dry_run=True) == 2
    assert path.read_bytes().endswith(b'"w"')
    assert drop_rows(path, lambda row: row.get("name") == "a") == 2
    assert path.read_text("utf-8-sig") == 'Name;Text\n\nb;"z"\n'
    assert path.read_bytes() == '\ufeffName;Text\r\n\r\nb;"z"\r\n'.encode()
    path.write_bytes(b"name,text\na,\xff\n")
    with pytest.raises(EcmfError):
        drop_rows(path, lambda _: True)
