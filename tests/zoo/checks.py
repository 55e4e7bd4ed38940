"""Check whether a file is decoded correctly or refused with a reason."""

from __future__ import annotations

from pathlib import Path

from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.media.audio import read_audio
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames
from tests.zoo.films import Film

SAMPLES = 4


def check_pictures(path: Path, film: Film, reader: str) -> tuple[str, str]:
    """Return ``right``, ``wrong`` or the reason of the error, and a message."""
    try:
        # Without scaling, so that the pictures can be compared with the film.
        frames, times = read_frames(path, MediaConfig(frames=SAMPLES, reader=reader, max_side=4096))
    except ClipError as error:
        return error.reason, str(error)
    faults = film.picture_faults(frames, times, SAMPLES)
    return ("wrong", "; ".join(faults)) if faults else ("right", "")


def check_sound(path: Path, film: Film) -> tuple[str, str]:
    """Return the same for the sound."""
    try:
        samples = read_audio(path, MediaConfig())
    except ClipError as error:
        return error.reason, str(error)
    faults = film.sound_faults(samples)
    return ("wrong", "; ".join(faults)) if faults else ("right", "")
