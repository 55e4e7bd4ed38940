"""The table of transcripts."""

from __future__ import annotations

import pytest

from ecmf_pipeline.core.clips import ClipText, read_texts, write_texts
from ecmf_pipeline.core.errors import InputError, MissingInput


def test_texts_are_read_back(tmp_path):
    path = tmp_path / "rewrites.csv"
    texts = {"b": ClipText("我想她", "我想她, sadly", 'I miss, "her"'), "a": ClipText("", "", "only translated")}
    assert write_texts(path, texts)
    assert read_texts(path) == texts
    assert not write_texts(path, dict(reversed(texts.items())))


@pytest.mark.parametrize(
    "table",
    ["", "clip_id,original\n", "clip_id,original,enriched\na,b,c\n", "clip_id,original,enriched,translation\na,b,c\n"],
)
def test_a_damaged_table_is_to_be_written_anew(tmp_path, table):
    path = tmp_path / "rewrites.csv"
    with pytest.raises(MissingInput, match="ecmf-pipe rewrite"):
        read_texts(path)
    path.write_text(table)
    with pytest.raises(InputError, match="damaged"):
        read_texts(path)


def test_columns_are_given_together_or_not_at_all():
    text = ClipText("a", "b", "c")
    assert text.having(["translation", "original"]) == ["c", "a"]
    assert ClipText("a", "b", " ").having(["original", "translation"]) == []
