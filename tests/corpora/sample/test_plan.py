from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.sample.config import SampleConfig
from ecmf_pipeline.corpora.sample.plan import AMBIGUOUS, SHARES, plan_clips, read_transcripts


def test_labels_are_those_of_the_challenge() -> None:
    assert tuple(SHARES) == MER_LABELS
    assert sum(SHARES.values()) == pytest.approx(1)


def test_each_emotion_has_at_least_36_transcripts() -> None:
    transcripts = read_transcripts()
    assert set(transcripts) == {*SHARES, AMBIGUOUS}
    assert all(len(set(transcripts[label])) >= 36 for label in SHARES)


def test_transcripts_are_distinct_across_emotions() -> None:
    spoken = [" ".join(line.lower().split()) for lines in read_transcripts().values() for line in lines]
    assert len(set(spoken)) == len(spoken)


def test_transcripts_are_stripped_ascii() -> None:
    for lines in read_transcripts().values():
        assert all(line.isascii() and line == line.strip() and line for line in lines)


def test_default_corpus_is_imbalanced_without_rare_classes() -> None:
    plans = plan_clips(SampleConfig())
    for part in (plans[:96], plans[96:]):
        counts = Counter(plan.gold_label for plan in part)
        assert set(counts) == set(SHARES)
        assert min(counts.values()) >= 0.1 * len(part)
        assert len(set(counts.values())) > 1


def test_each_speaker_acts_every_emotion_in_the_default_corpus() -> None:
    acted = {(plan.speaker, plan.gold_label) for plan in plan_clips(SampleConfig())}
    assert len(acted) == 8 * 6


def test_default_corpus_repeats_no_line() -> None:
    counts = Counter(plan.spoken for plan in plan_clips(SampleConfig()))
    assert max(counts.values()) == 1


def test_no_clip_lacks_both_sound_and_transcript() -> None:
    plans = plan_clips(SampleConfig())
    silent = {plan.index for plan in plans if not plan.has_audio}
    untranscribed = {plan.index for plan in plans if not plan.transcript}
    assert len(silent) == len(untranscribed) == round(0.04 * 144)
    assert not silent & untranscribed


def test_ambiguous_share_is_exact() -> None:
    ambiguous = set(read_transcripts()[AMBIGUOUS])
    plans = plan_clips(SampleConfig(ambiguous=0.5))
    assert sum(plan.spoken in ambiguous for plan in plans) == 72


@given(
    labelled=st.integers(1, 300),
    unlabeled=st.integers(0, 60),
    noise=st.floats(0, 0.9),
    seed=st.integers(0, 2**40),
    speakers=st.integers(1, 20),
)
def test_share_of_wrong_labels_is_exact(labelled: int, unlabeled: int, noise: float, seed: int, speakers: int) -> None:
    config = SampleConfig(labelled=labelled, unlabeled=unlabeled, noise=noise, seed=seed, speakers=speakers)
    plans = plan_clips(config)
    given_plans = [plan for plan in plans if plan.given_label]
    assert [plan.index for plan in plans] == list(range(labelled + unlabeled))
    assert len(given_plans) == labelled
    assert sum(plan.given_label != plan.gold_label for plan in given_plans) == round(noise * labelled)
    assert {plan.given_label for plan in given_plans} <= set(SHARES)
    assert {plan.speaker for plan in plans} <= set(range(speakers))
    assert plans == plan_clips(config)


def test_seed_changes_the_plan() -> None:
    assert plan_clips(SampleConfig(seed=1)) != plan_clips(SampleConfig(seed=2))


@pytest.mark.parametrize("wrong", [{"size": 255}, {"labelled": 0}, {"min_seconds": 5.0}, {"noise": 1.0}, {"typo": 1}])
def test_impossible_settings_are_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SampleConfig.model_validate(wrong)
