"""Votes in pandas tables, and votes without gold labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.labels.combining import CombinedVotes, combine_votes

NAMES = ("calm", "cross", "glad")


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    """One-hot votes of three sources on 60 clips; the voice abstains on the first five."""
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 3
    votes = {}
    for name, skill in {"face": 0.9, "text": 0.8, "voice": 0.7}.items():
        chosen = np.where(rng.random(60) < skill, truth, (truth + 1) % 3)
        votes[name] = np.eye(3)[chosen]
    votes["voice"][:5] = np.nan
    return votes


@pytest.fixture(scope="module")
def clip_ids() -> list[str]:
    return [f"clip{number:02d}" for number in range(60)][::-1]


@pytest.fixture(scope="module")
def wide(arrays: dict[str, Any], clip_ids: list[str]) -> pd.DataFrame:
    table = pd.DataFrame({name: np.array(NAMES)[probs.argmax(axis=1)] for name, probs in arrays.items()}, clip_ids)
    table.loc[clip_ids[:5], "voice"] = None
    return table


def long_form(wide: pd.DataFrame) -> pd.DataFrame:
    table = wide.rename_axis("clip_id").reset_index()
    return table.melt(id_vars="clip_id", var_name="source", value_name="label")


def same(first: CombinedVotes, second: CombinedVotes) -> bool:
    return bool(np.array_equal(first.probs, second.probs)) and first.method == second.method


def test_votes_without_gold_are_those_with_unknown_gold(arrays: dict[str, Any]) -> None:
    combined = combine_votes(arrays)
    assert same(combined, combine_votes(arrays, np.full(60, -1)))
    assert combined.label_names == ("0", "1", "2")
    assert combined.to_pandas().index.tolist() == list(range(60))


def test_long_and_wide_tables_are_equal_to_arrays(
    arrays: dict[str, Any], wide: pd.DataFrame, clip_ids: list[str]
) -> None:
    expected = combine_votes(arrays, label_names=NAMES)
    long = long_form(wide)
    for table in (wide, wide.rename_axis("clip_id").reset_index(), long, long.dropna(), long.set_index("clip_id")):
        combined = combine_votes(table)
        assert same(combined, expected)
        assert combined.label_names == NAMES
        assert list(combined.clip_ids) == clip_ids
    assert combined.sources[2].coverage == pytest.approx(55 / 60)


def test_the_table_has_named_probabilities(wide: pd.DataFrame, clip_ids: list[str]) -> None:
    combined = combine_votes(wide)
    table = combined.to_pandas()
    assert table.columns.tolist() == ["label", "confidence", "p_calm", "p_cross", "p_glad"]
    assert table.index.name == "clip_id"
    assert table.index.tolist() == clip_ids
    probs = table.filter(like="p_")
    assert (table["label"] == probs.idxmax(axis=1).str.removeprefix("p_")).all()
    np.testing.assert_allclose(table["confidence"], probs.max(axis=1))


def test_gold_labels_of_a_table_are_given_by_clip(
    arrays: dict[str, Any], wide: pd.DataFrame, clip_ids: list[str]
) -> None:
    indices = np.full(60, -1)
    indices[10:50] = np.arange(10, 50) % 3
    expected = combine_votes(arrays, indices)
    gold = pd.Series([NAMES[index] if index >= 0 else None for index in indices], clip_ids).sample(
        frac=1, random_state=1
    )
    assert same(combine_votes(wide, gold), expected)
    assert same(combine_votes(wide, {**gold.dropna(), "another": "calm"}), expected)
    with pytest.raises(InputError, match="no clip of gold has a vote"):
        combine_votes(wide, {"another": "calm"})


def test_a_gold_label_without_a_vote_is_a_label(wide: pd.DataFrame, clip_ids: list[str]) -> None:
    combined = combine_votes(wide, {clip_ids[0]: "angry"})
    assert combined.label_names == ("angry", *NAMES)
    assert combined.to_pandas().loc[clip_ids[0], ["label", "confidence"]].tolist() == ["angry", 1.0]


def test_probabilities_are_read_from_p_columns() -> None:
    table = pd.DataFrame(
        {
            "clip_id": [1, 1, 2, 2],
            "source": ["a", "b", "a", "b"],
            "label": ["x", "y", "", None],
            "p_y": [0.2, np.nan, np.nan, 0.9],
            "p_x": [0.8, np.nan, np.nan, 0.1],
        }
    )
    combined = combine_votes(table)
    expected = {"a": np.array([[0.2, 0.8], [np.nan] * 2]), "b": np.array([[1.0, 0.0], [0.9, 0.1]])}
    assert same(combined, combine_votes(expected))
    assert combined.label_names == ("y", "x")
    assert combined.clip_ids == (1, 2)
    with pytest.raises(InputError, match="most probable"):
        combine_votes(table.assign(label=["y", "y", "", ""]))
    with pytest.raises(InputError, match="p_<label>"):
        combine_votes(table, label_names=["x", "y", "z"])


def test_numbers_are_labels_with_and_without_missing_ones() -> None:
    table = pd.DataFrame({"a": [0, 1, 1, 0], "b": [0.0, 1.0, np.nan, 0.0]}, ["c0", "c1", "c2", "c3"])
    combined = combine_votes(table, {"c2": 1})
    assert combined.label_names == ("0", "1")
    assert combined.labels.tolist() == [0, 1, 1, 0]
    assert same(combine_votes(table, {"c2": 1}, label_names=np.array([0, 1])), combined)


def test_votes_and_gold_labels_without_a_clip_are_reported(wide: pd.DataFrame, clip_ids: list[str]) -> None:
    long = long_form(wide).reset_index()
    for column in ("clip_id", "source"):
        nameless = long.assign(**{column: [*long[column][:-1], None]})
        with pytest.raises(InputError, match="no clip_id or no source"):
            combine_votes(nameless)
    for gold in (["calm"] * 60, np.full(60, "calm"), pd.Series("calm", [clip_ids[0]] * 2)):
        with pytest.raises(InputError, match="gold"):
            combine_votes(wide, gold)
    with pytest.raises(InputError, match="list"):
        combine_votes(list(wide))  # type: ignore[arg-type]


def test_wrong_tables_are_reported(wide: pd.DataFrame) -> None:
    long = long_form(wide)
    with pytest.raises(InputError, match="twice"):
        combine_votes(pd.concat([long, long.head(1)]))
    with pytest.raises(InputError, match="twice"):
        combine_votes(pd.concat([wide, wide.head(1)]))
    with pytest.raises(InputError, match="neither"):
        combine_votes(long.drop(columns="label"))
    with pytest.raises(InputError, match="'glad' is unknown"):
        combine_votes(wide, label_names=["calm", "cross"])
    for empty in (wide.head(0), pd.DataFrame({"a": [None, ""]})):
        with pytest.raises(InputError, match="no label"):
            combine_votes(empty)
    with pytest.raises(ValueError, match="need as many different names"):
        combine_votes({"a": np.eye(3)}, label_names=["x", "y"])


def test_the_repr_is_one_short_line(wide: pd.DataFrame) -> None:
    text = repr(combine_votes(wide))
    assert text.startswith("CombinedVotes(labels=int64 (60,), confidence=float64 (60,), probs=float64 (60, 3), ")
    assert "\n" not in text
    assert len(text) < 500
