from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from ecmf_pipeline.corpora.config import CorpusConfig


def test_labels_come_from_yaml_lists() -> None:
    assert CorpusConfig.model_validate({"labels": ["joy", "anger"]}).labels == ("joy", "anger")


@pytest.mark.parametrize("labels", [["joy"], [], ["joy", "Joy"], ["joy", ""], ["joy", " anger"], ["joy", "an\nger"]])
def test_invalid_label_lists_are_rejected(labels: list[str]) -> None:
    with pytest.raises(ValidationError):
        CorpusConfig.model_validate({"labels": labels})


def test_unknown_corpus_kind_is_rejected() -> None:
    with pytest.raises(ValidationError) as caught:
        CorpusConfig.model_validate({"kind": "floder"})
    assert [error["loc"] for error in caught.value.errors()] == [("kind",)]


def test_settings_load_without_heavy_imports() -> None:
    code = (
        "import sys, ecmf_pipeline.corpora.config; "
        "print([m for m in ('numpy', 'av', 'torch', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
