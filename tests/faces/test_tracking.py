"""Who is who, and who is the main person."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ecmf_pipeline.faces.tracking import Detection, colour_signature, dissimilarity, find_cuts, main_track
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames

WIDE = (360, 1000)


def face(x: float, y: float = 40.0, side: float = 40.0, score: float = 0.9) -> Detection:
    return Detection((x, y, side, side), score, np.full((6, 2), np.nan, np.float32))


def look(kind: int) -> np.ndarray:
    """The signature of a person unlike all others."""
    vector = np.zeros(1024, np.float32)
    vector[kind] = 1
    return vector


def scene(*placed: tuple[np.ndarray, int, int]) -> np.ndarray:
    """Pictures of people on a grey ground, uint8 (H, W, 3): each at its left edge, scaled to its side; the last lie on
    top."""
    ground = np.full((*WIDE, 3), 128, np.uint8)
    for picture, left, side in placed:
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        ground[WIDE[0] - side :, left : left + side] = small
    return ground


def who(track, people: dict[str, np.ndarray]) -> list[str]:
    """Whose face each crop shows, told by the crops alone: the nearest in grey levels of the middle."""

    def middle(picture: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[64:192, 64:192].astype(float)
        small = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA)
        return (small - small.mean()) / small.std()

    known = {name: middle(crop) for name, crop in people.items()}
    return [min(known, key=lambda name: np.abs(known[name] - middle(crop)).mean()) for crop in track.crops]


class TestBoxes:
    def test_a_listener_who_is_larger_for_a_moment_does_not_take_over(self):
        detections = [[face(100 + i, side=50)] for i in range(8)]
        detections[3].append(face(10, side=70))
        steps = main_track(detections, height=200, width=300)
        assert [index for index, _ in steps] == list(range(8))
        assert all(found.box[2] == 50 for _, found in steps)

    def test_two_people_are_never_mixed(self):
        left = [face(30 + i, side=40) for i in range(6)]
        right = [face(220 - i, side=44) for i in range(6)]
        order = [[left[i], right[i]] if i % 2 else [right[i], left[i]] for i in range(6)]
        steps = main_track(order, height=200, width=300)
        assert len({found.box[2] for _, found in steps}) == 1
        assert len(steps) == 6

    def test_a_face_that_is_lost_for_some_frames_is_taken_up_again(self):
        detections = [[face(100)], [], [], [face(104)], [face(106)]]
        assert [index for index, _ in main_track(detections, height=200, width=300)] == [0, 3, 4]
        assert main_track([[], []], height=200, width=300) == []

    def test_faces_are_shared_out_at_the_least_cost_in_all(self):
        # The surest face of the second frame lies nearest to the left person, who has a nearer one: a choice face by
        # face would give it to them, and leave the right person the one that is out of reach.
        first = [face(100, side=40), face(130, side=42)]
        second = [face(112, side=42, score=0.95), face(92, side=40, score=0.9)]
        steps = main_track([first, second, second], height=200, width=250)
        assert len(steps) == 3
        assert len({found.box[2] for _, found in steps}) == 1

    def test_people_who_cross_between_two_frames_keep_their_looks(self):
        detections = [[face(60, side=40), face(100, side=44)], [face(60, side=44), face(100, side=40)]]
        looks = [[look(1), look(2)], [look(2), look(1)]]
        steps = main_track(detections, height=200, width=160, signatures=looks)
        assert len({found.box[2] for _, found in steps}) == 1
        swapped = main_track(detections, height=200, width=160)
        assert len({found.box[2] for _, found in swapped}) == 2, "place alone cannot tell, which is what looks are for"

    def test_another_person_in_the_same_place_is_another_person(self):
        detections = [[face(60)] for _ in range(5)]
        looks = [[look(1)], [look(1)], [look(2)], [look(1)], [look(1)]]
        steps = main_track(detections, height=200, width=160, signatures=looks, cuts=[False, False, True, True, False])
        assert [index for index, _ in steps] == [0, 1, 3, 4]

    def test_after_a_cut_the_place_does_not_count(self):
        somewhat_alike = look(1) * 0.85 + look(2) * np.sqrt(1 - 0.85**2)  # unlikeness 0.15
        detections = [[face(60)], [face(60)]]
        looks = [[look(1)], [somewhat_alike]]
        together = main_track(detections, height=200, width=160, signatures=looks, cuts=[False, False])
        apart = main_track(detections, height=200, width=160, signatures=looks, cuts=[False, True])
        assert (len(together), len(apart)) == (2, 1)


@pytest.fixture(scope="module")
def pictures(person):
    return {"astronaut": person(0), "woman": person(6), "man": person(1)}


@pytest.fixture(scope="module")
def crops(finder, pictures):
    return {name: finder.track(picture[None]).crops[0] for name, picture in pictures.items()}


class TestRealPeople:
    @pytest.mark.parametrize(("main", "other"), [("astronaut", "woman"), ("man", "astronaut"), ("woman", "man")])
    def test_side_by_side_the_larger_is_followed(self, finder, pictures, crops, main, other):
        frames = np.stack([scene((pictures[other], 40 + 8 * i, 220), (pictures[main], 600, 330)) for i in range(6)])
        track = finder.track(frames)
        assert who(track, crops) == [main] * 6

    @pytest.mark.parametrize(("main", "other"), [("astronaut", "woman"), ("man", "astronaut"), ("woman", "man")])
    def test_people_who_cross_are_not_swapped(self, finder, pictures, crops, main, other):
        lefts = np.linspace(20, 640, 8).astype(int)
        frames = np.stack(
            [scene((pictures[other], left, 240), (pictures[main], 640 - left, 330)) for left in lefts.tolist()]
        )
        track = finder.track(frames)
        assert len(track.frames) == 8
        assert who(track, crops) == [main] * 8

    def test_someone_out_of_sight_is_not_replaced_by_who_stays(self, finder, pictures, crops):
        seen = [True, True, False, False, True, True, True]
        frames = np.stack(
            [
                scene((pictures["woman"], 420, 230), *([(pictures["astronaut"], 300 + 40 * i, 330)] if is_seen else []))
                for i, is_seen in enumerate(seen)
            ]
        )
        track = finder.track(frames)
        assert track.frames.tolist() == [0, 1, 4, 5, 6]
        assert who(track, crops) == ["astronaut"] * 5

    def test_one_who_is_larger_for_a_moment_does_not_take_over(self, finder, pictures, crops):
        sides = [150, 150, 350, 150, 150, 150, 150, 150]
        frames = np.stack([scene((pictures["man"], 40, side), (pictures["woman"], 600, 300)) for side in sides])
        assert who(finder.track(frames), crops) == ["woman"] * 8

    def test_shot_and_reverse_shot_are_two_people(self, finder, shared_data):
        first, second = (
            read_frames(shared_data / f"clips/video/clip_{number:03d}.mp4", MediaConfig(frames=6))[0]
            for number in (1, 6)
        )
        frames = np.concatenate([first[:3], second[:2], first[3:]])
        assert finder.track(frames).frames.tolist() == [0, 1, 2, 5, 6, 7]

    def test_one_person_is_one_track_in_every_real_clip(self, finder, shared_data):
        for number in (5, 8, 24):  # bowed, turned, behind a hand
            frames, _ = read_frames(shared_data / f"clips/video/clip_{number:03d}.mp4", MediaConfig(frames=8))
            assert finder.track(frames).frames.tolist() == list(range(8)), number


def test_signatures_tell_people_apart(person, finder):
    signatures = {}
    for number in (0, 1, 6):
        picture = person(number)
        (found,) = finder.detect(picture)
        left, top, side, _ = found.box
        moved = (left + 0.05 * side, top - 0.05 * side, 1.05 * side, 1.05 * side)
        brighter = np.clip(picture.astype(int) + 3, 0, 255).astype(np.uint8)
        signatures[number] = colour_signature(picture, found.box)
        assert dissimilarity(signatures[number], colour_signature(brighter, moved)) < 0.1
    for one, other in ((0, 1), (0, 6), (1, 6)):
        assert dissimilarity(signatures[one], signatures[other]) > 0.1


def test_a_real_cut_is_found(shared_data):
    frames, _ = read_frames(shared_data / "clips/video/clip_017.mp4", MediaConfig())
    found = np.flatnonzero(find_cuts(frames)).tolist()
    assert 11 in found
    assert len(found) <= 3  # titles that come and go may count


def test_one_frame_and_none_have_no_cut():
    assert find_cuts(np.zeros((0, 8, 8, 3), np.uint8)) == []
    assert find_cuts(np.zeros((1, 8, 8, 3), np.uint8)) == [False]
