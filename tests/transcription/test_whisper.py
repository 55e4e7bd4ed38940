"""What a Whisper hears, and how sure it says it is."""

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
    (found,) = transcriber.transcribe([clip])
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tiny_whisper).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tiny_whisper / "tokenizer.json"))
    made = transformers.WhisperFeatureExtractor.from_pretrained(tiny_whisper)(
        [clip], sampling_rate=16000, return_tensors="pt"
    )
    signs = set(tokenizer.get_added_vocab().values()) - {0}
    tokens, total = [1, 2, 5, 7], 0.0
    with torch.inference_mode():
        while tokens[-1] != 0 and len(tokens) < 16:  # without a cache: the whole again for each token
            logits = model(made["input_features"], decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
            scores = logits.log_softmax(0)
            best = max((token for token in range(len(scores)) if token not in signs), key=lambda token: scores[token])
            total += float(scores[best])
            tokens.append(best)
    written = tokenizer.decode(tokens[4:], skip_special_tokens=True).replace("\ufffd", "")
    assert len(tokens) > 6
    assert found.text == " ".join("".join(c if c.isprintable() else " " for c in written).split())
    assert found.confidence == pytest.approx(total / (len(tokens) - 4), abs=1e-4)
    assert found.language == "en"


def test_transcript_does_not_depend_on_batch(tiny_whisper: Path) -> None:
    clips = sounds(0.5, 1.9, 5.0, 1.0)  # windows last two seconds: the third has three
    together = WhisperTranscriber(config(tiny_whisper, batch_size=4)).transcribe(clips)
    alone = WhisperTranscriber(config(tiny_whisper, batch_size=1))
    for clip, found in zip(clips, together, strict=True):
        (again,) = alone.transcribe([clip])
        assert (again.text, again.language) == (found.text, found.language)
        assert again.confidence == pytest.approx(found.confidence, abs=1e-4)
    assert alone.transcribe([]) == []


def test_language_is_detected_or_set(tiny_whisper: Path) -> None:
    heard = WhisperTranscriber(config(tiny_whisper, language=None)).transcribe(sounds(1.0))
    assert heard[0].language in {"en", "zh"}
    assert WhisperTranscriber(config(tiny_whisper, language="zh")).transcribe(sounds(1.0))[0].language == "zh"
    with pytest.raises(ModelError, match="does not know the language fr"):
        WhisperTranscriber(config(tiny_whisper, language="fr"))


def test_suppressed_tokens_are_not_generated(tiny_whisper: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_whisper, folder)
    said = json.loads((folder / "generation_config.json").read_text())
    size = transformers.AutoConfig.from_pretrained(folder).vocab_size
    (folder / "generation_config.json").write_text(json.dumps(said | {"suppress_tokens": list(range(8, size))}))
    (found,) = WhisperTranscriber(config(folder)).transcribe(sounds(1.0))
    assert found.text == ""


def test_other_models_are_refused(tiny_whisper: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        WhisperTranscriber(config(tiny_model))
    with pytest.raises(ModelError, match="missing"):
        WhisperTranscriber(config(tmp_path / "nowhere"))
    folder = tmp_path / "model"
    shutil.copytree(tiny_whisper, folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|startoftranscript|>", "<|begin|>"))
    with pytest.raises(ModelError, match="no Whisper model"):
        WhisperTranscriber(config(folder))


@pytest.mark.parametrize("model", ["gguf", "nowhere/at/all"])
def test_folder_without_model_is_refused(tmp_path: Path, model: str) -> None:
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"transcribe\.model: name a Whisper model") as raised:
        config(tmp_path / model).settings()
    assert "ecmf-pipe models" not in str(raised.value), "which fetches none"
