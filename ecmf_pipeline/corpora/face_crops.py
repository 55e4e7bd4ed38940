"""Crops of faces that come with a corpus: ``openface_face/N/N.npy`` beside ``video/N.mp4``."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace
from pathlib import Path

from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind, naming_some

FACE_CROPS_FOLDER = "openface_face"
FACE_CROPS_EXTENSION = ".npy"


def with_face_crops(listing: CorpusListing) -> CorpusListing:
    """Give each clip the file of its crops.

    Corpora are handed on with part of these files, under other prefixes, or without the folder: a clip that has none
    is without a face branch, and one finding says how many there are.
    """
    folders, findings = _folders(listing.root)
    clips = []
    for clip in listing.clips:
        folder = folders.pop(clip.clip_id, "")
        path = f"{FACE_CROPS_FOLDER}/{folder}/{folder}{FACE_CROPS_EXTENSION}"
        has_crops = bool(folder) and os.path.isfile(f"{listing.root}/{path}")  # noqa: PTH113  (as in `index`)
        clips.append(replace(clip, face_path=path) if has_crops else clip)
    missing = [clip.clip_id for clip in clips if not clip.face_path]
    if missing:
        message = (
            f"{len(missing)} of {len(clips)} clips have no `{FACE_CROPS_FOLDER}/N/N{FACE_CROPS_EXTENSION}` and so no "
            f"face branch: {naming_some(missing)}; fetch the files, or set faces.source to `detect`"
        )
        findings.append(Finding(FindingKind.NO_FACE_CROPS, "", message, count=len(missing)))
    if folders:
        message = (
            f"{len(folders)} folders in `{FACE_CROPS_FOLDER}` bear no clip's name and are not used: "
            f"{naming_some(sorted(folders.values()))}"
        )
        findings.append(Finding(FindingKind.FACE_CROPS_WITHOUT_CLIP, "", message, count=len(folders)))
    return replace(listing, clips=tuple(clips), findings=(*listing.findings, *findings))


def _folders(root: Path) -> tuple[dict[str, str], list[Finding]]:
    """The folders of crops by clip id, as they are spelt on the disk."""
    try:
        with os.scandir(root / FACE_CROPS_FOLDER) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except FileNotFoundError:
        return {}, []  # that all clips lack theirs says it
    except OSError as error:
        message = f"{FACE_CROPS_FOLDER!r} is passed over: it cannot be read ({error.strerror})"
        return {}, [Finding(FindingKind.UNREADABLE, "", message)]
    return {unicodedata.normalize("NFC", name): name for name in names}, []
