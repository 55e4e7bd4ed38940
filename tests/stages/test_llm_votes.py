"""Tests of the LLM's votes: calibration uses given labels of other folds and never gold labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Split
from ecmf_pipeline.llm import votes
from ecmf_pipeline.llm.config import LlmConfig, LlmVotesConfig
from ecmf_pipeline.llm.scoring import ScoringResult
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.llm import llm_votes

LABELS = ["angry", "happy", "sad"]
BIAS = np.array([0.0, 4.0, 0.0])
"""Score that the model adds to each label for every text."""


def corpus_of(labelled: int) -> tuple[Corpus, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=200)
    scores = np.eye(3)[truth] * 2 + rng.normal(size=(200, 3)) + BIAS
    clips = [
        Clip(
            ClipId(f"clip{number:03d}"),
            transcript="the same for all clips",
            given_label=LABELS[label] if number < labelled else "",
            gold_label=LABELS[label],
            split=Split.TRAIN if number < labelled else Split.CANDIDATE,
            group=f"dialogue{number // 4}",
        )
        for number, label in enumerate(truth.tolist())
    ]
    return Corpus(clips, LABELS, [], synthetic=False), scores


@pytest.fixture
def set_scores(monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], None]:
    """Return a function that replaces the LLM by fixed scores."""

    def replace_llm(scores: np.ndarray) -> None:
        scored = ScoringResult(scores, len(scores), 0, 0, 0, 0, 0)
        monkeypatch.setattr(votes, "label_scores", lambda *_, **__: scored)

    return replace_llm


def accuracy(votes: np.ndarray, corpus: Corpus) -> float:
    has_vote = np.isfinite(votes).all(axis=1)
    truth = np.array([LABELS.index(clip.gold_label) for clip in corpus.clips])
    return float((votes[has_vote].argmax(axis=1) == truth[has_vote]).sum() / len(truth))


def votes_of(params: Params, corpus: Corpus) -> np.ndarray:
    return llm_votes(params, corpus)[0]["llm"]


def params_of(**votes: object) -> Params:
    return Params(llm=LlmConfig(votes=LlmVotesConfig.model_validate(votes)))


def test_bias_of_the_model_is_removed_with_labelled_clips(
    set_scores: Callable[[np.ndarray], None], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, scores = corpus_of(120)
    set_scores(scores)
    uncalibrated = votes_of(params_of(temperature=1.0, bias="none"), corpus)
    summary_without = capsys.readouterr().out
    votes = votes_of(params_of(), corpus)
    assert capsys.readouterr().out != summary_without
    assert accuracy(votes, corpus) > accuracy(uncalibrated, corpus) + 0.2
    assert np.nanmax(np.abs(np.nansum(votes, axis=1)[np.isfinite(votes).all(axis=1)] - 1)) < 1e-9


def test_scores_are_not_calibrated_with_few_labelled_clips(
    set_scores: Callable[[np.ndarray], None], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, scores = corpus_of(30)
    set_scores(scores)
    uncalibrated = votes_of(params_of(temperature=1.0, bias="none"), corpus)
    capsys.readouterr()
    votes = votes_of(params_of(), corpus)
    np.testing.assert_array_equal(votes, uncalibrated)
    assert "too few labelled clips" in capsys.readouterr().out


def test_gold_labels_do_not_change_the_votes(set_scores: Callable[[np.ndarray], None]) -> None:
    corpus, scores = corpus_of(120)
    set_scores(scores)
    votes = votes_of(params_of(), corpus)
    others = [dataclasses.replace(clip, gold_label="angry") for clip in corpus.clips]
    again = votes_of(params_of(), dataclasses.replace(corpus, clips=others))
    np.testing.assert_array_equal(again, votes)


@pytest.mark.parametrize(
    ("text", "votes_on_it"), [("oh", False), ("oh no", True), ("嗯", False), ("好的", True), ("...", False)]
)
def test_llm_abstains_on_short_transcripts(
    set_scores: Callable[[np.ndarray], None], capsys: pytest.CaptureFixture[str], *, text: str, votes_on_it: bool
) -> None:
    corpus, scores = corpus_of(120)
    scores[0] = [9.0, 0.0, 0.0]
    set_scores(scores)
    clips = [dataclasses.replace(corpus.clips[0], transcript=text), *corpus.clips[1:]]
    votes = votes_of(params_of(temperature=1.0, bias="none"), dataclasses.replace(corpus, clips=clips))
    assert np.isfinite(votes[0]).all() == votes_on_it
    assert ("1 transcript with fewer than 2 words" in capsys.readouterr().out) == (not votes_on_it)
