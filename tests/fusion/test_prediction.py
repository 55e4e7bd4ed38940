from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.errors import InputError, MissingInput, ModelError
from ecmf_pipeline.extraction.features import FeatureOrigin
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import fit


def members_of(ensemble: Ensemble, *folds: int) -> Ensemble:
    return dataclasses.replace(ensemble, members=tuple(m for m in ensemble.members if m.fold in folds))


def test_a_trained_on_clip_is_judged_only_by_models_that_never_saw_it(ensemble: Ensemble, corpus: Any) -> None:
    ensemble = dataclasses.replace(ensemble, temperatures={})  # each fold has its own
    held_out = ensemble.held_out(corpus.clip_ids)
    found = ensemble.predict(corpus.features, held_out)
    for fold in range(3):
        rows = held_out == fold
        own = members_of(ensemble, fold).predict(corpus.features)
        np.testing.assert_allclose(found.probs[rows], own.probs[rows], atol=1e-6)
        np.testing.assert_allclose(found.modality_weights[rows], own.modality_weights[rows], atol=1e-6)


def test_other_clips_are_judged_by_all(ensemble: Ensemble, corpus: Any) -> None:
    assert (ensemble.held_out(["never seen", "clip00"]) == [-1, ensemble.folds["clip00"]]).all()
    ensemble = dataclasses.replace(ensemble, temperatures={})  # the mean is taken before it is cooled
    everyone = ensemble.predict(corpus.features)
    each = [
        dataclasses.replace(ensemble, members=(member,)).predict(corpus.features).probs for member in ensemble.members
    ]
    np.testing.assert_allclose(everyone.probs, np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_array_equal(everyone.probs, ensemble.predict(corpus.features, np.full(48, -1)).probs)


def test_probabilities_and_weights_sum_to_one(ensemble: Ensemble, corpus: Any) -> None:
    found = ensemble.predict(corpus.features)
    assert found.probs.shape == (48, 3)
    assert found.modality_weights.shape == (48, 2)
    np.testing.assert_allclose(found.probs.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.modality_weights.sum(axis=1), 1, rtol=1e-5)
    assert found.modality_weights[5, 1] == 0, "clip 5 has no audio"
    assert (found.classes == found.probs.argmax(axis=1)).all()


def test_clips_without_any_modality_get_no_prediction_and_disturb_none(ensemble: Ensemble, corpus: Any) -> None:
    features = {name: values.copy() for name, values in corpus.features.items()}
    features["face"][3] = np.nan
    features["audio"][3] = np.nan
    found, plain = ensemble.predict(features), ensemble.predict(corpus.features)
    assert np.isnan(found.probs[3]).all()
    assert np.isnan(found.modality_weights[3]).all()
    assert found.classes[3] == -1
    np.testing.assert_allclose(np.delete(found.probs, 3, axis=0), np.delete(plain.probs, 3, axis=0), atol=1e-6)


def test_masks_and_rows_of_nan_say_the_same(ensemble: Ensemble, corpus: Any) -> None:
    mask = np.arange(48) % 2 == 0
    gone = {"face": np.where(mask[:, None], corpus.features["face"], np.nan), "audio": corpus.features["audio"]}
    np.testing.assert_array_equal(
        ensemble.predict(gone).probs, ensemble.predict(corpus.features, masks={"face": mask}).probs
    )


@pytest.mark.parametrize("row", [0, 5, 47])
def test_one_clip_is_judged_as_it_is_among_others(ensemble: Ensemble, corpus: Any, row: int) -> None:
    held_out = ensemble.held_out(corpus.clip_ids)
    together = ensemble.predict(corpus.features, held_out)
    alone = ensemble.predict({name: values[[row]] for name, values in corpus.features.items()}, held_out[[row]])
    np.testing.assert_allclose(alone.probs[0], together.probs[row], atol=1e-6)


def test_no_clips_are_no_error(ensemble: Ensemble) -> None:
    found = ensemble.predict({"face": np.zeros((0, 10)), "audio": np.zeros((0, 7))})
    assert found.probs.shape == (0, 3)


def test_other_features_than_those_of_the_training_are_refused(ensemble: Ensemble, corpus: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        ensemble.predict({"face": corpus.features["face"]})
    with pytest.raises(InputError, match="9 wide where the model expects 10"):
        ensemble.predict({**corpus.features, "face": corpus.features["face"][:, :9]})
    with pytest.raises(ValueError, match="held_out"):
        ensemble.predict(corpus.features, np.full(48, 17))


def test_a_saved_ensemble_comes_back_whole(ensemble: Ensemble, corpus: Any, tmp_path: Path) -> None:
    ensemble.save(tmp_path / "model")
    loaded = Ensemble.load(tmp_path / "model")
    for name in ("dims", "label_names", "folds", "fusion", "training"):
        assert getattr(loaded, name) == getattr(ensemble, name)
    assert loaded.modalities == ("face", "audio")
    np.testing.assert_array_equal(loaded.predict(corpus.features).probs, ensemble.predict(corpus.features).probs)
    loaded.save(tmp_path / "again")
    for name in ("config.json", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_a_folder_may_be_named_by_a_string(ensemble: Ensemble, corpus: Any, tmp_path: Path) -> None:
    ensemble.save(str(tmp_path / "model"))
    loaded = Ensemble.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(corpus.features).probs, ensemble.predict(corpus.features).probs)


@pytest.mark.parametrize("kind", ["index", "float", "name", "names in order"])
def test_predictions_are_labels_as_they_were_handed_in(
    corpus: Any, small: FusionConfig, quick: TrainingConfig, tmp_path: Path, kind: str
) -> None:
    names = np.array(["sad", "glad", "calm"])
    labels = {"index": corpus.labels, "float": corpus.labels * 1.0}.get(kind, names[corpus.labels])
    ensemble = fit(
        corpus.features, labels, label_names=list(names) if kind == "names in order" else None, fusion=small,
        training=quick,
    )  # fmt: skip
    ensemble.save(tmp_path)
    gone = {name: np.arange(48) != 3 for name in corpus.features}
    for found in (
        ensemble.predict(corpus.features, masks=gone),
        Ensemble.load(tmp_path).predict(corpus.features, masks=gone),
    ):
        assert found.predictions.dtype.kind == labels.dtype.kind
        assert found.predictions[3] == ("" if labels.dtype.kind == "U" else -1)
        others = np.arange(48) != 3
        if labels.dtype.kind == "U":
            chosen = np.array(ensemble.label_names)[found.classes]
            np.testing.assert_array_equal(found.predictions[others], chosen[others])
        else:
            np.testing.assert_array_equal(found.predictions, found.classes)
        assert (found.predictions == labels)[others].mean() > 0.6


def test_an_ensemble_saved_before_labels_had_a_type_answers_in_names(
    ensemble: Ensemble, corpus: Any, tmp_path: Path
) -> None:
    ensemble.save(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content.pop("label_type") == "index"
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = Ensemble.load(tmp_path).predict(corpus.features)
    np.testing.assert_array_equal(found.predictions, np.array(["neutral", "happy", "sad"])[found.classes])


def test_where_features_came_from_is_saved_and_unknown_of_older_models(ensemble: Ensemble, tmp_path: Path) -> None:
    assert ensemble.origins == {}, "arrays have no encoder"
    origins = {"audio": FeatureOrigin(encoders=("egemaps",), settings={"encoder": {"type": "egemaps", "recipe": 1}})}
    dataclasses.replace(ensemble, origins=origins).save(tmp_path)
    assert Ensemble.load(tmp_path).origins == origins
    config = tmp_path / "config.json"
    content = json.loads(config.read_text())
    for modality in content["modalities"]:
        del modality["origin"]  # as they were saved before
    config.write_text(json.dumps(content))
    older = Ensemble.load(tmp_path)
    assert older.origins == {}
    assert older.dims == ensemble.dims


def damage(folder: Path, kind: str) -> None:
    weights, config = folder / "weights.safetensors", folder / "config.json"
    content = json.loads(config.read_text())
    if kind == "weights gone":
        weights.unlink()
    elif kind == "weights cut":
        weights.write_bytes(weights.read_bytes()[:-50])
    elif kind == "one byte of weights":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif kind == "another shape":
        config.write_text(
            json.dumps({**content, "modalities": [{"name": "face", "dim": 11}, content["modalities"][1]]})
        )
    elif kind == "a modality less":
        config.write_text(json.dumps({**content, "modalities": content["modalities"][:1]}))
    elif kind == "a member less":
        config.write_text(json.dumps({**content, "members": content["members"][:-1]}))
    elif kind == "unknown key":
        config.write_text(json.dumps({**content, "mood": 1}))
    elif kind == "another format":
        config.write_text(json.dumps({**content, "format": 3}))
    else:
        config.write_text(config.read_text()[:-40])


@pytest.mark.parametrize(
    "kind",
    ["weights gone", "weights cut", "one byte of weights", "another shape", "a modality less", "a member less",
     "unknown key", "another format", "config cut"],
)  # fmt: skip
def test_a_damaged_ensemble_is_refused_with_a_hint(ensemble: Ensemble, tmp_path: Path, kind: str) -> None:
    ensemble.save(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises(InputError if kind == "config cut" else ModelError) as caught:
        Ensemble.load(tmp_path)
    assert caught.value.hint


def test_an_absent_ensemble_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="train"):
        Ensemble.load(tmp_path)


def test_configs_load_without_torch() -> None:
    code = "import sys, ecmf_pipeline.fusion.config; sys.exit(bool({'torch', 'sklearn', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
