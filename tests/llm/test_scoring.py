from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.llm.cache import ScoreCache
from ecmf_pipeline.llm.client import LabelScorer
from ecmf_pipeline.llm.scoring import probabilities, scored, votes_from_scores

LABELS = ("angry", "happy")


class Counting:
    """Scores by length, and keeps what it was asked; may stop working after some calls."""

    def __init__(self, works: int = 1000) -> None:
        self.asked: list[str] = []
        self.calls = 0
        self.works = works
        self.truncated = 5  # from work before this one

    def score(self, texts: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
        self.calls += 1
        if self.calls > self.works:
            raise ConnectionError("gone")
        self.asked += texts
        self.truncated += sum(len(text) > 20 for text in texts)
        return np.array([[len(text) / 3, -1.0] for text in texts])


def never() -> LabelScorer:
    raise AssertionError("the model was built although everything was known")


def test_each_text_is_asked_once_and_blank_ones_never(tmp_path: Path) -> None:
    model = Counting()
    texts = ["abc", "", "abc", "  \n", "abcdef", "x" * 30]
    result = scored(texts, LABELS, scorer=lambda: model, cache=ScoreCache(tmp_path, "f"))
    assert model.asked == ["abc", "abcdef", "x" * 30]
    expected = [[1.0, -1.0], [np.nan] * 2, [1.0, -1.0], [np.nan] * 2, [2.0, -1.0], [10.0, -1.0]]
    np.testing.assert_array_equal(result.values, np.array(expected))
    assert (result.asked, result.cached, result.empty, result.truncated) == (3, 0, 2, 1)


def test_what_is_known_is_never_asked_again_nor_the_model_built(tmp_path: Path) -> None:
    texts = ["a", "ab", ""]
    first = scored(texts, LABELS, scorer=Counting, cache=ScoreCache(tmp_path, "f"))
    again = scored(texts, LABELS, scorer=never, cache=ScoreCache(tmp_path, "f"))
    np.testing.assert_array_equal(first.values, again.values)  # the fresh scores are rounded like the kept ones
    assert (again.asked, again.cached) == (0, 2)
    model = Counting()
    scored([*texts, "abc"], LABELS, scorer=lambda: model, cache=ScoreCache(tmp_path, "f"))
    assert model.asked == ["abc"]


def test_no_words_at_all_build_no_model(tmp_path: Path) -> None:
    result = scored(["", " "], LABELS, scorer=never, cache=ScoreCache(tmp_path, "f"))
    assert np.isnan(result.values).all()
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_keeps_what_was_done(tmp_path: Path) -> None:
    texts = [str(number) for number in range(10)]
    with pytest.raises(ConnectionError):
        scored(texts, LABELS, scorer=lambda: Counting(works=2), cache=ScoreCache(tmp_path, "f"), commit_every=3)
    rest = Counting()
    scored(texts, LABELS, scorer=lambda: rest, cache=ScoreCache(tmp_path, "f"), commit_every=3)
    assert rest.asked == texts[6:]


def test_probabilities() -> None:
    scores = np.array([[np.log(3), 0.0], [1000.0, 0.0], [np.nan, np.nan]])
    np.testing.assert_allclose(probabilities(scores), np.array([[0.75, 0.25], [1, 0], [np.nan] * 2]), atol=1e-12)
    np.testing.assert_allclose(probabilities(scores[:1], temperature=0.5), [[0.9, 0.1]])


def test_votes_abstain_below_the_margin_and_without_words() -> None:
    scores = np.log(np.array([[0.6, 0.4], [0.55, 0.45], [0.2, 0.8]]))
    scores = np.vstack([scores, [np.nan, np.nan]])
    votes = votes_from_scores(scores, margin=0.15)
    nan = float("nan")
    np.testing.assert_allclose(votes, np.array([[0.6, 0.4], [nan, nan], [0.2, 0.8], [nan, nan]]))
    assert not np.isnan(votes_from_scores(scores, margin=0)[:3]).any()
    assert np.isnan(votes_from_scores(scores, margin=0.15, temperature=100)).all()
