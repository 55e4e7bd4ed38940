"""Link the faces of a clip into people, and choose the main one.

**Who is who.** Frames are a quarter of a second or more apart, so people have moved between them. Each frame's faces
are assigned to the people seen so far at the least cost in all (the Hungarian algorithm); a cost has three parts: how
far the face stands from where the person was last seen, how much it has grown or shrunk, and how much it looks like
them (`appearance.signature`). None of them decides alone: two people who cross keep their names because each looks like
themselves, someone who was out of sight for some frames is taken up again where they look alike, and after a cut, when
places mean nothing, another person in the same place is another person. Above a cost of `_TOO_DEAR` a face begins a new
person.

**The main person** is the one with the largest sum, over the frames, of size x centrality x confidence: a speaker who
is there all along outweighs a listener who is larger for a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.faces.config import CROP_MARGIN
from ecmf_pipeline.faces.cropping import Box, Detection, centre, distance

Signature = NDArray[np.float32]
"""Unit vector, (1024,)."""

_SAMPLES = 48
_LEVELS = 8
_CHROMA = (64, 192)  # of OpenCV's 8-bit a* and b*: beyond lie colours that pictures hardly have
_CUT = 0.1
"""Between neighbouring samples of real clips without cuts and titles the whole picture's unlikeness stayed below 0.03;
between pictures of different clips it was above 0.12 in 95 of 100 pairs, and 0.86 at the one real cut. A cut that is
missed costs little: faces are compared all the same."""
_TOO_DEAR = 2.0
_STEP = 0.7
"""Of the box's side: a head that has moved as far between two frames costs 1."""
_LOOK = 0.1
"""An unlikeness that costs 1: it is as rare between pictures of one person as between those of two."""
_UNKNOWN_PLACE = 1.0
"""After a cut."""
_FARTHEST_PLACE = 1.5
"""However far away, someone who looks like nobody else may be the same."""
_RECENT = 4
"""Pictures of a person that new ones are compared with: light and pose change slowly."""


def signature(picture: NDArray[np.uint8], box: Box) -> Signature:
    """Of a face with its hair and what is around it, read at 48 x 48 points.

    Args:
        picture: RGB, uint8 (H, W, 3).
        box: Left, top, width, height of the face in pixels.
    """
    return _histograms(picture, centre(box), (max(box[2:]) * CROP_MARGIN,) * 2)


def unlikeness(first: Signature, second: Signature) -> float:
    """How much two signatures differ: 0 (not at all) to 1."""
    return max(0.0, 1.0 - float(first @ second))


def find_cuts(frames: NDArray[np.uint8]) -> list[bool]:
    """For each of the sampled frames, uint8 (T, H, W, 3), whether another scene begins with it (never the first)."""
    if len(frames) == 0:
        return []
    height, width = frames.shape[1:3]
    scenes = [_histograms(frame, (width / 2, height / 2), (width, height)) for frame in frames]
    return [False, *(unlikeness(*pair) > _CUT for pair in pairwise(scenes))]


def blend(signatures: Sequence[Signature]) -> Signature:
    """What several pictures of one person have in common."""
    mean = np.sum(signatures, axis=0, dtype=np.float32)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)


def _histograms(picture: NDArray[np.uint8], middle: tuple[float, float], sides: tuple[float, float]) -> Signature:
    import cv2

    offsets = (np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5
    columns = np.clip((middle[0] + offsets * sides[0]).astype(np.int64), 0, picture.shape[1] - 1)
    rows = np.clip((middle[1] + offsets * sides[1]).astype(np.int64), 0, picture.shape[0] - 1)
    colours = cv2.cvtColor(picture[rows[:, None], columns[None, :]], cv2.COLOR_RGB2LAB)
    halves = []
    for half in np.split(colours, 2):
        counts = cv2.calcHist([half], [0, 1, 2], None, [_LEVELS] * 3, [0, 256, *_CHROMA, *_CHROMA]).ravel()
        halves.append(np.sqrt(counts / max(float(counts.sum()), 1.0)))
    joined: Signature = np.concatenate(halves).astype(np.float32)
    length = float(np.linalg.norm(joined))
    return joined / length if length else joined


@dataclass(slots=True)
class _Person:
    steps: list[tuple[int, Detection]] = field(default_factory=list)
    looks: list[Signature] = field(default_factory=list)

    def cost(self, index: int, face: Detection, look: Signature | None, *, after_cut: bool) -> float:
        """Of taking a face for this person."""
        last_index, last = self.steps[-1]
        grown = abs(float(np.log2(max(face.box[2:]) / max(last.box[2:]))))
        return _place(last.box, face.box, index - last_index, after_cut) + 0.5 * min(grown, 1.0) + self._look(look)

    def _look(self, look: Signature | None) -> float:
        if look is None or not self.looks:
            return 1.0  # speaks neither for nor against
        return min(unlikeness(look, self.looks[-1]), unlikeness(look, blend(self.looks[-_RECENT:]))) / _LOOK

    def add(self, index: int, face: Detection, look: Signature | None) -> None:
        """Take a face for this person."""
        self.steps.append((index, face))
        if look is not None:
            self.looks.append(look)


def main_track(
    detections: Sequence[Sequence[Detection]],
    *,
    height: int,
    width: int,
    looks: Sequence[Sequence[Signature]] | None = None,
    cuts: Sequence[bool] | None = None,
) -> list[tuple[int, Detection]]:
    """The frames and boxes of the clip's main person.

    Args:
        detections: Faces of each sampled frame.
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
        looks: The signature of each face; None: people are told apart by place and size alone.
        cuts: Whether a new scene begins with each frame; None: none does.

    Returns:
        Frame index and detection, in order of time; frames that do not show the person are left out.
    """
    people: list[_Person] = []
    last_cut = -1
    for index, faces in enumerate(detections):
        if cuts is not None and cuts[index]:
            last_cut = index
        own_looks = list(looks[index]) if looks is not None else [None] * len(faces)
        costs = np.array(
            [
                [
                    person.cost(index, face, look, after_cut=person.steps[-1][0] < last_cut)
                    for face, look in zip(faces, own_looks, strict=True)
                ]
                for person in people
            ]
        ).reshape(len(people), len(faces))
        taken = _assign(costs)
        for number, (face, look) in enumerate(zip(faces, own_looks, strict=True)):
            if number not in taken:
                people.append(_Person())
            people[taken.get(number, -1)].add(index, face, look)
    best = max(people, key=lambda person: sum(_weight(face, height, width) for _, face in person.steps), default=None)
    return best.steps if best else []


def _assign(costs: NDArray[np.float64]) -> dict[int, int]:
    """The person of each face that has one, at the least cost in all; (people, faces)."""
    if costs.size == 0:
        return {}
    if costs.size == 1:  # the ordinary clip
        return {0: 0} if costs[0, 0] <= _TOO_DEAR else {}
    from scipy.optimize import linear_sum_assignment

    gains = np.minimum(costs - _TOO_DEAR, 0.0)  # to leave a face and a person alone costs as much as the dearest pair
    rows, columns = linear_sum_assignment(gains)
    return {int(face): int(person) for person, face in zip(rows, columns, strict=True) if gains[person, face] < 0}


def _place(last: Box, now: Box, frames: int, after_cut: bool) -> float:
    if after_cut:
        return _UNKNOWN_PLACE
    side = max(*last[2:], *now[2:])
    return min(distance(last, now) / (_STEP * side * min(frames, 3)), _FARTHEST_PLACE)


def _weight(face: Detection, height: int, width: int) -> float:
    """Size, centrality and confidence of one detection."""
    across, down = centre(face.box)
    away = np.hypot(across / width - 0.5, down / height - 0.5) / np.sqrt(0.5)
    size = np.sqrt(face.box[2] * face.box[3] / (width * height))
    return float(size * (1 - 0.5 * away) * face.score)
