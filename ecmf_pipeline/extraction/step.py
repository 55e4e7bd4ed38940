"""The runner's step that extracts features: one decode of a clip feeds every media branch asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.clips import Clip, Modality
from ecmf_pipeline.encoders.base import ClipText, Encoder, Encoding
from ecmf_pipeline.errors import ChangedSinceIndex, ClipError, FeaturesNotFinite, NothingToEncode
from ecmf_pipeline.extraction.plan import Branch
from ecmf_pipeline.faces import FaceConfig, FaceFinder, FaceTrack
from ecmf_pipeline.media import MediaConfig, read_audio, read_frames
from ecmf_pipeline.runner import Outcome, Step, Target
from ecmf_pipeline.store import FeatureRow, FeatureStore

View = Any
"""What an encoder reads of a clip; see `Encoder`."""


class OpenedClip:
    """A clip's views, by modality, and when its sampled frames are shown; in place of a view, why there is none."""

    __slots__ = ("times", "views")

    def __init__(self) -> None:
        self.views: dict[Modality, View | ClipError] = {}
        self.times: NDArray[np.float32] = np.empty(0, np.float32)


class ExtractStep(Step[Clip, OpenedClip, FeatureRow]):
    """Extracts the features of the planned branches; a context manager, since encoders hold native objects."""

    def __init__(
        self,
        branches: Sequence[Branch],
        texts: Mapping[str, ClipText],
        *,
        corpus_root: Path,
        media: MediaConfig,
        faces: FaceConfig,
        device: str,
        store_root: Callable[[Modality], Path],
    ) -> None:
        self._branches = {branch.modality: branch for branch in branches}
        self._texts = texts
        self._corpus_root = corpus_root
        self._media = media
        self._exits = ExitStack()
        self._encoders: dict[Modality, Encoder[View]] = {}
        self._stores: dict[Modality, FeatureStore] = {}
        for modality, branch in self._branches.items():
            encoder = branch.encoder.build(device)
            self._exits.callback(encoder.close)
            self._encoders[modality] = encoder
            self._stores[modality] = FeatureStore.create(
                store_root(modality), branch.settings, dim=encoder.dim, dtype=encoder.dtype
            )
        self._faces = self._exits.enter_context(FaceFinder(faces)) if Modality.FACE in self._branches else None

    def __enter__(self) -> ExtractStep:
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def targets(self, item: Clip) -> Sequence[Target]:
        """The modalities that are missing for a clip."""
        return [
            Target(item.clip_id, modality.value, branch.digests[item.clip_id])
            for modality, branch in self._branches.items()
            if item.clip_id in branch.todo
        ]

    def open(self, item: Clip) -> OpenedClip:
        """Decode a clip once, for the branches that miss it. A branch's failure stays that branch's."""
        wanted = {Modality(target.branch) for target in self.targets(item)}
        opened = OpenedClip()
        path = self._corpus_root / item.path
        if item.bytes and wanted != {Modality.TEXT} and path.is_file() and path.stat().st_size != item.bytes:
            # Its features would be kept under the digest of what it was.
            raise ChangedSinceIndex("the file has changed since it was indexed: run `ecmf-pipe index`")
        if Modality.TEXT in wanted:
            opened.views[Modality.TEXT] = self._texts[item.clip_id]
        if Modality.AUDIO in wanted:
            try:
                opened.views[Modality.AUDIO] = read_audio(path)
            except ClipError as error:
                opened.views[Modality.AUDIO] = error
        if wanted & {Modality.GLOBAL, Modality.FACE}:
            self._open_pictures(path, wanted, opened)
        return opened

    def _open_pictures(self, path: Path, wanted: set[Modality], opened: OpenedClip) -> None:
        try:
            frames, opened.times = read_frames(path, self._media)
        except ClipError as error:
            opened.views.update(dict.fromkeys(wanted & {Modality.GLOBAL, Modality.FACE}, error))
            return
        if Modality.GLOBAL in wanted:
            opened.views[Modality.GLOBAL] = frames
        if self._faces is not None and Modality.FACE in wanted:
            try:
                opened.views[Modality.FACE] = self._faces.track(frames)
            except ClipError as error:
                opened.views[Modality.FACE] = error

    def work(self, batch: Sequence[tuple[Clip, OpenedClip]]) -> list[Outcome[FeatureRow]]:
        """Encode the views of several clips, branch by branch."""
        outcomes: list[Outcome[FeatureRow]] = []
        for modality, encoder in self._encoders.items():
            here = [(clip, opened) for clip, opened in batch if modality in opened.views]
            good = [(clip, opened) for clip, opened in here if not isinstance(opened.views[modality], ClipError)]
            encodings = encoder.encode([opened.views[modality] for _, opened in good]) if good else []
            results = {
                clip.clip_id: self._row(modality, clip, opened, encoding)
                for (clip, opened), encoding in zip(good, encodings, strict=True)
            }
            for clip, opened in here:
                target = Target(clip.clip_id, modality.value, self._branches[modality].digests[clip.clip_id])
                view = opened.views[modality]
                outcomes.append(Outcome(target, view if isinstance(view, ClipError) else results[clip.clip_id]))
        return outcomes

    def _row(self, modality: Modality, clip: Clip, opened: OpenedClip, encoding: Encoding) -> FeatureRow | ClipError:
        view = opened.views[modality]
        if len(encoding.values) == 0:
            return NothingToEncode(f"the {modality.value} encoder describes nothing in this clip")
        if not self._stores[modality].can_hold(encoding.values):
            return FeaturesNotFinite(f"the features hold NaN or exceed {self._stores[modality].dtype}")
        side: dict[str, NDArray[Any]] = {}
        if modality is Modality.GLOBAL:
            side["times"] = opened.times[encoding.kept]
        if isinstance(view, FaceTrack):
            side["times"] = opened.times[view.frames[encoding.kept]]
            side["boxes"] = view.boxes[encoding.kept]
            side["scores"] = view.scores[encoding.kept]
        digest = self._branches[modality].digests[clip.clip_id]
        return FeatureRow(clip.clip_id, digest, encoding.values, side)

    def commit(self, branch: str, rows: Sequence[FeatureRow]) -> None:
        """Append one part to the branch's store."""
        self._stores[Modality(branch)].append(rows)
