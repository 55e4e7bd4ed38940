"""Predictions of a whole corpus in blocks, and metadata stored with the models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.core.files import write_sealed_json
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.tables import BLOCK, FoldwiseEnsemble, predict_in_blocks
from ecmf_pipeline.fusion.trained import CHUNK
from ecmf_pipeline.fusion.training import fit


def test_blocks_do_not_change_predictions(ensemble: Ensemble, corpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecmf_pipeline.fusion.tables.BLOCK", 20)
    held_out = ensemble.held_out(corpus.clip_ids)
    calls: list[Sequence[str]] = []

    def read(clip_ids: Sequence[str]) -> dict[str, np.ndarray]:
        calls.append(clip_ids)
        rows = [corpus.clip_ids.index(clip_id) for clip_id in clip_ids]
        return {name: values[rows] for name, values in {**corpus.features, "unused": np.zeros((48, 1))}.items()}

    foldwise_ensembles = {
        "fold": FoldwiseEnsemble(ensemble, held_out),
        "all": FoldwiseEnsemble(ensemble, np.full(48, -1)),
    }
    predictions = predict_in_blocks(foldwise_ensembles, corpus.clip_ids, read)
    assert [len(clip_ids) for clip_ids in calls] == [20, 20, 8]
    for name, folds in (("fold", held_out), ("all", None)):
        prediction, expected = predictions[name], ensemble.predict(corpus.features, folds)
        np.testing.assert_allclose(prediction.probs, expected.probs, atol=1e-6)
        np.testing.assert_allclose(prediction.modality_weights, expected.modality_weights, atol=1e-6)
        np.testing.assert_array_equal(prediction.predictions, expected.predictions)
        assert (prediction.label_names, prediction.label_type) == (("neutral", "happy", "sad"), "index")


def test_no_clips_give_no_predictions(ensemble: Ensemble, corpus: Any) -> None:
    empty = {name: values[:0] for name, values in corpus.features.items()}
    predictions = predict_in_blocks({"all": FoldwiseEnsemble(ensemble, np.zeros(0, np.int64))}, [], lambda _: empty)
    assert predictions["all"].probs.shape == (0, 3)


def test_a_block_holds_whole_chunks() -> None:
    assert BLOCK % CHUNK == 0


def test_the_pool_is_saved_with_the_models(ensemble: Ensemble, tmp_path: Path) -> None:
    assert ensemble.pool == ""
    dataclasses.replace(ensemble, pool="frames").save(tmp_path)
    assert Ensemble.load(tmp_path).pool == "frames"
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"frames"', '"median"'))
    with pytest.raises(ModelError, match="pool"):
        Ensemble.load(tmp_path)


def test_the_digest_of_the_labels_is_saved_with_the_models(ensemble: Ensemble, tmp_path: Path) -> None:
    dataclasses.replace(ensemble, labels_sha256="ab" * 32).save(tmp_path)
    assert Ensemble.load(tmp_path).labels_sha256 == "ab" * 32
    config = json.loads((tmp_path / "config.json").read_text())
    del config["labels_sha256"], config["digest"]  # the field is optional
    write_sealed_json(tmp_path / "config.json", config)
    assert Ensemble.load(tmp_path).labels_sha256 == ""


def test_padding_does_not_change_predictions_of_sequences(corpus: Any, small: Any, quick: Any) -> None:
    """A block pads its sequences to its own longest clip, which differs from that of the training."""
    rng = np.random.default_rng(0)
    frames = corpus.features["face"][:, None] + rng.normal(size=(48, 5, 10)).astype(np.float32)
    frames[10:, 3:] = np.nan
    frames[7] = np.nan
    trained = fit({"face": frames, "audio": corpus.features["audio"]}, corpus.labels, fusion=small, training=quick)
    short = {"face": frames[10:, :3], "audio": corpus.features["audio"][10:]}
    padded = {"face": frames[10:], "audio": corpus.features["audio"][10:]}
    np.testing.assert_allclose(trained.predict(short).probs, trained.predict(padded).probs, atol=1e-5)
    missing = trained.predict({"face": frames, "audio": corpus.features["audio"]})
    assert missing.modality_weights[7].tolist() == [0, 1]
    assert np.isfinite(missing.probs).all()
    one = trained.predict({"face": frames[:, 0], "audio": corpus.features["audio"]})
    same = trained.predict({"face": frames[:, :1], "audio": corpus.features["audio"]})
    np.testing.assert_allclose(one.probs, same.probs, atol=1e-6)
