"""The face crops of a clip as one picture, cut in a worker process."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ecmf_pipeline.core.clips import Clip, Modality
from ecmf_pipeline.core.errors import InputError

CROP_SIDE = 112
"""Side of a crop on the page, in pixels."""


@dataclass(frozen=True, slots=True)
class FaceStrip:
    """Face crops of a clip side by side.

    Attributes:
        picture: JPEG, `CROP_SIDE` pixels high.
        times: Time of each crop in seconds from the start of the clip; empty for crops that come with the corpus.
        scores: Confidence of the detector for each crop; None if unknown.
    """

    picture: bytes
    times: list[float]
    scores: list[float | None]


def cut_faces(clip: Clip) -> FaceStrip | None:
    """Return the face crops of a clip in the stored features; None if there are none.

    Raises:
        ClipError: If the file of the clip cannot be read.
    """
    import cv2
    import numpy as np

    from ecmf_pipeline.faces.contact_sheet import jpeg
    from ecmf_pipeline.report.contact_sheets import face_shots
    from ecmf_pipeline.settings.params import load_params
    from ecmf_pipeline.stages.shared.inputs import open_modality_store

    params = load_params()
    try:
        store = open_modality_store(params, Modality.FACE)
    except InputError:  # no features, or those of other settings: the page shows no faces
        return None
    shots, times = face_shots(store, clip, corpus_root=params.corpus.root, media=params.media)
    if not shots:
        return None
    crops = [cv2.resize(shot.crop, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA) for shot in shots]
    scores = [None if math.isnan(shot.score) else round(shot.score, 3) for shot in shots]
    return FaceStrip(jpeg(np.concatenate(crops, axis=1)), [round(time, 3) for time in times], scores)
