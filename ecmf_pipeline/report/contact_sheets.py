"""Choose clips for the report's contact sheets, and draw the sheets from the crop boxes in the feature store.

The choice depends only on the store, the manifest and the quarantine table.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, Clips, Modality
from ecmf_pipeline.core.errors import ChangedSinceIndex, ClipError, FileUnreachable
from ecmf_pipeline.extraction.run import BranchInputs, current_digests
from ecmf_pipeline.faces.contact_sheet import FaceShot, Picture, draw_sheet, jpeg, mark_face
from ecmf_pipeline.faces.openface import read_openface_rows
from ecmf_pipeline.faces.tracking import KEYPOINTS, crop_aligned, crop_square, eye_angle
from ecmf_pipeline.media.clip_reader import ClipReader, span_of
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.report.inputs import NO_FACE, FaceSheet
from ecmf_pipeline.runner.quarantine import QuarantineEntry
from ecmf_pipeline.store import FeatureRow, FeatureStore

MAX_SAMPLED = 128
"""Maximum number of clips whose landmark quality is read; in a larger corpus, a hash of the clip ids selects them."""

_FRAMES_WITHOUT_FACE = 8
_CROP_SIZE = 224


@dataclass(frozen=True, slots=True)
class _Choice:
    clip: Clip
    reason: str
    row: FeatureRow | None


def face_sheets(
    store: FeatureStore,
    clips: Sequence[Clip],
    quarantine: Iterable[QuarantineEntry],
    *,
    corpus_root: Path,
    media: MediaConfig,
    count: int,
) -> tuple[list[FaceSheet], str]:
    """Draw contact sheets of clips from the lowest to the highest landmark quality.

    A third of the clips are clips without a detected face.

    Args:
        store: Features of the face branch.
        clips: The manifest.
        quarantine: Quarantine entries of the face branch.
        corpus_root: Folder to which the clips' paths are relative.
        media: Settings for reading videos.
        count: Number of clips.

    Returns:
        The sheets, each with a picture or the reason why there is none; and the reason if there is no sheet at all,
        else "".
    """
    chosen = _choose(store, clips, quarantine, count)
    if not chosen:
        return [], "No contact sheets: no clip has features of face crops made by this pipeline."
    if not any(_path_of(choice.clip, store.settings, corpus_root).is_file() for choice in chosen):
        return [], "No contact sheets: the clips are not on this machine."
    return [_sheet(choice, store.settings, corpus_root, media) for choice in chosen], ""


def face_shots(
    store: FeatureStore, clip: Clip, *, corpus_root: Path, media: MediaConfig
) -> tuple[list[FaceShot], list[float]]:
    """Return the face crops of one clip and their times in seconds; no times for crops that come with the corpus.

    Args:
        store: Features of the face branch.
        clip: The clip.
        corpus_root: Folder to which the clip's path is relative.
        media: Settings for reading videos.

    Returns:
        Two empty lists if the store has no crop boxes of the clip as it is now.

    Raises:
        ClipError: If the file cannot be read.
    """
    digests = current_digests(Modality.FACE, [clip], {}, store)
    if clip.clip_id not in set(store.clips_with_features(digests)):
        return [], []
    row = store.row(clip.clip_id, digests[clip.clip_id])
    path = _path_of(clip, store.settings, corpus_root)
    if not path.is_file():
        raise FileUnreachable("the file is not on this machine")
    if BranchInputs.of_settings(store.settings).face_crops:
        return _crop_shots(row, path), []
    if "boxes" not in row.side:
        return [], []
    media = MediaConfig(frames=_FRAMES_WITHOUT_FACE, max_side=store.settings["media"]["max_side"], reader=media.reader)
    frames = ClipReader(media).frames_at(path, span_of(clip), row.side["times"])
    return _video_shots(row, frames, store.settings), row.side["times"].tolist()


def _choose(
    store: FeatureStore, clips: Sequence[Clip], quarantine: Iterable[QuarantineEntry], count: int
) -> list[_Choice]:
    digests = current_digests(Modality.FACE, clips, {}, store)
    without_face = sorted(
        {
            entry.clip_id
            for entry in quarantine
            if entry.modality == Modality.FACE
            and entry.reason == "NoFaceFound"
            and entry.fingerprint == store.fingerprint
            and digests.get(entry.clip_id) == entry.digest
        },
        key=_hash_order,
    )[: count // 3]
    sampled = heapq.nsmallest(MAX_SAMPLED, store.clips_with_features(digests), key=_hash_order)
    rows = [store.row(clip_id, digests[clip_id]) for clip_id in sampled]
    rows = [row for row in rows if "boxes" in row.side]  # imported features have no boxes
    rows.sort(key=lambda row: (_quality(row), row.clip_id))
    positions = _spread_positions(len(rows), count - len(without_face))
    columns, shown = Clips.of(clips), {*without_face, *(rows[position].clip_id for position in positions.tolist())}
    # Only these become objects: a million clips would take more than a gigabyte.
    by_id: dict[str, Clip] = {
        clip.clip_id: clip for clip in columns.where(np.array([clip_id in shown for clip_id in columns.ids], np.bool_))
    }
    return [
        *(
            _Choice(by_id[rows[position].clip_id], _describe_rank(rows, position), rows[position])
            for position in positions.tolist()
        ),
        *(_Choice(by_id[clip_id], NO_FACE, None) for clip_id in without_face),
    ]


def _spread_positions(length: int, count: int) -> NDArray[np.int64]:
    """Return ``count`` positions from 0 to ``length`` - 1, denser near 0."""
    if min(length, count) < 1:
        return np.empty(0, np.int64)
    positions = np.linspace(0, 1, min(length, count)) ** 2 * (length - 1)
    return np.unique(np.maximum(positions.round(), np.arange(len(positions))).astype(np.int64))


def _hash_order(clip_id: str) -> bytes:
    return hashlib.sha256(clip_id.encode()).digest()


def _quality(row: FeatureRow) -> float:
    """Return the mean landmark quality; 0 if the landmarks are unknown."""
    known = row.side.get("landmark_quality", np.empty(0))
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else 0.0


def _describe_rank(rows: Sequence[FeatureRow], position: int) -> str:
    if all(_quality(row) == 0 for row in rows):
        return "random sample"
    quality = f"mean landmark quality {_quality(rows[position]):.2f}"
    if position == 0:
        return f"{quality}, the lowest of {len(rows)} sampled clips"
    if position == len(rows) - 1:
        return f"{quality}, the highest of {len(rows)} sampled clips"
    return f"{quality}, rank {position + 1} of {len(rows)} from the lowest"


def _path_of(clip: Clip, settings: Mapping[str, Any], corpus_root: Path) -> Path:
    return corpus_root / (clip.face_path if BranchInputs.of_settings(settings).face_crops else clip.path)


def _sheet(chosen: _Choice, settings: Mapping[str, Any], corpus_root: Path, media: MediaConfig) -> FaceSheet:
    clip_id = chosen.clip.clip_id
    path = _path_of(chosen.clip, settings, corpus_root)
    try:
        if not path.is_file():
            raise FileUnreachable("the file is not on this machine")
        size = chosen.clip.face_bytes if BranchInputs.of_settings(settings).face_crops else chosen.clip.bytes
        if size and path.stat().st_size != size:
            raise ChangedSinceIndex("the file has changed since it was indexed")
        picture, description = _draw(chosen, path, settings, media)
    except ClipError as error:
        return FaceSheet(clip_id, chosen.reason, problem=error.message)
    height, width = picture.shape[:2]
    return FaceSheet(clip_id, chosen.reason, description, jpeg(picture), width, height)


def _draw(chosen: _Choice, path: Path, settings: Mapping[str, Any], media: MediaConfig) -> tuple[Picture, str]:
    row = chosen.row
    if BranchInputs.of_settings(settings).face_crops:
        if row is None:
            raise FileUnreachable("the clip has no face crops")
        return _draw_crops(row, path)
    media = MediaConfig(frames=_FRAMES_WITHOUT_FACE, max_side=settings["media"]["max_side"], reader=media.reader)
    reader, span = ClipReader(media), span_of(chosen.clip)
    if row is None:
        (sampling,) = reader.samplings(path, span, [media.frames])
        frames, times = sampling.frames, sampling.times
        shots = [
            FaceShot(_pad_to_square(frame), f"{time:.2f} s") for frame, time in zip(frames, times.tolist(), strict=True)
        ]
        return draw_sheet(shots), f"{len(shots)} frames without a detected face."
    frames = reader.frames_at(path, span, row.side["times"])
    return _draw_video(row, frames, settings)


def _draw_video(row: FeatureRow, frames: NDArray[np.uint8], settings: Mapping[str, Any]) -> tuple[Picture, str]:
    shots = _video_shots(row, frames, settings)
    middle = len(frames) // 2
    landmarks = _landmarks(row, len(frames))
    whole = mark_face(frames[middle], row.side["boxes"][middle], landmarks[middle])
    description = (
        f"{len(shots)} crops from {shots[0].place} to {shots[-1].place}; whole frame at {shots[middle].place}."
    )
    return draw_sheet(shots, whole), description


def _video_shots(row: FeatureRow, frames: NDArray[np.uint8], settings: Mapping[str, Any]) -> list[FaceShot]:
    is_level = settings["faces"].get("align") == "eyes"
    landmarks = _landmarks(row, len(frames))
    quality = row.side.get("landmark_quality", np.full(len(frames), np.nan, np.float32))
    shots = []
    for index, frame in enumerate(frames):
        box = tuple(row.side["boxes"][index].tolist())
        angle = eye_angle(box, landmarks[index]) if is_level else 0.0
        shots.append(
            FaceShot(
                crop_aligned(frame, box, angle, _CROP_SIZE) if angle else crop_square(frame, box, _CROP_SIZE),
                f"{row.side['times'][index]:.2f} s",
                float(row.side["scores"][index]),
                float(quality[index]),
                is_framed=index == len(frames) // 2,
            )
        )
    return shots


def _landmarks(row: FeatureRow, count: int) -> NDArray[np.float32]:
    unknown = np.full((count, 2 * KEYPOINTS), np.nan, np.float32)
    return row.side.get("landmarks", unknown).reshape(-1, KEYPOINTS, 2)


def _draw_crops(row: FeatureRow, path: Path) -> tuple[Picture, str]:
    shots = _crop_shots(row, path)
    return draw_sheet(shots), f"{len(shots)} crops supplied with the corpus."


def _crop_shots(row: FeatureRow, path: Path) -> list[FaceShot]:
    track = read_openface_rows(path, row.side["frames"], size=_CROP_SIZE)
    return [FaceShot(crop, f"crop {number}") for crop, number in zip(track.crops, track.frames.tolist(), strict=True)]


def _pad_to_square(frame: Picture) -> Picture:
    """Pad a frame with grey to a square."""
    side = max(frame.shape[:2])
    square = np.full((side, side, 3), 225, np.uint8)
    top, left = (side - frame.shape[0]) // 2, (side - frame.shape[1]) // 2
    square[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
    return square
