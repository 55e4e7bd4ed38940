"""Transcripts and confidence of a tiny Whisper."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.whisper import WhisperTranscriber


def sounds(*seconds: float) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    return [(0.2 * rng.standard_normal(int(16000 * length))).astype(np.float32) for length in seconds]


def config(folder: Path, **changes: object) -> TranscribeConfig:
    return TranscribeConfig.model_validate({"model": str(folder), "device": "cpu", "language": "en"} | changes)


def test_confidence_is_mean_log_probability_of_greedy_tokens(tiny_whisper: Path) -> None:
    (clip,) = sounds(1.5)
    transcriber = WhisperTranscriber(config(tiny_whisper))
    (result,) = transcriber.transcribe([clip])
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tiny_whisper).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tiny_whisper / "tokenizer.json"))
    features = transformers.WhisperFeatureExtractor.from_pretrained(tiny_whisper)(
        [clip], sampling_rate=16000, return_tensors="pt"
    )
    special = set(tokenizer.get_added_vocab().values()) - {0}
    tokens, total = [1, 2, 5, 7], 0.0
    with torch.inference_mode():
        while tokens[-1] != 0 and len(tokens) < 16:  # without key-value cache
            logits = model(features["input_features"], decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
            scores = logits.log_softmax(0)
            best = max((token for token in range(len(scores)) if token not in special), key=lambda token: scores[token])
            total += float(scores[best])
            tokens.append(best)
    text = tokenizer.decode(tokens[4:], skip_special_tokens=True).replace("\ufffd", "")
    assert len(tokens) > 6
    assert result.text == " ".join("".join(c if c.isprintable() else " " for c in text).split())
    assert result.confidence == pytest.approx(total / (len(tokens) - 4), abs=1e-4)
    assert result.language == "en"


def test_transcript_does_not_depend_on_batch(tiny_whisper: Path) -> None:
    clips = sounds(0.5, 1.9, 5.0, 1.0)  # windows have two seconds: the third clip has three windows
    batched = WhisperTranscriber(config(tiny_whisper, batch_size=4)).transcribe(clips)
    unbatched = WhisperTranscriber(config(tiny_whisper, batch_size=1))
    for clip, expected in zip(clips, batched, strict=True):
        (result,) = unbatched.transcribe([clip])
        assert (result.text, result.language) == (expected.text, expected.language)
        assert result.confidence == pytest.approx(expected.confidence, abs=1e-4)
    assert unbatched.transcribe([]) == []


def test_language_is_detected_or_set(tiny_whisper: Path) -> None:
    (detected,) = WhisperTranscriber(config(tiny_whisper, language=None)).transcribe(sounds(1.0))
    assert detected.language in {"en", "zh"}
    assert WhisperTranscriber(config(tiny_whisper, language="zh")).transcribe(sounds(1.0))[0].language == "zh"
    with pytest.raises(ModelError) as caught:
        WhisperTranscriber(config(tiny_whisper, language="fr"))
    assert "language fr" in caught.value.message
    assert "transcribe.language" in (caught.value.hint or "")


def test_suppressed_tokens_are_not_generated(tiny_whisper: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_whisper, folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    size = transformers.AutoConfig.from_pretrained(folder).vocab_size
    (folder / "generation_config.json").write_text(json.dumps(generation | {"suppress_tokens": list(range(8, size))}))
    (result,) = WhisperTranscriber(config(folder)).transcribe(sounds(1.0))
    assert result.text == ""


def test_other_models_are_rejected(tiny_whisper: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        WhisperTranscriber(config(tiny_model))
    with pytest.raises(ModelError) as missing:
        WhisperTranscriber(config(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in missing.value.message
    folder = tmp_path / "model"
    shutil.copytree(tiny_whisper, folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|startoftranscript|>", "<|begin|>"))
    with pytest.raises(ModelError) as other_model:
        WhisperTranscriber(config(folder))
    assert "<|startoftranscript|>" in other_model.value.message


@pytest.mark.parametrize("model", ["gguf", "nowhere/at/all"])
def test_folder_without_model_is_rejected(tmp_path: Path, model: str) -> None:
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError) as caught:
        config(tmp_path / model).settings()
    assert "transcribe.model" in (caught.value.hint or "")
    assert "ecmf-pipe models" not in str(caught.value), "this command downloads no Whisper model"
