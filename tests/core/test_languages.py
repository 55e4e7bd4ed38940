"""Tests of language codes and of the languages that models know."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ecmf_pipeline.core.languages import count_foreign, is_foreign, known_languages, normalise_code
from ecmf_pipeline.encoders.config import E5Config, TextConfig


@pytest.mark.parametrize(
    ("model", "codes"),
    [
        ("data/models/minilm", {"en"}),
        ("data/models/smollm2", {"en"}),
        ("sentence-transformers/all-MiniLM-L6-v2", {"en"}),
        ("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", None),
        ("hfl/chinese-roberta-wwm-ext-large", {"zh"}),
        ("FacebookAI/roberta-base", {"en"}),
        ("FacebookAI/xlm-roberta-base", None),
        ("someone/unknown", None),
    ],
)
def test_languages_of_models(model: str, codes: set[str] | None) -> None:
    assert known_languages("auto", model) == codes


def test_params_decide_before_the_name_of_the_model() -> None:
    assert known_languages(("de",), "data/models/minilm") == {"de"}
    assert known_languages("all", "data/models/minilm") is None


def test_unknown_languages_are_never_foreign() -> None:
    assert is_foreign("de", frozenset({"en"}))
    assert not is_foreign("", frozenset({"en"}))
    assert not is_foreign("de", None)
    assert count_foreign({"en": 3, "de": 2, "fr": 5}, frozenset({"en"})) == {"fr": 5, "de": 2}


def test_close_relatives_share_a_code() -> None:
    assert [normalise_code(code) for code in ("zh-CN", "yue", "EN_us", "nn")] == ["zh", "zh", "en", "no"]


def test_languages_in_params() -> None:
    assert TextConfig(languages="en").languages == ("en",)
    assert TextConfig(languages=["zh-CN", "en"]).languages == ("zh", "en")
    with pytest.raises(ValidationError):
        TextConfig(languages=["english language"])
    assert E5Config().known_languages is None


def test_languages_do_not_change_the_fingerprint_of_features() -> None:
    settings = [
        TextConfig(languages=languages).settings(weights_required=False) for languages in ("auto", "all", ["de"])
    ]
    assert settings[0] == settings[1] == settings[2]
    assert "languages" not in settings[0]
