"""The device and the sizes of the checks, and the row of a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.clips import Clip, Modality
from ecmf_pipeline.encoders.config import AudioConfig, VisionConfig

MIN_COSINE = 0.999
"""Minimum cosine of a centred feature row to that of the CPU."""

N_SOURCES = 8
"""Number of different clips; all further clips repeat them."""
NAMES = {Modality.GLOBAL: "CLIP-L", Modality.AUDIO: "HuBERT-L", Modality.FACE: "face crops, ViT-B"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the checks.

    Attributes:
        shapes: Model sizes by modality, as keywords of the config classes of transformers.
        side: Side of the pictures that the vision models take.
        frames: Pictures of a clip.
        height: Height of a generated picture; the width is 16 : 9.
        clip_seconds: Length of a clip.
        parity_clips: Clips that are also encoded on the CPU.
        clips: Clips in one batch of a worker.
        openers: Processes that open clips for one worker; None: as `extract` chooses.
        warm_up: Seconds after the first batch that are not measured, for each worker.
        seconds: Seconds that are measured.
        wide: Width of the layer that exhausts the memory.
        train_clips: Clips that the fusion is trained on.
        epochs: Maximum number of epochs of the fusion.
    """

    shapes: Mapping[Modality, Mapping[str, Any]]
    side: int = 224
    frames: int = 16
    height: int = 480
    clip_seconds: float = 4.0
    parity_clips: int = 12
    clips: int = 8
    openers: int | None = None
    warm_up: float = 4.0
    seconds: float = 15.0
    wide: int = 65_536
    train_clips: int = 1000
    epochs: int = 30


_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_TINY_CONVOLUTIONS = {
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 64),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
FULL = Sizes(
    {
        Modality.GLOBAL: {**_LARGE, "patch_size": 14},
        Modality.AUDIO: _LARGE,
        Modality.FACE: {**_BASE, "patch_size": 16},
    }
)
SMALL = Sizes(
    {
        Modality.GLOBAL: {**_TINY, "patch_size": 16},
        Modality.AUDIO: {**_TINY, **_TINY_CONVOLUTIONS},
        Modality.FACE: {**_TINY, "patch_size": 16},
    },
    side=48,
    frames=2,
    height=96,
    clip_seconds=1.0,
    parity_clips=4,
    clips=4,
    openers=1,
    warm_up=0.0,
    seconds=0.5,
    wide=256,
    train_clips=80,
    epochs=10,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        check: Name of the check.
        passed: Whether it passed.
        figures: What was measured.
    """

    check: str
    passed: bool
    figures: str


@dataclass(frozen=True, slots=True)
class Bench:
    """The device, the saved models and the generated clips.

    Attributes:
        device: ``cpu`` or ``cuda:<n>``.
        sizes: Sizes of the checks.
        folder: Temporary folder.
        encoders: The encoder of each modality, in half precision.
        sources: The clips; without a path if no decoder is installed.
    """

    device: str
    sizes: Sizes
    folder: Path
    encoders: Mapping[Modality, VisionConfig | AudioConfig]
    sources: Sequence[Clip] = field(default=())

    @property
    def decodes(self) -> bool:
        """Whether openers decode files."""
        return bool(self.sources and self.sources[0].path)
