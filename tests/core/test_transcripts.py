"""Tests of the table of texts."""

from __future__ import annotations

import pytest

from ecmf_pipeline.core.clips import ClipText, read_texts, write_texts
from ecmf_pipeline.core.errors import InputError, MissingInput


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
