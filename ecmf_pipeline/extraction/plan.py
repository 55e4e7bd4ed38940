"""What is to be extracted: every clip whose features of exactly this input and these settings are not there yet.

`present_digests` tells which rows of a store
count, `plan_branch` what a run has to do, and `coverage` how far the runs before have come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.clips import Clip, ClipText, Modality
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.core.files import fingerprint, sha256_text
from ecmf_pipeline.encoders.base_config import DEFAULT_TEXT_COLUMNS, BaseEncoderConfig
from ecmf_pipeline.encoders.config import ImportedConfig, settings_of_imported, text_columns
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.store import FeatureStore, current_fingerprint, has_fingerprint


@dataclass(frozen=True, slots=True)
class Reading:
    """Which of a clip's inputs a branch reads.

    Attributes:
        columns: The transcripts that a text encoder reads.
        face_crops: Whether the face branch reads crops that come with the corpus, and no video.
    """

    columns: Sequence[str] = DEFAULT_TEXT_COLUMNS
    face_crops: bool = False

    @classmethod
    def of(cls, encoder: BaseEncoderConfig, faces: FaceConfig) -> Reading:
        """What an encoder reads, as params say; needs no weights."""
        return cls(encoder.text_columns, faces.source == "openface")

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Reading:
        """What features of some settings were computed from."""
        return cls(text_columns(settings), settings.get("faces", {}).get("source") == "openface")


READING = Reading()
"""What branches read unless something else is said."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One modality of a run, planned.

    Attributes:
        modality: Which.
        encoder: Its encoder's params.
        settings: All that changes the numbers.
        quarantine: Its bad clips.
        digests: Digest of the input of every clip that has one.
        todo: Clips to compute.
        reused: Clips whose features are there.
        absent: Clips without such an input (no sound, no words...): masked, not bad.
    """

    modality: Modality
    encoder: BaseEncoderConfig
    settings: dict[str, Any]
    quarantine: Quarantine
    digests: dict[str, str]
    todo: frozenset[str]
    reused: int
    absent: int

    @property
    def fingerprint(self) -> str:
        """Of the settings."""
        return fingerprint(self.settings)


def input_digests(
    modality: Modality, clips: Sequence[Clip], texts: Mapping[str, ClipText], reading: Reading = READING
) -> dict[str, str]:
    """Digest of each clip's input to a modality; clips without such an input are left out.

    Args:
        modality: Which branch.
        clips: The manifest.
        texts: Transcripts by clip id (the text branch alone reads them).
        reading: Which inputs the branch reads: a clip that lacks one of them is left out.
    """
    if modality is Modality.TEXT:
        return {
            clip.clip_id: text_digest(texts[clip.clip_id], reading.columns)
            for clip in clips
            if clip.clip_id in texts and texts[clip.clip_id].having(reading.columns)
        }
    if modality is Modality.AUDIO:
        return {clip.clip_id: clip.digest for clip in clips if clip.has_audio}
    if modality is Modality.FACE and reading.face_crops:
        return {clip.clip_id: clip.face_digest for clip in clips if clip.face_digest}
    return {clip.clip_id: clip.digest for clip in clips if clip.has_video}


def present_digests(
    modality: Modality,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    store: FeatureStore | None,
    reading: Reading = READING,
) -> dict[str, str]:
    """Digest of the row of each clip that counts in a store; clips without the modality are left out.

    Computed features must come from the clip's present input (`input_digests`). Of imported ones nobody here knows
    the input: the newest count, and a clip of which none were imported is without the modality.

    Args:
        modality: Which branch.
        clips: The manifest.
        texts: Transcripts by clip id.
        store: The features asked for; None where there are none yet.
        reading: Which inputs the branch reads, where there is no store that says so.
    """
    if store is None:
        return input_digests(modality, clips, texts, reading)
    if not settings_of_imported(store.settings):
        return input_digests(modality, clips, texts, Reading.of_settings(store.settings))
    newest = store.newest()
    return {clip.clip_id: newest[clip.clip_id] for clip in clips if clip.clip_id in newest}


def text_digest(text: ClipText, columns: Sequence[str] = DEFAULT_TEXT_COLUMNS) -> str:
    """Digest of a clip's transcripts; the translation counts where it is among the ``columns`` that are read."""
    words = f"{text.original}\0{text.enriched}"
    return sha256_text(f"{words}\0{text.translation}" if "translation" in columns else words)


def plan_branch(
    modality: Modality,
    clips: Sequence[Clip],
    texts: Mapping[str, ClipText],
    *,
    encoder: BaseEncoderConfig,
    settings: dict[str, Any],
    root: Path,
    quarantine_path: Path,
    retry_quarantined: bool = False,
) -> Branch:
    """Compare what a modality's store holds with what the manifest asks for.

    Args:
        modality: Which branch.
        clips: The manifest.
        texts: Transcripts by clip id.
        encoder: The modality's encoder.
        settings: All that changes the features.
        root: The store.
        quarantine_path: The modality's quarantine table.
        retry_quarantined: Whether quarantined clips are tried again although nothing changed.

    Raises:
        MissingInput: When the features are to be imported, and none were yet.
    """
    key = fingerprint(settings)
    store = FeatureStore(root, key) if has_fingerprint(root, key) else None
    if isinstance(encoder, ImportedConfig) and (store is None or not len(store)):
        raise MissingInput(
            f"no features of {encoder.name!r} were imported for {modality.value}, and they cannot be computed here",
            f"run `ecmf-pipe store import PATH --modality {modality.value} --encoder {encoder.name}`, or `dvc pull` if "
            "a colleague did",
        )
    digests = present_digests(modality, clips, texts, store, Reading.of_settings(settings))
    quarantine = Quarantine(quarantine_path, stage="extract", modality=modality.value, fingerprint=key)
    quarantine.keep_only(digests)
    if retry_quarantined:
        quarantine.clear()
    held = store.held(digests) if store is not None else set()
    todo = frozenset(
        clip_id for clip_id, digest in digests.items() if clip_id not in held and not quarantine.holds(clip_id, digest)
    )
    return Branch(modality, encoder, settings, quarantine, digests, todo, len(held), len(clips) - len(digests))


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
