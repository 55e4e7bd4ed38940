"""The runner's step that extracts features: one decode of a clip feeds every media branch asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.clips import Clip, Modality
from ecmf_pipeline.encoders.base import ClipText, Encoder, Encoding
from ecmf_pipeline.encoders.config import BaseEncoderConfig
from ecmf_pipeline.errors import ChangedSinceIndex, ClipError, FeaturesNotFinite, NothingToEncode
from ecmf_pipeline.extraction.gpus import see_one_gpu
from ecmf_pipeline.faces import FaceConfig, FaceFinder, FaceTrack, read_openface
from ecmf_pipeline.media import MediaConfig, read_audio, read_frames
from ecmf_pipeline.memory import want_of_memory
from ecmf_pipeline.runner import Outcome, Step, Target
from ecmf_pipeline.store import FeatureRow, can_hold, create_settings_group

View = Any
"""What an encoder reads of a clip; see `Encoder`."""


@dataclass(frozen=True, slots=True)
class ClipToExtract:
    """A clip and what it misses: all that a worker needs to know of it.

    Attributes:
        clip: The clip.
        digests: Digest of its input, by the modality that misses it.
        text: Its transcripts; None where the text branch does not miss it.
    """

    clip: Clip
    digests: Mapping[Modality, str]
    text: ClipText | None = None

    @property
    def targets(self) -> Sequence[Target]:
        """The features to compute."""
        return [Target(self.clip.clip_id, modality.value, digest) for modality, digest in self.digests.items()]

    def alone(self) -> Sequence[ClipToExtract]:
        """One for each branch: also where branches share a decode, what breaks one may spare the other."""
        return [
            replace(self, digests={modality: digest}, text=self.text if modality is Modality.TEXT else None)
            for modality, digest in self.digests.items()
        ]


@dataclass(frozen=True, slots=True)
class EncoderOfBranch:
    """Which encoder computes a modality, and where its features go.

    Attributes:
        encoder: Its params.
        settings: All that changes the numbers.
        root: The store.
    """

    encoder: BaseEncoderConfig
    settings: Mapping[str, Any]
    root: Path


@dataclass(frozen=True, slots=True)
class ExtractSteps:
    """Makes the step of each worker, in that worker.

    Attributes:
        branches: What is extracted.
        corpus_root: What the clips' paths are relative to.
        media: How clips are sampled.
        faces: How faces are found.
        device: Where the encoders run; with ``auto`` and ``cuda`` the workers share out the GPUs there are.
    """

    branches: Mapping[Modality, EncoderOfBranch]
    corpus_root: Path
    media: MediaConfig
    faces: FaceConfig
    device: str

    def __call__(self, worker: int) -> ExtractStep:
        """Load the encoders."""
        see_one_gpu(self.device, worker)
        return ExtractStep(self)


class OpenedClip:
    """A clip's views, by modality, and when its sampled frames are shown; in place of a view, why there is none."""

    __slots__ = ("times", "views")

    def __init__(self) -> None:
        self.views: dict[Modality, View | ClipError] = {}
        self.times: NDArray[np.float32] = np.empty(0, np.float32)


class ExtractStep(Step[ClipToExtract, OpenedClip, FeatureRow]):
    """Extracts the features that clips miss."""

    def __init__(self, plan: ExtractSteps) -> None:
        self._plan = plan
        self._exits = ExitStack()
        self._encoders: dict[Modality, Encoder[View]] = {}
        for modality, branch in plan.branches.items():
            encoder = branch.encoder.build(plan.device)
            self._exits.callback(encoder.close)
            self._encoders[modality] = encoder
            create_settings_group(branch.root, branch.settings, dim=encoder.dim, dtype=encoder.dtype)
        is_finding = Modality.FACE in plan.branches and not plan.faces.are_cut_already
        self._faces = self._exits.enter_context(FaceFinder(plan.faces)) if is_finding else None

    def close(self) -> None:
        """Free the native objects that encoders hold."""
        self._exits.close()

    def open(self, item: ClipToExtract) -> OpenedClip:
        """Decode a clip once, for the branches that miss it. A branch's failure stays that branch's."""
        opened = OpenedClip()
        if Modality.TEXT in item.digests:
            opened.views[Modality.TEXT] = item.text
        elsewhere = {Modality.TEXT}
        if self._plan.faces.are_cut_already and Modality.FACE in item.digests:
            elsewhere.add(Modality.FACE)
            opened.views[Modality.FACE] = self._face_crops(item.clip)
        if media := item.digests.keys() - elsewhere:
            path = self._plan.corpus_root / item.clip.path
            if _has_changed(path, item.clip.bytes):
                # Its features would be kept under the digest of what it was.
                changed = ChangedSinceIndex("the file has changed since it was indexed: run `ecmf-pipe index`")
                opened.views.update(dict.fromkeys(media, changed))
            else:
                with want_of_memory():
                    self._open_media(path, media, opened)
        return opened

    def _face_crops(self, clip: Clip) -> FaceTrack | ClipError:
        path = self._plan.corpus_root / clip.face_path
        if _has_changed(path, clip.face_bytes):
            return ChangedSinceIndex("the file of its face crops has changed since indexing: run `ecmf-pipe index`")
        try:
            with want_of_memory():
                return read_openface(path, count=self._plan.media.frames, size=self._plan.faces.crop_size)
        except ClipError as error:
            return error

    def _open_media(self, path: Path, wanted: set[Modality], opened: OpenedClip) -> None:
        if Modality.AUDIO in wanted:
            try:
                opened.views[Modality.AUDIO] = read_audio(path)
            except ClipError as error:
                opened.views[Modality.AUDIO] = error
        if not wanted & {Modality.GLOBAL, Modality.FACE}:
            return
        try:
            frames, opened.times = read_frames(path, self._plan.media)
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

    def work(self, batch: Sequence[tuple[ClipToExtract, OpenedClip]]) -> list[Outcome[FeatureRow]]:
        """Encode the views of several clips, branch by branch."""
        outcomes: list[Outcome[FeatureRow]] = []
        for modality, encoder in self._encoders.items():
            here = [(item, opened) for item, opened in batch if modality in opened.views]
            good = [(item, opened) for item, opened in here if not isinstance(opened.views[modality], ClipError)]
            with want_of_memory():
                encodings = encoder.encode([opened.views[modality] for _, opened in good]) if good else []
            results = {
                item.clip.clip_id: self._row(modality, item, opened, encoding)
                for (item, opened), encoding in zip(good, encodings, strict=True)
            }
            for item, opened in here:
                target = Target(item.clip.clip_id, modality.value, item.digests[modality])
                view = opened.views[modality]
                outcomes.append(Outcome(target, view if isinstance(view, ClipError) else results[item.clip.clip_id]))
        return outcomes

    def _row(
        self, modality: Modality, item: ClipToExtract, opened: OpenedClip, encoding: Encoding
    ) -> FeatureRow | ClipError:
        view = opened.views[modality]
        dtype = self._encoders[modality].dtype
        if len(encoding.values) == 0:
            return NothingToEncode(f"the {modality.value} encoder describes nothing in this clip")
        if not can_hold(encoding.values, dtype):
            return FeaturesNotFinite(f"the features hold NaN or exceed {dtype}")
        side: dict[str, NDArray[Any]] = {}
        if modality is Modality.GLOBAL:
            side["times"] = opened.times[encoding.kept]
        if isinstance(view, FaceTrack):
            arrays = view.side_arrays(None if self._plan.faces.are_cut_already else opened.times)
            side = {name: array[encoding.kept] for name, array in arrays.items()}
        return FeatureRow(item.clip.clip_id, item.digests[modality], encoding.values.astype(dtype), side)


def _has_changed(path: Path, size: int) -> bool:
    """Whether a file has another size than it had when it was indexed (0: not known)."""
    try:
        return bool(size) and path.is_file() and path.stat().st_size != size
    except OSError:  # who reads it says what is wrong
        return False
