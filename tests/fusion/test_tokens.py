"""Several encoders of a modality, and single modalities as branches of the fusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig, modality_of
from ecmf_pipeline.fusion.ecmf import EcmfFusion
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.tables import deployed, out_of_fold, predict_tables, weight_columns
from ecmf_pipeline.fusion.training import fit


def test_weights_of_encoders_are_summed_by_modality() -> None:
    weights = np.array([[0.2, 0.5, 0.3], [np.nan] * 3], np.float32)
    names, columns = weight_columns(["face", "text.a", "text.b"], weights)
    assert names == ("face", "text", "text.a", "text.b")
    np.testing.assert_allclose(columns, [[0.2, 0.8, 0.5, 0.3], [np.nan] * 4], rtol=1e-6)
    assert weight_columns(["face", "text"], weights[:, :2])[0] == ("face", "text"), "one encoder each: nothing to add"
    assert [modality_of(name) for name in ("text", "text.clip.large")] == ["text", "text"]


def test_encoders_of_a_modality_share_an_embedding() -> None:
    dims = {"face": 3, "text.a": 4, "text.b": 5}
    model = EcmfFusion(FusionConfig(hidden=8, heads=2), dims, 3)
    assert model.embedding is not None
    assert model.embedding.shape == (2, 8)
    assert EcmfFusion(FusionConfig(hidden=8, heads=2), {"face": 3, "text": 4}, 3).embedding is None
    with torch.no_grad():
        model.attention[0].get_parameter("project.weight").normal_()
        model.join.get_parameter("classifier.weight").normal_()
    features, present = [torch.randn(2, dim) for dim in dims.values()], torch.ones(2, 3, dtype=torch.bool)
    before = model.eval()(features, present).logits.detach()
    with torch.no_grad():
        model.embedding.normal_()
    assert not torch.allclose(model(features, present).logits.detach(), before)


def test_branches_are_the_single_modality_models(ensemble: Ensemble, corpus: Any, small: FusionConfig) -> None:
    """`mean_probs` trains only the branches: with the same seeds, one of them is the model of that modality."""
    training = TrainingConfig(folds=3, seeds=2, epochs=6, patience=3, learning_rate=5e-3, calibration="none")
    common = {"groups": corpus.groups, "training": training}
    fusion = fit(corpus.features, corpus.labels, fusion=small, **common)
    only = small.model_copy(update={"kind": "single:face"})
    alone = fit({"face": corpus.features["face"]}, corpus.labels, fusion=only, **common)
    folds = fusion.held_out(map(str, range(48)))
    by_branch = fusion.predict(corpus.features, folds).branch_classes[:, 0]
    single = alone.predict({"face": corpus.features["face"]}, folds)
    assert (by_branch == corpus.labels).mean() == pytest.approx((single.classes == corpus.labels).mean(), abs=0.11)
    assert fusion.has_single_models
    assert not ensemble.has_single_models, "joint training changed its branches"


def test_branch_probabilities_are_missing_with_the_modality(ensemble: Ensemble, corpus: Any) -> None:
    prediction = ensemble.predict(corpus.features)
    assert prediction.branch_probs.shape == (48, 2, 3)
    assert np.isnan(prediction.branch_probs[5, 1]).all(), "clip 5 has no audio"
    known = np.delete(prediction.branch_probs, 5, axis=0)
    np.testing.assert_allclose(known.sum(axis=2), 1, rtol=1e-5)
    assert prediction.branch_classes[5].tolist() == [prediction.branch_probs[5, 0].argmax(), -1]


def test_several_sets_of_members_predict_as_one_by_one(ensemble: Ensemble, corpus: Any) -> None:
    folds = ensemble.held_out(corpus.clip_ids)
    both = ensemble.predict_several(corpus.features, [folds, None])
    for prediction, held_out in zip(both, (folds, None), strict=True):
        expected = ensemble.predict(corpus.features, held_out)
        np.testing.assert_allclose(prediction.probs, expected.probs, atol=1e-6)
        np.testing.assert_allclose(prediction.branch_probs, expected.branch_probs, atol=1e-6)


def test_branches_get_tables_with_their_own_calibration(
    corpus: Any, small: FusionConfig, quick: TrainingConfig, tmp_path: Path
) -> None:
    names = ("neutral", "happy", "sad")
    features = {"face.a": corpus.features["face"], "face.b": corpus.features["face"][:, ::-1].copy()}
    features["audio"] = corpus.features["audio"]
    training = quick.model_copy(update={"joint_learning_rate": 0.0})
    trained = fit(features, corpus.labels, clip_ids=corpus.clip_ids, label_names=names, fusion=small, training=training)
    trained.save(tmp_path)
    ensemble = Ensemble.load(tmp_path)
    assert ensemble.branch_temperatures == trained.branch_temperatures
    assert set(ensemble.branch_temperatures) == {"face.a", "face.b", "audio"}
    clips = [
        Clip(ClipId(name), f"{name}.mp4", digest=name, given_label=names[label], split=Split.TRAIN)
        for name, label in zip(corpus.clip_ids, corpus.labels.tolist(), strict=True)
    ]

    def read(clip_ids: Any) -> dict[str, np.ndarray]:
        rows = [corpus.clip_ids.index(clip_id) for clip_id in clip_ids]
        return {name: values[rows] for name, values in features.items()}

    ensembles = {"fusion": out_of_fold(ensemble, clips), "deployed": deployed(ensemble, clips)}
    tables = predict_tables(ensembles, clips, read, branches_of="fusion", with_branches={"fusion"})
    assert set(tables) == {"fusion", "deployed", "face.a", "face.b", "audio"}
    assert tables["fusion"].modalities == ("face", "audio", "face.a", "face.b")
    weights = tables["fusion"].modality_weights
    np.testing.assert_allclose(weights[:, 0], weights[:, 2:].sum(axis=1), atol=1e-6)
    assert tables["audio"].modalities == ("audio",)
    assert tables["fusion"].branches == ("face.a", "face.b", "audio")
    of_audio = tables["fusion"].branch_probs[:, 2]
    present = [not flag for flag in tables["audio"].flags]
    np.testing.assert_allclose(of_audio[present], tables["audio"].probs[present], atol=1e-3)
    assert np.isnan(of_audio[5]).all()
    assert tables["deployed"].branch_probs is None
    assert [flag for flag in tables["audio"].flags if flag] == ["no modality"] or tables["audio"].flags[5]
    assert (np.array(tables["face.a"].labels) == np.array(names)[corpus.labels]).mean() > 0.5
