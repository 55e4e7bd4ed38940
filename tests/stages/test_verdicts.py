"""Tests of reading the verdicts of the project."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.stages.shared.inputs import read_corpus_verdicts


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return SimpleNamespace(clips=[SimpleNamespace(clip_id=name) for name in "abc"], labels=("happy", "sad"))


def test_verdicts_are_read_from_the_default_file(corpus):
    paths.VERDICTS.parent.mkdir()
    paths.VERDICTS.write_text("clip_id,label\nb,sad\n")
    assert read_corpus_verdicts(RefineConfig().verdicts, corpus).tolist() == [-1, 1, -1]


def test_a_project_without_verdicts_needs_no_setting(corpus):
    assert read_corpus_verdicts(RefineConfig().verdicts, corpus).tolist() == [-1, -1, -1]
    assert read_corpus_verdicts(None, corpus).tolist() == [-1, -1, -1]


def test_a_file_that_the_pipeline_computes_holds_no_verdicts(corpus, tmp_path):
    paths.DATA.mkdir()
    path = tmp_path / paths.DATA / "submission.csv"
    path.write_text("name,discrete\nb,sad\n")
    for spelling in ("data/submission.csv", str(path), "labels/../data/submission.csv"):
        with pytest.raises(InputError):
            read_corpus_verdicts(spelling, corpus)


def test_a_missing_file_that_params_name_is_an_error(corpus):
    with pytest.raises(MissingInput):
        read_corpus_verdicts("labels/mine.csv", corpus)
