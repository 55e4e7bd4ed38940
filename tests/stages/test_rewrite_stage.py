"""Tests of `rewrite` on clips that have a translation but no transcript."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Corpus, read_texts, write_corpus_tables
from ecmf_pipeline.stages import rewrite


def test_translations_are_written_without_querying_the_llm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("llm: {model: no/where, gguf_file: null}\n")
    clips = [Clip(ClipId("a"), translation="I miss her."), Clip(ClipId("b"))]
    write_corpus_tables(Corpus(clips, ["happy", "sad"], [], synthetic=False))
    rewrite.run()
    assert read_texts(paths.REWRITES) == {"a": ClipText("", "", "I miss her.")}
    assert "0 transcripts enriched" in capsys.readouterr().out
