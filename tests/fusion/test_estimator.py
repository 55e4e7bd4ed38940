"""The fusion as a scikit-learn estimator."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.estimator import FusionClassifier
from ecmf_pipeline.fusion.training import fit

QUICK: dict[str, Any] = {"hidden": 16, "folds": 2, "seeds": 1, "epochs": 10, "learning_rate": 1e-2}

FACE, AUDIO = slice(0, 10), slice(10, 17)
"""Columns of the modalities in `table`."""

EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a row of weight 2 is in one fold, two equal rows may be in two; batches and early stopping differ as well"
    )
}


@pytest.mark.slow  # all together
@parametrize_with_checks(
    [FusionClassifier(**{**QUICK, "epochs": 20})], expected_failed_checks=lambda _: EXPECTED_FAILURES
)
def test_the_checks_of_scikit_learn(estimator: FusionClassifier, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def table(corpus: Any) -> NDArray[np.float32]:
    """The features of both modalities side by side, (48, 17); row 5 has no audio."""
    return np.concatenate([corpus.features["face"], corpus.features["audio"]], axis=1)


@pytest.fixture(scope="module")
def names(corpus: Any) -> NDArray[np.str_]:
    return np.array(["sad", "glad", "calm"])[corpus.labels]


@pytest.fixture(scope="module")
def fitted(table: Any, names: Any, corpus: Any) -> FusionClassifier:
    return FusionClassifier({"face": FACE, "audio": AUDIO}, **QUICK).fit(table, names, corpus.groups)


def test_it_is_the_ensemble_of_the_same_settings(fitted: FusionClassifier, table: Any, names: Any, corpus: Any) -> None:
    ensemble = fit(
        corpus.features,
        names,
        corpus.groups,
        fusion=FusionConfig(hidden=16),
        training=TrainingConfig(folds=2, seeds=1, epochs=10, learning_rate=1e-2),
    )
    expected = ensemble.predict(corpus.features)
    np.testing.assert_array_equal(fitted.predict_proba(table), expected.probs)
    np.testing.assert_array_equal(fitted.predict(table), expected.predictions)
    np.testing.assert_array_equal(fitted.modality_weights(table), expected.modality_weights)
    assert fitted.classes_.tolist() == list(ensemble.label_names)
    assert fitted.score(table, names) == (expected.predictions == names).mean()
    assert fitted.ensemble_.dims == {"face": 10, "audio": 7}


def test_defaults_are_those_of_the_configs() -> None:
    settings = FusionClassifier().get_params()
    assert settings.pop("columns") is None
    assert settings.pop("random_state") == TrainingConfig().seed
    configs = FusionConfig().model_dump() | TrainingConfig().model_dump()
    assert settings == {name: configs[name] for name in settings}
    documented = inspect.getdoc(FusionClassifier) or ""
    assert [name for name in settings if f"    {name}: " not in documented] == []


def test_a_row_of_nan_is_a_missing_modality(fitted: FusionClassifier, table: Any, names: Any) -> None:
    shares = fitted.modality_weights(table[4:6])
    assert (shares[0] > 0).all()
    assert shares[1].tolist() == [1, 0]
    nothing = np.full((1, 17), np.nan, np.float32)
    np.testing.assert_allclose(fitted.predict_proba(nothing), [[1 / 3, 1 / 3, 1 / 3]])
    assert np.isnan(fitted.modality_weights(nothing)).all()


def test_columns_are_slices_positions_names_or_the_first_level(table: Any, names: Any, corpus: Any) -> None:
    face = pd.DataFrame(table[:, FACE], corpus.clip_ids, [f"f{number}" for number in range(10)])
    audio = pd.DataFrame(table[:, AUDIO], corpus.clip_ids, [f"a{number}" for number in range(7)])
    flat, levels = face.join(audio), pd.concat({"face": face, "audio": audio.dropna()}, axis=1)  # row 5 becomes NaN
    variants = [
        (table, {"face": FACE, "audio": AUDIO}),
        (table, {"face": range(10), "audio": list(range(10, 17))}),
        (flat, {"face": FACE, "audio": audio.columns}),
        (levels, None),
    ]
    probs = [FusionClassifier(columns, **QUICK).fit(X, names).predict_proba(X) for X, columns in variants]
    for other in probs[1:]:
        np.testing.assert_array_equal(other, probs[0])
    renamed = FusionClassifier(**QUICK).fit(levels, names)
    with pytest.raises(ValueError, match="feature names"):
        renamed.predict(levels.rename(columns={"a0": "pitch"}))


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"face": []},
        {"face": [17]},
        {"face": [-18]},
        {"face": [0.5]},
        {"face": [3, 3]},
        {"face": [3, -14]},
        {"face": ["unknown"]},
        {"face": "f1"},
        {"face": [("face", 0)]},
        {"face": np.arange(17) < 10},
        {"face": slice(20, 30)},
        {"face": slice(0, 384)},
        {"face": slice("f0", "f9")},
    ],
)
def test_columns_that_do_not_exist_are_an_error(columns: Any, table: Any, names: Any) -> None:
    with pytest.raises(ValueError, match="column"):
        FusionClassifier(columns, **QUICK).fit(table, names)


def test_modalities_may_be_numbers(table: Any, names: Any) -> None:
    estimator = FusionClassifier({0: FACE, 1: np.arange(-7, 0)}, **QUICK).fit(table, names)
    assert estimator.ensemble_.dims == {"0": 10, "1": 7}


@pytest.mark.parametrize("weights", [-np.ones(48), np.ones(3), 1.0, np.full(48, np.nan)])
def test_wrong_sample_weights_are_an_error(weights: Any, table: Any, names: Any) -> None:
    with pytest.raises(ValueError, match="weight"):
        FusionClassifier(**QUICK).fit(table, names, sample_weight=weights)


def test_wrong_settings_are_reported_by_fit(table: Any, names: Any) -> None:
    with pytest.raises(ValueError, match="hidden"):
        FusionClassifier(hidden=-1).fit(table, names)
    with pytest.raises(NotFittedError):
        FusionClassifier().predict(table)
    with pytest.raises(TooFewClips):
        FusionClassifier().fit(table, names, ["one"] * 48)


def test_a_grid_search_routes_groups(table: Any, names: Any, corpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    received = []
    original = FusionClassifier.fit

    def recorded(self: Any, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> Any:  # noqa: N803
        received.append(sorted(set(groups)))
        return original(self, X, y, groups, sample_weight)

    monkeypatch.setattr(FusionClassifier, "fit", recorded)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = FusionClassifier({"face": FACE, "audio": AUDIO}, **QUICK).set_fit_request(groups=True)
        search = GridSearchCV(estimator, {"hidden": [8, 16]}, cv=GroupKFold(2), error_score="raise")
        search.fit(table, names, groups=corpus.groups)
    assert len(received) == 5  # two settings, two folds, the refit
    assert [len(groups) for groups in received] == [3, 3, 3, 3, 6]
    assert not set(received[0]) & set(received[1])
    assert search.best_estimator_.ensemble_.fusion.hidden == search.best_params_["hidden"]
    assert search.best_estimator_.columns == {"face": FACE, "audio": AUDIO}


def test_it_is_a_step_of_a_pipeline(table: Any, names: Any) -> None:
    pipeline = make_pipeline(StandardScaler(), FusionClassifier({"face": FACE, "audio": AUDIO}, **QUICK))
    assert cross_val_score(pipeline, table, names, cv=2, error_score="raise").mean() > 0.6


def test_it_is_cloned_and_pickled(fitted: FusionClassifier, table: Any) -> None:
    again = clone(fitted)
    assert again.get_params() == fitted.get_params()
    assert not hasattr(again, "ensemble_")
    unpickled = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(unpickled.predict_proba(table), fitted.predict_proba(table))


def test_reprs_are_one_short_line(fitted: FusionClassifier, table: Any) -> None:
    ensemble = fitted.ensemble_
    for shown in (ensemble, ensemble.members[0], ensemble.predict(fitted._split(table))):
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < 500
    assert "members=tuple of 2, dims={'face': 10, 'audio': 7}" in repr(ensemble)


def test_the_seed_is_the_random_state(table: Any, names: Any) -> None:
    def probs(random_state: Any) -> Any:
        return (
            FusionClassifier(random_state=random_state, **QUICK)
            .fit(table[:, FACE], names)
            .predict_proba(table[:, FACE])
        )

    np.testing.assert_array_equal(probs(1), probs(1))
    np.testing.assert_array_equal(probs(np.random.RandomState(3)), probs(np.random.RandomState(3)))
    assert not np.array_equal(probs(1), probs(2))
    assert not np.array_equal(probs(None), probs(None))
