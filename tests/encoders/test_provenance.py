"""What is noted of where features come from."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from ecmf_pipeline import __version__
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.encoders.config import (
    AudioConfig,
    EgemapsConfig,
    JoinedConfig,
    MiniXceptionConfig,
    TextConfig,
    VisionConfig,
)
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.extraction import step as provenance
from ecmf_pipeline.extraction.step import UNKNOWN, library_versions, provenance_of
from ecmf_pipeline.media.config import MediaConfig

MEDIA = MediaConfig(reader="pyav")


def noted(config: BaseEncoderConfig) -> dict[str, Any]:
    encoder = build_encoder(config, "cpu")
    try:
        return provenance_of(config, encoder)
    finally:
        encoder.close()


@pytest.mark.parametrize(
    ("modality", "config", "libraries"),
    [
        (Modality.GLOBAL, VisionConfig(model="x"), {"torch", "transformers", "av"}),
        (Modality.FACE, MiniXceptionConfig(), {"torch", "mediapipe", "opencv-contrib-python", "av"}),
        (Modality.AUDIO, EgemapsConfig(), {"opensmile", "av"}),
        (Modality.TEXT, TextConfig(), {"torch", "transformers", "tokenizers"}),
        (
            Modality.AUDIO,
            JoinedConfig(members=(AudioConfig(model="x"), EgemapsConfig())),
            {"torch", "transformers", "opensmile", "av"},
        ),
    ],
)
def test_the_versions_of_what_computes_a_modality_are_noted(modality, config, libraries):
    versions = library_versions(modality, config, MEDIA)
    assert list(versions) == sorted(versions)
    assert versions.pop("ecmf-pipeline") == __version__
    assert versions == {name: version(name) for name in libraries | {"numpy"}}


def test_the_reader_in_use_is_noted():
    assert "decord" not in library_versions(Modality.GLOBAL, VisionConfig(model="x"), MEDIA)
    versions = library_versions(Modality.GLOBAL, VisionConfig(model="x"), MediaConfig(reader="decord"))
    assert versions["decord"] == version("decord")


def test_a_library_that_is_no_package_is_unknown(monkeypatch):
    monkeypatch.setattr(provenance, "_READERS", {"pyav": ("no-such-package",)})
    assert library_versions(Modality.GLOBAL, VisionConfig(model="x"), MEDIA)["no-such-package"] == UNKNOWN


def test_a_folder_is_told_by_its_name_hashes_and_preprocessing(tiny):
    found = noted(VisionConfig(model=str(tiny / "clip"), precision="bf16"))
    assert found["model"] == "clip"
    assert set(found["weights"]["files"]) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert found["preprocessing"]["crop"] == [48, 48]
    assert found["precision"] == "bf16"


def test_the_same_model_elsewhere_gives_the_same_bytes(tiny, tmp_path):
    shutil.copytree(tiny / "hubert", tmp_path / "far" / "away" / "hubert")
    here, there = (noted(AudioConfig(model=str(folder / "hubert"))) for folder in (tiny, tmp_path / "far" / "away"))
    assert json.dumps(here) == json.dumps(there)
    assert str(tiny) not in json.dumps(here)


def test_a_hub_model_is_told_by_id_revision_and_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    reference = tmp_path / "models--a--b" / "refs" / "v1"
    reference.parent.mkdir(parents=True)
    reference.write_text("ab" * 20)
    origin = TextConfig(model="a/b", revision="v1").origin()
    assert origin == {"model": "a/b", "revision": "v1", "commit": "ab" * 20}


def test_members_are_told_one_by_one(tiny):
    found = noted(
        JoinedConfig(members=(VisionConfig(model=str(tiny / "vit")), VisionConfig(model=str(tiny / "dinov2"))))
    )
    assert [member["model"] for member in found["members"]] == ["vit", "dinov2"]
    assert found["members"][0]["preprocessing"] != found["members"][1]["preprocessing"]


def test_encoders_of_the_package_name_themselves(models: Path):
    mini = MiniXceptionConfig(
        weights=models / "mini_xception" / "emotion_model.hdf5",
        face_landmarker=models / "face_landmarker" / "face_landmarker.task",
    )
    assert noted(mini)["model"] == "mini_xception"
    assert noted(EgemapsConfig())["preprocessing"]["feature_set"] == "eGeMAPSv02"
