"""Any transformers speech model that reads waveforms as an encoder of sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoFeatureExtractor

from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer
from ecmf_pipeline.encoders.config import AudioConfig
from ecmf_pipeline.encoders.inference import Inference, RunPrecision
from ecmf_pipeline.encoders.pretrained import check_layers, combine_layers, load_model, load_part
from ecmf_pipeline.encoders.weights import ModelSource
from ecmf_pipeline.errors import ModelError

SAMPLE_RATE = 16_000


class AudioPreparer(Preparer[NDArray[np.float32]]):
    """Brings samples to the range that a model was trained on, as its own feature extractor does."""

    def __init__(self, source: ModelSource) -> None:
        extractor = load_part(source, AutoFeatureExtractor.from_pretrained)
        if extractor.sampling_rate != SAMPLE_RATE:
            raise ModelError(
                f"{source.name} wants {extractor.sampling_rate} Hz, not {SAMPLE_RATE}", "choose another model"
            )
        self._normalises = bool(extractor.do_normalize)

    def prepare(self, view: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mono samples at 16 kHz, float32 (n,)."""
        if not self._normalises or not len(view):
            return view
        # Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm
        normalised: NDArray[np.float32] = (view - view.mean()) / np.sqrt(view.var() + 1e-7)
        return normalised


class AudioEncoder(Encoder[NDArray[np.float32]]):
    """A frozen speech model (HuBERT, wav2vec2, WavLM...): rows at the model's own rate, 50 a second as a rule.

    Padding never touches a row: models that take an attention mask get one, and their padded rows are dropped; models
    whose first layer normalises over time (``feat_extract_norm: group``) are given clips of one length together.
    """

    def __init__(self, config: AudioConfig, device: str = "auto") -> None:
        self._config = config
        self._settings = config.settings()
        self.inference = Inference(device, config.batch_size, cast("RunPrecision", config.resolved(device).precision))
        source = config.source()
        self.model, _ = load_model(source)
        if not hasattr(self.model, "_get_feat_extract_output_lengths") or self.model.main_input_name != "input_values":
            raise ModelError(f"{source.name} does not read waveforms", "choose a HuBERT, wav2vec2 or WavLM model")
        check_layers(source, self.model, config.layers)
        self.inference.place(self.model)
        self.preparer = AudioPreparer(source)
        self._masks = self.model.config.feat_extract_norm != "group"

    @property
    def dim(self) -> int:
        """D, the model's hidden size."""
        return int(self.model.config.hidden_size)

    @property
    def settings(self) -> dict[str, Any]:
        """See `AudioConfig.settings`."""
        return self._settings

    @torch.inference_mode()
    def encode_prepared(self, prepared: Sequence[NDArray[np.float32]]) -> list[Encoding]:
        """Encode mono samples at 16 kHz: (T, D) a clip, T = 0 for sound shorter than the model's first row."""
        encodings = [Encoding.empty(self.dim) for _ in prepared]
        lengths = [self._row_count(len(samples)) for samples in prepared]
        for group in self._groups([len(samples) for samples in prepared], lengths):
            forward = partial(self._forward, [prepared[index] for index in group])
            for span, states in self.inference.batches(len(group), forward):  # (B, longest T, D)
                for index, rows in zip(group[span], states, strict=True):
                    values = _mean_of_runs(rows[: lengths[index]], self._config.frames_per_row)
                    encodings[index] = Encoding(values.numpy(), np.arange(len(values)))
        return encodings

    def _row_count(self, samples: int) -> int:
        return max(0, int(self.model._get_feat_extract_output_lengths(samples)))

    def _groups(self, samples: Sequence[int], rows: Sequence[int]) -> Iterator[list[int]]:
        """Clips that may stand in one batch, those of like length side by side; those without rows are left out."""
        order = sorted((index for index, count in enumerate(rows) if count), key=lambda index: samples[index])
        same_length = groupby(order, key=lambda index: None if self._masks else samples[index])
        for _, members in same_length:
            yield list(members)

    def _forward(self, group: Sequence[NDArray[np.float32]], span: slice) -> torch.Tensor:
        views = group[span]
        longest = max(len(samples) for samples in views)
        waves = torch.zeros(len(views), longest)  # (B, n)
        mask = torch.zeros(len(views), longest, dtype=torch.long)
        for index, samples in enumerate(views):
            waves[index, : len(samples)] = torch.from_numpy(samples)
            mask[index, : len(samples)] = 1
        out = self.model(
            self.inference.tensor(waves),
            attention_mask=self.inference.tensor(mask) if self._masks else None,
            output_hidden_states=self._config.layers != "last",
        )
        states = (out.last_hidden_state,) if self._config.layers == "last" else out.hidden_states
        return combine_layers(states, self._config.layers)


def _mean_of_runs(rows: torch.Tensor, run: int) -> torch.Tensor:
    """Means of ``run`` rows each, the last of what is left: from (T, D) to (ceil(T / run), D)."""
    return rows if run == 1 else torch.stack([part.mean(dim=0) for part in torch.split(rows, run)])
