"""Tests of texts in languages that the text encoder or the LLM does not know, through the stages that read them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Modality, read_manifest, read_texts
from ecmf_pipeline.core.files import read_sealed_json
from ecmf_pipeline.doctor.corpus import check_languages, read_state
from ecmf_pipeline.extraction.run import BranchInputs, input_digests
from ecmf_pipeline.settings.params import load_params, validated
from ecmf_pipeline.settings.resolve import resolve
from ecmf_pipeline.stages import index, rewrite
from ecmf_pipeline.stages.shared.languages import foreign_columns, language_notes, llm_transcript

WORDS = {
    "a": "Oh nein!",
    "b": "Ich habe Angst.",
    "c": "Wo ist mein Schlüssel?",
    "d": "Das ist wirklich toll.",
    "e": "...",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    lines = [f"{name},{text}" for name, text in WORDS.items()]
    (tmp_path / "corpus" / "transcripts.csv").write_text(
        "\n".join(["name,transcript", *lines]) + "\n", encoding="utf-8"
    )
    (tmp_path / "corpus" / "labels.csv").write_text("\n".join(["name,label", *(f"{n},sad" for n in WORDS)]) + "\n")
    write_params(tmp_path)
    return tmp_path


def write_params(folder, corpus=None, encoder=None) -> None:
    encoders = {"minilm": {"inputs": "original", **(encoder or {})}}
    document = {
        "corpus": {"kind": "folder", "root": "corpus", **(corpus or {})},
        "encoders": encoders,
        "vote": {"inputs": []},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(document))


def masked() -> set[str]:
    clips = read_manifest(paths.MANIFEST)
    digests = input_digests(Modality.TEXT, clips, read_texts(paths.REWRITES), BranchInputs())
    return {str(clip.clip_id) for clip in clips if clip.clip_id not in digests}


@pytest.mark.usefixtures("project")
def test_foreign_transcripts_are_masked_and_stay_in_the_table(capsys) -> None:
    index.run()
    assert "encoders.minilm" in capsys.readouterr().out
    assert [clip.language for clip in read_manifest(paths.MANIFEST)] == ["de", "de", "de", "de", ""]
    assert read_sealed_json(paths.INDEX_METRICS, made_by="index")["languages"] == {"de": 4}
    rewrite.run()
    assert masked() == {"a", "b", "c", "d"}
    assert read_texts(paths.REWRITES)["a"] == ClipText("Oh nein!", foreign=("original",))


@pytest.mark.parametrize(
    "options",
    [
        {"corpus": {"foreign_text": "keep"}},
        {"corpus": {"language": "en"}},
        {"encoder": {"languages": ["en", "de"]}},
        {"encoder": {"languages": "all"}},
    ],
    ids=str,
)
def test_settings_that_keep_them(project, options) -> None:
    write_params(project, **options)
    index.run()
    rewrite.run()
    assert masked() == set()


def test_settings_of_rewrite_change_with_the_known_languages(project) -> None:
    labels = ["sad", "happy"]
    before = resolve(load_params(), labels)["rewrite"]()
    write_params(project, encoder={"languages": "all"})
    after = resolve(load_params(), labels)["rewrite"]()
    write_params(project, corpus={"foreign_text": "keep"})
    kept = resolve(load_params(), labels)["rewrite"]()
    assert before["languages"] == {"original": ["en"]}
    assert after["languages"] == {"original": None}
    assert kept != before


@pytest.mark.usefixtures("project")
def test_doctor_reports_the_language_before_and_after_index() -> None:
    def figures() -> list[tuple[str, dict]]:
        return [
            (check.state.value, dict(check.figures)["languages"])
            for check in check_languages(params, read_state(params))
        ]

    params = load_params()
    before = figures()
    index.run()
    assert before == figures() != []
    assert before[0][1] == {"de": 4}
    assert before[0][0] != "ok"


def params_of(**sections):
    return validated({"corpus": {"kind": "folder", "root": "corpus"}, **sections}, where="test")


def test_translation_that_the_encoder_knows_is_suggested() -> None:
    params = params_of(vote={"inputs": []}, encoders={"minilm": {"inputs": "original"}})
    [note] = language_notes(params, {"zh": 5}, "en")
    assert "encoders.minilm.inputs to translation" in note
    assert list(language_notes(params, {"en": 5}, "zh")) == []


def test_only_texts_that_encoders_read_are_foreign() -> None:
    clip = Clip(ClipId("a"), transcript="你好", translation="Good morning, my friend.", language="zh")
    for inputs, expected in (("original", ("original",)), ("translation", ()), ("both", ("enriched", "original"))):
        params = params_of(encoders={"minilm": {"inputs": inputs}})
        assert foreign_columns(params, [clip]) == [expected]
    assert foreign_columns(params_of(preset="multilingual"), [clip]) == [()]
    assert ClipText("a", "b", "c", foreign=("original",)).having(["translation"]) == ["c"]
    assert ClipText("a", "b", "c", foreign=("original",)).having(["original", "translation"]) == []


def test_the_llm_gets_no_transcript_in_a_language_that_it_does_not_know() -> None:
    clip = Clip(ClipId("a"), transcript="你好", language="zh")
    assert llm_transcript(params_of(), clip) == ""
    assert llm_transcript(params_of(llm={"languages": ["en", "zh"]}), clip) == "你好"
    assert llm_transcript(params_of(), replace(clip, language="")) == "你好"
    assert llm_transcript(params_of(), replace(clip, language="en")) == "你好"
