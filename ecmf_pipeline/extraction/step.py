"""Open clips for their branches and encode them: one decode serves all branches, and only prepared views are kept.

`ExtractOpener` holds no network weights, so it can run in other processes than the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline import __version__
from ecmf_pipeline.core.clips import Clip, ClipText, Modality
from ecmf_pipeline.core.config import Frames
from ecmf_pipeline.core.errors import (
    ChangedSinceIndex,
    ClipError,
    FeaturesNotFinite,
    FileUnreachable,
    NothingToEncode,
)
from ecmf_pipeline.core.files import FileState, indexed_content
from ecmf_pipeline.encoders.base import Encoder, Encoding, Prepared, Preparer
from ecmf_pipeline.encoders.base_config import BaseEncoderConfig
from ecmf_pipeline.encoders.config import configured_frames
from ecmf_pipeline.encoders.registry import build_encoder, build_preparer
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.faces.detector import FaceFinder, FaceTrack
from ecmf_pipeline.faces.openface import read_openface
from ecmf_pipeline.media.clip_reader import ClipReader, span_of
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import Sampling
from ecmf_pipeline.media.timeline import Span
from ecmf_pipeline.runner import Opener, Outcome, Step, Target
from ecmf_pipeline.runner.machine import as_out_of_memory, hide_gpus, select_gpu
from ecmf_pipeline.store import FeatureRow, can_hold, create_settings_group

View = Any
"""Input of a preparer; see `Encoder`."""

_SideArrays = dict[str, NDArray[Any]]

UNKNOWN = "unknown"
"""Version of a library that is not installed as a package."""

_READER_LIBRARIES = {"decord": ("av", "decord"), "pyav": ("av",), "auto": ("av",)}
"""Libraries by video reader. With decord, PyAV inspects the file first and may decode it itself."""

_FACE_LIBRARIES = ("mediapipe", "opencv-contrib-python")


@dataclass(frozen=True, slots=True)
class ClipToExtract:
    """A clip and its missing features; holds all data that a worker needs.

    Attributes:
        clip: The clip.
        digests: Digest of the input, for each branch whose features are missing.
        text: The transcripts; None if no text features are missing.
        media_state: State of the media file with the digest of the manifest; None if unknown.
        face_state: The same of the file of face crops.
        sound_state: The same of the sound file beside the media file.
    """

    clip: Clip
    digests: Mapping[str, str]
    text: ClipText | None = None
    media_state: FileState | None = None
    face_state: FileState | None = None
    sound_state: FileState | None = None

    @property
    def targets(self) -> Sequence[Target]:
        """The features to compute."""
        return [Target(self.clip.clip_id, branch, digest) for branch, digest in self.digests.items()]

    def alone(self) -> Sequence[ClipToExtract]:
        """Return one item for each branch: if a branch fails, others that share its decode may still succeed."""
        return [replace(self, digests={branch: digest}) for branch, digest in self.digests.items()]


@dataclass(slots=True)
class OpenedView:
    """The input of a clip, prepared for the encoder of one branch.

    Attributes:
        prepared: Input of the network.
        side: Arrays stored with the features, with one entry for each frame or crop: ``times`` (seconds) of the frames,
            ``boxes``, ``scores``.
    """

    prepared: Prepared
    side: dict[str, NDArray[Any]] = field(default_factory=dict)


OpenedClip = dict[str, OpenedView | ClipError]
"""The prepared views of a clip, or the error of each branch that failed."""


class ExtractOpener(Opener[ClipToExtract, OpenedClip]):
    """An opener that decodes clips and prepares their views.

    A view (sampled frames, a face track, sound, texts) is made once and prepared for each encoder that reads it.

    Args:
        plan: The branches, and how clips are read.
        preparers: Convert the view of each branch to the input of its network; the caller closes them. None: the opener
            builds and closes them.
    """

    def __init__(self, plan: ExtractStepFactory, preparers: Mapping[str, Preparer[View]] | None = None) -> None:
        self._corpus_root, self._faces = plan.corpus_root, plan.faces
        self._reader = ClipReader(plan.media)
        self._modalities = {name: branch.modality for name, branch in plan.branches.items()}
        self._frames = {
            name: configured_frames(branch.encoder, plan.media.frames) for name, branch in plan.branches.items()
        }
        self._exits = ExitStack()
        if preparers is None:
            preparers = {name: build_preparer(branch.encoder) for name, branch in plan.branches.items()}
            for preparer in preparers.values():
                self._exits.callback(preparer.close)
        self._preparers = preparers
        detects_faces = Modality.FACE in self._modalities.values() and plan.faces.source != "openface"
        self._finder = self._exits.enter_context(FaceFinder(plan.faces)) if detects_faces else None

    def close(self) -> None:
        """Release native objects."""
        self._exits.close()

    def open(self, item: ClipToExtract) -> OpenedClip:
        """Decode a clip once for all branches that miss it; an error affects only its branch."""
        opened: OpenedClip = {}
        missing: dict[Modality, list[str]] = {}
        for name in item.digests:
            missing.setdefault(self._modalities[name], []).append(name)
        with as_out_of_memory():
            self._prepare(missing.pop(Modality.TEXT, ()), lambda: (item.text, {}), opened)
            if self._faces.source == "openface":
                for frames, names in self._by_frames(missing.pop(Modality.FACE, ())).items():
                    self._prepare(names, partial(self._face_crops, item, frames), opened)
            clip = item.clip
            if clip.audio_path and (names := missing.pop(Modality.AUDIO, [])):
                sound = (clip.audio_path, clip.audio_digest, item.sound_state, clip.audio_bytes)
                self._open_media(*sound, span_of(clip), {Modality.AUDIO: names}, opened)
            if missing:
                self._open_media(
                    clip.path, clip.file_digest, item.media_state, clip.bytes, span_of(clip), missing, opened
                )
        return opened

    def _by_frames(self, names: Iterable[str]) -> dict[Frames, list[str]]:
        """Group branches by the frames that they read."""
        groups: dict[Frames, list[str]] = {}
        for name in names:
            groups.setdefault(self._frames[name], []).append(name)
        return groups

    def _face_crops(self, item: ClipToExtract, frames: Frames) -> tuple[FaceTrack, _SideArrays]:
        clip, path = item.clip, self._corpus_root / item.clip.face_path
        with indexed_content(path, clip.face_digest, item.face_state, clip.face_bytes):
            track = read_openface(path, count=frames, size=self._faces.crop_size)
        return track, track.side_arrays(None)

    def _open_media(
        self,
        path: str,
        digest: str,
        state: FileState | None,
        size: int,
        span: Span,
        missing: Mapping[Modality, Sequence[str]],
        opened: OpenedClip,
    ) -> None:
        """Open a span of a file for some branches, unless its content is no longer that of the manifest."""
        file = self._corpus_root / path
        try:
            # Features of another content would be stored under the digest of the indexed one.
            with indexed_content(file, digest, state, size):
                self._read_media(file, span, missing, opened)
        except (ChangedSinceIndex, FileUnreachable) as error:
            opened.update(dict.fromkeys(chain.from_iterable(missing.values()), error))

    def _read_media(
        self, path: Path, span: Span, missing: Mapping[Modality, Sequence[str]], opened: OpenedClip
    ) -> None:
        self._prepare(missing.get(Modality.AUDIO, ()), lambda: (self._reader.sound(path, span), {}), opened)
        if groups := self._by_frames([*missing.get(Modality.GLOBAL, ()), *missing.get(Modality.FACE, ())]):
            self._read_pictures(path, span, groups, opened)

    def _read_pictures(
        self, path: Path, span: Span, groups: Mapping[Frames, Sequence[str]], opened: OpenedClip
    ) -> None:
        """Decode the pictures for all branches once; ``groups`` are the names of branches by the frames they read."""
        try:
            samplings = self._reader.samplings(path, span, list(groups))
        except ClipError as error:
            if len(groups) == 1:
                opened.update(dict.fromkeys(chain.from_iterable(groups.values()), error))
                return
            # Fewer pictures may fit into memory or include no damaged one: each branch has the result it has alone.
            for frames, names in groups.items():
                self._read_pictures(path, span, {frames: names}, opened)
            return
        for names, sampling in zip(groups.values(), samplings, strict=True):
            faces = [name for name in names if self._modalities[name] is Modality.FACE]
            others = [name for name in names if name not in faces]
            self._prepare(others, partial(_whole_frames, sampling), opened)
            self._prepare(faces, partial(self._track_face, sampling), opened)

    def _track_face(self, sampling: Sampling) -> tuple[FaceTrack, _SideArrays]:
        if self._finder is None:
            raise ValueError("this opener has no face branch")
        track = self._finder.track(sampling.frames)
        return track, track.side_arrays(sampling.times)

    def _prepare(
        self, names: Sequence[str], read_view: Callable[[], tuple[View, _SideArrays]], opened: OpenedClip
    ) -> None:
        """Read a view once and prepare it for each of some branches; an error of the view affects all of them."""
        if not names:
            return
        try:
            view, side = read_view()
        except ClipError as error:
            opened.update(dict.fromkeys(names, error))
            return
        for name in names:
            try:
                opened[name] = OpenedView(self._preparers[name].prepare(view), side)
            except ClipError as error:
                opened[name] = error


def _whole_frames(sampling: Sampling) -> tuple[NDArray[np.uint8], _SideArrays]:
    return sampling.frames, {"times": sampling.times}


@dataclass(frozen=True, slots=True)
class BranchEncoder:
    """The encoder of a branch, and the store of its features.

    Attributes:
        modality: The modality that it encodes; several branches may have the same.
        encoder: Parameters of the encoder.
        settings: All settings that change the features.
        root: Folder of the store.
    """

    modality: Modality
    encoder: BaseEncoderConfig
    settings: Mapping[str, Any]
    root: Path


@dataclass(frozen=True, slots=True)
class ExtractStepFactory:
    """Factory of the step of each worker.

    Attributes:
        branches: The branches to extract, by name.
        corpus_root: Folder that clip paths are relative to.
        media: How clips are sampled.
        faces: How faces are found.
        device: Device of the encoders; with ``auto`` and ``cuda`` the workers share the available GPUs.
        uses_openers: Whether openers open the clips.
    """

    branches: Mapping[str, BranchEncoder]
    corpus_root: Path
    media: MediaConfig
    faces: FaceConfig
    device: str
    uses_openers: bool = False

    def __call__(self, worker: int) -> ExtractStep:
        """Load the encoders."""
        select_gpu(self.device, worker)
        return ExtractStep(self)

    def opener(self, number: int) -> ExtractOpener:  # noqa: ARG002 - all openers are identical
        """Build an opener, which uses no GPU."""
        hide_gpus()
        return ExtractOpener(self)


class ExtractStep(Step[ClipToExtract, OpenedClip, FeatureRow]):
    """A step that extracts the missing features of clips."""

    def __init__(self, plan: ExtractStepFactory) -> None:
        self._plan = plan
        self._exits = ExitStack()
        self._encoders: dict[str, Encoder[Any]] = {}
        self._versions: dict[str, dict[str, str]] = {}
        for name, branch in plan.branches.items():
            encoder = self._encoders[name] = build_encoder(branch.encoder, plan.device)
            self._exits.callback(encoder.close)
            versions = self._versions[name] = library_versions(branch.modality, branch.encoder, plan.media)
            create_settings_group(
                branch.root,
                branch.settings,
                dim=encoder.dim,
                dtype=encoder.dtype,
                columns=encoder.column_names,
                provenance={**encoder_provenance(branch.encoder, encoder), "versions": versions},
            )
        # With openers, a worker opens only suspects: load the face detector when the first one arrives.
        self._opener = None if plan.uses_openers else self._new_opener()

    def close(self) -> None:
        """Release the native objects of encoders and openers."""
        self._exits.close()

    def open(self, item: ClipToExtract) -> OpenedClip:
        """Decode a clip once for all branches that miss it; an error affects only its branch."""
        self._opener = self._opener or self._new_opener()
        return self._opener.open(item)

    def _new_opener(self) -> ExtractOpener:
        preparers = {name: encoder.preparer for name, encoder in self._encoders.items()}
        opener = ExtractOpener(self._plan, preparers)
        self._exits.callback(opener.close)
        return opener

    def work(self, batch: Sequence[tuple[ClipToExtract, OpenedClip]]) -> list[Outcome[FeatureRow]]:
        """Encode the views of several clips, branch by branch."""
        outcomes: list[Outcome[FeatureRow]] = []
        for name, encoder in self._encoders.items():
            views = [(item, opened[name]) for item, opened in batch if name in opened]
            good = [(item, view) for item, view in views if isinstance(view, OpenedView)]
            with as_out_of_memory():
                encodings = encoder.encode_prepared([view.prepared for _, view in good]) if good else []
            results = {
                item.clip.clip_id: self._make_row(name, item, view, encoding)
                for (item, view), encoding in zip(good, encodings, strict=True)
            }
            for item, view in views:
                target = Target(item.clip.clip_id, name, item.digests[name])
                outcomes.append(Outcome(target, view if isinstance(view, ClipError) else results[item.clip.clip_id]))
        return outcomes

    def _make_row(self, name: str, item: ClipToExtract, view: OpenedView, encoding: Encoding) -> FeatureRow | ClipError:
        dtype = self._encoders[name].dtype
        if len(encoding.values) == 0:
            return NothingToEncode(f"the {name} encoder returned no features for this clip")
        if not can_hold(encoding.values, dtype):
            return FeaturesNotFinite(f"the features contain NaN or exceed the range of {dtype}")
        side = {key: array[encoding.kept] for key, array in view.side.items()}
        values = encoding.values.astype(dtype)
        return FeatureRow(item.clip.clip_id, item.digests[name], values, side, self._versions[name])


def library_versions(modality: Modality, encoder: BaseEncoderConfig, media: MediaConfig) -> dict[str, str]:
    """Return the versions of the libraries that compute a modality's features, sorted by package name."""
    libraries = {"numpy", *encoder.libraries()}
    if modality in {Modality.GLOBAL, Modality.FACE}:
        libraries.update(_READER_LIBRARIES[media.reader])
    if modality is Modality.FACE:
        libraries.update(_FACE_LIBRARIES)
    if modality is Modality.AUDIO:
        libraries.add("av")
    return dict(sorted({"ecmf-pipeline": __version__, **{name: _version(name) for name in libraries}}.items()))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def encoder_provenance(config: BaseEncoderConfig, encoder: Encoder[Any]) -> dict[str, Any]:
    """Return the provenance of an encoder's features.

    Args:
        config: Parameters of the encoder.
        encoder: The loaded encoder.
    """
    return {**config.origin(), **encoder.provenance}
