"""An encoder without weights, and a project of clips to encode with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Modality
from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig, TextColumn
from ecmf_pipeline.encoders.registry import Implementation, implementation
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.extraction.run import Branch, extract, open_writers, plan_branch
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.faces.detector import FaceTrack
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner.quarantine import Limits, Quarantine
from ecmf_pipeline.settings.params import branch_settings

MEDIA = MediaConfig(frames=4)


class MeanConfig(BaseEncoderConfig):
    """Brightness of two pixels of each frame or crop; every second crop is kept.

    Text features are the lengths of the texts.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset(Modality)
    not_in_settings: ClassVar[frozenset[str]] = frozenset({"batch_size", "frames"})
    type: str = "mean"
    scale: float = 1.0
    frames: Frames | None = None
    inputs: tuple[TextColumn, ...] = ("original",)

    @property
    def text_columns(self) -> tuple[TextColumn, ...]:
        return self.inputs


class IdentityPreparer(Preparer[Any]):
    def prepare(self, view: Any) -> Any:
        return view


class MeanEncoder(Encoder[Any]):
    dtype = "float32"

    def __init__(self, config: MeanConfig) -> None:
        self.config = config
        self.settings = config.settings()
        self.preparer = IdentityPreparer()

    @property
    def dim(self) -> int:
        return 2

    def encode_prepared(self, prepared):
        return [self.encode_one(view) for view in prepared]

    def encode_one(self, view: Any) -> Encoding:
        if isinstance(view, ClipText):
            values = np.array([[len(view.original), len(view.enriched)]])
            with np.errstate(over="ignore"):
                return Encoding((values * self.config.scale).astype(np.float32), np.zeros(1, np.int64))
        if isinstance(view, FaceTrack):
            kept = np.arange(0, len(view.crops), 2)
            return Encoding(view.crops[kept].reshape(len(kept), -1)[:, :2].astype(np.float32), kept)
        if view.ndim == 1:
            return Encoding(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))  # no features for audio
        return Encoding(view.reshape(len(view), -1)[:, :2].astype(np.float32), np.arange(len(view)))


@implementation.register
def _mean(_: MeanConfig) -> Implementation:
    return Implementation(lambda config, _: MeanEncoder(config), lambda _: IdentityPreparer())


class Project:
    def __init__(self, folder: Path, faces: FaceConfig) -> None:
        self.folder = folder
        self.faces = faces
        self.texts: dict[str, ClipText] = {}
        self.clips: list[Clip] = []

    def add(self, path: Path, *, has_audio: bool = True) -> None:
        digest = sha256_file(path)
        self.clips.append(
            Clip(ClipId(path.stem), path.name, digest, has_video=True, has_audio=has_audio, file_digest=digest)
        )

    def root(self, modality: Modality) -> Path:
        return self.folder / f"{modality.value}.zarr"

    def plan(self, modality: Modality, *, limits: Limits | None = None, **options: Any) -> Branch:
        config = MeanConfig(**options)
        return plan_branch(
            modality,
            self.clips,
            self.texts,
            encoder=config,
            settings=branch_settings(modality, config, MEDIA, self.faces),
            root=self.root(modality),
            quarantine_path=self.folder / f"{modality.value}.csv",
            limits=limits,
        )

    def run(self, *modalities: Modality, max_quarantined: float = 1.0, **options: Any):
        config = MeanConfig(**options)
        settings = {modality: branch_settings(modality, config, MEDIA, self.faces) for modality in modalities}
        with open_writers(settings, self.root) as writers:
            return extract(
                [self.plan(modality, **options) for modality in modalities],
                self.clips,
                self.texts,
                writers=writers,
                corpus_root=self.folder,
                media=MEDIA,
                faces=self.faces,
                index_cache=self.folder / ".index-cache.json",
                config=ExtractConfig(batch_size=2, max_quarantined=max_quarantined, workers=0),
            )


def reasons(project: Project, modality: Modality) -> dict[str, str]:
    """Return the reason of each clip in the quarantine table on disk."""
    table = Quarantine(project.folder / f"{modality.value}.csv", stage="extract", modality=modality.value)
    return {entry.clip_id: entry.reason for entry in table}
