"""Which clips' faces the report shows, and their sheets: cut anew from the corpus where the store says they were.

The choice depends on the store, the manifest and the quarantine table alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, Modality
from ecmf_pipeline.core.errors import ChangedSinceIndex, ClipError, FileUnreachable
from ecmf_pipeline.extraction.run import Reading, present_digests
from ecmf_pipeline.faces.contact_sheet import FaceShot, Picture, draw_sheet, jpeg, mark_face
from ecmf_pipeline.faces.openface import read_openface_rows
from ecmf_pipeline.faces.tracking import KEYPOINTS, crop_level, crop_square, eye_angle
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames, read_frames_at
from ecmf_pipeline.report.inputs import FaceSheet
from ecmf_pipeline.runner.quarantine import QuarantineEntry
from ecmf_pipeline.store import FeatureRow, FeatureStore

MOST_LOOKED_AT = 128
"""Clips whose quality is read to choose from; of a larger corpus these are drawn by a hash of their names."""

_FRAMES_WITHOUT_FACE = 8
_CROP_SIZE = 224


@dataclass(frozen=True, slots=True)
class _Chosen:
    clip: Clip
    why: str
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
    """Contact sheets of clips spread from the worst landmarks to the best, a third of them clips without a face.

    Args:
        store: The face branch's features.
        clips: The manifest.
        quarantine: Entries of the face branch.
        corpus_root: What the clips' paths are relative to.
        media: How videos are read.
        count: How many clips.

    Returns:
        The sheets, each with a picture or why there is none, and why there is no sheet at all (empty when there is).
    """
    chosen = _choose(store, clips, quarantine, count)
    if not chosen:
        return [], "There is no contact sheet: no clip has features of a face that was cut out here."
    if not any(_path_of(one.clip, store.settings, corpus_root).is_file() for one in chosen):
        return [], "There is no contact sheet: the clips are not on this machine."
    return [_sheet(one, store.settings, corpus_root, media) for one in chosen], ""


def _choose(
    store: FeatureStore, clips: Sequence[Clip], quarantine: Iterable[QuarantineEntry], count: int
) -> list[_Chosen]:
    by_id: dict[str, Clip] = {clip.clip_id: clip for clip in clips}
    digests = present_digests(Modality.FACE, clips, {}, store)
    without = sorted(
        {
            entry.clip_id
            for entry in quarantine
            if entry.modality == Modality.FACE
            and entry.reason == "NoFaceFound"
            and entry.fingerprint == store.fingerprint
            and digests.get(entry.clip_id) == entry.digest
        },
        key=_shuffled,
    )[: count // 3]
    drawn = sorted(store.held(digests), key=_shuffled)[:MOST_LOOKED_AT]
    rows = [store.row(clip_id, digests[clip_id]) for clip_id in drawn]
    rows = [row for row in rows if "boxes" in row.side]  # features from elsewhere have none
    rows.sort(key=lambda row: (_quality(row), row.clip_id))
    places = _spread(len(rows), count - len(without))
    return [
        *(_Chosen(by_id[rows[at].clip_id], _rank(rows, at), rows[at]) for at in places.tolist()),
        *(_Chosen(by_id[clip_id], "no face was found in it", None) for clip_id in without),
    ]


def _spread(length: int, count: int) -> NDArray[np.int64]:
    """Places in an order of ``length``, from the first to the last, denser near the first."""
    if min(length, count) < 1:
        return np.empty(0, np.int64)
    wanted = np.linspace(0, 1, min(length, count)) ** 2 * (length - 1)
    return np.unique(np.maximum(wanted.round(), np.arange(len(wanted))).astype(np.int64))


def _shuffled(clip_id: str) -> bytes:
    return hashlib.sha256(clip_id.encode()).digest()


def _quality(row: FeatureRow) -> float:
    """Mean landmark quality; that of crops whose landmarks are unknown counts as 0."""
    known = row.side.get("landmark_quality", np.empty(0))
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else 0.0


def _rank(rows: Sequence[FeatureRow], at: int) -> str:
    if all(_quality(row) == 0 for row in rows):
        return "drawn from all clips"
    what = f"mean landmark quality {_quality(rows[at]):.2f}"
    if at == 0:
        return f"{what}, the lowest of {len(rows)} clips looked at"
    if at == len(rows) - 1:
        return f"{what}, the highest"
    return f"{what}, number {at + 1} from the lowest"


def _path_of(clip: Clip, settings: Mapping[str, Any], corpus_root: Path) -> Path:
    return corpus_root / (clip.face_path if Reading.of_settings(settings).face_crops else clip.path)


def _sheet(chosen: _Chosen, settings: Mapping[str, Any], corpus_root: Path, media: MediaConfig) -> FaceSheet:
    clip_id = chosen.clip.clip_id
    path = _path_of(chosen.clip, settings, corpus_root)
    try:
        if not path.is_file():
            raise FileUnreachable("its file is not on this machine")
        size = chosen.clip.face_bytes if Reading.of_settings(settings).face_crops else chosen.clip.bytes
        if size and path.stat().st_size != size:
            raise ChangedSinceIndex("its file has changed since it was indexed")
        picture, about = _drawn(chosen, path, settings, media)
    except ClipError as error:
        return FaceSheet(clip_id, chosen.why, problem=str(error))
    height, width = picture.shape[:2]
    return FaceSheet(clip_id, chosen.why, about, jpeg(picture), width, height)


def _drawn(chosen: _Chosen, path: Path, settings: Mapping[str, Any], media: MediaConfig) -> tuple[Picture, str]:
    row = chosen.row
    if Reading.of_settings(settings).face_crops:
        if row is None:
            raise FileUnreachable("it has no crops")
        return _of_crops(row, path)
    media = MediaConfig(frames=_FRAMES_WITHOUT_FACE, max_side=settings["media"]["max_side"], reader=media.reader)
    if row is None:
        frames, times = read_frames(path, media)
        shots = [FaceShot(_padded(frame), f"{time:.2f} s") for frame, time in zip(frames, times.tolist(), strict=True)]
        return draw_sheet(shots), f"{len(shots)} frames, in none of which a face was found."
    frames = read_frames_at(path, media, row.side["times"])
    return _of_video(row, frames, is_level=settings["faces"].get("align") == "eyes")


def _of_video(row: FeatureRow, frames: NDArray[np.uint8], *, is_level: bool) -> tuple[Picture, str]:
    unknown = np.full((len(frames), 2 * KEYPOINTS), np.nan, np.float32)
    landmarks = row.side.get("landmarks", unknown).reshape(-1, KEYPOINTS, 2)
    quality = row.side.get("landmark_quality", unknown[:, 0])
    middle = len(frames) // 2
    shots = []
    for index, frame in enumerate(frames):
        box = tuple(row.side["boxes"][index].tolist())
        angle = eye_angle(box, landmarks[index]) if is_level else 0.0
        shots.append(
            FaceShot(
                crop_level(frame, box, angle, _CROP_SIZE) if angle else crop_square(frame, box, _CROP_SIZE),
                f"{row.side['times'][index]:.2f} s",
                float(row.side["scores"][index]),
                float(quality[index]),
                is_framed=index == middle,
            )
        )
    whole = mark_face(frames[middle], row.side["boxes"][middle], landmarks[middle])
    about = f"{len(shots)} crops from {shots[0].place} to {shots[-1].place}; the whole frame is that of "
    return draw_sheet(shots, whole), about + f"{shots[middle].place}."


def _of_crops(row: FeatureRow, path: Path) -> tuple[Picture, str]:
    track = read_openface_rows(path, row.side["frames"], size=_CROP_SIZE)
    shots = [FaceShot(crop, f"crop {number}") for crop, number in zip(track.crops, track.frames.tolist(), strict=True)]
    return draw_sheet(shots), f"{len(shots)} crops that came with the corpus."


def _padded(frame: Picture) -> Picture:
    """A frame with grey around it to make it square."""
    side = max(frame.shape[:2])
    square = np.full((side, side, 3), 225, np.uint8)
    top, left = (side - frame.shape[0]) // 2, (side - frame.shape[1]) // 2
    square[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
    return square
