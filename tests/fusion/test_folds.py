"""Tests of the folds of clips, as columns."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

from ecmf_pipeline.fusion.folds import NO_FOLD, ClipFolds

FOLDS = ClipFolds(("a", "b", "c"), np.array([2, 0, NO_FOLD]), np.array([True, False, True]))
NONE = ClipFolds((), np.zeros(0, np.int64), np.zeros(0, np.bool_))


def test_clips_without_an_entry_have_no_fold_and_are_not_trained_on() -> None:
    asked = ["c", "new", "a", "b", "a", ""]
    assert FOLDS.of_clips(asked).tolist() == [NO_FOLD, NO_FOLD, 2, 0, 2, NO_FOLD]
    assert FOLDS.trained_on(asked).tolist() == [True, False, True, False, True, False]
    assert FOLDS.of_clips("abc").tolist() == FOLDS.held_out_by.tolist()
    assert FOLDS.trained_on("abc").tolist() == FOLDS.is_trained.tolist()
    assert FOLDS.of_clips([]).shape == FOLDS.trained_on([]).shape == (0,)
    assert (NONE.of_clips(["a"]).tolist(), NONE.trained_on(["a"]).tolist()) == ([NO_FOLD], [False])


def test_equal_columns_give_equal_bytes_which_pandas_reads() -> None:
    content = FOLDS.to_bytes()
    assert ClipFolds.from_bytes(content).to_bytes() == content != NONE.to_bytes()
    assert pd.read_feather(io.BytesIO(content)).to_dict("list") == {
        "clip_id": ["a", "b", "c"],
        "fold": [2, 0, NO_FOLD],
        "is_trained": [True, False, True],
    }
    assert ClipFolds.from_bytes(NONE.to_bytes()).clip_ids == ()
