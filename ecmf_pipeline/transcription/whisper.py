"""Transcribe with Whisper (Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022).

Decoding is greedy and without timestamps, and therefore reproducible. The confidence is the mean log-probability of
the chosen tokens, as in the heuristics of the paper.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.audio import Samples, split_evenly
from ecmf_pipeline.encoders.base_config import pick_device
from ecmf_pipeline.encoders.inference import load_model, load_pretrained
from ecmf_pipeline.media.config import SAMPLE_RATE
from ecmf_pipeline.runner.machine import as_out_of_memory
from ecmf_pipeline.transcription.config import TranscribeConfig

_START, _TRANSCRIBE, _NO_TIMESTAMPS = "<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>"


@dataclass(frozen=True, slots=True)
class WhisperResult:
    """The transcript of one clip.

    Attributes:
        text: The text on one line.
        confidence: Mean log-probability of the tokens.
        language: Language code of the first window; empty for a monolingual model.
    """

    text: str
    confidence: float
    language: str


@dataclass(slots=True)
class _WindowResult:
    """The transcript of one window."""

    text: str
    log_probability: float
    tokens: int
    language: str


class WhisperTranscriber:
    """A Whisper model with its feature extractor and tokenizer.

    Args:
        config: The model and its settings.

    Raises:
        ModelError: If the model cannot be loaded or is not a Whisper model.
    """

    def __init__(self, config: TranscribeConfig) -> None:
        source = config.source()
        self._config = config
        self._extractor: Any = load_pretrained(source, WhisperFeatureExtractor.from_pretrained)
        self._tokenizer: Any = load_pretrained(source, AutoTokenizer.from_pretrained)
        model, _ = load_model(source, WhisperForConditionalGeneration, dtype=getattr(torch, config.dtype))
        self._model: Any = model.to(pick_device(config.device))
        self._start = self._token_id(_START)
        self._languages = self._language_tokens(config)
        self._banned, self._banned_first = self._suppressed_tokens()

    @torch.inference_mode()
    def transcribe(self, clips: Sequence[Samples]) -> list[WhisperResult]:
        """Transcribe clips.

        A clip longer than a window (30 s) is split into equal windows, which are transcribed independently.

        Args:
            clips: Mono samples at 16 kHz, (n,) each.

        Raises:
            MemoryError: If a batch of windows runs out of memory.
        """
        parts = [split_evenly(clip, int(self._extractor.n_samples)) for clip in clips]
        windows = [window for clip_windows in parts for window in clip_windows]
        results: list[_WindowResult] = []
        for start in range(0, len(windows), self._config.batch_size):
            with as_out_of_memory():
                results += self._transcribe_windows(windows[start : start + self._config.batch_size])
        remaining = iter(results)
        return [_join_windows([next(remaining) for _ in clip_windows]) for clip_windows in parts]

    def _transcribe_windows(self, windows: Sequence[Samples]) -> list[_WindowResult]:
        """Transcribe a batch of B windows."""
        features = self._extractor(list(windows), sampling_rate=SAMPLE_RATE, padding="max_length", return_tensors="pt")
        spectrograms = features["input_features"].to(self._model.device, self._model.dtype)  # (B, mels, frames)
        encoded = self._model.model.encoder(spectrograms)
        languages = self._detect_languages(encoded, len(windows))
        prefix = [[self._start, *self._task_tokens(language)] for language in languages]
        tokens, scores = self._decode_greedy(encoded, torch.tensor(prefix, device=self._model.device))
        results = []
        for ids, score, language in zip(tokens, scores, languages, strict=True):
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            code = self._languages.get(language, "") if language is not None else ""
            results.append(_WindowResult(_on_one_line(text), sum(score), len(score), code))
        return results

    def _detect_languages(self, encoded: Any, count: int) -> list[int | None]:
        """Return the language token of each window; None for a monolingual model."""
        if not self._languages:
            return [None] * count
        known = list(self._languages)
        if self._config.language is not None:
            return [known[0]] * count
        start = torch.full((count, 1), self._start, device=self._model.device)
        logits = self._model(encoder_outputs=encoded, decoder_input_ids=start).logits[:, -1]  # (B, V)
        return [known[index] for index in logits[:, known].argmax(dim=1).tolist()]

    def _decode_greedy(self, encoded: Any, prefix: torch.Tensor) -> tuple[list[list[int]], list[list[float]]]:
        """Decode greedily after the prefix, (B, P).

        Returns:
            The tokens of each window, including the end token, and their log-probabilities.
        """
        end = int(self._model.config.eos_token_id)
        tokens: list[list[int]] = [[] for _ in prefix]
        scores: list[list[float]] = [[] for _ in prefix]
        cache, inputs = None, prefix
        max_tokens = min(self._config.max_tokens, int(self._model.config.max_target_positions) - prefix.shape[1])
        for position in range(max_tokens):
            out = self._model(encoder_outputs=encoded, decoder_input_ids=inputs, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            log_probs = out.logits[:, -1].float().log_softmax(dim=1)  # (B, V)
            allowed = log_probs.clone()
            allowed[:, self._banned] = -torch.inf
            if position == 0:
                allowed[:, self._banned_first] = -torch.inf
            chosen = allowed.argmax(dim=1)  # (B,)
            for row, token in enumerate(chosen.tolist()):
                if not tokens[row] or tokens[row][-1] != end:
                    tokens[row].append(token)
                    scores[row].append(float(log_probs[row, token]))
            if all(row[-1] == end for row in tokens):
                break
            inputs = chosen[:, None]
        return tokens, scores

    def _task_tokens(self, language: int | None) -> list[int]:
        """Return the tokens that select language and task."""
        selection = [] if language is None else [language, self._token_id(_TRANSCRIBE)]
        return [*selection, self._token_id(_NO_TIMESTAMPS)]

    def _language_tokens(self, config: TranscribeConfig) -> dict[int, str]:
        """Return the language code of each language token; empty for a monolingual model."""
        if not getattr(self._model.generation_config, "is_multilingual", True):
            if config.language not in {None, "en"}:
                raise ModelError(
                    f"{config.model} supports English only, not transcribe.language {config.language}",
                    "set transcribe.language to en or null",
                )
            return {}
        added = self._tokenizer.get_added_vocab()
        named = {
            index: token[2:-2] for token, index in added.items() if token.startswith("<|") and token.endswith("|>")
        }
        codes = {index: code for index, code in sorted(named.items()) if code.isalpha() and 2 <= len(code) <= 3}
        if config.language is not None:
            codes = {index: code for index, code in codes.items() if code == config.language}
        if not codes:
            raise ModelError(
                f"{config.model} does not support the language {config.language}",
                "set transcribe.language to a language code of the model, or to null",
            )
        return codes

    def _suppressed_tokens(self) -> tuple[list[int], list[int]]:
        """Return the tokens that are never generated, and those that are not generated at the first position.

        They come from the generation config; special tokens are never generated either.
        """
        generation_config = self._model.generation_config
        end = int(self._model.config.eos_token_id)
        special = set(self._tokenizer.get_added_vocab().values()) - {end}
        size = int(self._model.config.vocab_size)
        never = {*(getattr(generation_config, "suppress_tokens", None) or ()), *special} - {end}
        first = set(getattr(generation_config, "begin_suppress_tokens", None) or ()) - {end}
        return sorted(t for t in never if 0 <= t < size), sorted(t for t in first if 0 <= t < size)

    def _token_id(self, token: str) -> int:
        token_id = self._tokenizer.get_added_vocab().get(token)
        if token_id is None:
            raise ModelError(
                f"{self._config.model} has no token {token}: it is not a Whisper model",
                "set transcribe.model to a Whisper model",
            )
        return int(token_id)


def _join_windows(windows: Sequence[_WindowResult]) -> WhisperResult:
    tokens = sum(window.tokens for window in windows)
    text = " ".join(window.text for window in windows if window.text)
    confidence = sum(window.log_probability for window in windows) / tokens
    return WhisperResult(text, round(confidence, 6), windows[0].language)


def _on_one_line(text: str) -> str:
    plain = "".join(" " if unicodedata.category(character) in {"Cc", "Cs"} else character for character in text)
    return " ".join(plain.replace("\ufffd", "").split())
