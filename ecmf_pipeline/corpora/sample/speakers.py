"""What sets one speaker apart: shape of the face, mirror, light, camera, voice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.corpora.sample.face import FaceRig


@dataclass(frozen=True, slots=True)
class Camera:
    """How a speaker is filmed.

    Attributes:
        side: Side of the square that the frame shows, in photograph pixels.
        offset: Its centre, relative to the face's, in photograph pixels, (2,).
        mirrored: Whether left and right are exchanged.
        gamma: Exponent of the tone curve.
        tint: Gain of red, green and blue, (3,).
        slope: How much the light changes across and down the frame, (2,).
        grain: Standard deviation of the noise, in grey levels.
    """

    side: float
    offset: NDArray[np.float64]
    mirrored: bool
    gamma: float
    tint: NDArray[np.float64]
    slope: NDArray[np.float64]
    grain: float


@dataclass(frozen=True, slots=True)
class Voice:
    """How a speaker sounds.

    Attributes:
        hertz: Pitch between its low and its high, (low, high).
        formants: Scale of the formant frequencies, 1-3, in percent.
        tone: Gain of the upper band, in percent.
        rate: Words a minute.
        pitch: eSpeak NG's pitch, 0-99.
        span: eSpeak NG's pitch range, 0-99.
        room: Level of the room's noise, in decibels of full scale.
    """

    hertz: tuple[int, int]
    formants: tuple[int, int, int]
    tone: int
    rate: float
    pitch: float
    span: float
    room: float


@dataclass(frozen=True, slots=True)
class Speaker:
    """One speaker; ``identity`` is the displacement that shapes the face, (N, 2)."""

    identity: NDArray[np.float64]
    camera: Camera
    voice: Voice


def draw_speaker(rig: FaceRig, number: int, seed: int) -> Speaker:
    """Draw a speaker; the same number and seed give the same one."""
    rng = np.random.default_rng([seed, number, 2])
    camera = Camera(
        side=float(rng.uniform(168, 214)),
        offset=rng.uniform([-9, -7], [9, 9]),
        mirrored=bool(number % 2),
        gamma=float(np.exp(rng.normal(0, 0.18))),
        tint=np.exp(rng.normal(0, 0.035, 3)),
        slope=rng.uniform(-0.25, 0.25, 2),
        grain=float(rng.uniform(0.8, 2.2)),
    )
    return Speaker(_identity(rig, rng), camera, _voice(number, rng))


def _identity(rig: FaceRig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Wider or narrower, longer or shorter, each part a little its own way, (N, 2) pixels."""
    span = np.ptp(rig.points[rig.is_landmark], axis=0) / 2
    x, y = ((rig.points - rig.centre) / span).T  # both within -1..1 on the face
    width, jaw, chin, eyes, brows, nose, mouth = rng.normal(0, [0.06, 0.06, 0.06, 0.02, 0.03, 0.03, 0.05])
    across = width * x + jaw * x * np.clip(y, 0, 1) ** 2
    across += eyes * np.sign(x) * np.exp(-(((y + 0.35) / 0.15) ** 2)) * (np.abs(x) < 0.85)
    across += mouth * x * np.exp(-(((y - 0.45) / 0.2) ** 2))
    down = chin * np.clip(y, 0, 1) ** 2 + nose * np.exp(-((y / 0.2) ** 2) - (x / 0.4) ** 2)
    down += brows * np.exp(-(((y + 0.6) / 0.1) ** 2))
    shape = np.stack([across, down], axis=1) * span
    return np.where(rig.is_landmark[:, None], shape, 0.0)


def _voice(number: int, rng: np.random.Generator) -> Voice:
    """Every other speaker has a low voice, the rest a high one."""
    low = number % 4 < 2
    base = rng.uniform(88, 108) if low else rng.uniform(118, 148)
    formants = (rng.uniform(95, 103) if low else rng.uniform(104, 113)) + rng.uniform(-3, 3, 3)
    return Voice(
        hertz=(round(base), round(base * rng.uniform(1.45, 1.6))),
        formants=(int(formants[0]), int(formants[1]), int(formants[2])),
        tone=int(rng.uniform(75, 105)),
        rate=float(rng.uniform(166, 182)),
        pitch=float(rng.uniform(38, 46)),
        span=float(rng.uniform(44, 54)),
        room=float(rng.uniform(-62, -48)),
    )
