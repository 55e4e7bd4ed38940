"""What became of a file: right, or set aside with a reason."""

from __future__ import annotations

from pathlib import Path

from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_audio, read_frames
from tests.zoo.films import Film

SAMPLES = 4


def pictures_of(path: Path, film: Film, reader: str) -> tuple[str, str]:
    """``right``, ``wrong`` or a reason, and what there is to say about it."""
    try:
        # The films are judged at the size that they have.
        frames, times = read_frames(path, MediaConfig(frames=SAMPLES, reader=reader, max_side=4096))
    except ClipError as error:
        return error.reason, str(error)
    faults = film.faults(frames, times, SAMPLES)
    return ("wrong", "; ".join(faults)) if faults else ("right", "")


def sound_of(path: Path, film: Film) -> tuple[str, str]:
    """The same of the sound."""
    try:
        samples = read_audio(path)
    except ClipError as error:
        return error.reason, str(error)
    faults = film.sound_faults(samples)
    return ("wrong", "; ".join(faults)) if faults else ("right", "")
