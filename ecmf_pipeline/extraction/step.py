"""Open a clip for its branches: one decode feeds all that read it, and of its views only what is prepared is kept.

Nothing here holds the weights of a network, so it may run in other processes than the networks do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline import __version__
from ecmf_pipeline.core.clips import Clip, ClipText, Modality
from ecmf_pipeline.core.errors import ChangedSinceIndex, ClipError, FeaturesNotFinite, NothingToEncode
from ecmf_pipeline.encoders.base import Encoder, Encoding, JoinedEncoder, Prepared, Preparer
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.encoders.config import JoinedConfig, frames_of
from ecmf_pipeline.encoders.registry import build_encoder, build_preparer
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.faces.detector import FaceFinder, FaceTrack
from ecmf_pipeline.faces.openface import read_openface
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.containers import has_changed, resolved_reader
from ecmf_pipeline.media.sampling import Sampling, read_audio, read_samplings
from ecmf_pipeline.runner import Opener, Outcome, Step, Target
from ecmf_pipeline.runner.machine import as_out_of_memory, hide_gpus, select_gpu
from ecmf_pipeline.store import FeatureRow, can_hold, create_settings_group

View = Any
"""What a preparer reads of a clip; see `Encoder`."""

_Sides = dict[str, NDArray[Any]]

UNKNOWN = "unknown"
"""The version of a library that is not installed as a package."""

_READERS = {"decord": ("av", "decord"), "pyav": ("av",)}
"""Where decord's pictures are wanted, PyAV looks into the file first, and may read it itself."""

_OF_FACES = ("mediapipe", "opencv-contrib-python")


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


class ExtractOpener(Opener[ClipToExtract, OpenedClip]):
    """Decodes clips and prepares their views.

    Args:
        plan: What is extracted, and how clips are read.
        preparers: What brings each branch's view into the form that its network takes; the caller closes them. None:
            they are built here, and closed by `close`.
    """

    def __init__(self, plan: ExtractSteps, preparers: Mapping[Modality, Preparer[View]] | None = None) -> None:
        self._corpus_root, self._media, self._faces = plan.corpus_root, plan.media, plan.faces
        self._frames = {m: frames_of(branch.encoder, plan.media.frames) for m, branch in plan.branches.items()}
        self._exits = ExitStack()
        if preparers is None:
            preparers = {modality: build_preparer(branch.encoder) for modality, branch in plan.branches.items()}
            for preparer in preparers.values():
                self._exits.callback(preparer.close)
        self._preparers = preparers
        is_finding = Modality.FACE in preparers and plan.faces.source != "openface"
        self._finder = self._exits.enter_context(FaceFinder(plan.faces)) if is_finding else None

    def close(self) -> None:
        """Free the native objects that it holds."""
        self._exits.close()

    def open(self, item: ClipToExtract) -> OpenedClip:
        """Decode a clip once, for the branches that miss it. A branch's failure stays that branch's."""
        opened: OpenedClip = {}
        with as_out_of_memory():
            if Modality.TEXT in item.digests:
                self._prepare(Modality.TEXT, lambda: (item.text, {}), opened)
            elsewhere = {Modality.TEXT}
            if self._faces.source == "openface" and Modality.FACE in item.digests:
                elsewhere.add(Modality.FACE)
                self._prepare(Modality.FACE, partial(self._face_crops, item.clip), opened)
            if media := item.digests.keys() - elsewhere:
                path = self._corpus_root / item.clip.path
                if has_changed(path, item.clip.bytes):
                    # Its features would be kept under the digest of what it was.
                    changed = ChangedSinceIndex("the file has changed since it was indexed: run `ecmf-pipe index`")
                    opened.update(dict.fromkeys(media, changed))
                else:
                    self._open_media(path, media, opened)
        return opened

    def _face_crops(self, clip: Clip) -> tuple[FaceTrack, _Sides]:
        path = self._corpus_root / clip.face_path
        if has_changed(path, clip.face_bytes):
            raise ChangedSinceIndex("the file of its face crops has changed since indexing: run `ecmf-pipe index`")
        track = read_openface(path, count=self._frames[Modality.FACE], size=self._faces.crop_size)
        return track, track.side_arrays(None)

    def _open_media(self, path: Path, wanted: set[Modality], opened: OpenedClip) -> None:
        if Modality.AUDIO in wanted:
            self._prepare(Modality.AUDIO, lambda: (read_audio(path), {}), opened)
        visual = [modality for modality in (Modality.GLOBAL, Modality.FACE) if modality in wanted]
        if not visual:
            return
        counts = list(dict.fromkeys(self._frames[modality] for modality in visual))
        try:
            sampled = dict(zip(counts, read_samplings(path, self._media, counts), strict=True))
        except ClipError as error:
            opened.update(dict.fromkeys(visual, error))
            return
        for modality in visual:
            reads = self._follow if modality is Modality.FACE else _as_it_is
            self._prepare(modality, partial(reads, sampled[self._frames[modality]]), opened)

    def _follow(self, sampling: Sampling) -> tuple[FaceTrack, _Sides]:
        if self._finder is None:
            raise ValueError("the face branch is not one of this opener's")
        track = self._finder.track(sampling.frames)
        return track, track.side_arrays(sampling.times)

    def _prepare(self, modality: Modality, read: Callable[[], tuple[View, _Sides]], opened: OpenedClip) -> None:
        try:
            view, side = read()
            opened[modality] = OpenedView(self._preparers[modality].prepare(view), side)
        except ClipError as error:
            opened[modality] = error


def _as_it_is(sampling: Sampling) -> tuple[NDArray[np.uint8], _Sides]:
    return sampling.frames, {"times": sampling.times}


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
        is_staged: Whether openers open the clips.
    """

    branches: Mapping[Modality, EncoderOfBranch]
    corpus_root: Path
    media: MediaConfig
    faces: FaceConfig
    device: str
    is_staged: bool = False

    def __call__(self, worker: int) -> ExtractStep:
        """Load the encoders."""
        select_gpu(self.device, worker)
        return ExtractStep(self)

    def opener(self, number: int) -> ExtractOpener:  # noqa: ARG002 - they are all alike
        """Load what comes before the networks; needs no GPU, and takes no room on one."""
        hide_gpus()
        return ExtractOpener(self)


class ExtractStep(Step[ClipToExtract, OpenedClip, FeatureRow]):
    """Extracts the features that clips miss."""

    def __init__(self, plan: ExtractSteps) -> None:
        self._plan = plan
        self._exits = ExitStack()
        self._encoders: dict[Modality, Encoder[Any]] = {}
        self._versions: dict[Modality, dict[str, str]] = {}
        for modality, branch in plan.branches.items():
            encoder = self._encoders[modality] = build_encoder(branch.encoder, plan.device)
            self._exits.callback(encoder.close)
            versions = self._versions[modality] = library_versions(modality, branch.encoder, plan.media)
            create_settings_group(
                branch.root,
                branch.settings,
                dim=encoder.dim,
                dtype=encoder.dtype,
                provenance={**provenance_of(branch.encoder, encoder), "versions": versions},
            )
        # Where openers open, a worker does so for suspects alone: the face detector is loaded when one comes.
        self._opener = None if plan.is_staged else self._new_opener()

    def close(self) -> None:
        """Free the native objects that encoders hold."""
        self._exits.close()

    def open(self, item: ClipToExtract) -> OpenedClip:
        """Decode a clip once, for the branches that miss it. A branch's failure stays that branch's."""
        self._opener = self._opener or self._new_opener()
        return self._opener.open(item)

    def _new_opener(self) -> ExtractOpener:
        preparers = {modality: encoder.preparer for modality, encoder in self._encoders.items()}
        opener = ExtractOpener(self._plan, preparers)
        self._exits.callback(opener.close)
        return opener

    def work(self, batch: Sequence[tuple[ClipToExtract, OpenedClip]]) -> list[Outcome[FeatureRow]]:
        """Encode the views of several clips, branch by branch."""
        outcomes: list[Outcome[FeatureRow]] = []
        for modality, encoder in self._encoders.items():
            here = [(item, opened[modality]) for item, opened in batch if modality in opened]
            good = [(item, view) for item, view in here if isinstance(view, OpenedView)]
            with as_out_of_memory():
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
        values = encoding.values.astype(dtype)
        return FeatureRow(item.clip.clip_id, item.digests[modality], values, side, self._versions[modality])


def library_versions(modality: Modality, encoder: BaseEncoderConfig, media: MediaConfig) -> dict[str, str]:
    """Return the versions of what computes a modality's features here, by the package's name, sorted."""
    libraries = {"numpy", *encoder.libraries()}
    if modality in {Modality.GLOBAL, Modality.FACE}:
        libraries.update(_READERS[resolved_reader(media)])
    if modality is Modality.FACE:
        libraries.update(_OF_FACES)
    if modality is Modality.AUDIO:
        libraries.add("av")
    return dict(sorted({"ecmf-pipeline": __version__, **{name: _version(name) for name in libraries}}.items()))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def provenance_of(config: BaseEncoderConfig, encoder: Encoder[Any]) -> dict[str, Any]:
    """Return where the features of an encoder, given by its params and loaded, come from; of joined ones by member."""
    if isinstance(config, JoinedConfig) and isinstance(encoder, JoinedEncoder):
        return {"members": [provenance_of(*pair) for pair in zip(config.members, encoder.members, strict=True)]}
    return {**config.origin(), **encoder.provenance}
