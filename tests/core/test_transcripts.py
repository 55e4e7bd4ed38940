"""Tests of the table of texts."""

from __future__ import annotations

import pytest

from ecmf_pipeline.core.clips import ClipText, Texts, read_texts, write_texts
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import write_csv


def test_written_texts_are_read_back(tmp_path):
    path = tmp_path / "rewrites.csv"
    texts = {"b": ClipText("我想她", "我想她, sadly", 'I miss, "her"'), "a": ClipText("", "", "only translated")}
    assert write_texts(path, texts)
    assert read_texts(path) == texts
    assert not write_texts(path, dict(reversed(texts.items())))


@pytest.mark.parametrize(
    "table",
    ["", "clip_id,original\n", "clip_id,original,enriched\na,b,c\n", "clip_id,original,enriched,translation\na,b,c\n"],
)
def test_missing_and_damaged_tables_are_reported_with_the_command(tmp_path, table):
    path = tmp_path / "rewrites.csv"
    with pytest.raises(MissingInput) as caught:
        read_texts(path)
    assert caught.value.command == "ecmf-pipe rewrite"
    path.write_text(table)
    with pytest.raises(InputError, match="damaged") as caught:
        read_texts(path)
    assert caught.value.command == "ecmf-pipe rewrite"


def test_columns_are_returned_only_if_none_is_blank():
    text = ClipText("a", "b", "c")
    assert text.having(["translation", "original"]) == ["c", "a"]
    assert ClipText("a", "b", " ").having(["original", "translation"]) == []


@pytest.mark.parametrize("columns", [["original"], ["translation"], ["original", "translation"]])
def test_columns_of_texts_have_the_rows_whose_clips_have_all_texts(tmp_path, columns):
    texts = {
        "a": ClipText("a", "b", "c"),
        "blank": ClipText("a", "b", " \u3000\t"),
        "empty": ClipText(""),
        "foreign": ClipText("a", "b", "c", ("enriched", "original")),
        "line": ClipText("one\ntwo, \x1f", "", "c", ("translation",)),
    }
    write_texts(tmp_path / "rewrites.csv", texts)
    expected = [clip_id for clip_id, text in texts.items() if text.having(columns)]
    for table in (Texts.of(texts), read_texts(tmp_path / "rewrites.csv")):
        assert table.having(columns).column("clip_id").to_pylist() == expected
        assert (table, len(table)) == (texts, len(texts))


def test_a_clip_with_two_rows_of_texts_is_damage(tmp_path):
    write_csv(
        tmp_path / "rewrites.csv", ["clip_id", "original", "enriched", "translation", "foreign"], ["aaaa ", "abcd "]
    )
    with pytest.raises(InputError, match="occurs twice"):
        read_texts(tmp_path / "rewrites.csv")
