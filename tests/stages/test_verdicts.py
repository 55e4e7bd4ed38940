"""Tests of reading the verdicts of the project."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.stages.shared.inputs import read_corpus_verdicts


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Corpus:
    monkeypatch.chdir(tmp_path)
    return Corpus([Clip(ClipId(name), digest="d") for name in "abc"], ["happy", "sad"], [], synthetic=False)


def params_with(verdicts: str | None) -> Any:
    return SimpleNamespace(refine=SimpleNamespace(verdicts=verdicts))


def test_verdicts_are_read_from_the_default_file(corpus):
    paths.VERDICTS.parent.mkdir()
    paths.VERDICTS.write_text("clip_id,label\nb,sad\n")
    assert read_corpus_verdicts(params_with(RefineConfig().verdicts), corpus).gold.tolist() == [-1, 1, -1]


def test_a_project_without_verdicts_needs_no_setting(corpus):
    assert read_corpus_verdicts(params_with(RefineConfig().verdicts), corpus).gold.tolist() == [-1, -1, -1]
    assert read_corpus_verdicts(params_with(None), corpus).gold.tolist() == [-1, -1, -1]


def test_a_file_that_the_pipeline_computes_holds_no_verdicts(corpus, tmp_path):
    paths.DATA.mkdir()
    path = tmp_path / paths.DATA / "submission.csv"
    path.write_text("name,discrete\nb,sad\n")
    for spelling in ("data/submission.csv", str(path), "labels/../data/submission.csv"):
        with pytest.raises(InputError):
            read_corpus_verdicts(params_with(spelling), corpus)


def test_a_missing_file_that_params_name_is_an_error(corpus):
    with pytest.raises(MissingInput):
        read_corpus_verdicts(params_with("labels/mine.csv"), corpus)
