"""Recognise speech with Whisper by faster-whisper.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022.

Whisper invents words where nobody speaks. Only the parts of a clip in which Silero's voice activity detection finds
speech are therefore given to the model. Decoding is a beam search without sampling, so it is reproducible.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.base_config import ModelSource, hub_cache
from ecmf_pipeline.media.config import SAMPLE_RATE
from ecmf_pipeline.runner.machine import as_out_of_memory, visible_gpus
from ecmf_pipeline.transcription.config import TranscribeConfig, check_model_folder
from ecmf_pipeline.transcription.table import TranscriptRecord, Utterance, Word

MAX_BLOCK_SECONDS = 300.0
"""Speech that is given to the model at once. Longer recordings are divided, which bounds the memory."""
_MAX_TOKENS = 224
"""Tokens of a window of 30 s, as in the original implementation; only repetitions have more."""
_MIN_SPEECH = 100
"""Milliseconds; shorter sound is not taken for speech. Much of the sound that is mistaken for speech is shorter."""
_HUB_FILES = ("config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*")
_QUIETEST = -120.0
"""dBFS of digital silence."""

Samples = NDArray[np.float32]


class Recogniser:
    """A Whisper model.

    Args:
        config: The model and its settings.
        threads: CPU threads.
        worker: Number of the worker; worker i uses GPU i modulo the number of GPUs.

    Attributes:
        config: The settings.

    Raises:
        ModelError: If the model cannot be loaded or does not support the language.
    """

    def __init__(self, config: TranscribeConfig, threads: int = 1, worker: int = 0) -> None:
        from faster_whisper import WhisperModel

        folder = _model_folder(config.source(), config)
        device, _, index = config.device.partition(":")
        on_cuda = config.runs_on_cuda
        if on_cuda and not index:
            index = str(worker % max(1, len(visible_gpus("auto"))))
        try:
            with as_out_of_memory():
                self._model = WhisperModel(
                    str(folder),
                    device="cuda" if on_cuda else "cpu",
                    device_index=int(index or 0),
                    compute_type=config.resolved_compute_type,
                    cpu_threads=threads,
                    local_files_only=True,
                )
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"{config.model} cannot be loaded on {device} as {config.resolved_compute_type} ({error})",
                "set transcribe.model to a Whisper model, transcribe.compute_type to auto, or transcribe.device to cpu",
            ) from error
        self.config = config
        special = self._model.hf_tokenizer.token_to_id
        languages = self._model.supported_languages  # of all multilingual models; older ones have no token for some
        supported = [code for code in languages if len(languages) == 1 or special(f"<|{code}|>") is not None]
        check_language(config, supported)

    def recognise(self, key: str, samples: Samples) -> TranscriptRecord:
        """Recognise the speech of one clip.

        Args:
            key: Digest of the sound.
            samples: Mono samples at 16 kHz, (n,).

        Raises:
            MemoryError: If memory runs out.
        """
        from faster_whisper.transcribe import restore_speech_timestamps

        language, probability = self.config.language, 1.0
        utterances: list[Utterance] = []
        with as_out_of_memory():
            for spans in _blocks(find_speech(samples)):
                speech = np.concatenate([samples[span["start"] : span["end"]] for span in spans])
                segments, info = self._model.transcribe(
                    speech,
                    language=language,
                    beam_size=self.config.beam_size,
                    temperature=0.0,  # the fallback to higher temperatures samples, which is not reproducible
                    condition_on_previous_text=False,
                    word_timestamps=True,
                    max_new_tokens=_MAX_TOKENS,
                    no_speech_threshold=None,  # the limits apply to stored transcripts
                    log_prob_threshold=None,
                    compression_ratio_threshold=None,
                )
                if language is None:
                    language, probability = info.language, info.language_probability
                utterances += _utterances(restore_speech_timestamps(segments, spans, SAMPLE_RATE), samples)
        if not utterances:
            return TranscriptRecord(key)
        return TranscriptRecord(key, language or "", round(probability, 4), tuple(utterances))


def find_speech(samples: Samples) -> list[dict[str, int]]:
    """Return the parts of a clip with speech, as positions ``start`` and ``end`` in the samples.

    They have a margin of 0.4 s.

    Args:
        samples: Mono samples at 16 kHz, (n,).
    """
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    if not len(samples):
        return []
    spans: list[dict[str, int]] = get_speech_timestamps(
        samples, VadOptions(max_speech_duration_s=MAX_BLOCK_SECONDS, min_speech_duration_ms=_MIN_SPEECH)
    )
    return spans


def _blocks(spans: Sequence[dict[str, int]]) -> Iterator[list[dict[str, int]]]:
    """Group the parts with speech into blocks of at most `MAX_BLOCK_SECONDS`."""
    block: list[dict[str, int]] = []
    length = 0
    for span in spans:
        samples = span["end"] - span["start"]
        if block and length + samples > MAX_BLOCK_SECONDS * SAMPLE_RATE:
            yield block
            block, length = [], 0
        block.append(span)
        length += samples
    if block:
        yield block


def _utterances(segments: Iterable[Any], samples: Samples) -> Iterator[Utterance]:
    """Convert the segments of faster-whisper; it computes each one when it is read."""
    for segment in segments:
        words = tuple(
            Word(
                on_one_line(word.word),
                round(float(word.start), 3),
                round(float(word.end), 3),
                round(float(word.probability), 4),
            )
            for word in segment.words or ()
        )
        if text := on_one_line(segment.text):
            yield Utterance(
                text,
                words,
                round(segment.avg_logprob, 4),
                round(segment.no_speech_prob, 4),
                round(segment.compression_ratio, 3),
                loudness(samples[int(segment.start * SAMPLE_RATE) : int(np.ceil(segment.end * SAMPLE_RATE))]),
            )


def loudness(samples: Samples) -> float:
    """Return the level of samples in dBFS (RMS), at least -120."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return round(max(_QUIETEST, 10 * float(np.log10(power))), 2) if power else _QUIETEST


def on_one_line(text: str) -> str:
    """Return a text without control characters, line ends and incomplete characters."""
    plain = "".join(" " if unicodedata.category(character) in {"Cc", "Cs"} else character for character in text)
    return " ".join(plain.replace("\ufffd", "").split())


def check_language(config: TranscribeConfig, supported: Sequence[str]) -> None:
    """Check that a model supports ``transcribe.language``.

    Args:
        config: The settings.
        supported: The language codes of the model.

    Raises:
        ModelError: If it does not.
    """
    if config.language is None or config.language in supported:
        return
    if list(supported) == ["en"]:
        raise ModelError(
            f"{config.model} supports English only, not transcribe.language {config.language}",
            "set transcribe.language to en or null, or transcribe.model to a multilingual model",
        )
    raise ModelError(
        f"{config.model} does not support the language {config.language}",
        f"set transcribe.language to null or one of {', '.join(sorted(supported))}",
    )


def _model_folder(source: ModelSource, config: TranscribeConfig) -> Path:
    """Return the folder of the model, fetched from the hub if necessary."""
    if source.commit is None:
        return Path(source.name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            source.name, revision=source.commit, cache_dir=hub_cache(), allow_patterns=list(_HUB_FILES)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"transcribe.model: {config.model} cannot be fetched from the hub ({type(error).__name__})",
            "check the network, or set transcribe.model to embedded",
        ) from error
    check_model_folder(Path(folder))
    return Path(folder)
