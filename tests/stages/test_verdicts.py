"""Tests of reading the verdicts of the project."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.stages.shared.inputs import read_corpus_verdicts


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return SimpleNamespace(clips=[SimpleNamespace(clip_id=name, digest="d") for name in "abc"], labels=("happy", "sad"))


def test_verdicts_are_read_from_the_default_file(corpus):
    paths.VERDICTS.parent.mkdir()
    paths.VERDICTS.write_text("clip_id,label\nb,sad\n")
    assert read_corpus_verdicts(RefineConfig().verdicts, corpus).gold.tolist() == [-1, 1, -1]


def test_a_project_without_verdicts_needs_no_setting(corpus):
    assert read_corpus_verdicts(RefineConfig().verdicts, corpus).gold.tolist() == [-1, -1, -1]
    assert read_corpus_verdicts(None, corpus).gold.tolist() == [-1, -1, -1]


def test_a_missing_file_that_params_name_is_an_error(corpus):
    with pytest.raises(MissingInput):
        read_corpus_verdicts("labels/mine.csv", corpus)
