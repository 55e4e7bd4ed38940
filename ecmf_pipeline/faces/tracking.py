"""Boxes of faces: link them into people, choose the main one, cut it out, and judge its landmarks.

**Who is who.** Frames are a quarter of a second or more apart, so people have moved between them. Each frame's faces
are assigned to the people seen so far at the least cost in all (the Hungarian algorithm); a cost has three parts: how
far the face stands from where the person was last seen, how much it has grown or shrunk, and how much it looks like
them (colour histograms). None of them decides alone: two people who cross keep their names because each looks like
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

Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""

KEYPOINTS = 6
"""BlazeFace's: right eye, left eye (the person's own right and left), tip of the nose, mouth, right ear, left ear."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One face in one frame.

    Attributes:
        box: Left, top, width, height in pixels.
        score: The detector's confidence.
        landmarks: Its keypoints in pixels, float32 (6, 2); NaN where unknown.
    """

    box: Box
    score: float
    landmarks: NDArray[np.float32] = field(compare=False)


def centre(box: Box) -> tuple[float, float]:
    """Of a box."""
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def distance(first: Box, second: Box) -> float:
    """Pixels between the centres of two boxes."""
    return float(np.hypot(centre(first)[0] - centre(second)[0], centre(first)[1] - centre(second)[1]))


def shared_area(first: Box, second: Box) -> float:
    """Square pixels that two boxes have in common."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def intersection_over_union(first: Box, second: Box) -> float:
    """How much two boxes overlap: 0 to 1."""
    shared = shared_area(first, second)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def share_inside(first: Box, second: Box) -> float:
    """Share of the smaller of two boxes that lies in the other: 0 to 1."""
    return shared_area(first, second) / min(first[2] * first[3], second[2] * second[3])


_LEAST_EYE_DISTANCE = 0.15
"""Of the box's width: eyes that lie nearer to each other are those of a profile, and their slope means little."""
_FRONTAL = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.426], [0.0, 1.008], [-1.029, 0.361], [1.029, 0.361]], np.float64)
"""The six keypoints of a face that looks into the camera, in distances between the eyes: the median over the 31 clips
of real faces in which they were measured, made symmetric."""
_LOOSE_FIT = 0.2
"""Of the distance between the eyes: a face whose keypoints miss the frontal ones by as much has a fit of 1 / e."""
_SIDE = 64
_SLIGHT_BLUR = 1.5  # pixels of 64
_SHARP = 0.7
"""Share of the gradients' energy that a slight blur takes away: 0.73 to 0.82 in the mean of real clips, 0.45 after a
blur of 2% of the face's side, 0.23 after one of 4%."""


def crop_square(picture: NDArray[np.uint8], box: Box, size: int, *, margin: float = CROP_MARGIN) -> NDArray[np.uint8]:
    """Cut a square around a face, edge pixels continuing where it leaves the picture.

    Args:
        picture: RGB, uint8 (H, W, 3).
        box: Left, top, width, height of the face in pixels.
        size: Side of the crop, in pixels.
        margin: Side of the square over the box's longer side.

    Returns:
        uint8 (size, size, 3), the box's longer side being ``size / margin``.
    """
    import cv2

    x, y, side = _square_around(box, margin)
    square = _cut(picture, x, y, side)
    crop: NDArray[np.uint8] = cv2.resize(
        square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    )
    return crop


def crop_level(picture: NDArray[np.uint8], box: Box, angle: float, size: int) -> NDArray[np.uint8]:
    """Cut a square as `crop_square` does, turned about its middle.

    Args:
        picture: RGB, uint8 (H, W, 3).
        box: Left, top, width, height of the face in pixels.
        angle: Slope of the line through the eyes, as `eye_angle` gives it: level afterwards.
        size: Side of the crop, in pixels.

    Returns:
        uint8 (size, size, 3).
    """
    import cv2

    if angle == 0.0:
        return crop_square(picture, box, size)
    x, y, side = _square_around(box, CROP_MARGIN)
    more = int(np.ceil((np.sqrt(2) - 1) / 2 * side))  # on each side: enough to turn in
    around = _cut(picture, x - more, y - more, side + 2 * more)
    if side > size:  # scaled before it is turned: turning alone would leave out pixels
        wide = round(len(around) * size / side)
        around = cv2.resize(around, (wide, wide), interpolation=cv2.INTER_AREA)
    middle = (len(around) - 1) / 2
    scale = size / side * (side + 2 * more) / len(around)
    turn = cv2.getRotationMatrix2D((middle, middle), float(np.degrees(angle)), scale)
    turn[:, 2] -= middle - (size - 1) / 2
    level: NDArray[np.uint8] = cv2.warpAffine(
        around,
        turn,
        (size, size),
        flags=cv2.INTER_LINEAR if side > size else cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return level


def _square_around(box: Box, margin: float) -> tuple[int, int, int]:
    """Left, top and side of the square around a face, in whole pixels."""
    middle = centre(box)
    side = max(2, round(max(box[2], box[3]) * margin))
    return round(middle[0] - side / 2), round(middle[1] - side / 2), side


def _cut(picture: NDArray[np.uint8], x: int, y: int, side: int) -> NDArray[np.uint8]:
    """A square of a picture, edge pixels continuing where it leaves it; a view of the picture where it does not."""
    if x >= 0 and y >= 0 and x + side <= picture.shape[1] and y + side <= picture.shape[0]:
        return picture[y : y + side, x : x + side]
    rows = np.clip(np.arange(y, y + side), 0, picture.shape[0] - 1)
    columns = np.clip(np.arange(x, x + side), 0, picture.shape[1] - 1)
    return picture[rows[:, None], columns[None, :]]


def eye_angle(box: Box, landmarks: NDArray[np.float32]) -> float:
    """Slope of the line through the eyes, in radians, clockwise as the picture is seen; 0 where it means little."""
    across, down = (landmarks[1] - landmarks[0]).tolist()  # from the eye that is on the left in the picture
    if not np.hypot(across, down) >= _LEAST_EYE_DISTANCE * box[2]:  # NaN is not
        return 0.0
    return float(np.arctan2(down, across))


def landmark_quality(picture: NDArray[np.uint8], face: Detection) -> float:
    """Quality of a face's landmarks, 0 to 1: fit x inside x detail.

    - fit: how well the six keypoints, moved, turned and scaled, meet those of a frontal face; exp(-(e / 0.2)^2), where
      e is the root mean square of what is left, in distances between the eyes. Low where the face is turned away.
    - inside: share of eyes, nose and mouth that lie inside the box.
    - detail: share of the gradients' energy in the box that a slight blur takes away, over 0.7 and at most 1. Low where
      the picture is blurred, or the face has few pixels: what lies in a blur is guessed.

    Args:
        picture: RGB, uint8 (H, W, 3).
        face: With its keypoints.

    Returns:
        NaN where there are no keypoints.
    """
    if not np.isfinite(face.landmarks).all():
        return float("nan")
    return fit(face.landmarks) * _inside(face) * _detail(picture, face)


def fit(landmarks: NDArray[np.float32]) -> float:
    """How well keypoints, (6, 2), meet those of a frontal face under a similarity transform: 0 to 1."""
    found = landmarks[:, 0] + 1j * landmarks[:, 1].astype(np.float64)
    frontal = _FRONTAL[:, 0] + 1j * _FRONTAL[:, 1]  # complex: turning and scaling are one multiplication
    found, frontal = found - found.mean(), frontal - frontal.mean()
    turn = np.vdot(frontal, found) / np.vdot(frontal, frontal)
    if abs(turn) == 0:
        return 0.0
    error = np.sqrt(np.mean(np.abs(found - turn * frontal) ** 2)) / abs(turn)
    return float(np.exp(-((error / _LOOSE_FIT) ** 2)))


def _inside(face: Detection) -> float:
    left, top, width, height = face.box
    across, down = face.landmarks[:4, 0], face.landmarks[:4, 1]
    lies = (across >= left) & (across <= left + width) & (down >= top) & (down <= top + height)
    return float(lies.mean())


def _detail(picture: NDArray[np.uint8], face: Detection) -> float:
    import cv2

    grey = cv2.cvtColor(crop_square(picture, face.box, _SIDE, margin=1.0), cv2.COLOR_RGB2GRAY).astype(np.float32)
    energy = _gradients(grey)
    if energy == 0:
        return 0.0
    lost = 1 - _gradients(cv2.GaussianBlur(grey, (0, 0), _SLIGHT_BLUR)) / energy
    return float(min(1.0, lost / _SHARP))


def _gradients(grey: NDArray[np.float32]) -> float:
    return float((np.diff(grey, axis=0) ** 2).mean() + (np.diff(grey, axis=1) ** 2).mean())


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
