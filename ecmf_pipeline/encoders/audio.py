"""transformers speech models as encoders of sound: those that read waveforms, and Whisper's encoder of spectrograms."""

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
from ecmf_pipeline.encoders.inference import Inference, check_layers, inference_of, load_model, load_part, take_layers
from ecmf_pipeline.media.config import SAMPLE_RATE

Samples = NDArray[np.float32]
"""Mono sound at 16 kHz, (n,)."""

_WHISPER_STRIDE = 2
"""Frames of the spectrogram that one row stands for: the stride of the second convolution of Whisper's encoder."""

_WHISPER_KEYS = {r"^(model\.)?encoder\.": ""}
"""From names of weights in a file of the whole Whisper to those of its encoder alone."""

_MODELS_THAT_MASK = frozenset({"hubert", "wav2vec2", "wavlm", "unispeech", "unispeech-sat"})
"""Those whose rows do not change when a batch is padded. In others (data2vec-audio, whose several positional
convolutions carry what stands in the padding into the rows before it) only windows of one length share a batch."""

_CPU_PADDING, _GPU_PADDING = 0.05, 0.5
"""Share by which the longest window of a batch may exceed its shortest. A CPU gains less than a tenth by batches
(measured on HuBERT-base), so that more padding would cost more than it gains; a GPU stands idle in small batches."""


def audio_preparer(config: AudioConfig) -> WavePreparer | WhisperPreparer:
    """What comes before the network of ``config.model``.

    Raises:
        ModelError: When it cannot be loaded, or wants another sampling rate.
    """
    source = config.source()
    shape = load_part(source, AutoConfig.from_pretrained)
    if shape.model_type != "whisper" and not hasattr(shape, "conv_stride"):
        raise ModelError(f"{source.name} does not read waveforms", "choose a HuBERT, wav2vec2, WavLM or Whisper model")
    extractor = load_part(source, AutoFeatureExtractor.from_pretrained)
    if extractor.sampling_rate != SAMPLE_RATE:
        raise ModelError(f"{source.name} wants {extractor.sampling_rate} Hz, not {SAMPLE_RATE}", "choose another model")
    longest = round(config.window_seconds * SAMPLE_RATE)
    if shape.model_type == "whisper":
        return WhisperPreparer(extractor, longest)
    convolutions = list(zip(shape.conv_kernel, shape.conv_stride, strict=True))
    return WavePreparer(convolutions, longest, normalises=bool(extractor.do_normalize))


def audio_encoder(config: AudioConfig, device: str) -> Encoder[Samples]:
    """The encoder for ``config.model``.

    Raises:
        ModelError: When it cannot be loaded, or is no speech model that is known here.
    """
    preparer = audio_preparer(config)
    if isinstance(preparer, WhisperPreparer):
        return WhisperEncoder(config, device, preparer)
    return WaveEncoder(config, device, preparer)


@dataclass(frozen=True, slots=True)
class SoundWindow:
    """A stretch of sound as the network takes it.

    Attributes:
        values: Samples (n,), or a spectrogram (mels, frames).
        rows: Rows of the network's answer that describe it; those beyond describe padding.
    """

    values: Samples
    rows: int


def split_evenly(samples: Samples, longest: int) -> list[Samples]:
    """Cut sound that is longer than ``longest`` samples into the fewest windows, all of one length but for a sample.

    Equal windows leave no short rest that would be described without context.
    """
    if not len(samples):
        return []
    return np.array_split(samples, -(-len(samples) // longest))


def like_lengths(lengths: Sequence[int], most_padding: float) -> Iterator[list[int]]:
    """Group items so that in no group the longest exceeds the shortest by more than a share.

    Args:
        lengths: Of each item.
        most_padding: The share; 0 puts equal lengths together and no others.

    Yields:
        Indices of the items of one group, the shortest first.
    """
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if group and lengths[index] > lengths[group[0]] * (1 + most_padding):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


class SoundEncoder(Encoder[Samples]):
    """A frozen network that describes windows of sound, row by row.

    Attributes:
        pads: Whether windows of different lengths may stand in one batch.
        most_padding: See `like_lengths`.
    """

    pads: bool
    model: Any
    inference: Inference

    def __init__(self, config: AudioConfig, device: str) -> None:
        self._config = config
        self.settings = config.settings()
        self.inference = inference_of(config, device)
        self.most_padding = _CPU_PADDING if self.inference.device.type == "cpu" else _GPU_PADDING

    @property
    def dim(self) -> int:
        """D, the model's hidden size."""
        return int(self.model.config.hidden_size)

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[Sequence[SoundWindow]]) -> list[Encoding]:
        """Encode the windows of clips: (T, D) a clip, T = 0 for a clip without windows."""
        windows = [window for clip in prepared for window in clip]
        rows = iter(self._rows(windows))
        return [self._encoding([next(rows) for _ in clip]) for clip in prepared]

    def _rows(self, windows: Sequence[SoundWindow]) -> list[torch.Tensor]:
        """The rows of each window, (T, D)."""
        rows = [torch.empty(0)] * len(windows)
        lengths = [window.values.shape[-1] for window in windows]
        for group in like_lengths(lengths, self.most_padding if self.pads else 0.0):
            forward = partial(self._states, [windows[index] for index in group])
            for span, states in self.inference.batches(len(group), forward):  # (B, longest T, D)
                for index, state in zip(group[span], states, strict=True):
                    rows[index] = state[: windows[index].rows].clone()
        return rows

    def _states(self, windows: Sequence[SoundWindow], span: slice) -> torch.Tensor:
        return self._forward(windows[span])

    @abstractmethod
    def _forward(self, windows: Sequence[SoundWindow]) -> torch.Tensor:
        """States of windows that may stand in one batch, (B, longest T, D)."""

    def _encoding(self, windows: Sequence[torch.Tensor]) -> Encoding:
        if not windows:
            return Encoding.empty(self.dim)
        values = torch.cat(list(windows))
        if (run := self._config.frames_per_row) > 1:
            values = torch.stack([part.mean(dim=0) for part in torch.split(values, run)])  # (ceil(T / run), D)
        return Encoding(values.numpy(), np.arange(len(values)))


class WavePreparer(Preparer[Samples]):
    """Brings samples to the range that a model was trained on, as its own feature extractor does, and into windows.

    Args:
        convolutions: Kernel and stride of each of the model's convolutions.
        longest: Samples in a window at the most.
        normalises: Whether the model wants clips of mean 0 and variance 1.
    """

    def __init__(self, convolutions: Sequence[tuple[int, int]], longest: int, *, normalises: bool) -> None:
        self._convolutions = convolutions
        self._longest = longest
        self._normalises = normalises

    def described(self) -> dict[str, Any]:
        """The rate, whether each clip is scaled to zero mean and unit variance, and the longest window in seconds."""
        return {
            "sample_rate": SAMPLE_RATE,
            "normalised": self._normalises,
            "window_seconds": self._longest / SAMPLE_RATE,
        }

    def prepare(self, view: Samples) -> list[SoundWindow]:
        """The windows of a clip; none of a clip that is too short for a single row."""
        if self._normalises and len(view):
            # Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm, of the whole clip
            view = (view - view.mean()) / np.sqrt(view.var() + 1e-7)
        windows = [SoundWindow(part, self.rows(len(part))) for part in split_evenly(view, self._longest)]
        return [window for window in windows if window.rows > 0]

    def rows(self, samples: int) -> int:
        """Rows that the model makes of so many samples."""
        for kernel, stride in self._convolutions:
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples


class WaveEncoder(SoundEncoder):
    """A frozen model that reads waveforms (HuBERT, wav2vec2, WavLM...): as a rule 50 rows a second.

    The convolutions see each window alone: the first of some models normalises over time (``feat_extract_norm:
    group``), so that padding would change every row, and alone they are faster, too. What follows takes a mask and runs
    in batches. So padding never touches a row.
    """

    preparer: WavePreparer

    def __init__(self, config: AudioConfig, device: str, preparer: WavePreparer) -> None:
        super().__init__(config, device)
        self.preparer = preparer
        source = config.source()
        self.model, _ = load_model(source, dtype=self.inference.loaded_as)
        if not isinstance(getattr(self.model, "feature_extractor", None), nn.Module):
            raise ModelError(f"{source.name} does not read waveforms", "choose a HuBERT, wav2vec2 or WavLM model")
        check_layers(source, self.model, config.layers)
        self.inference.place(self.model)
        self.convolutions, self.model.feature_extractor = self.model.feature_extractor, nn.Identity().eval()
        shape = self.model.config
        # a batch norm before the positional convolution makes padding other than zero
        self.pads = shape.model_type in _MODELS_THAT_MASK and not getattr(shape, "conv_pos_batch_norm", False)
        self._probe(source.name)

    def _forward(self, windows: Sequence[SoundWindow]) -> torch.Tensor:
        described = [self.convolutions(self.inference.tensor(window.values[None]))[0].T for window in windows]
        batch = nn.utils.rnn.pad_sequence(described, batch_first=True).transpose(1, 2)  # (B, C, longest T)
        with warnings.catch_warnings():
            # WavLM gives torch a mask of truth values beside one of numbers, which works.
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask", category=UserWarning)
            out = self.model(
                batch, attention_mask=self._mask(windows), output_hidden_states=self._config.layers != "last"
            )
        return take_layers(out, self._config.layers)

    def _mask(self, windows: Sequence[SoundWindow]) -> torch.Tensor | None:
        """Which samples are sound, (B, longest n), from which the model tells rows; None where nothing is padded."""
        lengths = torch.tensor([len(window.values) for window in windows])
        if not self.pads or bool((lengths == lengths[0]).all()):
            return None
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        return self.inference.tensor(mask.long())

    @torch.inference_mode()
    def _probe(self, name: str) -> None:
        """Proof that the model makes the rows that are expected of a second of silence."""
        second: Samples = np.zeros(SAMPLE_RATE, np.float32)
        window = SoundWindow(second, self.preparer.rows(SAMPLE_RATE))
        try:
            [(_, states)] = self.inference.batches(1, lambda _: self._forward([window]))
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ModelError(f"{name} does not describe waveforms ({error})", "choose another model") from error
        if states.shape[1:] != (window.rows, self.dim):
            raise ModelError(f"{name} makes {states.shape[1]} rows of {window.rows}", "choose a model without adapter")


class WhisperPreparer(Preparer[Samples]):
    """Makes log-mel spectrograms by the own feature extractor of a Whisper.

    The network was trained on windows of one length (30 s), padded with silence. Longer clips are cut into windows
    here; of each window the rows up to the true end of its sound count.

    Args:
        extractor: The model's ``WhisperFeatureExtractor``.
        longest: Samples in a window at the most; the model's own limit holds too.
    """

    def __init__(self, extractor: Any, longest: int) -> None:
        self.extractor = extractor
        self._longest = min(longest, int(extractor.n_samples))
        self._samples_per_row = _WHISPER_STRIDE * int(extractor.hop_length)

    def described(self) -> dict[str, Any]:
        """The rate, the bands of the spectrogram, and the longest window in seconds."""
        return {
            "sample_rate": SAMPLE_RATE,
            "mels": int(self.extractor.feature_size),
            "window_seconds": self._longest / SAMPLE_RATE,
        }

    def prepare(self, view: Samples) -> list[SoundWindow]:
        """The windows of a clip, each a spectrogram (mels, frames) of the network's full length."""
        parts = split_evenly(view, self._longest)
        if not parts:
            return []
        spectrograms = self.extractor(parts, sampling_rate=SAMPLE_RATE, padding="max_length", return_tensors="np")
        return [
            SoundWindow(np.asarray(values, np.float32), self.rows(len(part)))
            for values, part in zip(spectrograms["input_features"], parts, strict=True)
        ]

    def rows(self, samples: int) -> int:
        """Rows that describe so many samples: those that begin before their end."""
        return -(-samples // self._samples_per_row)


class WhisperEncoder(SoundEncoder):
    """Whisper's frozen encoder: 50 rows a second. The decoder's weights are never loaded.

    All windows are of one length. The network attends to the silence behind a short clip, as in training; the rows that
    describe that silence are dropped.
    """

    pads = True
    preparer: WhisperPreparer

    def __init__(self, config: AudioConfig, device: str, preparer: WhisperPreparer) -> None:
        super().__init__(config, device)
        self.preparer = preparer
        source = config.source()
        self.model, _ = load_model(
            source, modeling_whisper.WhisperEncoder, dtype=self.inference.loaded_as, key_mapping=_WHISPER_KEYS
        )
        check_layers(source, self.model, config.layers)
        shape, extractor = self.model.config, preparer.extractor
        made = (extractor.feature_size, extractor.nb_max_frames)
        read = (shape.num_mel_bins, _WHISPER_STRIDE * shape.max_source_positions)
        if made != read:
            raise ModelError(
                f"the feature extractor of {source.name} makes {made[0]} x {made[1]} spectrograms, its encoder reads "
                f"{read[0]} x {read[1]}",
                "the files do not belong together",
            )
        self.inference.place(self.model)

    def _forward(self, windows: Sequence[SoundWindow]) -> torch.Tensor:
        spectrograms = self.inference.tensor(np.stack([window.values for window in windows]))  # (B, mels, frames)
        out = self.model(spectrograms, output_hidden_states=self._config.layers != "last")
        return take_layers(out, self._config.layers)
