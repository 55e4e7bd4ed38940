"""transformers speech models as audio encoders: models that read waveforms, and the spectrogram encoder of Whisper."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor
from transformers.models.whisper import modeling_whisper

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer
from ecmf_pipeline.encoders.config import AudioConfig
from ecmf_pipeline.encoders.inference import (
    Inference,
    build_inference,
    check_layers,
    load_model,
    load_pretrained,
    select_layers,
)
from ecmf_pipeline.media.config import SAMPLE_RATE

Samples = NDArray[np.float32]
"""Mono audio at 16 kHz, (n,)."""

_WHISPER_STRIDE = 2
"""Spectrogram frames for each output row: the stride of the second convolution of the Whisper encoder."""

_WHISPER_KEYS = {r"^(model\.)?encoder\.": ""}
"""Maps weight names in a file of the whole Whisper to those of its encoder alone."""

_MODELS_THAT_MASK = frozenset({"hubert", "wav2vec2", "wavlm", "unispeech", "unispeech-sat"})
"""Models whose rows do not change when a batch is padded. In the others only windows of equal length share a batch: for
example, the positional convolutions of data2vec-audio mix padding into the rows before it."""

_CPU_PADDING, _GPU_PADDING = 0.05, 0.5
"""Share by which the longest window of a batch may exceed its shortest. A CPU gains less than a tenth by batching
(measured on HuBERT-base), so more padding would cost more than it gains; a GPU is underused by small batches."""


def build_audio_preparer(config: AudioConfig) -> WavePreparer | WhisperPreparer:
    """Build the preprocessing of ``config.model``.

    Raises:
        ModelError: If the model cannot be loaded, or expects another sampling rate.
    """
    source = config.source()
    model_config = load_pretrained(source, AutoConfig.from_pretrained)
    if model_config.model_type != "whisper" and not hasattr(model_config, "conv_stride"):
        raise ModelError(
            f"model {source.name} does not read waveforms", "choose a HuBERT, wav2vec2, WavLM or Whisper model"
        )
    extractor = load_pretrained(source, AutoFeatureExtractor.from_pretrained)
    if extractor.sampling_rate != SAMPLE_RATE:
        raise ModelError(
            f"model {source.name} expects {extractor.sampling_rate} Hz, not {SAMPLE_RATE} Hz", "choose another model"
        )
    longest = round(config.window_seconds * SAMPLE_RATE)
    if model_config.model_type == "whisper":
        return WhisperPreparer(extractor, longest)
    convolutions = list(zip(model_config.conv_kernel, model_config.conv_stride, strict=True))
    return WavePreparer(convolutions, longest, normalises=bool(extractor.do_normalize))


def build_audio_encoder(config: AudioConfig, device: str) -> Encoder[Samples]:
    """Load the encoder of ``config.model``.

    Raises:
        ModelError: If it cannot be loaded, or is not a supported speech model.
    """
    preparer = build_audio_preparer(config)
    if isinstance(preparer, WhisperPreparer):
        return WhisperEncoder(config, device, preparer)
    return WaveEncoder(config, device, preparer)


@dataclass(frozen=True, slots=True)
class SoundWindow:
    """A segment of audio as input of the network.

    Attributes:
        values: Samples (n,), or a spectrogram (mels, frames).
        rows: Number of output rows that describe the segment; later rows describe padding.
    """

    values: Samples
    rows: int


def split_evenly(samples: Samples, longest: int) -> list[Samples]:
    """Split audio into the fewest windows of at most ``longest`` samples, equal in length within one sample.

    Equal windows avoid a short last window that would be encoded without context.
    """
    if not len(samples):
        return []
    return np.array_split(samples, -(-len(samples) // longest))


def group_by_length(lengths: Sequence[int], max_padding: float) -> Iterator[list[int]]:
    """Group items such that in each group the longest exceeds the shortest by at most a given share.

    Args:
        lengths: The length of each item.
        max_padding: The share; 0 groups only equal lengths.

    Yields:
        Indices of the items of one group, the shortest first.
    """
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if group and lengths[index] > lengths[group[0]] * (1 + max_padding):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


class SoundEncoder(Encoder[Samples]):
    """A frozen network that encodes windows of audio.

    Attributes:
        pads: Whether windows of different lengths may share a batch.
        max_padding: See `group_by_length`.
    """

    pads: bool
    model: Any
    inference: Inference

    def __init__(self, config: AudioConfig, device: str) -> None:
        self._config = config
        self.settings = config.settings()
        self.inference = build_inference(config, device)
        self.max_padding = _CPU_PADDING if self.inference.device.type == "cpu" else _GPU_PADDING

    @property
    def dim(self) -> int:
        """D, the hidden size of the model."""
        return int(self.model.config.hidden_size)

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[Sequence[SoundWindow]]) -> list[Encoding]:
        """Encode the windows of clips: (T, D) for each clip, T = 0 for a clip without windows."""
        windows = [window for clip in prepared for window in clip]
        rows = iter(self._rows(windows))
        return [self._encoding([next(rows) for _ in clip]) for clip in prepared]

    def _rows(self, windows: Sequence[SoundWindow]) -> list[torch.Tensor]:
        """Return the rows of each window, (T, D)."""
        rows = [torch.empty(0)] * len(windows)
        lengths = [window.values.shape[-1] for window in windows]
        for group in group_by_length(lengths, self.max_padding if self.pads else 0.0):
            forward = partial(self._states, [windows[index] for index in group])
            for span, states in self.inference.batches(len(group), forward):  # (B, longest T, D)
                for index, state in zip(group[span], states, strict=True):
                    rows[index] = state[: windows[index].rows].clone()
        return rows

    def _states(self, windows: Sequence[SoundWindow], span: slice) -> torch.Tensor:
        return self._forward(windows[span])

    @abstractmethod
    def _forward(self, windows: Sequence[SoundWindow]) -> torch.Tensor:
        """Return the states of windows that may share a batch, (B, longest T, D)."""

    def _encoding(self, windows: Sequence[torch.Tensor]) -> Encoding:
        if not windows:
            return Encoding.empty(self.dim)
        values = torch.cat(list(windows))
        if (step := self._config.frames_per_row) > 1:
            values = torch.stack([part.mean(dim=0) for part in torch.split(values, step)])  # (ceil(T / step), D)
        return Encoding(values.numpy(), np.arange(len(values)))


class WavePreparer(Preparer[Samples]):
    """Preprocessing of waveforms: normalisation like the feature extractor of the model, and windows.

    Args:
        convolutions: Kernel and stride of each convolution of the model.
        longest: Maximum number of samples in a window.
        normalises: Whether the model expects clips with mean 0 and variance 1.
    """

    def __init__(self, convolutions: Sequence[tuple[int, int]], longest: int, *, normalises: bool) -> None:
        self._convolutions = convolutions
        self._longest = longest
        self._normalises = normalises

    def describe(self) -> dict[str, Any]:
        """Return the sampling rate, whether clips are normalised, and the maximum window length in seconds."""
        return {
            "sample_rate": SAMPLE_RATE,
            "normalised": self._normalises,
            "window_seconds": self._longest / SAMPLE_RATE,
        }

    def prepare(self, view: Samples) -> list[SoundWindow]:
        """Return the windows of a clip; none if the clip is too short for one row."""
        if self._normalises and len(view):
            # Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm, over the whole clip
            view = (view - view.mean()) / np.sqrt(view.var() + 1e-7)
        windows = [SoundWindow(part, self.rows(len(part))) for part in split_evenly(view, self._longest)]
        return [window for window in windows if window.rows > 0]

    def rows(self, samples: int) -> int:
        """Return the number of rows that the model returns for a number of samples."""
        for kernel, stride in self._convolutions:
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples


class WaveEncoder(SoundEncoder):
    """A frozen model that reads waveforms (HuBERT, wav2vec2, WavLM...), usually 50 rows per second.

    The convolutions process each window separately: in some models the first one normalises over time
    (``feat_extract_norm: group``), so padding would change every row; separate windows are also faster. The transformer
    takes a mask and runs in batches. Padding therefore never changes a row.
    """

    preparer: WavePreparer

    def __init__(self, config: AudioConfig, device: str, preparer: WavePreparer) -> None:
        super().__init__(config, device)
        self.preparer = preparer
        source = config.source()
        self.model, _ = load_model(source, dtype=self.inference.load_dtype)
        if not isinstance(getattr(self.model, "feature_extractor", None), nn.Module):
            raise ModelError(f"model {source.name} does not read waveforms", "choose a HuBERT, wav2vec2 or WavLM model")
        check_layers(source, self.model, config.layers)
        self.inference.place(self.model)
        self.convolutions, self.model.feature_extractor = self.model.feature_extractor, nn.Identity().eval()
        model_config = self.model.config
        # A batch norm before the positional convolution makes the padding non-zero.
        has_batch_norm = getattr(model_config, "conv_pos_batch_norm", False)
        self.pads = model_config.model_type in _MODELS_THAT_MASK and not has_batch_norm
        self._probe(source.name)

    def _forward(self, windows: Sequence[SoundWindow]) -> torch.Tensor:
        states = [self.convolutions(self.inference.tensor(window.values[None]))[0].T for window in windows]
        batch = nn.utils.rnn.pad_sequence(states, batch_first=True).transpose(1, 2)  # (B, C, longest T)
        with warnings.catch_warnings():
            # WavLM passes a boolean and a float mask to torch, which works but warns.
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask", category=UserWarning)
            out = self.model(
                batch, attention_mask=self._mask(windows), output_hidden_states=self._config.layers != "last"
            )
        return select_layers(out, self._config.layers)

    def _mask(self, windows: Sequence[SoundWindow]) -> torch.Tensor | None:
        """Return which samples are not padding, (B, longest n); None if nothing is padded."""
        lengths = torch.tensor([len(window.values) for window in windows])
        if not self.pads or bool((lengths == lengths[0]).all()):
            return None
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        return self.inference.tensor(mask.long())

    @torch.inference_mode()
    def _probe(self, name: str) -> None:
        """Check that the model returns the expected number of rows for a second of silence."""
        second: Samples = np.zeros(SAMPLE_RATE, np.float32)
        window = SoundWindow(second, self.preparer.rows(SAMPLE_RATE))
        try:
            [(_, states)] = self.inference.batches(1, lambda _: self._forward([window]))
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(f"model {name} cannot encode waveforms ({error})", "choose another model") from error
        if states.shape[1:] != (window.rows, self.dim):
            raise ModelError(
                f"model {name} returns {states.shape[1]} rows for one second, expected {window.rows}",
                "choose a model without adapter",
            )


class WhisperPreparer(Preparer[Samples]):
    """Preprocessing to log-mel spectrograms, with the feature extractor of a Whisper model.

    The network was trained on windows of one length (30 s), padded with silence. Longer clips are split into windows.
    Only rows before the end of the audio of a window are kept.

    Args:
        extractor: The ``WhisperFeatureExtractor`` of the model.
        longest: Maximum number of samples in a window; the limit of the model also applies.
    """

    def __init__(self, extractor: Any, longest: int) -> None:
        self.extractor = extractor
        self._longest = min(longest, int(extractor.n_samples))
        self._samples_per_row = _WHISPER_STRIDE * int(extractor.hop_length)

    def describe(self) -> dict[str, Any]:
        """Return the sampling rate, the mel bands of the spectrogram, and the maximum window length in seconds."""
        return {
            "sample_rate": SAMPLE_RATE,
            "mels": int(self.extractor.feature_size),
            "window_seconds": self._longest / SAMPLE_RATE,
        }

    def prepare(self, view: Samples) -> list[SoundWindow]:
        """Return the windows of a clip, each a spectrogram (mels, frames) of the full length of the network."""
        parts = split_evenly(view, self._longest)
        if not parts:
            return []
        spectrograms = self.extractor(parts, sampling_rate=SAMPLE_RATE, padding="max_length", return_tensors="np")
        return [
            SoundWindow(np.asarray(values, np.float32), self.rows(len(part)))
            for values, part in zip(spectrograms["input_features"], parts, strict=True)
        ]

    def rows(self, samples: int) -> int:
        """Return the number of rows that begin before the end of the samples."""
        return -(-samples // self._samples_per_row)


class WhisperEncoder(SoundEncoder):
    """The frozen encoder of Whisper, 50 rows per second. The weights of the decoder are not loaded.

    All windows have the same length. The network attends to the silence after a short clip, as in training; the rows of
    that silence are dropped.
    """

    pads = True
    preparer: WhisperPreparer

    def __init__(self, config: AudioConfig, device: str, preparer: WhisperPreparer) -> None:
        super().__init__(config, device)
        self.preparer = preparer
        source = config.source()
        self.model, _ = load_model(
            source, modeling_whisper.WhisperEncoder, dtype=self.inference.load_dtype, key_mapping=_WHISPER_KEYS
        )
        check_layers(source, self.model, config.layers)
        model_config, extractor = self.model.config, preparer.extractor
        extracted = (extractor.feature_size, extractor.nb_max_frames)
        expected = (model_config.num_mel_bins, _WHISPER_STRIDE * model_config.max_source_positions)
        if extracted != expected:
            raise ModelError(
                f"{source.name}: the feature extractor returns {extracted[0]} x {extracted[1]} spectrograms, the "
                f"encoder expects {expected[0]} x {expected[1]}",
                "use the feature extractor and the weights of the same model",
            )
        self.inference.place(self.model)

    def _forward(self, windows: Sequence[SoundWindow]) -> torch.Tensor:
        spectrograms = self.inference.tensor(np.stack([window.values for window in windows]))  # (B, mels, frames)
        out = self.model(spectrograms, output_hidden_states=self._config.layers != "last")
        return select_layers(out, self._config.layers)
