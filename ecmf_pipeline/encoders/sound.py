"""What encoders of sound share: windows of long clips, batches of windows of like length, rows joined again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ecmf_pipeline.encoders.base import Encoder, Encoding
from ecmf_pipeline.encoders.config import AudioConfig
from ecmf_pipeline.encoders.inference import Inference, RunPrecision

SAMPLE_RATE = 16_000

Samples = NDArray[np.float32]
"""Mono sound at 16 kHz, (n,)."""

CPU_PADDING, GPU_PADDING = 0.05, 0.5
"""Share by which the longest window of a batch may exceed its shortest. A CPU gains less than a tenth by batches
(measured on HuBERT-base), so that more padding would cost more than it gains; a GPU stands idle in small batches."""


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
    inference: Inference

    def __init__(self, config: AudioConfig, device: str) -> None:
        self._config = config
        self._settings = config.settings()
        self.inference = Inference(device, config.batch_size, cast("RunPrecision", config.resolved(device).precision))
        self.most_padding = CPU_PADDING if self.inference.device.type == "cpu" else GPU_PADDING

    @property
    def settings(self) -> dict[str, Any]:
        """See `AudioConfig.settings`."""
        return self._settings

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
        values = mean_of_runs(torch.cat(list(windows)), self._config.frames_per_row)
        return Encoding(values.numpy(), np.arange(len(values)))


def mean_of_runs(rows: torch.Tensor, run: int) -> torch.Tensor:
    """Means of ``run`` rows each, the last of what is left: from (T, D) to (ceil(T / run), D)."""
    return rows if run == 1 else torch.stack([part.mean(dim=0) for part in torch.split(rows, run)])
