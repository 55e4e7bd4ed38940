"""The LLM's votes of a corpus: what is learned from labels is told, and never from gold or a clip's own fold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Split
from ecmf_pipeline.llm import votes
from ecmf_pipeline.llm.config import LlmConfig, LlmVotesConfig
from ecmf_pipeline.llm.scoring import Scored
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.llm import llm_votes

LABELS = ["angry", "happy", "sad"]
LEAN = np.array([0.0, 4.0, 0.0])
"""What the model adds to a label whatever it reads."""


def corpus_of(labelled: int) -> tuple[Corpus, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=200)
    scores = np.eye(3)[truth] * 2 + rng.normal(size=(200, 3)) + LEAN
    clips = [
        Clip(
            ClipId(f"clip{number:03d}"),
            transcript="so it was said",
            given_label=LABELS[label] if number < labelled else "",
            gold_label=LABELS[label],
            split=Split.TRAIN if number < labelled else Split.CANDIDATE,
            group=f"dialogue{number // 4}",
        )
        for number, label in enumerate(truth.tolist())
    ]
    return Corpus(clips, LABELS, [], synthetic=False), scores


@pytest.fixture
def scores_are(monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], None]:
    def settle(scores: np.ndarray) -> None:
        found = Scored(scores, len(scores), 0, 0, 0, 0, 0)
        monkeypatch.setattr(votes, "label_scores", lambda *_, **__: found)

    return settle


def right(votes: np.ndarray, corpus: Corpus) -> float:
    cast = np.isfinite(votes).all(axis=1)
    truth = np.array([LABELS.index(clip.gold_label) for clip in corpus.clips])
    return float((votes[cast].argmax(axis=1) == truth[cast]).sum() / len(truth))


def votes_of(params: Params, corpus: Corpus) -> np.ndarray:
    return llm_votes(params, corpus)[0]["llm"]


def params_of(**votes: object) -> Params:
    return Params(llm=LlmConfig(votes=LlmVotesConfig.model_validate(votes)))


def test_with_labelled_clips_the_lean_is_undone(
    scores_are: Callable[[np.ndarray], None], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, scores = corpus_of(120)
    scores_are(scores)
    plain = votes_of(params_of(temperature=1.0, bias="none"), corpus)
    assert "not calibrated on labels" in capsys.readouterr().out
    votes = votes_of(params_of(), corpus)
    assert "calibrated for each fold on" in capsys.readouterr().out
    assert right(votes, corpus) > right(plain, corpus) + 0.2
    assert np.nanmax(np.abs(np.nansum(votes, axis=1)[np.isfinite(votes).all(axis=1)] - 1)) < 1e-9


def test_with_few_labelled_clips_the_scores_stay(
    scores_are: Callable[[np.ndarray], None], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, scores = corpus_of(30)
    scores_are(scores)
    plain = votes_of(params_of(temperature=1.0, bias="none"), corpus)
    votes = votes_of(params_of(), corpus)
    np.testing.assert_array_equal(votes, plain)
    assert "too few labelled clips" in capsys.readouterr().out


def test_gold_labels_have_no_part(scores_are: Callable[[np.ndarray], None]) -> None:
    corpus, scores = corpus_of(120)
    scores_are(scores)
    votes = votes_of(params_of(), corpus)
    others = [dataclasses.replace(clip, gold_label="angry") for clip in corpus.clips]
    again = votes_of(params_of(), dataclasses.replace(corpus, clips=others))
    np.testing.assert_array_equal(again, votes)


@pytest.mark.parametrize(
    ("text", "casts"), [("oh", False), ("oh no", True), ("嗯", False), ("好的", True), ("...", False)]
)
def test_too_short_a_transcript_gets_no_vote(
    scores_are: Callable[[np.ndarray], None], capsys: pytest.CaptureFixture[str], *, text: str, casts: bool
) -> None:
    corpus, scores = corpus_of(120)
    scores[0] = [9.0, 0.0, 0.0]
    scores_are(scores)
    clips = [dataclasses.replace(corpus.clips[0], transcript=text), *corpus.clips[1:]]
    votes = votes_of(params_of(temperature=1.0, bias="none"), dataclasses.replace(corpus, clips=clips))
    assert np.isfinite(votes[0]).all() == casts
    assert ("1 transcript of fewer than 2 words" in capsys.readouterr().out) == (not casts)
