"""Render the frames of a clip: facial expression, head motion, camera and lighting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.corpora.sample.face import FaceRig
from ecmf_pipeline.corpora.sample.plan import expression

FRAMES_PER_SECOND = 25
SPEECH_JAW = 0.22
"""Strength of the action `jaw_drop` at the loudest moment of the speech."""
NARROWS_EYE: Mapping[str, float] = MappingProxyType({"lid_tighten": 0.7, "lid_droop": 0.5, "cheek_raise": 0.25})
"""Share of a blink that other actions at full strength have already closed."""


@dataclass(frozen=True, slots=True)
class Camera:
    """Camera and lighting of a speaker.

    Attributes:
        side: Side of the visible square, in photograph pixels.
        offset: Centre of the square relative to the centre of the face, in photograph pixels, (2,).
        mirrored: Whether left and right are exchanged.
        gamma: Exponent of the tone curve.
        tint: Gain of red, green and blue, (3,).
        slope: Change of the light across and down the frame, (2,).
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
    """Voice of a speaker.

    Attributes:
        hertz: Pitch range, (low, high).
        formants: Scale of the formant frequencies 1-3, in percent.
        tone: Gain of the upper frequency band, in percent.
        rate: Words per minute.
        pitch: eSpeak NG's pitch, 0-99.
        span: eSpeak NG's pitch range, 0-99.
        room: Level of the room noise, in dBFS.
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
    """One speaker.

    Attributes:
        identity: The displacement of the control points that gives the face its shape, (N, 2).
        camera: Camera and lighting.
        voice: The voice.
    """

    identity: NDArray[np.float64]
    camera: Camera
    voice: Voice


def draw_speaker(rig: FaceRig, number: int, seed: int) -> Speaker:
    """Draw a speaker; number and seed determine the result."""
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
    return Speaker(_draw_face_shape(rig, rng), camera, _draw_voice(number, rng))


def _draw_face_shape(rig: FaceRig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the displacement of a face shape: width, jaw, chin, eyes, brows, nose and mouth, in pixels, (N, 2)."""
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


def _draw_voice(number: int, rng: np.random.Generator) -> Voice:
    """Draw a voice: low for speakers 0 and 1, high for speakers 2 and 3, and so on."""
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


def render(
    rig: FaceRig,
    speaker: Speaker,
    strengths: Mapping[str, float],
    loudness: NDArray[np.float64],
    size: int,
    rng: np.random.Generator,
) -> Iterator[NDArray[np.uint8]]:
    """Render a clip frame by frame.

    Args:
        rig: The face of the photograph.
        speaker: The speaker.
        strengths: Strength of each emotion at its apex.
        loudness: Loudness of the speech, one value per frame, 0-1, (T,).
        size: Side of the frame.
        rng: Random generator for head motion, blinks and noise.

    Yields:
        T frames, RGB, uint8 (size, size, 3).
    """
    count = len(loudness)
    moments, blinks = _envelope(count, rng), _blinks(count, rng)
    views = _frame_transforms(speaker.camera, rig, count, size, rng)
    lighting = _Lighting(speaker.camera, count, size, rng)
    for index in range(count):
        actions = expression(strengths, moments[index])
        actions["jaw_drop"] = actions.get("jaw_drop", 0.0) + SPEECH_JAW * loudness[index]
        narrowed = sum(actions.get(name, 0.0) * share for name, share in NARROWS_EYE.items())
        actions["blink"] = blinks[index] * max(0.0, 1 - narrowed)  # closed lids cannot close further
        offsets = rig.warp(speaker.identity + rig.displacement(actions))
        yield lighting.apply(_render_frame(rig, offsets, views[index], size), index)


def _envelope(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the intensity over time, (T,): onset, apex and partial offset, with a slow variation."""
    time = np.arange(count) / FRAMES_PER_SECOND
    onset, end = rng.uniform(0.15, 0.6), time[-1]
    rise = np.clip((time + 0.1) / onset, 0, 1)
    fall = np.clip((time - (end - rng.uniform(0.3, 0.7))) / 0.5, 0, 1)
    waver = 1 + 0.08 * np.sin(2 * np.pi * (rng.uniform(0.3, 0.8) * time + rng.random()))
    smooth = rise**2 * (3 - 2 * rise) * (1 - rng.uniform(0.2, 0.6) * fall**2 * (3 - 2 * fall))
    envelope: NDArray[np.float64] = np.clip(smooth * waver, 0, 1.05)
    return envelope


def _blinks(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the strength of the blinks, (T,): about one in three seconds, each five frames long."""
    blinks = np.zeros(count + 5)
    start = int(rng.integers(10, 75))
    while start < count:
        blinks[start : start + 5] = (0.35, 0.75, 0.8, 0.5, 0.2)
        start += int(rng.integers(45, 110))
    return blinks[:count]


def _frame_transforms(
    camera: Camera, rig: FaceRig, count: int, size: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the affine map from frame pixels to photograph pixels, (T, 2, 3): head motion and camera."""
    time = np.arange(count) / FRAMES_PER_SECOND

    def sway(extent: float) -> NDArray[np.float64]:
        slow, fast = rng.uniform(0.15, 0.4), rng.uniform(0.5, 0.9)
        waves = np.sin(2 * np.pi * (slow * time + rng.random())) + 0.4 * np.sin(
            2 * np.pi * (fast * time + rng.random())
        )
        return extent * (waves / 1.4) + extent * float(rng.normal(0, 0.4))

    angle = np.deg2rad(sway(3.5))
    scale = camera.side / size * np.exp(sway(0.025))
    shift = np.stack([sway(3.0), sway(2.0)], axis=1)
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    flip = -1.0 if camera.mirrored else 1.0
    turn = np.stack([np.stack([cosine * flip, -sine], 1), np.stack([sine * flip, cosine], 1)], axis=1)  # (T, 2, 2)
    middle = rig.centre + camera.offset + shift
    origin = middle - turn @ np.full(2, (size - 1) / 2)
    return np.concatenate([turn, origin[:, :, None]], axis=2)


def _render_frame(
    rig: FaceRig, offsets: NDArray[np.float32], view: NDArray[np.float64], size: int
) -> NDArray[np.uint8]:
    """Render one frame of the warped photograph, (size, size, 3)."""
    left, top, _, _ = rig.box
    into_box = view - np.array([[0, 0, left], [0, 0, top]])
    warp = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    offset = cv2.warpAffine(offsets, into_box, (size, size), flags=warp)  # zero outside the box
    columns, rows = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    (a, b, x), (c, d, y) = view.astype(np.float32)
    map_x, map_y = a * columns + b * rows + x + offset[..., 0], c * columns + d * rows + y + offset[..., 1]
    frame: NDArray[np.uint8] = cv2.remap(rig.photo, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return frame


class _Lighting:
    """Lighting and camera noise of one clip."""

    def __init__(self, camera: Camera, count: int, size: int, rng: np.random.Generator) -> None:
        across = np.linspace(-0.5, 0.5, size, dtype=np.float32)
        slope = camera.slope + rng.normal(0, 0.04, 2)
        plane = 1 + slope[0] * across[None, :] + slope[1] * across[:, None]  # (size, size)
        gain = camera.tint * float(np.exp(rng.normal(0, 0.05)))
        self._plane = (plane[..., None] * gain).astype(np.float32)
        gamma = camera.gamma * float(np.exp(rng.normal(0, 0.05)))
        self._tones = (255 * (np.arange(256) / 255) ** gamma).astype(np.float32)
        self._flicker = 1 + 0.01 * np.sin(np.arange(count) * rng.uniform(0.2, 0.5))
        self._grain = rng.normal(0, camera.grain, (4, size, size, 1)).astype(np.float32)

    def apply(self, frame: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        """Apply tone curve, light gradient, flicker and noise to frame number ``index``."""
        lit = self._tones[frame] * self._plane * np.float32(self._flicker[index]) + self._grain[index % 4]
        result: NDArray[np.uint8] = np.clip(lit, 0, 255).astype(np.uint8)
        return result
