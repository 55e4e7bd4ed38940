"""Tests of the detection of languages in transcripts."""

from __future__ import annotations

import csv

import pytest

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.corpora import languages
from ecmf_pipeline.corpora.languages import count_languages, detect_languages, translation_language, with_languages

GERMAN = [
    "Oh nein!",
    "Das ist toll.",
    "Ich habe Angst.",
    "Lass mich in Ruhe!",
    "Wo ist mein Schlüssel?",
    "Hör auf damit!",
]
FRENCH = ["Oh non !", "C'est génial.", "J'ai peur.", "Laisse-moi tranquille !", "Où sont mes clés ?", "Arrête ça !"]
ENGLISH = ["Oh no!", "That is great.", "I am scared.", "Leave me alone!", "Where is my key?", "Stop it!"]
CHINESE = ["不要！", "太好了。", "我害怕。", "OK，走吧。", "住手！", "嗯"]  # noqa: RUF001
JAPANESE = ["いやだ！", "怖いです。", "何してるの？", "鍵はどこ？", "早くこっちに来て。"]  # noqa: RUF001


@pytest.mark.parametrize(
    ("code", "texts"), [("de", GERMAN), ("fr", FRENCH), ("en", ENGLISH), ("zh", CHINESE), ("ja", JAPANESE)]
)
def test_short_utterances_are_in_the_language_of_their_corpus(code: str, texts: list[str]) -> None:
    assert detect_languages(texts) == [code] * len(texts)


def test_another_script_is_always_found() -> None:
    codes = detect_languages([*ENGLISH * 50, "嗯", "住手！", "どこ？", "Где мои ключи?", "어디 있어?"])  # noqa: RUF001
    assert codes[:300] == ["en"] * 300
    assert codes[300:] == ["zh", "zh", "ja", "ru", "ko"]


def test_a_second_language_with_a_share_of_a_tenth_is_found() -> None:
    english = [f"{text} {word}" for text in ENGLISH for word in ("Please.", "Really?", "My dear.", "Right now!")]
    assert (
        detect_languages([*english, "Ich habe wirklich große Angst.", "Wo ist denn mein Schlüssel?"])[-2:] == ["de"] * 2
    )


def test_a_single_text_takes_the_language_of_its_corpus() -> None:
    assert detect_languages(["Oh no!"], {"en": 500}) == ["en"]
    assert detect_languages(["Oh no!"], {"es": 500}) == ["es"]
    assert detect_languages(["住手！"], {"en": 500}) == ["zh"]  # noqa: RUF001


def test_texts_without_letters_have_no_language() -> None:
    assert detect_languages(["...", "", "123", "?!", "Well..."])[-2:] == ["", "en"]
    assert detect_languages(["...", "", "123"]) == ["", "", ""]


def test_probabilities_are_cached_by_text(tmp_path, monkeypatch) -> None:
    cache = tmp_path / "languages.npz"
    codes = detect_languages(GERMAN, cache_path=cache)
    computed: list[str] = []
    probabilities = languages._probabilities
    monkeypatch.setattr(
        languages, "_probabilities", lambda text, script: computed.append(text) or probabilities(text, script)
    )
    assert detect_languages(GERMAN, cache_path=cache) == codes
    assert computed == []
    assert detect_languages([*GERMAN, "Guten Morgen!"], cache_path=cache) == [*codes, "de"]
    assert computed == ["Guten Morgen!"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut off", b"text"])
def test_damaged_cache_is_computed_again(tmp_path, damage: bytes) -> None:
    cache = tmp_path / "languages.npz"
    cache.write_bytes(damage)
    assert detect_languages(GERMAN, cache_path=cache) == ["de"] * len(GERMAN)
    assert cache.read_bytes() != damage


def clip(name: str, text: str, **fields: str) -> Clip:
    return Clip(ClipId(name), transcript=text, **fields)


def test_clips_keep_a_known_language_and_params_decide_before_the_detector() -> None:
    clips = [clip("a", "Oh nein!", language="en"), *(clip(str(number), text) for number, text in enumerate(GERMAN))]
    assert [one.language for one in with_languages(clips, "auto")] == ["en", *["de"] * len(GERMAN)]
    assert [one.language for one in with_languages([clip("a", "Oh nein!"), clip("b", "")], "fr")] == ["fr", ""]


def test_language_of_translations() -> None:
    clips = [clip(str(number), text, translation=CHINESE[0]) for number, text in enumerate(GERMAN)]
    assert translation_language(clips) == "zh"
    assert translation_language([clip("a", "Oh no!")]) == ""
    assert count_languages(["de", "", "en", "de"]) == {"de": 2, "en": 1}


@pytest.mark.slow
def test_meld_is_english(shared_data) -> None:
    with (shared_data / "meld" / "dev_sent_emo.csv").open(encoding="utf-8-sig") as file:
        texts = [row["Utterance"] for row in csv.DictReader(file)]
    assert sum(code not in {"en", ""} for code in detect_languages(texts)) <= 0.005 * len(texts)
