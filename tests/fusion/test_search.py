from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.fusion import FusionConfig, SearchConfig, TrainingConfig, fit


@pytest.fixture
def searching(quick: TrainingConfig) -> TrainingConfig:
    search = SearchConfig(trials=2, folds=2, hidden=(8, 16), layers=(0, 1), learning_rate=(1e-3, 1e-2))
    return quick.model_copy(update={"seeds": 1, "epochs": 4, "search": search})


def test_each_fold_gets_settings_drawn_from_the_search(
    corpus: Any, small: FusionConfig, searching: TrainingConfig, tmp_path: Any
) -> None:
    ensemble = fit(corpus.features, corpus.labels, groups=corpus.groups, fusion=small, training=searching)
    for member in ensemble.members:
        assert member.model.config.hidden in searching.search.hidden
        assert member.model.config.layers in searching.search.layers
        assert member.training.learning_rate in searching.search.learning_rate
        assert member.training.weight_decay in searching.search.weight_decay
    ensemble.save(tmp_path)
    again = type(ensemble).load(tmp_path)
    assert [m.model.config for m in again.members] == [m.model.config for m in ensemble.members]
    np.testing.assert_array_equal(again.predict(corpus.features).probs, ensemble.predict(corpus.features).probs)


def test_the_search_never_looks_at_the_fold_it_is_judged_by(
    corpus: Any, small: FusionConfig, searching: TrainingConfig
) -> None:
    folds = np.arange(48) // 3 % 3
    plain = fit(corpus.features, corpus.labels, folds=folds, fusion=small, training=searching)
    labels = np.where(folds == 0, (corpus.labels + 1) % 3, corpus.labels)
    other = fit(corpus.features, labels, folds=folds, fusion=small, training=searching)
    one, two = plain.members[0], other.members[0]
    assert (one.model.config, one.training) == (two.model.config, two.training)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach(), b.detach())
