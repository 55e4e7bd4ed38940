from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.evaluation.ablation import Ablation, Study, ablate, noisy, shuffled, summary, write_ablation
from ecmf_pipeline.evaluation.config import AblateConfig
from ecmf_pipeline.evaluation.plain import BEST, LIGHTGBM, LOGISTIC, MEAN, SVM
from ecmf_pipeline.evaluation.variants import PARTS, variants, weight_diagnostics
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig

CLIPS = 60
NAMES = ("happy", "sad", "angry")
FUSION = FusionConfig(hidden=16, heads=2)
TRAINING = TrainingConfig(folds=3, seeds=1, epochs=8, patience=4, learning_rate=5e-3, protocol="mertools")
CONFIG = AblateConfig(plain=False, seeds=2, fusions=("mean_probs",), draws=200)


@pytest.fixture(scope="module")
def features() -> dict[str, np.ndarray]:
    """Make face features informative, audio and text less so, and global features random; the text halves differ."""
    rng = np.random.default_rng(1)
    labels = np.arange(CLIPS) % 3
    strengths = {"global": 0.0, "face": 1.6, "audio": 0.6, "text": 0.8}
    features = {
        name: (strength * rng.normal(size=(3, 8))[labels] + rng.normal(size=(CLIPS, 8))).astype(np.float32)
        for name, strength in strengths.items()
    }
    features["audio"][4] = np.nan
    return features


@pytest.fixture(scope="module")
def study() -> Study:
    true_labels = np.arange(CLIPS) % 3
    truth = np.array(NAMES)[true_labels]
    truth[50:] = ""  # not evaluated
    labels_to_train = np.where(np.arange(CLIPS) % 10 == 9, -1, true_labels)  # evaluated, but not trained on
    groups = [f"speaker{number // 10}" for number in range(CLIPS)]
    return Study(labels_to_train, truth, groups, np.arange(CLIPS) // 10 % 3, NAMES, CONFIG)


@pytest.fixture(scope="module")
def ablation(features: dict[str, np.ndarray], study: Study) -> Ablation:
    halves = {"raw": features["text"][:, :4], "enriched": features["text"][:, 4:]}
    return ablate(study, list(variants(features, halves, FUSION, TRAINING, CONFIG)), lambda: None)


def test_all_comparisons_are_made(ablation: Ablation) -> None:
    by_table: dict[str, list[str]] = {}
    for row in ablation.results["variants"]:
        by_table.setdefault(row["table"], []).append(row["name"])
    assert by_table == {
        "alone": ["global alone", "face alone", "audio alone", "text alone"],
        "left out": ["without global", "without face", "without audio", "without text"],
        "view": ["global and face"],
        "text": ["fusion with raw text", "raw text alone", "fusion with enriched text", "enriched text alone"],
        "fusion": ["mean_probs"],
    }
    assert not ablation.results["skipped"]
    assert all(predictions.shape == (2, 50) for predictions in ablation.predictions.values())


def test_plain_models_are_compared_with_the_fusion(features: dict[str, np.ndarray], study: Study) -> None:
    config = CONFIG.model_copy(update={"plain": True, "modalities": False, "fusions": (), "seeds": 1})
    training = TRAINING.model_copy(update={"protocol": "nested", "epochs": 1})
    ablation = ablate(
        replace(study, config=config), list(variants(features, {}, FUSION, training, config)), lambda: None
    )
    rows = [row for row in ablation.results["variants"] if row["table"] == "plain"]
    assert [row["name"] for row in rows] == [LOGISTIC, LIGHTGBM, SVM, MEAN, BEST]
    assert max(row["weighted_f1"] for row in rows) > 0.7
    assert ablation.predictions[BEST].shape == (1, 50)


def test_informative_modalities_score_higher(ablation: Ablation) -> None:
    rows = {row["name"]: row for row in ablation.results["variants"]}
    assert ablation.results["reference"]["weighted_f1"] > 0.7
    assert rows["face alone"]["weighted_f1"] > rows["global alone"]["weighted_f1"] + 0.2
    assert rows["global alone"]["high"] < 0, "the fusion is significantly better"
    assert rows["without face"]["difference"] < rows["without global"]["difference"]
    for row in rows.values():
        assert row["low"] <= row["difference"] <= row["high"]


def test_damage_to_informative_modalities_costs_more(ablation: Ablation) -> None:
    table = {(row["modality"], row["damage"]): row for row in ablation.results["robustness"]}
    assert len(table) == 12
    for damage in ("missing", "noisy", "shuffled"):
        assert table["face", damage]["weighted_f1"] < table["global", damage]["weighted_f1"]
    left_out = {row["without"]: row["weighted_f1"] for row in ablation.results["variants"] if row["without"]}
    assert {name: table[name, "missing"]["trained_without"] for name in left_out} == left_out
    assert table["face", "shuffled"]["high"] < 0


def test_the_baseline_protocol_is_marked_as_optimistic(ablation: Ablation) -> None:
    assert ablation.results["mertools_protocol"]["clips"] == 50
    assert "optimistic" in ablation.results["mertools_protocol"]["note"]


def test_written_files_hold_the_results(ablation: Ablation, tmp_path: Path) -> None:
    ids = [f"clip{number}" for number in range(50)]
    write_ablation(tmp_path, tmp_path / "ablate.json", ids, "gold", ablation)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_ablation(tmp_path, tmp_path / "ablate.json", ids, "gold", ablation)
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    results = json.loads(first["ablate.json"])
    assert results["judged_by"] == "gold"
    rows = list(csv.DictReader((tmp_path / "variants.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["fusion", *(row["name"] for row in results["variants"])]
    packed = np.load(tmp_path / "answers.npz", allow_pickle=False)
    assert packed["clip_ids"].tolist() == ids
    index = packed["variants"].tolist().index("face alone")
    np.testing.assert_array_equal(packed["labels"][index], ablation.predictions["face alone"])
    text = summary(results, "gold")
    assert "face missing" in text
    assert "optimistic" in text


def test_each_part_is_a_separate_variant(features: dict[str, np.ndarray]) -> None:
    config = AblateConfig(plain=False, parts=True, modalities=False, fusions=("ecmf", "concat"))
    chosen = list(variants(features, {}, FUSION, TRAINING, config))
    assert [variant.name for variant in chosen] == ["fusion", "concat", *PARTS]
    changed = {v.name for v in chosen if (v.fusion, v.training) != (FUSION, TRAINING)}
    assert changed == {"concat", *PARTS}


@pytest.mark.parametrize("path", ["own_path", "token_path"])
def test_parts_already_absent_are_not_removed(features: dict[str, np.ndarray], path: str) -> None:
    """Removing both logit paths is impossible, and a variant equal to the reference would be trained twice."""
    config = AblateConfig(plain=False, parts=True, modalities=False, fusions=())
    fusion = FUSION.model_copy(update={path: False, "layers": 2})
    training = TRAINING.model_copy(update={"class_weights": "none"})
    names = {variant.name for variant in variants(features, {}, fusion, training, config)}
    without_path = {"without unimodal logits", "without logits of attended tokens"}
    assert names == {"fusion", *PARTS} - without_path - {"two attention layers", "no class weights"}


def test_with_text_as_only_modality_no_variant_is_trained_twice(features: dict[str, np.ndarray]) -> None:
    halves = {"raw": features["text"][:, :4], "enriched": features["text"][:, 4:]}
    config = AblateConfig(plain=False, fusions=())
    chosen = list(variants({"text": features["text"]}, halves, FUSION, TRAINING, config))
    assert [variant.name for variant in chosen] == ["fusion", "raw text alone", "enriched text alone"]


def test_a_single_modality_model_is_compared_with_valid_variants(features: dict[str, np.ndarray], study: Study) -> None:
    config = CONFIG.model_copy(update={"fusions": (), "seeds": 1})
    fusion = FUSION.model_copy(update={"kind": "single:audio"})
    training = TRAINING.model_copy(update={"protocol": "nested", "epochs": 1})
    halves = {"raw": features["text"][:, :4], "enriched": features["text"][:, 4:]}
    chosen = list(variants(features, halves, fusion, training, config))
    assert {variant.name: variant.fusion.kind for variant in chosen} == {
        "fusion": "single:audio",
        **{f"{name} alone": f"single:{name}" for name in features},
        **{f"without {name}": "single:audio" for name in features if name != "audio"},
        "raw text alone": "single:text",
        "enriched text alone": "single:text",
    }
    ablation = ablate(study, chosen, lambda: None)
    trained = [row["name"] for row in ablation.results["variants"] if row["table"] != "plain"]
    assert trained == [variant.name for variant in chosen[1:]]


def test_frame_sequences_are_compared_with_pooled_features(study: Study) -> None:
    """One marked frame of six shows the label and the others a random one, so their mean carries little information."""
    rng = np.random.default_rng(5)
    shown = rng.integers(0, 3, size=(CLIPS, 6))
    clips, apex = np.arange(CLIPS), rng.integers(0, 6, CLIPS)
    shown[clips, apex] = clips % 3
    frames = (3 * np.eye(8)[shown] + 0.3 * rng.normal(size=(CLIPS, 6, 8))).astype(np.float32)
    frames[clips, apex, 7] += 6
    frames[3, np.arange(6) != apex[3]] = np.nan
    config = CONFIG.model_copy(update={"modalities": False, "fusions": (), "frames": True, "seeds": 1})
    training = TRAINING.model_copy(update={"protocol": "nested", "epochs": 40, "patience": 40})
    pooled, otherwise = {"face": np.nanmean(frames, axis=1)}, {"frame by frame": {"face": frames}}
    chosen = list(variants(pooled, {}, FUSION, training, config, otherwise=otherwise))
    assert [variant.table for variant in chosen] == ["reference", "rows"]
    ablation = ablate(study, chosen, lambda: None)
    (row,) = ablation.results["variants"]
    assert row["name"] == "frame by frame"
    assert row["low"] > 0.05
    assert {damage["damage"] for damage in ablation.results["robustness"]} == {"noisy", "shuffled"}


def test_damage_keeps_missing_features_missing() -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    values[2] = np.nan
    permuted = shuffled(values, np.random.default_rng(0), 0.0)
    assert np.isnan(permuted[2]).all()
    kept = [0, 1, 3, 4, 5]
    assert sorted(permuted[kept].tolist()) == values[kept].tolist()
    assert not np.array_equal(permuted[kept], values[kept])
    noised = noisy(values, np.random.default_rng(0), 2.0)
    assert np.isnan(noised[2]).all()
    np.testing.assert_array_equal(noisy(values, np.random.default_rng(0), 0.0), values)


def test_a_collapse_onto_one_modality_is_a_warning() -> None:
    even = np.full((10, 3), 1 / 3, np.float32)
    even[4] = np.nan
    balanced = weight_diagnostics(even, ("a", "b", "c"), collapse_above=0.9)
    assert balanced["warnings"] == []
    assert balanced["effective_modalities"] == pytest.approx(3, abs=1e-4)
    collapsed_weights = np.tile(np.array([0.02, 0.96, 0.02], np.float32), (10, 1))
    collapsed = weight_diagnostics(collapsed_weights, ("a", "b", "c"), collapse_above=0.9)
    assert "collapsed onto b" in collapsed["warnings"][0]
    assert collapsed["modalities"]["b"]["heaviest"] == 1.0
    assert weight_diagnostics(np.ones((4, 1), np.float32), ("a",), collapse_above=0.9)["warnings"] == []
    assert weight_diagnostics(np.full((4, 2), np.nan, np.float32), ("a", "b"), collapse_above=0.9)["warnings"]
