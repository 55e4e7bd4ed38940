"""Provenance that is recorded with features."""

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
    MiniXceptionConfig,
    TextConfig,
    VisionConfig,
)
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.extraction import step as provenance
from ecmf_pipeline.extraction.step import UNKNOWN, encoder_provenance, library_versions
from ecmf_pipeline.media.config import MediaConfig

MEDIA = MediaConfig(reader="pyav")


def recorded_provenance(config: BaseEncoderConfig) -> dict[str, Any]:
    encoder = build_encoder(config, "cpu")
    try:
        return encoder_provenance(config, encoder)
    finally:
        encoder.close()


@pytest.mark.parametrize(
    ("modality", "config", "libraries"),
    [
        (Modality.GLOBAL, VisionConfig(model="x"), {"torch", "transformers", "av"}),
        (Modality.FACE, MiniXceptionConfig(), {"torch", "mediapipe", "opencv-contrib-python", "av"}),
        (Modality.AUDIO, EgemapsConfig(), {"opensmile", "av"}),
        (Modality.TEXT, TextConfig(), {"torch", "transformers", "tokenizers"}),
    ],
)
def test_versions_of_the_libraries_are_recorded(modality, config, libraries):
    versions = library_versions(modality, config, MEDIA)
    assert list(versions) == sorted(versions)
    assert versions.pop("ecmf-pipeline") == __version__
    assert versions == {name: version(name) for name in libraries | {"numpy"}}


def test_version_of_the_reader_is_recorded():
    assert "decord" not in library_versions(Modality.GLOBAL, VisionConfig(model="x"), MEDIA)
    versions = library_versions(Modality.GLOBAL, VisionConfig(model="x"), MediaConfig(reader="decord"))
    assert versions["decord"] == version("decord")


def test_version_of_a_missing_package_is_unknown(monkeypatch):
    monkeypatch.setattr(provenance, "_READER_LIBRARIES", {"pyav": ("no-such-package",)})
    assert library_versions(Modality.GLOBAL, VisionConfig(model="x"), MEDIA)["no-such-package"] == UNKNOWN


def test_folder_is_recorded_by_name_hashes_and_preprocessing(tiny_models):
    recorded = recorded_provenance(VisionConfig(model=str(tiny_models / "clip"), precision="bf16"))
    assert recorded["model"] == "clip"
    assert set(recorded["weights"]["files"]) == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert recorded["preprocessing"]["crop"] == [48, 48]
    assert recorded["precision"] == "bf16"


def test_provenance_does_not_depend_on_the_location(tiny_models, tmp_path):
    shutil.copytree(tiny_models / "hubert", tmp_path / "far" / "away" / "hubert")
    folders = (tiny_models, tmp_path / "far" / "away")
    original, copied = (recorded_provenance(AudioConfig(model=str(folder / "hubert"))) for folder in folders)
    assert json.dumps(original) == json.dumps(copied)
    assert str(tiny_models) not in json.dumps(original)


def test_hub_model_is_recorded_by_id_revision_and_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    reference = tmp_path / "models--a--b" / "refs" / "v1"
    reference.parent.mkdir(parents=True)
    reference.write_text("ab" * 20)
    origin = TextConfig(model="a/b", revision="v1").origin()
    assert origin == {"model": "a/b", "revision": "v1", "commit": "ab" * 20}


def test_embedded_encoders_are_recorded_by_type(models: Path):
    mini = MiniXceptionConfig(
        weights=models / "mini_xception" / "emotion_model.hdf5",
        face_landmarker=models / "face_landmarker" / "face_landmarker.task",
    )
    assert recorded_provenance(mini)["model"] == "mini_xception"
    assert recorded_provenance(EgemapsConfig())["preprocessing"]["feature_set"] == "eGeMAPSv02"
