"""The runner's step that extracts features: one decode of a clip feeds every media branch asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.clips import Clip, Modality
from ecmf_pipeline.encoders.base import ClipText, Encoder, Encoding, Prepared
from ecmf_pipeline.encoders.config import BaseEncoderConfig
from ecmf_pipeline.errors import ChangedSinceIndex, ClipError, FeaturesNotFinite, NothingToEncode
from ecmf_pipeline.extraction.gpus import see_one_gpu
from ecmf_pipeline.faces import FaceConfig, FaceFinder, FaceTrack
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


@dataclass(slots=True)
class OpenedView:
    """What is left of a modality's view of a clip once it is prepared.

    Attributes:
        prepared: What the network takes.
        side: What is kept beside the features, with one entry an item of the view: ``times`` (seconds) at which frames
            are shown, ``boxes``, ``scores``.
    """

    prepared: Prepared
    side: dict[str, NDArray[Any]] = field(default_factory=dict)


OpenedClip = dict[Modality, OpenedView | ClipError]
"""A clip's prepared views; in place of one, why there is none."""


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
        self._faces = self._exits.enter_context(FaceFinder(plan.faces)) if Modality.FACE in plan.branches else None

    def close(self) -> None:
        """Free the native objects that encoders hold."""
        self._exits.close()

    def open(self, item: ClipToExtract) -> OpenedClip:
        """Decode a clip once, for the branches that miss it. A branch's failure stays that branch's."""
        opened: OpenedClip = {}
        if Modality.TEXT in item.digests:
            self._prepare(Modality.TEXT, lambda: (item.text, {}), opened)
        if media := item.digests.keys() - {Modality.TEXT}:
            path = self._plan.corpus_root / item.clip.path
            if _has_changed(path, item.clip.bytes):
                # Its features would be kept under the digest of what it was.
                changed = ChangedSinceIndex("the file has changed since it was indexed: run `ecmf-pipe index`")
                opened.update(dict.fromkeys(media, changed))
            else:
                with want_of_memory():
                    self._open_media(path, media, opened)
        return opened

    def _open_media(self, path: Path, wanted: set[Modality], opened: OpenedClip) -> None:
        if Modality.AUDIO in wanted:
            self._prepare(Modality.AUDIO, lambda: (read_audio(path), {}), opened)
        if not wanted & {Modality.GLOBAL, Modality.FACE}:
            return
        try:
            frames, times = read_frames(path, self._plan.media)
        except ClipError as error:
            opened.update(dict.fromkeys(wanted & {Modality.GLOBAL, Modality.FACE}, error))
            return
        if Modality.GLOBAL in wanted:
            self._prepare(Modality.GLOBAL, lambda: (frames, {"times": times}), opened)
        if Modality.FACE in wanted:
            self._prepare(Modality.FACE, lambda: self._follow(frames, times), opened)

    def _follow(
        self, frames: NDArray[np.uint8], times: NDArray[np.float32]
    ) -> tuple[FaceTrack, dict[str, NDArray[Any]]]:
        if self._faces is None:
            raise ValueError("the face branch is not one of this step's")
        track = self._faces.track(frames)
        return track, {"times": times[track.frames], "boxes": track.boxes, "scores": track.scores}

    def _prepare(
        self, modality: Modality, read: Callable[[], tuple[View, dict[str, NDArray[Any]]]], opened: OpenedClip
    ) -> None:
        try:
            view, side = read()
            opened[modality] = OpenedView(self._encoders[modality].preparer.prepare(view), side)
        except ClipError as error:
            opened[modality] = error

    def work(self, batch: Sequence[tuple[ClipToExtract, OpenedClip]]) -> list[Outcome[FeatureRow]]:
        """Encode the views of several clips, branch by branch."""
        outcomes: list[Outcome[FeatureRow]] = []
        for modality, encoder in self._encoders.items():
            here = [(item, opened[modality]) for item, opened in batch if modality in opened]
            good = [(item, view) for item, view in here if isinstance(view, OpenedView)]
            with want_of_memory():
                encodings = encoder.encode_prepared([view.prepared for _, view in good]) if good else []
            results = {
                item.clip.clip_id: self._row(modality, item, view, encoding)
                for (item, view), encoding in zip(good, encodings, strict=True)
            }
            for item, view in here:
                target = Target(item.clip.clip_id, modality.value, item.digests[modality])
                outcomes.append(Outcome(target, view if isinstance(view, ClipError) else results[item.clip.clip_id]))
        return outcomes

    def _row(
        self, modality: Modality, item: ClipToExtract, view: OpenedView, encoding: Encoding
    ) -> FeatureRow | ClipError:
        dtype = self._encoders[modality].dtype
        if len(encoding.values) == 0:
            return NothingToEncode(f"the {modality.value} encoder describes nothing in this clip")
        if not can_hold(encoding.values, dtype):
            return FeaturesNotFinite(f"the features hold NaN or exceed {dtype}")
        side = {name: array[encoding.kept] for name, array in view.side.items()}
        return FeatureRow(item.clip.clip_id, item.digests[modality], encoding.values.astype(dtype), side)


def _has_changed(path: Path, size: int) -> bool:
    """Whether a file has another size than it had when it was indexed (0: not known)."""
    try:
        return bool(size) and path.is_file() and path.stat().st_size != size
    except OSError:  # who reads it says what is wrong
        return False
