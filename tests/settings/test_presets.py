"""Tests of presets and of merging params.yaml over them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import ecmf_pipeline.settings.presets as presets_package
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.encoders.base_config import TransformersConfig, is_commit, is_hub_id
from ecmf_pipeline.settings.params import Params, load_params, preset_params, validated
from ecmf_pipeline.settings.presets import DEFAULT_PRESET, merge_over_preset, preset_document, preset_names

PARAMS_IN_FULL = """
corpus: {kind: sample, root: data/sample, labels: null, transcripts: english}
models: {names: [efficientnet_lite0, face_landmarker, mini_xception, minilm, smollm2]}
media: {frames: 16, max_side: 1280, reader: auto}
faces: {min_confidence: 0.5, crop_size: 256}
encoders:
  efficientnet_lite0: {type: efficientnet_lite0}
  mini_xception: {type: mini_xception}
  egemaps: {type: egemaps}
  minilm: {type: transformers_text, model: data/models/minilm, inputs: both}
extract:
  encoders: {global: efficientnet_lite0, face: mini_xception, audio: egemaps, text: minilm}
  batch_size: 8
llm: {model: data/models/smollm2, gguf_file: SmolLM2-135M-Instruct.Q4_1.gguf, prompt: emotion_en, batch_size: 24}
"""
"""A params.yaml that repeats the values of the preset."""


def test_default_preset_equals_the_defaults_of_the_code():
    assert preset_names()[0] == DEFAULT_PRESET == "embedded"
    assert Params.model_validate(preset_document("embedded")) == Params()


@pytest.mark.parametrize("name", preset_names())
def test_each_preset_gives_valid_params(name):
    params = preset_params(name)
    assert params.preset == name
    assert set(preset_document(name)) <= set(Params.model_fields) - {"preset"}


@pytest.mark.parametrize("name", preset_names())
def test_shipped_params_override_no_value_of_a_preset(name, repository):
    shipped = yaml.safe_load((repository / "params.yaml").read_text())
    for section, keys in preset_document(name).items():
        for key in keys:
            assert not shipped[section].get(key), f"params.yaml sets {section}.{key}, which overrides preset {name}"


def test_params_that_repeat_the_preset_equal_the_defaults(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS_IN_FULL)
    expected = Params.model_validate(yaml.safe_load(PARAMS_IN_FULL))
    assert load_params(tmp_path / "params.yaml") == expected == Params()


@pytest.mark.parametrize(
    "encoders",
    [
        {"minilm": {"type": "transformers_text", "model": "data/models/minilm"}},  # without `inputs`: original
        {"minilm": {"type": "imported"}},
        {"other": {"type": "egemaps"}},
    ],
)
def test_encoder_entry_with_a_type_replaces_the_preset_entry(encoders):
    merged = validated({"encoders": encoders}, where="params.yaml")
    expected = Params.model_validate({"encoders": Params().model_dump(mode="json")["encoders"] | encoders})
    assert merged == expected


def test_encoder_entry_without_a_type_is_merged_with_the_preset_entry():
    minilm = validated({"encoders": {"minilm": {"inputs": "original"}}}, where="params.yaml").encoders["minilm"]
    assert minilm == Params().encoders["minilm"].model_copy(update={"inputs": "original"})


def test_extract_encoders_replaces_the_preset_value_unless_empty():
    extract = validated({"extract": {"encoders": {"audio": "egemaps"}, "batch_size": 3}}, where="params.yaml").extract
    assert dict(extract.encoders) == {Modality.AUDIO: ("egemaps",)}
    assert extract.batch_size == 3
    assert validated({"extract": {"encoders": {}}}, where="params.yaml") == Params()


def test_mappings_are_merged_and_lists_replaced():
    params = validated({"llm": {"prompt": "emotion_zh"}, "models": {"names": ["minilm"]}}, where="params.yaml")
    assert params.llm == Params().llm.model_copy(update={"prompt": "emotion_zh"})
    assert params.models.names == ("minilm",)


def test_merging_changes_neither_document():
    document = {"llm": {"prompt": "emotion_zh"}}
    merge_over_preset(preset_document("embedded"), document)["llm"]["prompt"] = "mine"
    assert document == {"llm": {"prompt": "emotion_zh"}}
    assert preset_document("embedded")["llm"]["prompt"] == "emotion_en"


@pytest.mark.parametrize(
    ("document", "keys"),
    [
        ({"preset": "ecfm"}, ("preset",)),
        ({"preset": 3}, ("preset",)),
        ({"encoders": {"minilm": {"inptus": "both"}}}, ("encoders.minilm.inptus",)),
        ({"encoders": {"minlm": {"inputs": "both"}}}, ("encoders.minlm",)),
    ],
)
def test_error_in_params_is_not_attributed_to_the_preset(document, keys):
    with pytest.raises(ParamsError) as caught:
        validated(document, where="params.yaml")
    assert caught.value.keys == keys
    assert "set by preset" not in caught.value.message


@pytest.fixture
def broken_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "broken.yaml").write_text(
        "encoders: {e: {type: egemaps, layers: 3}}\nmedia: {frames: many, max_side: 0}\n"
    )
    monkeypatch.setattr(presets_package, "_FOLDER", tmp_path)
    return "broken"


def test_errors_in_a_preset_are_attributed_to_the_preset(broken_preset):
    with pytest.raises(ParamsError) as caught:
        validated({"preset": broken_preset, "media": {"max_side": "wide"}}, where="params.yaml")
    lines = caught.value.message.splitlines()
    assert [line.endswith("(set by preset 'broken')") for line in lines] == [
        "media.max_side: " not in line for line in lines
    ]
    assert len(lines) == 3


@pytest.mark.parametrize("name", preset_names())
def test_each_hub_model_of_a_preset_is_pinned_to_a_commit(name):
    params = preset_params(name)
    models = [(one.model, one.revision) for one in params.encoders.values() if isinstance(one, TransformersConfig)]
    models.append((params.llm.model, params.llm.revision or "main"))
    assert [model for model, revision in models if is_hub_id(model) and not is_commit(revision)] == []


def test_params_override_the_revision_of_a_preset():
    def revisions(document):
        params = validated({"preset": "ecmf", "corpus": {"kind": "mer", "root": "c"}, **document}, where="params.yaml")
        return params.encoders["clip_large"].revision, params.llm.revision

    pinned = revisions({})
    own = {"encoders": {"clip_large": {"revision": "main"}}, "llm": {"revision": "v2"}}
    assert revisions(own) == ("main", "v2")
    same = {"encoders": {"clip_large": {"precision": "fp32"}}, "llm": {"model": "Qwen/Qwen2.5-7B-Instruct"}}
    assert revisions(same) == pinned
    other = {"encoders": {"clip_large": {"model": "org/clip"}}, "llm": {"model": "org/llm"}}
    assert revisions(other) == ("main", None), "the commit of another model"
