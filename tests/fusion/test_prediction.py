"""Predictions of ensembles, and their storage."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from ecmf_pipeline.core.errors import InputError, MissingInput, ModelError
from ecmf_pipeline.core.files import read_sealed_json, sha256_file, write_sealed_json
from ecmf_pipeline.extraction.features import FeatureOrigin
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.folds import ClipFolds
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import fit


def members_of(ensemble: Ensemble, *folds: int) -> Ensemble:
    return dataclasses.replace(ensemble, members=tuple(m for m in ensemble.members if m.fold in folds))


def test_a_training_clip_is_predicted_only_by_models_not_trained_on_it(ensemble: Ensemble, corpus: Any) -> None:
    ensemble = dataclasses.replace(
        ensemble, temperatures={}, missing_factors={}, uniform_shares={}
    )  # temperatures differ between folds
    held_out = ensemble.held_out(corpus.clip_ids)
    prediction = ensemble.predict(corpus.features, held_out)
    for fold in range(3):
        rows = held_out == fold
        expected = members_of(ensemble, fold).predict(corpus.features)
        np.testing.assert_allclose(prediction.probs[rows], expected.probs[rows], atol=1e-6)
        np.testing.assert_allclose(prediction.modality_weights[rows], expected.modality_weights[rows], atol=1e-6)


def test_other_clips_are_predicted_by_all_members(ensemble: Ensemble, corpus: Any) -> None:
    assert (ensemble.held_out(["new", "clip00"]) == [-1, ensemble.folds.held_out_by[0]]).all()
    ensemble = dataclasses.replace(
        ensemble, temperatures={}, missing_factors={}, uniform_shares={}
    )  # calibration follows averaging
    prediction = ensemble.predict(corpus.features)
    member_probs = [
        dataclasses.replace(ensemble, members=(member,)).predict(corpus.features).probs for member in ensemble.members
    ]
    np.testing.assert_allclose(prediction.probs, np.mean(member_probs, axis=0), atol=1e-6)
    np.testing.assert_array_equal(prediction.probs, ensemble.predict(corpus.features, np.full(48, -1)).probs)


def test_probabilities_and_weights_sum_to_one(ensemble: Ensemble, corpus: Any) -> None:
    prediction = ensemble.predict(corpus.features)
    assert prediction.probs.shape == (48, 3)
    assert prediction.modality_weights.shape == (48, 2)
    np.testing.assert_allclose(prediction.probs.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(prediction.modality_weights.sum(axis=1), 1, rtol=1e-5)
    assert prediction.modality_weights[5, 1] == 0, "clip 5 has no audio"
    assert (prediction.classes == prediction.probs.argmax(axis=1)).all()


def test_clips_without_any_modality_get_no_prediction_and_affect_no_other(ensemble: Ensemble, corpus: Any) -> None:
    features = {name: values.copy() for name, values in corpus.features.items()}
    features["face"][3] = np.nan
    features["audio"][3] = np.nan
    prediction, plain = ensemble.predict(features), ensemble.predict(corpus.features)
    assert np.isnan(prediction.probs[3]).all()
    assert np.isnan(prediction.modality_weights[3]).all()
    assert prediction.classes[3] == -1
    np.testing.assert_allclose(np.delete(prediction.probs, 3, axis=0), np.delete(plain.probs, 3, axis=0), atol=1e-6)


def test_masks_and_rows_of_nan_are_equivalent(ensemble: Ensemble, corpus: Any) -> None:
    mask = np.arange(48) % 2 == 0
    with_nan = {"face": np.where(mask[:, None], corpus.features["face"], np.nan), "audio": corpus.features["audio"]}
    np.testing.assert_array_equal(
        ensemble.predict(with_nan).probs, ensemble.predict(corpus.features, masks={"face": mask}).probs
    )


@pytest.mark.parametrize("row", [0, 5, 47])
def test_the_prediction_of_a_clip_does_not_depend_on_other_clips(ensemble: Ensemble, corpus: Any, row: int) -> None:
    held_out = ensemble.held_out(corpus.clip_ids)
    together = ensemble.predict(corpus.features, held_out)
    alone = ensemble.predict({name: values[[row]] for name, values in corpus.features.items()}, held_out[[row]])
    np.testing.assert_allclose(alone.probs[0], together.probs[row], atol=1e-6)


def test_predicting_no_clips_is_no_error(ensemble: Ensemble) -> None:
    prediction = ensemble.predict({"face": np.zeros((0, 10)), "audio": np.zeros((0, 7))})
    assert prediction.probs.shape == (0, 3)


def test_features_that_differ_from_training_are_rejected(ensemble: Ensemble, corpus: Any) -> None:
    with pytest.raises(InputError, match=r"\['face'\].*\['audio', 'face'\]"):
        ensemble.predict({"face": corpus.features["face"]})
    with pytest.raises(InputError, match=r"features of face .*9.*10"):
        ensemble.predict({**corpus.features, "face": corpus.features["face"][:, :9]})
    with pytest.raises(ValueError, match="held_out"):
        ensemble.predict(corpus.features, np.full(48, 17))


def test_a_saved_ensemble_is_loaded_unchanged(ensemble: Ensemble, corpus: Any, tmp_path: Path) -> None:
    ensemble.save(tmp_path / "model")
    loaded = Ensemble.load(tmp_path / "model")
    for name in ("dims", "label_names", "fusion", "training"):
        assert getattr(loaded, name) == getattr(ensemble, name)
    assert loaded.folds.to_bytes() == ensemble.folds.to_bytes()
    assert loaded.modalities == ("face", "audio")
    np.testing.assert_array_equal(loaded.predict(corpus.features).probs, ensemble.predict(corpus.features).probs)
    loaded.save(tmp_path / "again")
    for name in ("config.json", "weights.safetensors", "folds.arrow"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_the_folder_may_be_a_string(ensemble: Ensemble, corpus: Any, tmp_path: Path) -> None:
    ensemble.save(str(tmp_path / "model"))
    loaded = Ensemble.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(corpus.features).probs, ensemble.predict(corpus.features).probs)


@pytest.mark.parametrize("kind", ["index", "float", "name", "names in order"])
def test_predictions_have_the_type_of_the_training_labels(
    corpus: Any, small: FusionConfig, quick: TrainingConfig, tmp_path: Path, kind: str
) -> None:
    names = np.array(["sad", "glad", "calm"])
    labels = {"index": corpus.labels, "float": corpus.labels * 1.0}.get(kind, names[corpus.labels])
    ensemble = fit(
        corpus.features, labels, label_names=list(names) if kind == "names in order" else None, fusion=small,
        training=quick,
    )  # fmt: skip
    ensemble.save(tmp_path)
    masks = {name: np.arange(48) != 3 for name in corpus.features}
    for prediction in (
        ensemble.predict(corpus.features, masks=masks),
        Ensemble.load(tmp_path).predict(corpus.features, masks=masks),
    ):
        assert prediction.predictions.dtype.kind == labels.dtype.kind
        assert prediction.predictions[3] == ("" if labels.dtype.kind == "U" else -1)
        others = np.arange(48) != 3
        if labels.dtype.kind == "U":
            chosen = np.array(ensemble.label_names)[prediction.classes]
            np.testing.assert_array_equal(prediction.predictions[others], chosen[others])
        else:
            np.testing.assert_array_equal(prediction.predictions, prediction.classes)
        assert (prediction.predictions == labels)[others].mean() > 0.6


def test_an_ensemble_without_a_label_type_predicts_names(ensemble: Ensemble, corpus: Any, tmp_path: Path) -> None:
    ensemble.save(tmp_path)
    content = read_sealed_json(tmp_path / "config.json", made_by="train")
    assert content.pop("label_type") == "index"
    write_sealed_json(tmp_path / "config.json", content)
    prediction = Ensemble.load(tmp_path).predict(corpus.features)
    np.testing.assert_array_equal(prediction.predictions, np.array(["neutral", "happy", "sad"])[prediction.classes])


def test_feature_origins_are_saved_and_optional(ensemble: Ensemble, tmp_path: Path) -> None:
    assert ensemble.origins == {}, "arrays have no origin"
    origins = {"audio": FeatureOrigin(encoders=("egemaps",), settings={"encoder": {"type": "egemaps", "recipe": 1}})}
    dataclasses.replace(ensemble, origins=origins).save(tmp_path)
    assert Ensemble.load(tmp_path).origins == origins
    config = tmp_path / "config.json"
    content = read_sealed_json(config, made_by="train")
    for modality in content["modalities"]:
        del modality["origin"]  # the field is optional
    write_sealed_json(config, content)
    without = Ensemble.load(tmp_path)
    assert without.origins == {}
    assert without.dims == ensemble.dims


def damage(folder: Path, kind: str) -> None:
    weights, config = folder / "weights.safetensors", folder / "config.json"
    content = read_sealed_json(config, made_by="train")
    if kind == "missing weights":
        weights.unlink()
    elif kind == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif kind == "changed byte of weights":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif kind == "another shape":
        wrong = [{"name": "face", "dim": 11}, content["modalities"][1]]
        write_sealed_json(config, {**content, "modalities": wrong})
    elif kind == "missing modality":
        write_sealed_json(config, {**content, "modalities": content["modalities"][:1]})
    elif kind == "missing member":
        write_sealed_json(config, {**content, "members": content["members"][:-1]})
    elif kind in {"path without a tensor", "path of another shape"}:
        tensors = load_file(weights)
        columns = tensors.pop("path0.center")
        if kind == "path of another shape":
            tensors["path0.center"] = columns[:-1]
        weights.write_bytes(save(tensors))
        write_sealed_json(config, {**content, "weights_sha256": sha256_file(weights)})
    elif kind == "tensor of NaN":
        weights.write_bytes(
            save({n: np.full_like(t, np.nan) if n == "path0.center" else t for n, t in load_file(weights).items()})
        )
        write_sealed_json(config, {**content, "weights_sha256": sha256_file(weights)})
    elif kind == "negative shares":
        write_sealed_json(config, {**content, "members": [one | {"shares": [-1, 1]} for one in content["members"]]})
    elif kind == "temperature of 0":
        write_sealed_json(config, {**content, "temperatures": dict.fromkeys(content["temperatures"], 0)})
    elif kind == "shares without a path":
        weights.write_bytes(save({n: t for n, t in load_file(weights).items() if not n.startswith("path0.")}))
        write_sealed_json(config, {**content, "weights_sha256": sha256_file(weights)})
    elif kind == "unknown key":
        write_sealed_json(config, {**content, "unknown": 1})
    elif kind == "another format":
        write_sealed_json(config, {**content, "format": 3})
    elif kind == "missing folds":
        (folder / "folds.arrow").unlink()
    elif kind == "folds of another model":
        (folder / "folds.arrow").write_bytes(ClipFolds(("clip00",), np.array([0]), np.array([True])).to_bytes())
    else:
        config.write_text(config.read_text()[:-40])


@pytest.mark.parametrize(
    "kind",
    [
        "missing weights",
        "truncated weights",
        "changed byte of weights",
        "another shape",
        "missing modality",
        "missing member",
        "path without a tensor",
        "path of another shape",
        "tensor of NaN",
        "negative shares",
        "temperature of 0",
        "shares without a path",
        "unknown key",
        "another format",
        "missing folds",
        "folds of another model",
        "truncated config",
    ],
)
def test_a_damaged_ensemble_is_rejected_with_a_hint(ensemble: Ensemble, tmp_path: Path, kind: str) -> None:
    ensemble.save(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises(InputError if kind == "truncated config" else ModelError) as caught:
        Ensemble.load(tmp_path)
    if kind != "truncated config":
        assert caught.value.command == "ecmf-pipe train"
    assert caught.value.hint or caught.value.command


def test_a_missing_ensemble_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="train"):
        Ensemble.load(tmp_path)


def test_configs_load_without_torch() -> None:
    code = "import sys, ecmf_pipeline.fusion.config; sys.exit(bool({'torch', 'sklearn', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
