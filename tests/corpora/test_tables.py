from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.core.errors import CorpusError, InputError
from ecmf_pipeline.corpora.listing import FindingKind
from ecmf_pipeline.corpora.tables import clean_cell, find_table, read_table
from tests.corpora.spreadsheets import write_xlsx


def write_table(folder: Path, content: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        "name,label\na,joy\nb,anger\n",
        "\ufeffname,label\na,joy\nb,anger\n",
        "name,label\r\na,joy\r\nb,anger\r\n",
        "name,label\ra,joy\rb,anger",
        "\ufeff Name , LABEL\r\n a , joy \r\n\r\n,\r\nb,anger,,\r\n",
        '"name","label"\n"a","joy"\n"b","anger"',
        "name;label\na;joy\nb;anger\n",
        "name\tlabel\na\tjoy\nb\tanger\n",
        "Clip_ID,Discrete\na,joy\nb,anger\n",
        "\n\nname,label\na,joy\nb,anger\n",
        ",,\n\nname,label\na,joy\nb,anger\n",
        "\ufeffsep=;\nName;Label\na;joy\nb;anger\n",
        "sep=,\r\n\r\nname,label\r\na,joy\r\nb,anger\r\n",
    ],
    ids=[
        "plain",
        "bom",
        "crlf",
        "cr",
        "blanks",
        "quoted",
        "semicolons",
        "tabs",
        "synonyms",
        "blank",
        "commas",
        "excel",
        "sep",
    ],
)
def test_csv_variants_give_the_same_table(tmp_path: Path, content: str) -> None:
    table = read_table(write_table(tmp_path, content), ("name", "label"))
    assert table.columns[:2] == ("name", "label")
    assert table.rows == (("a", "joy"), ("b", "anger"))
    assert table.findings == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name|label\na|joy\n", "instead of '|'"),
        ("name;label,x\na;joy,x\n", "no column 'name'"),
        ("name,clip_id,label\na,a,joy\n", "more than one column 'name' or 'clip_id'"),
        ("file,label\na,joy\n", "no column 'name' or 'clip_id'; columns: 'file', 'label'"),
        ("a,joy\nb,anger\n", "no column 'name'"),
        ("name,clip_id,label\na,a,joy\n", "keep one of them"),
        ("name,label,Label\na,joy,x\n", "more than one column 'label'"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ('name,label\na,"joy\nb,anger\n', "not valid csv"),
        ('name,label\na,"joy"ful\n', "line 2 is not valid csv"),
    ],
)
def test_unusable_table_is_rejected(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read_table(write_table(tmp_path, content), ("name", "label"))
    assert "labels.csv" in caught.value.message
    assert message in str(caught.value)
    assert caught.value.hint


def test_rows_have_the_line_of_the_file(tmp_path: Path) -> None:
    table = read_table(write_table(tmp_path, 'name,text\n\na,"x\ny"\n,\nb,z\n'), ("name", "text"))
    assert table.lines == (4, 6)


@pytest.mark.parametrize("name", ["labels.xlsx", "labels.csv"], ids=["named as Excel", "named as csv"])
def test_excel_file_is_read_like_csv(tmp_path: Path, name: str) -> None:
    rows = [["Name", "Label", "start"], ["a", "joy", 1.5], ["", "", ""], [7, "anger", 2]]
    path = write_xlsx(tmp_path / name, rows, ["clips", "notes"])
    table = read_table(path, ("name", "label"))
    assert table.columns == ("name", "label", "start")
    assert table.rows == (("a", "joy", "1.5"), ("7", "anger", "2"))
    assert table.lines == (2, 4)
    [finding] = table.findings
    assert (finding.kind, finding.count) == (FindingKind.UNUSED_TABLE, 1)
    assert "'notes'" in finding.message


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"], ids=["xlsx", "xls"])
def test_damaged_excel_file_is_rejected_by_name(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "labels.xlsx"
    path.write_bytes(start + bytes(600))
    with pytest.raises(CorpusError) as caught:
        read_table(path, ("name", "label"))
    assert "labels.xlsx" in caught.value.message
    assert "csv" in (caught.value.hint or "")


def test_other_extension_is_found_if_there_is_no_csv_file(tmp_path: Path) -> None:
    assert find_table(tmp_path / "labels.csv") == tmp_path / "labels.csv"
    (tmp_path / "Labels.XLSX").touch()
    assert find_table(tmp_path / "labels.csv") == tmp_path / "Labels.XLSX"
    (tmp_path / "LABELS.csv").touch()
    assert find_table(tmp_path / "labels.csv") == tmp_path / "LABELS.csv"
    (tmp_path / "labels.csv").touch()
    assert find_table(tmp_path / "labels.csv") == tmp_path / "labels.csv"


@pytest.mark.parametrize("content", ["name,label\n妈妈,joy\n".encode("gb18030"), "name,label\n汉".encode("gbk")])
def test_table_that_is_not_utf8_is_rejected(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError) as caught:
        read_table(write_table(tmp_path, content), ("name", "label"))
    assert "labels.csv" in caught.value.message
    assert "UTF-8" in str(caught.value)


def test_binary_file_is_not_called_text_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}\n\xff\x80")
    with pytest.raises(InputError) as caught:
        read_table(path, ("name", "label"))
    assert "neither text nor" in caught.value.message
    assert caught.value.command is None


def test_folder_instead_of_table_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").mkdir()
    with pytest.raises(CorpusError) as caught:
        read_table(tmp_path / "labels.csv", ("name",))
    assert "labels.csv" in caught.value.message


def test_row_with_unquoted_comma_is_skipped_and_reported(tmp_path: Path) -> None:
    table = read_table(write_table(tmp_path, "name,text\na,oh no\nb,well, then\n"), ("name", "text"))
    assert table.rows == (("a", "oh no"),)
    [finding] = table.findings
    assert finding.kind is FindingKind.MALFORMED_ROW
    assert "line 3" in finding.message
    assert "'b'" in finding.message


def test_missing_last_cells_are_blank(tmp_path: Path) -> None:
    table = read_table(write_table(tmp_path, "name,label,valence\na,joy\nb,anger,0.3\n"), ("name", "label"))
    assert table.column("valence") == ["", "0.3"]
    assert table.column("arousal") == ["", ""]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  hello\r\n there\t!\x00 ", "hello there !"),
        ("two  spaces", "two  spaces"),
        ("NaN", ""),
        ("nan", ""),
        ("Nan bread", "Nan bread"),
        ("cafe\u0301", "caf\u00e9"),
        ("\x1b[31mred\u2028line", "[31mred line"),
    ],
)
def test_cells_are_cleaned(text: str, cleaned: str) -> None:
    assert clean_cell(text) == cleaned


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=5))
def test_any_text_is_read_back_cleaned(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    rows = [("".join(c for c in a if c >= " ") or "x", b) for a, b in rows]
    rows = [(a.encode(errors="ignore").decode(), b.encode(errors="ignore").decode()) for a, b in rows]
    rows = [(re.sub("[\x80-\x9f]", "", a) or "x", re.sub("[\x80-\x9f]", "", b)) for a, b in rows]  # see test_encodings
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("name", "text"), *rows])
    table = read_table(write_table(tmp_path_factory.mktemp("csv"), text.getvalue()), ("name", "text"))
    assert table.column("text") == [clean_cell(b) for a, b in rows if a.strip() or clean_cell(b)]
    assert all("\n" not in cell and "\r" not in cell for cell in table.column("text"))
