"""Cutting at cues and at speech."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecmf_pipeline.segmentation.config import SegmentConfig
from ecmf_pipeline.segmentation.cutting import Utterance, cut

CUES = SegmentConfig(by="subtitles", pad=0, max_seconds=10)
SPEECH = SegmentConfig(by="speech", pad=0, max_seconds=10)


def spans(cutting) -> list[tuple[float, float]]:
    return [(clip.start, clip.end) for clip in cutting.clips]


def test_each_cue_is_a_clip_with_its_words():
    cutting = cut([Utterance(1, 3, "one"), Utterance(4, 6, "two")], 100, CUES)
    assert cutting.clips == (Utterance(1, 3, "one"), Utterance(4, 6, "two"))
    assert not cutting.problems


@pytest.mark.parametrize(
    ("cue", "expected"),
    [
        (Utterance(101, 103, "x"), []),
        (Utterance(98, 107, "x"), [(98, 100)]),
        (Utterance(5, 5, "x"), []),
        (Utterance(-3, -1, "x"), []),
    ],
)
def test_times_beyond_the_recording(cue, expected):
    cutting = cut([cue], 100, CUES)
    assert spans(cutting) == expected
    assert cutting.problems.total() == 1


@pytest.mark.parametrize(
    ("cues", "expected"),
    [
        ([(1, 4), (3, 6)], [(1, 3, "0"), (3, 6, "1")]),
        ([(1, 6), (2, 3)], [(1, 6, "0 1")]),
        ([(1, 4), (1.2, 6)], [(1, 6, "0 1")]),
        ([(3, 6), (1, 4)], [(1, 3, "1"), (3, 6, "0")]),
        ([(1, 4), (1, 4), (1, 4)], [(1, 4, "0 1 2")]),
    ],
)
def test_overlapping_cues(cues, expected):
    cutting = cut([Utterance(*times, str(number)) for number, times in enumerate(cues)], 100, CUES)
    assert [(clip.start, clip.end, clip.text) for clip in cutting.clips] == expected
    assert cutting.problems.total() == len(cues) - 1


def test_short_cues_are_widened_if_there_is_room():
    cutting = cut(
        [Utterance(1, 1.2, "no"), Utterance(5, 6, "a"), Utterance(6, 6.1, "b"), Utterance(6.1, 8, "c")], 9, CUES
    )
    assert [clip.text for clip in cutting.clips] == ["no", "a", "c"]
    assert cutting.clips[0].seconds == pytest.approx(0.6)
    assert cutting.problems.total() == 1


def test_long_cues_are_cut_into_equal_parts_with_their_words():
    cutting = cut([Utterance(0, 25, "a b c d e f")], 30, CUES)
    assert [clip.text for clip in cutting.clips] == ["a b", "c d", "e f"]
    assert spans(cutting) == [(0, 8.333), (8.333, 16.667), (16.667, 25)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [("你今天高兴吗", ["你今", "天高", "兴吗"]), ("我 love 你们 two", ["我", "love 你", "们 two"])],
)
def test_chinese_cues_are_cut_between_characters(text, parts):
    assert [clip.text for clip in cut([Utterance(0, 25, text)], 30, CUES).clips] == parts


def test_speech_is_joined_over_short_pauses_and_cut_at_the_longest():
    speech = [Utterance(0, 2), Utterance(2.2, 4), Utterance(6, 10), Utterance(10.3, 14), Utterance(14.1, 18)]
    assert spans(cut(speech, 100, SPEECH)) == [(0, 4), (6, 10), (10.3, 18)]


def test_padding_stops_halfway_to_the_neighbours():
    config = CUES.model_copy(update={"pad": 0.5})
    assert spans(cut([Utterance(0.2, 2), Utterance(2.4, 4)], 4.1, config)) == [(0, 2.2), (2.2, 4.1)]


TIMES = st.floats(-5, 120, allow_nan=False)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(TIMES, TIMES, st.sampled_from(["", "a", "b c"])), max_size=20),
    st.sampled_from(["subtitles", "speech"]),
)
def test_clips_are_in_order_inside_and_of_allowed_length(utterances, by):
    config = SegmentConfig(by=by, max_seconds=7)
    clips = cut([Utterance(*one) for one in utterances], 100, config).clips
    assert all(clip.start >= 0 and clip.end <= 100 for clip in clips)
    assert all(clip.seconds <= 7.002 for clip in clips)
    assert all(clip.seconds >= 0.598 for clip in clips)
    assert all(before.end <= after.start + 1e-9 for before, after in pairwise(clips))
