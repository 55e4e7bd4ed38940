"""Hyperparameter search within the folds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.fusion.config import FusionConfig, SearchConfig, TrainingConfig
from ecmf_pipeline.fusion.training import fit


@pytest.fixture
def search_config(quick: TrainingConfig) -> TrainingConfig:
    search = SearchConfig(trials=2, folds=2, hidden=(8, 16), layers=(0, 1), learning_rate=(1e-3, 1e-2))
    return quick.model_copy(update={"seeds": 1, "epochs": 4, "search": search})


def test_each_fold_uses_settings_of_the_search_space(
    corpus: Any, small: FusionConfig, search_config: TrainingConfig, tmp_path: Any
) -> None:
    ensemble = fit(corpus.features, corpus.labels, groups=corpus.groups, fusion=small, training=search_config)
    for member in ensemble.members:
        assert member.model.config.hidden in search_config.search.hidden
        assert member.model.config.layers in search_config.search.layers
        assert member.training.learning_rate in search_config.search.learning_rate
        assert member.training.weight_decay in search_config.search.weight_decay
    ensemble.save(tmp_path)
    loaded = type(ensemble).load(tmp_path)
    assert [m.model.config for m in loaded.members] == [m.model.config for m in ensemble.members]
    np.testing.assert_array_equal(loaded.predict(corpus.features).probs, ensemble.predict(corpus.features).probs)


def test_the_search_does_not_use_the_evaluated_fold(
    corpus: Any, small: FusionConfig, search_config: TrainingConfig
) -> None:
    folds = np.arange(48) // 3 % 3
    plain = fit(corpus.features, corpus.labels, folds=folds, fusion=small, training=search_config)
    labels = np.where(folds == 0, (corpus.labels + 1) % 3, corpus.labels)
    other = fit(corpus.features, labels, folds=folds, fusion=small, training=search_config)
    one, two = plain.members[0], other.members[0]
    assert (one.model.config, one.training) == (two.model.config, two.training)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach(), b.detach())


def test_the_search_splits_by_label_if_only_one_group_is_left(
    corpus: Any, small: FusionConfig, search_config: TrainingConfig
) -> None:
    groups = ["one" if row < 24 else "two" for row in range(48)]
    ensemble = fit(corpus.features, corpus.labels, groups=groups, fusion=small, training=search_config)
    assert {member.fold for member in ensemble.members} == {0, 1}
    assert all(member.model.config.hidden in search_config.search.hidden for member in ensemble.members)


def test_trials_are_limited_to_the_size_of_the_search_space(
    corpus: Any, small: FusionConfig, search_config: TrainingConfig
) -> None:
    """scikit-learn would warn about more trials than settings, and warnings are errors here."""
    one = {"hidden": (8,), "layers": (0,), "dropout": (0.2,), "learning_rate": (1e-2,), "weight_decay": (0.05,)}
    search = SearchConfig(trials=9, folds=2, **one)
    training = search_config.model_copy(update={"search": search, "epochs": 1})
    ensemble = fit(corpus.features, corpus.labels, fusion=small, training=training)
    assert {member.model.config.hidden for member in ensemble.members} == {8}


INVALID_VALUES = {
    "hidden": (-4, 0),
    "layers": (-1,),
    "dropout": (-0.1, 1.0, 1.5),
    "learning_rate": (0.0,),
    "weight_decay": (-1,),
}


@pytest.mark.parametrize(
    ("name", "value"),
    list(itertools.chain(*([(name, value) for value in values] for name, values in INVALID_VALUES.items()))),
)
def test_the_search_space_has_the_bounds_of_the_configured_values(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        SearchConfig(**{name: (value,)})


def test_widths_that_are_no_multiple_of_the_heads_are_rejected(corpus: Any, quick: TrainingConfig) -> None:
    training = quick.model_copy(update={"search": SearchConfig(trials=1)})
    with pytest.raises(ParamsError) as caught:
        fit(corpus.features, corpus.labels, fusion=FusionConfig(hidden=96, heads=6), training=training)
    assert "search.hidden: 64, 128, 256" in caught.value.message
    assert "fusion.heads (6)" in caught.value.message
