from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.corpora.sample.face import FaceRig
from ecmf_pipeline.corpora.sample.plan import EXPRESSIONS, SHARES, draw_acting, expression
from ecmf_pipeline.corpora.sample.scene import draw_speaker, render


def test_photograph_at_rest_is_not_warped(rig: FaceRig) -> None:
    offsets = rig.warp(rig.displacement({}))
    left, top, right, bottom = rig.box
    assert offsets.shape == (bottom - top, right - left, 2)
    assert not offsets.any()


@pytest.mark.parametrize("label", SHARES)
def test_expressions_move_the_face_only(rig: FaceRig, label: str) -> None:
    offsets = rig.warp(rig.displacement(EXPRESSIONS[label]))
    border = np.concatenate([offsets[0], offsets[-1], offsets[:, 0], offsets[:, -1]])
    assert not border.any()
    assert 1 < np.abs(offsets).max() < 25


def test_warp_offset_points_to_source_of_landmark(rig: FaceRig) -> None:
    displacement = rig.displacement({"corner_raise": 1.0})
    point = int(np.argmax(np.abs(displacement).sum(axis=1)))
    column, row = np.round(rig.points[point] + displacement[point]).astype(int) - np.array(rig.box[:2])
    assert rig.warp(displacement)[row, column] == pytest.approx(-displacement[point], abs=0.5)


def test_expression_at_no_strength_is_neutral() -> None:
    assert {name: amount for name, amount in expression({"angry": 1.0}, 0.0).items() if amount} == EXPRESSIONS[
        "neutral"
    ]
    assert expression({"angry": 1.0}, 1.0)["brow_lower"] == EXPRESSIONS["angry"]["brow_lower"]


def test_face_and_voice_are_independent() -> None:
    rng = np.random.default_rng(0)
    pairs = [(draw_acting("happy", 0.3, rng), draw_acting("happy", 0.3, rng)) for _ in range(2000)]
    weak = np.array([[face["happy"] < 0.35, voice["happy"] < 0.35] for face, voice in pairs])
    assert weak.mean(axis=0) == pytest.approx(0.3, abs=0.04)
    assert abs(np.corrcoef(weak.T)[0, 1]) < 0.07


def test_speakers_differ_and_are_reproducible(rig: FaceRig) -> None:
    first, again, second = (draw_speaker(rig, number, 7) for number in (0, 0, 1))
    assert np.array_equal(first.identity, again.identity)
    assert first.voice == again.voice
    assert not np.allclose(first.identity, second.identity)
    assert first.voice != second.voice
    assert not first.identity[~rig.is_landmark].any()


def test_frames_move_without_empty_border(rig: FaceRig) -> None:
    frames = list(render(rig, draw_speaker(rig, 1, 7), {"sad": 1.0}, np.zeros(20), 128, np.random.default_rng(1)))
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((128, 128, 3), "uint8")}
    assert len(frames) == 20
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1
    edges = [frame[side].mean() for frame in frames for side in (np.s_[0], np.s_[:60, 0], np.s_[:60, -1])]
    assert min(edges) > 40
