"""Validation of features, masks, folds and devices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ecmf_pipeline.core.errors import InputError, TooFewClips
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import read_inputs
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import cross_validate, fit


@pytest.mark.parametrize(
    "mask", [np.zeros(1, bool), np.ones(47, bool), np.ones(700, bool), np.ones((48, 1), bool), True, ["False"] * 48]
)
def test_a_mask_must_have_one_bool_for_each_clip(ensemble: Ensemble, corpus: Any, mask: Any) -> None:
    for call in (
        lambda: ensemble.predict(corpus.features, masks={"face": mask}),
        lambda: fit(corpus.features, corpus.labels, masks={"face": mask}),
    ):
        with pytest.raises(ValueError, match=r"mask of face .*\(48,\)"):
            call()


def test_a_mask_longer_than_a_chunk_is_checked(ensemble: Ensemble, corpus: Any) -> None:
    many = {name: np.tile(values, (11, 1))[:512] for name, values in corpus.features.items()}
    with pytest.raises(ValueError, match=r"mask of face .*\(512,\)"):
        ensemble.predict(many, masks={"face": np.ones(600, bool)})


@pytest.mark.parametrize("reverse", [np.s_[::-1], np.s_[:, ::-1], np.s_[::-1, ::-1]])
def test_arrays_with_negative_strides_are_read(ensemble: Ensemble, corpus: Any, reverse: Any) -> None:
    views = {name: values[reverse] for name, values in corpus.features.items()}
    copies = {name: values.copy() for name, values in views.items()}
    np.testing.assert_array_equal(ensemble.predict(views).probs, ensemble.predict(copies).probs)
    for one, two in zip(read_inputs(views).features, read_inputs(copies).features, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(48, 0), (48, 0, 4), (48, 4, 0)])
def test_features_without_columns_or_frames_are_rejected(corpus: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="features of text") as caught:
        fit({**corpus.features, "text": np.zeros(shape)}, corpus.labels)
    assert str(shape) in str(caught.value)


def test_missing_features_and_clips_are_rejected(ensemble: Ensemble, corpus: Any) -> None:
    with pytest.raises(InputError) as caught:
        fit({}, corpus.labels)
    assert caught.value.hint
    with pytest.raises(InputError, match=r"features of \[\].*\['audio', 'face'\]"):
        ensemble.predict({})
    empty = {name: values[:0] for name, values in corpus.features.items()}
    for folds in (None, []):
        with pytest.raises(TooFewClips) as too_few:
            fit(empty, corpus.labels[:0], folds=folds)
        assert too_few.value.hint
    with pytest.raises(ValueError, match=r"features of face .*\(1,\)"):
        ensemble.predict({"face": 1.0, "audio": 2.0})


def test_a_single_modality_without_any_rows_is_rejected(corpus: Any, quick: TrainingConfig) -> None:
    features = {**corpus.features, "face": np.full((48, 10), np.nan)}
    with pytest.raises(TooFewClips, match="48 labelled clips") as caught:
        cross_validate(features, corpus.labels, fusion=FusionConfig(kind="single:face"), training=quick)
    assert caught.value.hint


def test_folds_that_hold_out_no_clip_are_rejected(corpus: Any, quick: TrainingConfig) -> None:
    with pytest.raises(TooFewClips, match="folds") as caught:
        fit(corpus.features, corpus.labels, folds=[-1] * 48, training=quick)
    assert caught.value.hint
    for wrong in ([0, 1], [-2, 0] * 24, [0.5, 0.0] * 24, [np.nan] * 48, ["0"] * 48, np.zeros((48, 1), int)):
        with pytest.raises(ValueError, match="folds"):
            fit(corpus.features, corpus.labels, folds=wrong, training=quick)


def test_the_meta_device_is_rejected(corpus: Any, quick: TrainingConfig) -> None:
    with pytest.raises(InputError, match="device 'meta'") as caught:
        fit(corpus.features, corpus.labels, training=quick.model_copy(update={"device": "meta"}))
    assert caught.value.hint
