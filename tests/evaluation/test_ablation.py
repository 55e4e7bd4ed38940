from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.evaluation.ablation import Ablation, Study, ablate, noisy, shuffled, summary, write_ablation
from ecmf_pipeline.evaluation.config import AblateConfig
from ecmf_pipeline.evaluation.variants import PARTS, variants, weight_diagnostics
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig

CLIPS = 60
NAMES = ("happy", "sad", "angry")
FUSION = FusionConfig(hidden=16, heads=2)
TRAINING = TrainingConfig(folds=3, seeds=1, epochs=8, patience=4, learning_rate=5e-3, protocol="mertools")
CONFIG = AblateConfig(seeds=2, fusions=("mean_probs",), draws=200)


@pytest.fixture(scope="module")
def features() -> dict[str, np.ndarray]:
    """The face tells most, the audio a little, the global pictures nothing; the text's two halves differ."""
    rng = np.random.default_rng(1)
    labels = np.arange(CLIPS) % 3
    strength = {"global": 0.0, "face": 1.6, "audio": 0.6, "text": 0.8}
    made = {
        name: (how * rng.normal(size=(3, 8))[labels] + rng.normal(size=(CLIPS, 8))).astype(np.float32)
        for name, how in strength.items()
    }
    made["audio"][4] = np.nan
    return made


@pytest.fixture(scope="module")
def study() -> Study:
    labels = np.arange(CLIPS) % 3
    truth = np.array(NAMES)[labels]
    truth[50:] = ""  # not judged
    given = np.where(np.arange(CLIPS) % 10 == 9, -1, labels)  # judged, but not learned from
    groups = [f"speaker{number // 10}" for number in range(CLIPS)]
    return Study(given, truth, groups, np.arange(CLIPS) // 10 % 3, NAMES, CONFIG)


@pytest.fixture(scope="module")
def found(features: dict[str, np.ndarray], study: Study) -> Ablation:
    halves = {"raw": features["text"][:, :4], "enriched": features["text"][:, 4:]}
    return ablate(study, list(variants(features, halves, FUSION, TRAINING, CONFIG)), lambda: None)


def test_every_comparison_is_made(found: Ablation) -> None:
    by_table: dict[str, list[str]] = {}
    for row in found.results["variants"]:
        by_table.setdefault(row["table"], []).append(row["name"])
    assert by_table == {
        "alone": ["global alone", "face alone", "audio alone", "text alone"],
        "left out": ["without global", "without face", "without audio", "without text"],
        "view": ["global and face"],
        "text": ["fusion with raw text", "raw text alone", "fusion with enriched text", "enriched text alone"],
        "fusion": ["mean_probs"],
    }
    assert not found.results["skipped"]
    assert all(answers.shape == (2, 50) for answers in found.answers.values())


def test_what_tells_is_told_from_what_does_not(found: Ablation) -> None:
    rows = {row["name"]: row for row in found.results["variants"]}
    assert found.results["reference"]["weighted_f1"] > 0.7
    assert rows["face alone"]["weighted_f1"] > rows["global alone"]["weighted_f1"] + 0.2
    assert rows["global alone"]["high"] < 0, "the fusion is better, beyond its interval"
    assert rows["without face"]["difference"] < rows["without global"]["difference"]
    for row in rows.values():
        assert row["low"] <= row["difference"] <= row["high"]


def test_damage_costs_what_the_modality_is_worth(found: Ablation) -> None:
    table = {(row["modality"], row["damage"]): row for row in found.results["robustness"]}
    assert len(table) == 12
    for damage in ("missing", "noisy", "shuffled"):
        assert table["face", damage]["weighted_f1"] < table["global", damage]["weighted_f1"]
    left_out = {row["without"]: row["weighted_f1"] for row in found.results["variants"] if row["without"]}
    assert {name: table[name, "missing"]["trained_without"] for name in left_out} == left_out
    assert table["face", "shuffled"]["high"] < 0


def test_the_optimistic_figure_is_told_as_such(found: Ablation) -> None:
    assert found.results["mertools_protocol"]["clips"] == 50
    assert "too good" in found.results["mertools_protocol"]["note"]


def test_the_files_hold_what_was_found(found: Ablation, tmp_path: Path) -> None:
    ids = [f"clip{number}" for number in range(50)]
    write_ablation(tmp_path, tmp_path / "ablate.json", ids, "gold", found)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_ablation(tmp_path, tmp_path / "ablate.json", ids, "gold", found)
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    results = json.loads(first["ablate.json"])
    assert results["judged_by"] == "gold"
    rows = list(csv.DictReader((tmp_path / "variants.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["fusion", *(row["name"] for row in results["variants"])]
    packed = np.load(tmp_path / "answers.npz", allow_pickle=False)
    assert packed["clip_ids"].tolist() == ids
    at = packed["variants"].tolist().index("face alone")
    np.testing.assert_array_equal(packed["labels"][at], found.answers["face alone"])
    told = summary(results, "gold")
    assert "face missing" in told
    assert "optimistic" in told


def test_the_parts_are_taken_away_one_by_one(features: dict[str, np.ndarray]) -> None:
    config = AblateConfig(parts=True, modalities=False, fusions=("ecmf", "concat"))
    chosen = list(variants(features, {}, FUSION, TRAINING, config))
    assert [variant.name for variant in chosen] == ["fusion", "concat", *PARTS]
    changed = {v.name for v in chosen if (v.fusion, v.training) != (FUSION, TRAINING)}
    assert changed == {"concat", *PARTS}


@pytest.mark.parametrize("path", ["own_path", "token_path"])
def test_parts_that_are_gone_already_are_not_taken_away(features: dict[str, np.ndarray], path: str) -> None:
    """Without the one path, the other must stay; what is so already would be trained twice."""
    config = AblateConfig(parts=True, modalities=False, fusions=())
    fusion = FUSION.model_copy(update={path: False, "layers": 2})
    training = TRAINING.model_copy(update={"class_weights": "none"})
    names = {variant.name for variant in variants(features, {}, fusion, training, config)}
    gone = {"no path of a modality's own logits", "no path of the attended tokens"}
    assert names == {"fusion", *PARTS} - gone - {"two layers of attention", "no class weights"}


def test_of_the_text_alone_nothing_is_trained_twice(features: dict[str, np.ndarray]) -> None:
    halves = {"raw": features["text"][:, :4], "enriched": features["text"][:, 4:]}
    config = AblateConfig(fusions=())
    chosen = list(variants({"text": features["text"]}, halves, FUSION, TRAINING, config))
    assert [variant.name for variant in chosen] == ["fusion", "raw text alone", "enriched text alone"]


def test_a_model_of_one_modality_is_compared_with_models_that_can_be(
    features: dict[str, np.ndarray], study: Study
) -> None:
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
    found = ablate(study, chosen, lambda: None)
    assert [row["name"] for row in found.results["variants"]] == [variant.name for variant in chosen[1:]]


def test_rows_are_tried_in_another_way_too(study: Study) -> None:
    """One frame of six shows the label, and is marked; the others show any, so that their mean tells little."""
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
    found = ablate(study, chosen, lambda: None)
    (row,) = found.results["variants"]
    assert row["name"] == "frame by frame"
    assert row["low"] > 0.05
    assert {damage["damage"] for damage in found.results["robustness"]} == {"noisy", "shuffled"}


def test_damage_leaves_what_is_missing_missing() -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    values[2] = np.nan
    moved = shuffled(values, np.random.default_rng(0), 0.0)
    assert np.isnan(moved[2]).all()
    kept = [0, 1, 3, 4, 5]
    assert sorted(moved[kept].tolist()) == values[kept].tolist()
    assert not np.array_equal(moved[kept], values[kept])
    loud = noisy(values, np.random.default_rng(0), 2.0)
    assert np.isnan(loud[2]).all()
    np.testing.assert_array_equal(noisy(values, np.random.default_rng(0), 0.0), values)


def test_a_collapse_is_named_as_a_warning() -> None:
    even = np.full((10, 3), 1 / 3, np.float32)
    even[4] = np.nan
    fine = weight_diagnostics(even, ("a", "b", "c"), collapse_above=0.9)
    assert fine["warnings"] == []
    assert fine["effective_modalities"] == pytest.approx(3, abs=1e-4)
    one = np.tile(np.array([0.02, 0.96, 0.02], np.float32), (10, 1))
    fallen = weight_diagnostics(one, ("a", "b", "c"), collapse_above=0.9)
    assert "collapsed onto b" in fallen["warnings"][0]
    assert fallen["modalities"]["b"]["heaviest"] == 1.0
    assert weight_diagnostics(np.ones((4, 1), np.float32), ("a",), collapse_above=0.9)["warnings"] == []
    assert weight_diagnostics(np.full((4, 2), np.nan, np.float32), ("a", "b"), collapse_above=0.9)["warnings"]
