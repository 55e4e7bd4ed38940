"""How much of a modality is there, told from its store and quarantine table alone (no weights, no encoder)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ecmf_pipeline.clips import Clip, Modality
from ecmf_pipeline.encoders.base import ClipText
from ecmf_pipeline.extraction.plan import READING, Reading, present_digests
from ecmf_pipeline.quarantine import Quarantine
from ecmf_pipeline.store import FeatureStore, current_fingerprint, has_fingerprint


@dataclass(frozen=True, slots=True)
class Coverage:
    """Clips of one modality.

    Attributes:
        done: Have features of their present input.
        missing: Are still to be computed.
        absent: Have no such input (no sound, no words...), or none of the imported features.
        quarantined: Were found to be bad.
    """

    done: int
    missing: int
    absent: int
    quarantined: int


def coverage(
    modality: Modality,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    *,
    root: Path,
    quarantine_path: Path,
    fingerprint: str | None = None,
    reading: Reading = READING,
) -> Coverage:
    """Count a modality's clips.

    Args:
        modality: Which branch.
        clips: The manifest.
        texts: Transcripts by clip id.
        root: The modality's store.
        quarantine_path: Its quarantine table.
        fingerprint: The settings whose features count; None for those in use.
        reading: Which inputs the branch reads, where there is no store that says so.
    """
    current = fingerprint or current_fingerprint(root)
    store = FeatureStore(root, current) if current and has_fingerprint(root, current) else None
    digests = present_digests(modality, clips, texts, store, reading)
    quarantine = Quarantine(quarantine_path, stage="extract", modality=modality.value, fingerprint=current or "")
    done = store.held(digests) if store is not None else set()
    bad = {clip_id for clip_id, digest in digests.items() if quarantine.holds(clip_id, digest)} - done
    return Coverage(len(done), len(digests) - len(done) - len(bad), len(clips) - len(digests), len(bad))
