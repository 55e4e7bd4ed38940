"""Whisper's encoder (Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.models.whisper import modeling_whisper

from ecmf_pipeline.encoders.base import Preparer
from ecmf_pipeline.encoders.config import AudioConfig
from ecmf_pipeline.encoders.pretrained import check_layers, combine_layers, load_model
from ecmf_pipeline.encoders.sound import SAMPLE_RATE, Samples, SoundEncoder, SoundWindow, split_evenly
from ecmf_pipeline.errors import ModelError

STRIDE = 2
"""Frames of the spectrogram that one row stands for: the stride of the encoder's second convolution."""

_ENCODER_KEYS = {r"^(model\.)?encoder\.": ""}
"""From names of weights in a file of the whole model to those of the encoder alone."""


class WhisperPreparer(Preparer[Samples]):
    """Makes log-mel spectrograms by the model's own feature extractor.

    The network was trained on windows of one length (30 s), padded with silence. Longer clips are cut into windows
    here; of each window the rows up to the true end of its sound count.

    Args:
        extractor: The model's ``WhisperFeatureExtractor``.
        longest: Samples in a window at the most; the model's own limit holds too.
    """

    def __init__(self, extractor: Any, longest: int) -> None:
        self.extractor = extractor
        self._longest = min(longest, int(extractor.n_samples))
        self._samples_per_row = STRIDE * int(extractor.hop_length)

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
    """The frozen encoder: 50 rows a second. The decoder's weights are never loaded.

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
            source, modeling_whisper.WhisperEncoder, dtype=self.inference.loaded_as, key_mapping=_ENCODER_KEYS
        )
        check_layers(source, self.model, config.layers)
        shape = self.model.config
        extractor = preparer.extractor
        if (extractor.feature_size, extractor.nb_max_frames) != (
            shape.num_mel_bins,
            STRIDE * shape.max_source_positions,
        ):
            raise ModelError(
                f"the feature extractor of {source.name} makes {extractor.feature_size} x {extractor.nb_max_frames} "
                f"spectrograms, its encoder reads {shape.num_mel_bins} x {STRIDE * shape.max_source_positions}",
                "the files do not belong together",
            )
        self.inference.place(self.model)

    @property
    def dim(self) -> int:
        """D, the model's hidden size."""
        return int(self.model.config.hidden_size)

    def _forward(self, windows: Sequence[SoundWindow]) -> torch.Tensor:
        spectrograms = self.inference.tensor(np.stack([window.values for window in windows]))  # (B, mels, frames)
        whole = self._config.layers != "last"
        out = self.model(spectrograms, output_hidden_states=whole)
        return combine_layers(out.hidden_states if whole else (out.last_hidden_state,), self._config.layers)
