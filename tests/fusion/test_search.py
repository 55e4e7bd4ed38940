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


def test_the_search_deals_by_label_where_one_group_is_left(
    corpus: Any, small: FusionConfig, searching: TrainingConfig
) -> None:
    groups = ["one" if row < 24 else "two" for row in range(48)]
    ensemble = fit(corpus.features, corpus.labels, groups=groups, fusion=small, training=searching)
    assert {member.fold for member in ensemble.members} == {0, 1}
    assert all(member.model.config.hidden in searching.search.hidden for member in ensemble.members)


def test_no_more_is_drawn_than_there_is(corpus: Any, small: FusionConfig, searching: TrainingConfig) -> None:
    """scikit-learn would warn, and warnings are errors here."""
    one = {"hidden": (8,), "layers": (0,), "dropout": (0.2,), "learning_rate": (1e-2,), "weight_decay": (0.05,)}
    search = SearchConfig(trials=9, folds=2, **one)
    training = searching.model_copy(update={"search": search, "epochs": 1})
    ensemble = fit(corpus.features, corpus.labels, fusion=small, training=training)
    assert {member.model.config.hidden for member in ensemble.members} == {8}


WRONG = {
    "hidden": (-4, 0),
    "layers": (-1,),
    "dropout": (-0.1, 1.0, 1.5),
    "learning_rate": (0.0,),
    "weight_decay": (-1,),
}


@pytest.mark.parametrize(
    ("name", "value"), list(itertools.chain(*([(name, value) for value in values] for name, values in WRONG.items())))
)
def test_what_is_drawn_is_bounded_as_what_it_replaces(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        SearchConfig(**{name: (value,)})


def test_widths_that_the_heads_cannot_share_are_refused_before_anything_is_trained(
    corpus: Any, quick: TrainingConfig
) -> None:
    training = quick.model_copy(update={"search": SearchConfig(trials=1)})
    with pytest.raises(ParamsError, match=r"search\.hidden: 64, 128, 256: .* fusion\.heads \(6\)"):
        fit(corpus.features, corpus.labels, fusion=FusionConfig(hidden=96, heads=6), training=training)
