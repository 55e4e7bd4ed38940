"""Whisper as a transcriber (Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022).

Decoding is greedy, without timestamps, so that a clip is heard alike on every run; the confidence is the mean
log-probability of the tokens chosen, as the paper's own heuristics use it.
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
from ecmf_pipeline.encoders.inference import load_model, load_part
from ecmf_pipeline.media.config import SAMPLE_RATE
from ecmf_pipeline.runner.machine import as_out_of_memory
from ecmf_pipeline.transcription.config import TranscribeConfig

_START, _TRANSCRIBE, _NO_TIMES = "<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>"


@dataclass(frozen=True, slots=True)
class Spoken:
    """What was heard in one clip.

    Attributes:
        text: The words on one line.
        confidence: Mean log-probability of the tokens.
        language: Code of the language of its first window; empty where the model knows one alone.
    """

    text: str
    confidence: float
    language: str


@dataclass(slots=True)
class _Window:
    """What was heard in one window."""

    text: str
    log_probability: float
    tokens: int
    language: str


class WhisperTranscriber:
    """A Whisper model with its tokenizer.

    Args:
        config: Which, and how it listens.

    Raises:
        ModelError: When it cannot be loaded, or is no Whisper model.
    """

    def __init__(self, config: TranscribeConfig) -> None:
        source = config.source()
        self._config = config
        self._extractor: Any = load_part(source, WhisperFeatureExtractor.from_pretrained)
        self._tokenizer: Any = load_part(source, AutoTokenizer.from_pretrained)
        model, _ = load_model(source, WhisperForConditionalGeneration, dtype=getattr(torch, config.dtype))
        self._model: Any = model.to(pick_device(config.device))
        self._start = self._token(_START)
        self._languages = self._language_tokens(config)
        self._banned, self._banned_first = self._suppressed()

    @torch.inference_mode()
    def transcribe(self, clips: Sequence[Samples]) -> list[Spoken]:
        """What is said in each clip.

        Longer clips than a window (30 s) are cut into equal windows, which are heard one by one.

        Args:
            clips: Mono samples at 16 kHz, (n,) each.

        Raises:
            MemoryError: When a batch of windows takes more memory than there is.
        """
        parts = [split_evenly(clip, int(self._extractor.n_samples)) for clip in clips]
        windows = [window for some in parts for window in some]
        heard: list[_Window] = []
        for start in range(0, len(windows), self._config.batch_size):
            with as_out_of_memory():
                heard += self._hear(windows[start : start + self._config.batch_size])
        rows = iter(heard)
        return [_joined([next(rows) for _ in some]) for some in parts]

    def _hear(self, windows: Sequence[Samples]) -> list[_Window]:
        """The words of a batch of B windows."""
        made = self._extractor(list(windows), sampling_rate=SAMPLE_RATE, padding="max_length", return_tensors="pt")
        spectrograms = made["input_features"].to(self._model.device, self._model.dtype)  # (B, mels, frames)
        encoded = self._model.model.encoder(spectrograms)
        languages = self._spoken(encoded, len(windows))
        prefix = [[self._start, *self._task(language)] for language in languages]
        tokens, scores = self._greedy(encoded, torch.tensor(prefix, device=self._model.device))
        found = []
        for ids, score, language in zip(tokens, scores, languages, strict=True):
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            code = self._languages.get(language, "") if language is not None else ""
            found.append(_Window(_on_one_line(text), sum(score), len(score), code))
        return found

    def _spoken(self, encoded: Any, count: int) -> list[int | None]:
        """The language token of each window; None for a model that knows one language alone."""
        if not self._languages:
            return [None] * count
        known = list(self._languages)
        if self._config.language is not None:
            return [known[0]] * count
        start = torch.full((count, 1), self._start, device=self._model.device)
        logits = self._model(encoder_outputs=encoded, decoder_input_ids=start).logits[:, -1]  # (B, V)
        return [known[index] for index in logits[:, known].argmax(dim=1).tolist()]

    def _greedy(self, encoded: Any, prefix: torch.Tensor) -> tuple[list[list[int]], list[list[float]]]:
        """The likeliest tokens after the prefix, (B, P), of each window, the end included, and their likelihoods."""
        end = int(self._model.config.eos_token_id)
        tokens: list[list[int]] = [[] for _ in prefix]
        scores: list[list[float]] = [[] for _ in prefix]
        cache, shown = None, prefix
        room = min(self._config.max_tokens, int(self._model.config.max_target_positions) - prefix.shape[1])
        for position in range(room):
            out = self._model(encoder_outputs=encoded, decoder_input_ids=shown, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            likelihood = out.logits[:, -1].float().log_softmax(dim=1)  # (B, V)
            allowed = likelihood.clone()
            allowed[:, self._banned] = -torch.inf
            if position == 0:
                allowed[:, self._banned_first] = -torch.inf
            chosen = allowed.argmax(dim=1)  # (B,)
            for row, token in enumerate(chosen.tolist()):
                if not tokens[row] or tokens[row][-1] != end:
                    tokens[row].append(token)
                    scores[row].append(float(likelihood[row, token]))
            if all(row[-1] == end for row in tokens):
                break
            shown = chosen[:, None]
        return tokens, scores

    def _task(self, language: int | None) -> list[int]:
        own = [] if language is None else [language, self._token(_TRANSCRIBE)]
        return [*own, self._token(_NO_TIMES)]

    def _language_tokens(self, config: TranscribeConfig) -> dict[int, str]:
        """Code by token of the languages to choose from; none for a model of one language alone."""
        if not getattr(self._model.generation_config, "is_multilingual", True):
            if config.language not in {None, "en"}:
                raise ModelError(f"{config.model} knows English alone", "set transcribe.language to en, or null")
            return {}
        added = self._tokenizer.get_added_vocab()
        named = {index: sign[2:-2] for sign, index in added.items() if sign.startswith("<|") and sign.endswith("|>")}
        codes = {index: code for index, code in sorted(named.items()) if code.isalpha() and 2 <= len(code) <= 3}
        if config.language is not None:
            codes = {index: code for index, code in codes.items() if code == config.language}
        if not codes:
            raise ModelError(f"{config.model} does not know the language {config.language}", "see transcribe.language")
        return codes

    def _suppressed(self) -> tuple[list[int], list[int]]:
        """Tokens that are never written, and those that are not written first: as the model says, and its own signs."""
        said = self._model.generation_config
        end = int(self._model.config.eos_token_id)
        signs = set(self._tokenizer.get_added_vocab().values()) - {end}
        size = int(self._model.config.vocab_size)
        never = {*(getattr(said, "suppress_tokens", None) or ()), *signs} - {end}
        first = set(getattr(said, "begin_suppress_tokens", None) or ()) - {end}
        return sorted(t for t in never if 0 <= t < size), sorted(t for t in first if 0 <= t < size)

    def _token(self, sign: str) -> int:
        token = self._tokenizer.get_added_vocab().get(sign)
        if token is None:
            raise ModelError(f"{self._config.model} has no sign {sign}: it is no Whisper model", "see transcribe.model")
        return int(token)


def _joined(windows: Sequence[_Window]) -> Spoken:
    tokens = sum(window.tokens for window in windows)
    text = " ".join(window.text for window in windows if window.text)
    confidence = sum(window.log_probability for window in windows) / tokens
    return Spoken(text, round(confidence, 6), windows[0].language)


def _on_one_line(text: str) -> str:
    plain = "".join(" " if unicodedata.category(character) in {"Cc", "Cs"} else character for character in text)
    return " ".join(plain.replace("\ufffd", "").split())
