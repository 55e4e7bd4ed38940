"""Tests of the folds of clips, as columns."""

from __future__ import annotations

import io

import pandas as pd

from ecmf_pipeline.fusion.folds import NO_FOLD, ClipFold, ClipFolds

FOLDS = ClipFolds.of([ClipFold("a", 2, True), ClipFold("b", 0, False), ClipFold("c", NO_FOLD, True)])


def test_clips_without_an_entry_have_no_fold_and_are_not_trained_on() -> None:
    asked = ["c", "new", "a", "b", "a", ""]
    assert FOLDS.of_clips(asked).tolist() == [NO_FOLD, NO_FOLD, 2, 0, 2, NO_FOLD]
    assert FOLDS.trained_on(asked).tolist() == [True, False, True, False, True, False]
    assert FOLDS.of_clips([]).shape == FOLDS.trained_on([]).shape == (0,)
    assert FOLDS[:0].of_clips(["a"]).tolist() == [NO_FOLD]
    assert FOLDS[:0].trained_on(["a"]).tolist() == [False]


def test_equal_rows_give_equal_bytes_which_pandas_reads() -> None:
    content = FOLDS.to_bytes()
    assert ClipFolds.from_bytes(content) == FOLDS
    assert ClipFolds.from_bytes(content)[1:].to_bytes() == ClipFolds.of(list(FOLDS)[1:]).to_bytes()
    assert pd.read_feather(io.BytesIO(content)).to_dict("list") == {
        "clip_id": ["a", "b", "c"],
        "fold": [2, 0, NO_FOLD],
        "is_trained": [True, False, True],
    }
