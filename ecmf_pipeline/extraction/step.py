"""The runner's step that extracts features: one decode of a clip feeds every media branch asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.clips import Modality
from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer
from ecmf_pipeline.encoders.config import BaseEncoderConfig
from ecmf_pipeline.errors import ClipError, FeaturesNotFinite, NothingToEncode
from ecmf_pipeline.extraction.gpus import see_no_gpu, see_one_gpu
from ecmf_pipeline.extraction.opening import ClipToExtract, ExtractOpener, OpenedClip, OpenedView
from ecmf_pipeline.extraction.plan import frames_of
from ecmf_pipeline.extraction.provenance import library_versions, provenance_of
from ecmf_pipeline.faces import FaceConfig
from ecmf_pipeline.media import MediaConfig
from ecmf_pipeline.memory import want_of_memory
from ecmf_pipeline.runner import Outcome, Step, Target
from ecmf_pipeline.store import FeatureRow, can_hold, create_settings_group


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
        see_one_gpu(self.device, worker)
        return ExtractStep(self)

    def opener(self, number: int) -> ExtractOpener:  # noqa: ARG002 - they are all alike
        """Load what comes before the networks; needs no GPU, and takes no room on one."""
        see_no_gpu()
        preparers = {modality: branch.encoder.preparer() for modality, branch in self.branches.items()}
        return self.opener_with(preparers, owns_preparers=True)

    def opener_with(self, preparers: Mapping[Modality, Preparer[Any]], *, owns_preparers: bool) -> ExtractOpener:
        """What opens clips for some preparers; see `ExtractOpener`."""
        return ExtractOpener(
            preparers,
            {modality: frames_of(branch.encoder, self.media) for modality, branch in self.branches.items()},
            corpus_root=self.corpus_root,
            media=self.media,
            faces=self.faces,
            owns_preparers=owns_preparers,
        )


class ExtractStep(Step[ClipToExtract, OpenedClip, FeatureRow]):
    """Extracts the features that clips miss."""

    def __init__(self, plan: ExtractSteps) -> None:
        self._plan = plan
        self._exits = ExitStack()
        self._encoders: dict[Modality, Encoder[Any]] = {}
        self._versions: dict[Modality, dict[str, str]] = {}
        for modality, branch in plan.branches.items():
            encoder = branch.encoder.build(plan.device)
            self._exits.callback(encoder.close)
            self._encoders[modality] = encoder
            self._versions[modality] = library_versions(modality, branch.encoder, plan.media)
            create_settings_group(
                branch.root,
                branch.settings,
                dim=encoder.dim,
                dtype=encoder.dtype,
                provenance=provenance_of(branch.encoder, encoder, self._versions[modality]),
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
        opener = self._plan.opener_with(preparers, owns_preparers=False)  # they are the encoders' own
        self._exits.callback(opener.close)
        return opener

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
        values = encoding.values.astype(dtype)
        return FeatureRow(item.clip.clip_id, item.digests[modality], values, side, self._versions[modality])
