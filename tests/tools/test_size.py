"""Tests of the synthetic project at size."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_corpus_tables
from ecmf_pipeline.stages import extract, vote
from tools.bench import size


@pytest.mark.slow
def test_the_synthetic_project_has_all_features_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size.write_project(tmp_path / "project", 300)
    monkeypatch.chdir(tmp_path / "project")
    corpus = read_corpus_tables()
    assert len(corpus.clips) == 300
    extract.run([])
    assert capsys.readouterr().out.count("300 reused") == len(size.DIMS)
    vote.run()
    assert "0 questions answered, 300 from the cache" in capsys.readouterr().out
    assert paths.VOTES.is_file()
