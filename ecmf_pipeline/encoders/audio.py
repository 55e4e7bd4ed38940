"""transformers speech models as encoders of sound: those that read waveforms here, Whisper's encoder next door."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor

from ecmf_pipeline.encoders.base import Encoder, Preparer
from ecmf_pipeline.encoders.config import AudioConfig
from ecmf_pipeline.encoders.pretrained import check_layers, combine_layers, load_model, load_part
from ecmf_pipeline.encoders.sound import SAMPLE_RATE, Samples, SoundEncoder, SoundWindow, split_evenly
from ecmf_pipeline.encoders.whisper import WhisperEncoder, WhisperPreparer
from ecmf_pipeline.errors import ModelError

MODELS_THAT_MASK = frozenset({"hubert", "wav2vec2", "wavlm", "unispeech", "unispeech-sat"})
"""Those whose rows do not change when a batch is padded. In others (data2vec-audio, whose several positional
convolutions carry what stands in the padding into the rows before it) only windows of one length share a batch."""


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
        self.pads = shape.model_type in MODELS_THAT_MASK and not getattr(shape, "conv_pos_batch_norm", False)
        self._probe(source.name)

    @property
    def dim(self) -> int:
        """D, the model's hidden size."""
        return int(self.model.config.hidden_size)

    def _forward(self, windows: Sequence[SoundWindow]) -> torch.Tensor:
        described = [self.convolutions(self.inference.tensor(window.values[None]))[0].T for window in windows]
        batch = nn.utils.rnn.pad_sequence(described, batch_first=True).transpose(1, 2)  # (B, C, longest T)
        whole = self._config.layers != "last"
        with _mismatched_masks_allowed():
            out = self.model(batch, attention_mask=self._mask(windows), output_hidden_states=whole)
        return combine_layers(out.hidden_states if whole else (out.last_hidden_state,), self._config.layers)

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


@contextmanager
def _mismatched_masks_allowed() -> Iterator[None]:
    """WavLM gives torch a mask of truth values beside one of numbers, which works and draws a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask", category=UserWarning)
        yield
