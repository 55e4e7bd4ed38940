"""Presets: what lies below params.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import ecmf_pipeline.settings.presets as presets_room
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.settings.params import Params, load_params, preset_params, validated
from ecmf_pipeline.settings.presets import DEFAULT_PRESET, merged_over, preset_document, preset_names

IN_FULL = """
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
"""A file that spells out what the preset says."""


def test_the_default_preset_says_the_defaults_of_the_code():
    assert preset_names()[0] == DEFAULT_PRESET == "embedded"
    assert Params.model_validate(preset_document("embedded")) == Params()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_makes_valid_params_and_names_itself(name):
    params = preset_params(name)
    assert params.preset == name
    assert set(preset_document(name)) <= set(Params.model_fields) - {"preset"}


@pytest.mark.parametrize("name", preset_names())
def test_nothing_in_the_shipped_params_hides_what_a_preset_decides(name, repository):
    shipped = yaml.safe_load((repository / "params.yaml").read_text())
    for section, keys in preset_document(name).items():
        for key in keys:
            assert not shipped[section].get(key), f"{section}.{key} is said in params.yaml, so {name} cannot choose it"


def test_a_file_that_spells_everything_out_means_the_same(tmp_path):
    (tmp_path / "params.yaml").write_text(IN_FULL)
    assert load_params(tmp_path / "params.yaml") == Params.model_validate(yaml.safe_load(IN_FULL)) == Params()


@pytest.mark.parametrize(
    "encoders",
    [
        {"minilm": {"type": "transformers_text", "model": "data/models/minilm"}},  # without `inputs`: original
        {"minilm": {"type": "imported"}},
        {"other": {"type": "egemaps"}},
    ],
)
def test_an_entry_with_a_type_is_whole(encoders):
    made = validated({"encoders": encoders}, where="params.yaml")
    alone = Params.model_validate({"encoders": Params().model_dump(mode="json")["encoders"] | encoders})
    assert made == alone


def test_an_entry_without_a_type_changes_the_presets():
    minilm = validated({"encoders": {"minilm": {"inputs": "original"}}}, where="params.yaml").encoders["minilm"]
    assert minilm == Params().encoders["minilm"].model_copy(update={"inputs": "original"})


def test_the_modalities_that_are_named_are_all_that_is_used():
    used = validated({"extract": {"encoders": {"audio": "egemaps"}, "batch_size": 3}}, where="params.yaml").extract
    assert dict(used.encoders) == {Modality.AUDIO: ("egemaps",)}
    assert used.batch_size == 3
    assert validated({"extract": {"encoders": {}}}, where="params.yaml") == Params()


def test_maps_are_merged_and_lists_replaced():
    params = validated({"llm": {"prompt": "emotion_zh"}, "models": {"names": ["minilm"]}}, where="params.yaml")
    assert params.llm == Params().llm.model_copy(update={"prompt": "emotion_zh"})
    assert params.models.names == ("minilm",)


def test_merging_changes_neither_document():
    document = {"llm": {"prompt": "emotion_zh"}}
    merged_over(preset_document("embedded"), document)["llm"]["prompt"] = "mine"
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
def test_what_is_wrong_in_the_users_file_is_named_as_the_users(document, keys):
    with pytest.raises(ParamsError) as caught:
        validated(document, where="params.yaml")
    assert caught.value.keys == keys
    assert "from the preset" not in str(caught.value)


@pytest.fixture
def broken_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "broken.yaml").write_text(
        "encoders: {e: {type: egemaps, layers: 3}}\nmedia: {frames: many, max_side: 0}\n"
    )
    monkeypatch.setattr(presets_room, "_FOLDER", tmp_path)
    return "broken"


def test_what_is_wrong_in_a_preset_is_named_as_the_presets(broken_preset):
    with pytest.raises(ParamsError) as caught:
        validated({"preset": broken_preset, "media": {"max_side": "wide"}}, where="params.yaml")
    lines = str(caught.value).splitlines()
    assert [line.endswith("(from the preset 'broken')") for line in lines] == [
        "`media.max_side`" not in line for line in lines
    ]
    assert len(lines) == 3
