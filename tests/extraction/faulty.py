"""An extraction step that fails at clips with certain names; workers import it to unpickle its factory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecmf_pipeline.extraction.step import (
    ClipToExtract,
    ExtractOpener,
    ExtractStep,
    ExtractStepFactory,
    OpenedClip,
    OpenedView,
)


class FaultyOpener(ExtractOpener):
    """Raises at clip ``opening``; the view of ``pickling`` cannot be sent to another process."""

    def open(self, item: ClipToExtract) -> OpenedClip:
        if item.clip.clip_id == "opening":
            raise AttributeError("'NoneType' object has no attribute 'skip_frame'")
        opened = super().open(item)
        if item.clip.clip_id == "pickling":
            opened = {
                modality: OpenedView(lambda: 0) if isinstance(view, OpenedView) else view
                for modality, view in opened.items()
            }
        return opened


class FaultyStep(ExtractStep):
    """Raises if a batch contains clip ``working``."""

    def _new_opener(self) -> ExtractOpener:
        return FaultyOpener(self._plan, {modality: encoder.preparer for modality, encoder in self._encoders.items()})

    def work(self, batch: Sequence[tuple[ClipToExtract, OpenedClip]]):
        if any(item.clip.clip_id == "working" for item, _ in batch):
            raise ValueError("25 is not a valid Type")
        return super().work(batch)


@dataclass(frozen=True, slots=True)
class FaultyFactory(ExtractStepFactory):
    def __call__(self, worker: int) -> ExtractStep:
        return FaultyStep(self)

    def opener(self, number: int) -> ExtractOpener:
        return FaultyOpener(self)
