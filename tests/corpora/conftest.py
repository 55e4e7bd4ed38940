"""Fixture that reads a small corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.listing import CorpusListing
from ecmf_pipeline.corpora.registry import read_corpus

ReadCorpus = Callable[..., CorpusListing]


@pytest.fixture
def read() -> ReadCorpus:
    def read(
        root: Path, kind: str = "folder", labels: Sequence[str] | None = None, **settings: object
    ) -> CorpusListing:
        return read_corpus(CorpusConfig(kind=kind, root=root, labels=labels, **settings))

    return read
