"""The pictures of a clip: the acting face before its camera, in its light."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.corpora.sample.acting import expression
from ecmf_pipeline.corpora.sample.face import FaceRig
from ecmf_pipeline.corpora.sample.speakers import Camera, Speaker

FRAMES_PER_SECOND = 25

SPEECH_JAW = 0.22
"""How far the jaw opens at the loudest of the speech, of the action `jaw_drop`."""

NARROWS_EYE: Mapping[str, float] = MappingProxyType({"lid_tighten": 0.7, "lid_droop": 0.5, "cheek_raise": 0.25})
"""The part of a blink's way that the lids have gone already at the full strength of other actions."""


def render(
    rig: FaceRig,
    speaker: Speaker,
    strengths: Mapping[str, float],
    loudness: NDArray[np.float64],
    size: int,
    rng: np.random.Generator,
) -> Iterator[NDArray[np.uint8]]:
    """Draw a clip frame by frame.

    Args:
        rig: The photograph's face.
        speaker: Whose clip it is.
        strengths: How much of each emotion the face shows at its apex.
        loudness: Of the speech, one value a frame, 0-1, (T,).
        size: Side of the frame.
        rng: Source of the motion of head and eyes, and of the noise.

    Yields:
        T frames, RGB, uint8 (size, size, 3).
    """
    count = len(loudness)
    moments, blinks = _envelope(count, rng), _blinks(count, rng)
    views = _views(speaker.camera, rig, count, size, rng)
    light = _Light(speaker.camera, count, size, rng)
    for index in range(count):
        actions = expression(strengths, moments[index])
        actions["jaw_drop"] = actions.get("jaw_drop", 0.0) + SPEECH_JAW * loudness[index]
        narrowed = sum(actions.get(name, 0.0) * share for name, share in NARROWS_EYE.items())
        actions["blink"] = blinks[index] * max(0.0, 1 - narrowed)  # lids that met already go no further
        offsets = rig.warp(speaker.identity + rig.displacement(actions))
        yield light.shine(_shoot(rig, offsets, views[index], size), index)


def _envelope(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Onset, apex and a partial offset, with a slow waver, (T,)."""
    time = np.arange(count) / FRAMES_PER_SECOND
    onset, end = rng.uniform(0.15, 0.6), time[-1]
    rise = np.clip((time + 0.1) / onset, 0, 1)
    fall = np.clip((time - (end - rng.uniform(0.3, 0.7))) / 0.5, 0, 1)
    waver = 1 + 0.08 * np.sin(2 * np.pi * (rng.uniform(0.3, 0.8) * time + rng.random()))
    smooth = rise**2 * (3 - 2 * rise) * (1 - rng.uniform(0.2, 0.6) * fall**2 * (3 - 2 * fall))
    envelope: NDArray[np.float64] = np.clip(smooth * waver, 0, 1.05)
    return envelope


def _blinks(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A blink every three seconds or so, five frames long, (T,)."""
    blinks = np.zeros(count + 5)
    start = int(rng.integers(10, 75))
    while start < count:
        blinks[start : start + 5] = (0.35, 0.75, 0.8, 0.5, 0.2)
        start += int(rng.integers(45, 110))
    return blinks[:count]


def _views(camera: Camera, rig: FaceRig, count: int, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """For each frame, the affine map from its pixels to the photograph's, (T, 2, 3): head motion and camera."""
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


def _shoot(rig: FaceRig, offsets: NDArray[np.float32], view: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """One frame of the warped photograph, (size, size, 3)."""
    left, top, _, _ = rig.box
    into_box = view - np.array([[0, 0, left], [0, 0, top]])
    warp = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    offset = cv2.warpAffine(offsets, into_box, (size, size), flags=warp)  # zero outside the box
    columns, rows = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
    (a, b, x), (c, d, y) = view.astype(np.float32)
    map_x, map_y = a * columns + b * rows + x + offset[..., 0], c * columns + d * rows + y + offset[..., 1]
    frame: NDArray[np.uint8] = cv2.remap(rig.photo, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return frame


class _Light:
    """A speaker's light and camera noise over one clip."""

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

    def shine(self, frame: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        """The frame as the camera sees it."""
        lit = self._tones[frame] * self._plane * np.float32(self._flicker[index]) + self._grain[index % 4]
        seen: NDArray[np.uint8] = np.clip(lit, 0, 255).astype(np.uint8)
        return seen
