"""Models of `transcribe`: embedded, local folders and the hub; settings that change transcripts."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.weights import WHISPER, embedded_model
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.transcription.config import TranscribeConfig


def write_model(folder: Path, *names: str, config: object = None) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"x")
    (folder / "config.json").write_text(json.dumps(config or {"lang_ids": []}))
    return folder


def test_a_transformers_model_is_refused_with_the_conversion_command(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "whisper small", "model.safetensors", config={"model_type": "whisper"})
    with pytest.raises(ModelError) as caught:
        TranscribeConfig(model=str(folder)).settings()
    command = caught.value.command or ""
    assert command.startswith(f"ct2-transformers-converter --model '{folder}' --output_dir 'whisper small-ct2'")
    assert "--copy_files tokenizer.json preprocessor_config.json --quantization int8" in command


def test_a_transformers_model_of_the_hub_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    commit = "a" * 40
    snapshot = tmp_path / "models--openai--whisper-small" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    write_model(snapshot, config={"model_type": "whisper"})
    config = TranscribeConfig(model="openai/whisper-small", revision=commit)
    with pytest.raises(ModelError) as caught:
        config.settings()
    assert "--model openai/whisper-small --output_dir whisper-small-ct2" in (caught.value.command or "")
    (snapshot / "config.json").write_text("{}")
    assert config.settings()["weights"] == {"model": "openai/whisper-small", "commit": commit}


def test_without_network_the_hint_is_about_transcription(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        TranscribeConfig(model="Systran/faster-whisper-small").source()
    assert "transcribe.model" in (caught.value.hint or "")
    assert "transformers" not in (caught.value.hint or "")


def test_a_folder_without_tokenizer_is_refused_and_the_hub_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network is used"))
    folder = write_model(tmp_path / "model", "model.bin", "vocabulary.txt")
    with pytest.raises(ModelError) as caught:
        TranscribeConfig(model=str(folder)).source()
    assert "tokenizer.json" in caught.value.message
    (folder / "tokenizer.json").write_bytes(b"x")
    assert set(TranscribeConfig(model=str(folder)).settings()["weights"]["files"]) == {
        "config.json",
        "model.bin",
        "tokenizer.json",
        "vocabulary.txt",
    }


@pytest.mark.parametrize("model", ["gguf", "nowhere/at/all"])
def test_folder_without_model_is_refused(tmp_path: Path, model: str) -> None:
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError) as caught:
        TranscribeConfig(model=str(tmp_path / model)).settings()
    assert "transcribe.model" in (caught.value.hint or "")


def test_settings_do_not_depend_on_whether_the_embedded_model_is_present(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("{}")
    settings = load_params().transcribe.settings()
    assert settings["weights"] == {"files": {file.name: file.sha256 for file in embedded_model(WHISPER).files}}
    assert TranscribeConfig(model=None).settings() == {"used": False}


def test_compute_type_is_resolved_and_limits_change_no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    base = TranscribeConfig(model="embedded", device="cpu")
    assert base.settings()["compute_type"] == "int8"
    assert TranscribeConfig(model="embedded", device="cuda:1").settings()["compute_type"] == "float16"
    monkeypatch.setattr("ecmf_pipeline.runner.machine.visible_gpus", lambda _: ["0"])
    assert TranscribeConfig(model="embedded").settings()["compute_type"] == "float16"
    for change in ({"min_confidence": -0.1}, {"max_no_speech": 0.1}, {"max_repetition": 9}, {"min_loudness": -9}):
        assert base.model_copy(update=change).settings() == base.settings()
    for change in ({"language": "en"}, {"beam_size": 1}, {"compute_type": "float32"}):
        assert base.model_copy(update=change).settings() != base.settings()
