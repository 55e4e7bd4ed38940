from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.labels.config import LabelModelConfig, RefineConfig
from ecmf_pipeline.labels.label_model import Assessment, assess
from ecmf_pipeline.labels.refine import (
    Decision,
    LabelAction,
    decide,
    soften,
)
from ecmf_pipeline.labels.selection import expected_gain, select_clips_to_label
from ecmf_pipeline.labels.thresholds import NEVER, find_thresholds, least_labels, precision_threshold
from tests.labels.default_model import assess_by_default

Simulate = Callable[..., Any]
NAMES = ("happy", "sad", "angry")
FAMILIES = {"face_linear": "face", "face_lightgbm": "face", "text": "text", "llm": "llm"}


def evidence(posterior: list[float], hard_votes: list[int], probs: list[float] | None = None) -> Assessment:
    """Build an assessment of one clip from its posterior, the votes of face_linear, face_lightgbm, text and llm, and
    the probabilities without the given label."""
    row = np.array([posterior])
    return Assessment(
        prior=np.array([[0.4, 0.3, 0.3]]),
        probs=row if probs is None else np.array([probs]),
        posterior=row,
        votes={name: np.array([choice]) for name, choice in zip(FAMILIES, hard_votes, strict=True)},
        transition=np.eye(3),
        sources=(),
    )


def decide_one(
    posterior: list[float], hard_votes: list[int], given: str, *, probs: list[float] | None = None
) -> Decision:
    clip = Clip(ClipId("a"), given_label=given, split=Split.TRAIN if given else Split.UNLABELED)
    [decision] = decide(evidence(posterior, hard_votes, probs), [clip], NAMES, RefineConfig(), families=FAMILIES)
    return decision


def test_a_probable_given_label_is_kept() -> None:
    decision = decide_one([0.9, 0.06, 0.04], [0, 0, 0, 1], "happy")
    assert (decision.decision, decision.refined_label) == (LabelAction.KEEP, "happy")
    assert decision.weight == pytest.approx(1.0)  # the only clip has the mean weight
    assert decision.reason == (
        "happy 0.90, sad 0.06, mostly by the sources (log-odds +2.71: prior +0.29, given label +0.00, sources +2.42); "
        "3 of 4 sources vote for happy, 1 for sad"
    )


@pytest.mark.parametrize("given", ["happy", ""])
def test_the_label_of_most_reviewers_who_differ_is_weighted_by_its_share(given: str) -> None:
    shares = np.array([[0.0, 0.75, 0.25]])
    assessment = soften(evidence([0.9, 0.06, 0.04], [0, 0, 0, 1]), shares)
    clips = [
        Clip(ClipId(name), given_label=given, split=Split.TRAIN if given else Split.UNLABELED) for name in ("a", "b")
    ]
    twice = Assessment(
        prior=np.tile(assessment.prior, (2, 1)),
        probs=np.tile(assessment.probs, (2, 1)),
        posterior=np.array([shares[0], [0.0, 1.0, 0.0]]),
        votes={name: np.tile(choice, 2) for name, choice in assessment.votes.items()},
        transition=np.eye(3),
        sources=(),
    )
    gold = np.array([-1, 1])
    soft, agreed = decide(
        twice,
        clips,
        NAMES,
        RefineConfig(),
        families=FAMILIES,
        gold=gold,
        shares=np.array([shares[0], [np.nan] * 3]),
    )
    assert (soft.refined_label, soft.confidence) == ("sad", 0.75)
    assert soft.weight / agreed.weight == pytest.approx(0.75)
    assert np.isnan(soft.log_odds)


def test_a_tie_between_reviewers_is_broken_by_the_sources() -> None:
    shares = np.array([[0.0, 0.5, 0.5]])
    clips = [Clip(ClipId("a"), given_label="happy", split=Split.TRAIN)]
    assessment = soften(evidence([0.9, 0.04, 0.06], [0, 0, 0, 1]), shares)
    [decision] = decide(assessment, clips, NAMES, RefineConfig(), families=FAMILIES, shares=shares)
    assert (decision.refined_label, decision.confidence) == ("angry", 0.5)


@pytest.mark.parametrize(("given", "action"), [("happy", LabelAction.DROP), ("", LabelAction.LEAVE)])
def test_a_bad_clip_is_not_trained_on(given: str, action: LabelAction) -> None:
    clip = Clip(ClipId("a"), given_label=given, split=Split.TRAIN if given else Split.UNLABELED)
    assessment = evidence([0.98, 0.01, 0.01], [0, 0, 0, 0])
    [decision] = decide(assessment, [clip], NAMES, RefineConfig(), families=FAMILIES, is_bad=np.array([True]))
    assert (decision.decision, decision.refined_label, decision.weight) == (action, "", 0)


@pytest.mark.parametrize(
    ("posterior", "hard_votes", "action", "new"),
    [
        ([0.02, 0.96, 0.02], [1, 1, 1, 1], LabelAction.DROP, ""),  # without human labels no label is replaced
        ([0.19, 0.80, 0.01], [1, 1, 0, 1], LabelAction.DROP, ""),
        ([0.21, 0.78, 0.01], [1, 1, 0, 1], LabelAction.REVIEW, "happy"),
        ([0.49, 0.50, 0.01], [1, 1, 0, 1], LabelAction.REVIEW, "happy"),
        ([0.51, 0.48, 0.01], [1, 1, 0, 1], LabelAction.DOWN_WEIGHT, "happy"),
        ([0.79, 0.20, 0.01], [0, 1, 0, 1], LabelAction.DOWN_WEIGHT, "happy"),
        ([0.81, 0.18, 0.01], [0, 1, 0, 1], LabelAction.KEEP, "happy"),
        ([0.01, 0.98, 0.01], [-1, -1, -1, -1], LabelAction.KEEP, "happy"),  # no vote contradicts it
    ],
)
def test_thresholds_of_a_given_label(
    posterior: list[float], hard_votes: list[int], action: LabelAction, new: str
) -> None:
    decision = decide_one(posterior, hard_votes, "happy")
    assert (decision.decision, decision.refined_label, decision.given_label) == (action, new, "happy")
    assert (decision.weight > 0) == (new != "")


@pytest.mark.parametrize(
    ("posterior", "probs", "hard_votes", "given", "label", "rival", "agreement", "largest"),
    [
        # No source votes for the kept label: the given label decided.
        ([0.83, 0.10, 0.07], [0.2, 0.5, 0.3], [1, 1, 1, 2], "happy", "happy", "sad", 0.0, "given label"),
        # The given label is kept with less weight; agreement and confidence are its own.
        ([0.30, 0.60, 0.10], [0.1, 0.8, 0.1], [1, 1, 1, 0], "happy", "happy", "sad", 0.25, "sources"),
        # The clip is dropped: the first choice is compared with the given label, not with the second choice.
        ([0.02, 0.90, 0.08], [0.01, 0.9, 0.09], [1, 1, 1, -1], "happy", "sad", "happy", 1.0, "sources"),
        ([0.41, 0.30, 0.29], [0.4, 0.3, 0.3], [-1, -1, -1, -1], "", "happy", "sad", float("nan"), "prior"),
    ],
)
def test_all_numbers_of_a_decision_are_about_one_label(
    posterior: list[float],
    probs: list[float],
    hard_votes: list[int],
    given: str,
    label: str,
    rival: str,
    agreement: float,
    largest: str,
) -> None:
    decision = decide_one(posterior, hard_votes, given, probs=probs)
    assert (decision.label, decision.rival) == (label, rival)
    assert decision.confidence == posterior[NAMES.index(label)]
    assert decision.agreement == pytest.approx(agreement, nan_ok=True)
    assert f"mostly by the {largest} " in decision.reason
    odds = posterior[NAMES.index(label)] / posterior[NAMES.index(rival)]
    assert decision.log_odds == pytest.approx(np.log(odds))
    parts = (decision.log_odds_prior, decision.log_odds_given, decision.log_odds_sources)
    assert sum(parts) == pytest.approx(decision.log_odds)
    named = dict(zip(("prior", "given label", "sources"), parts, strict=True))
    assert max(named, key=lambda name: named[name] * np.sign(decision.log_odds)) == largest


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_parts_of_each_decision_add_up_to_the_posterior(
    simulate: Simulate, labels: tuple[str, ...], share: float
) -> None:
    world = simulate(4, 150, unlabeled=30)
    gold = np.where(np.random.default_rng(0).random(180) < share, world.truth, -1)
    assessment = assess(world.votes, world.given, gold, folds=np.arange(180) % 5, seed=0, config=LabelModelConfig())
    assert assessment.calibrated == bool(share)
    decisions = decide(assessment, world.clips, labels, RefineConfig(), families=world.families, gold=gold)
    for row, decision in enumerate(decisions):
        if gold[row] >= 0:
            assert np.isnan(decision.log_odds)
            assert "human label" in decision.reason
            continue
        odds = assessment.posterior[row, [labels.index(decision.label), labels.index(decision.rival)]]
        parts = decision.log_odds_prior + decision.log_odds_given + decision.log_odds_sources
        assert parts == pytest.approx(np.log(odds[0] / odds[1]), abs=1e-9)
        assert decision.given_label or decision.log_odds_given == pytest.approx(0, abs=1e-9)
        votes_for = [int(assessment.votes[name][row]) == labels.index(decision.label) for name in world.votes]
        voting = sum(int(assessment.votes[name][row]) >= 0 for name in world.votes)
        assert decision.agreement == pytest.approx(sum(votes_for) / voting)


@pytest.mark.parametrize(
    ("posterior", "hard_votes", "action", "cause"),
    [
        ([0.90, 0.06, 0.04], [0, 0, 0, 1], LabelAction.PSEUDO, "at least 0.85"),
        ([0.84, 0.12, 0.04], [0, 0, 0, 1], LabelAction.REVIEW, "happy is below 0.85"),
        ([0.90, 0.06, 0.04], [0, 0, -1, -1], LabelAction.REVIEW, "1 of 2 needed families vote for happy"),
        ([0.90, 0.06, 0.04], [-1, -1, -1, -1], LabelAction.REVIEW, "0 of 2 needed families"),
    ],
)
def test_thresholds_of_a_pseudo_label(
    posterior: list[float], hard_votes: list[int], action: LabelAction, cause: str
) -> None:
    assessment = evidence(posterior, hard_votes)
    doubled = replace(
        assessment,
        **{name: np.repeat(getattr(assessment, name), 2, axis=0) for name in ("prior", "probs", "posterior")},
        votes={name: np.repeat(hard_votes, 2) for name, hard_votes in assessment.votes.items()},
    )
    clips = [
        Clip(ClipId("a"), given_label="happy", split=Split.TRAIN),
        Clip(ClipId("b"), path="b.mp4", transcript="hi"),
    ]
    unlabeled = decide(doubled, clips, NAMES, RefineConfig(), families=FAMILIES)[1]
    assert unlabeled.decision is action
    assert cause in unlabeled.reason
    unseen = decide(doubled, [clips[0], replace(clips[1], transcript="")], NAMES, RefineConfig(), families=FAMILIES)[1]
    assert unseen.decision is not LabelAction.REVIEW, "nobody can judge an unreadable clip without words"
    if action is LabelAction.PSEUDO:
        assert (unlabeled.refined_label, unlabeled.weight) == ("happy", pytest.approx(0.45))
    else:
        assert (unlabeled.refined_label, unlabeled.weight) == ("", 0.0)


def test_pseudo_labels_of_a_class_are_limited_by_its_quota(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(0, 60, unlabeled=600)
    combined = assess_by_default(world.votes, world.given)
    config = RefineConfig(pseudo_quota=0.5, review_budget=0)
    decisions = decide(combined, world.clips, labels, config, families=world.families)
    for label in labels:
        labelled = [d for d in decisions if d.given_label and d.refined_label == label]
        pseudo = [d for d in decisions if d.decision is LabelAction.PSEUDO and d.refined_label == label]
        over_quota = [
            d for d in decisions if f"the quota of {int(0.5 * len(labelled))} for {label} is reached" in d.reason
        ]
        assert len(pseudo) <= 0.5 * len(labelled)
        assert all(d.decision is LabelAction.LEAVE and d.weight == 0 for d in over_quota)
        assert over_quota
        assert min(d.confidence for d in pseudo) >= max(d.confidence for d in over_quota)


def test_only_configured_splits_get_pseudo_labels(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(0, 60, unlabeled=60)
    clips = [replace(clip, split=Split.CANDIDATE) if clip.split is Split.UNLABELED else clip for clip in world.clips]
    combined = assess_by_default(world.votes, world.given)
    both = decide(combined, clips, labels, RefineConfig(), families=world.families)
    neither = decide(combined, clips, labels, RefineConfig(pseudo_splits=(Split.UNLABELED,)), families=world.families)
    assert sum(d.decision is LabelAction.PSEUDO for d in both) > 5
    assert not any(d.decision is LabelAction.PSEUDO for d in neither)


def test_gold_labels_do_not_affect_decisions(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(1, 40, unlabeled=20)
    combined = assess_by_default(world.votes, world.given)
    golden = [replace(clip, gold_label="happy") for clip in world.clips]
    plain = decide(combined, world.clips, labels, RefineConfig(), families=world.families)
    assert decide(combined, golden, labels, RefineConfig(), families=world.families) == plain


def test_refinement_improves_training_labels_and_breaks_few(simulate: Simulate, labels: tuple[str, ...]) -> None:
    before, after, broken = [], [], []
    for seed in range(8):
        world = simulate(seed, 96)
        combined = assess_by_default(world.votes, world.given, seed=seed)
        decisions = decide(combined, world.clips, labels, RefineConfig(), families=world.families)
        right = np.array([d.refined_label == labels[t] for d, t in zip(decisions, world.truth, strict=True)])
        trained = np.array([d.weight > 0 for d in decisions])
        given_right = world.given == world.truth
        before.append(given_right.mean())
        after.append(right[trained].mean())
        broken.append((given_right & ~right).sum() / given_right.sum())
        assert after[-1] >= before[-1]
    assert np.mean(after) >= 0.93 > np.mean(before)
    assert np.mean(broken) <= 0.02


def test_weights_are_proportional_to_label_probability(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(2, 300)
    assessment = assess_by_default(world.votes, world.given)
    decisions = decide(assessment, world.clips, labels, RefineConfig(), families=world.families)
    weights = np.array([d.weight for d in decisions])
    trained = weights > 0
    assert weights[trained].mean() == pytest.approx(1.0)
    label_probs = assessment.posterior[np.arange(300), world.given]
    assert np.corrcoef(weights[trained], label_probs[trained])[0, 1] > 0.999


def test_human_labels_override_votes_with_full_weight(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(3, 60, unlabeled=20)
    gold = np.full(80, -1)
    wrong = int(np.flatnonzero(world.given[:60] != world.truth[:60])[0])
    right = int(np.flatnonzero(world.given[:60] == world.truth[:60])[0])
    gold[[wrong, right, 70]] = world.truth[[wrong, right, 70]]
    assessment = assess(world.votes, world.given, gold, folds=np.arange(80) % 5, seed=0, config=LabelModelConfig())
    decisions = decide(assessment, world.clips, labels, RefineConfig(), families=world.families, gold=gold)
    expected = {wrong: LabelAction.RELABEL, right: LabelAction.KEEP, 70: LabelAction.PSEUDO}
    for row, action in expected.items():
        decision = decisions[row]
        assert (decision.decision, decision.refined_label) == (action, labels[world.truth[row]])
        assert "human label" in decision.reason
        assert decision.weight == pytest.approx(max(d.weight for d in decisions))


def test_with_enough_human_labels_given_labels_are_replaced_correctly(
    simulate: Simulate, labels: tuple[str, ...]
) -> None:
    world = simulate(0, 1200, noise=0.3)
    names = ("face_linear", "text_linear", "audio_lightgbm", "global_linear")
    votes = {name: world.votes[name] for name in names}
    gold = np.where(np.random.default_rng(0).random(1200) < 0.3, world.truth, -1)
    assessment = assess(votes, world.given, gold, folds=np.arange(1200) % 5, seed=0, config=LabelModelConfig())
    assert assessment.calibrated
    decisions = decide(assessment, world.clips, labels, RefineConfig(), families=world.families, gold=gold)
    replaced = [i for i in np.flatnonzero(gold < 0) if decisions[i].decision is LabelAction.RELABEL]
    assert len(replaced) > 50
    assert np.mean([decisions[i].refined_label == labels[world.truth[i]] for i in replaced]) > 0.9


def test_unlabeled_clips_of_low_confidence_are_listed_for_review(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(1, 60, unlabeled=200)
    assessment = assess_by_default(world.votes, world.given)
    decisions = decide(assessment, world.clips, labels, RefineConfig(review_budget=7), families=world.families)
    unlabeled = [d for d in decisions if not d.given_label]
    review = [d.confidence for d in unlabeled if d.decision is LabelAction.REVIEW]
    assert len(review) == 7
    assert np.mean(review) < np.mean([d.confidence for d in unlabeled if d.decision is LabelAction.LEAVE])


def test_clips_to_label_next_are_uncertain_and_spread_over_classes(simulate: Simulate) -> None:
    world = simulate(2, 600)
    assessment = assess_by_default(world.votes, world.given)
    eligible, readable = np.arange(600) >= 50, np.zeros(600, bool)
    gain = expected_gain(assessment.posterior, world.given)
    rows = np.array(select_clips_to_label(gain, assessment.labels, eligible, 60, last=readable))
    assert len(set(rows.tolist())) == 60
    assert eligible[rows].all()
    assert (np.diff(gain[rows]) <= 0).all()
    wrong = world.given != world.truth
    assert wrong[rows].mean() > 3 * wrong[50:].mean()
    assert np.bincount(assessment.labels[rows], minlength=6).max() <= 60 / 6 + 1
    assert len(select_clips_to_label(gain, assessment.labels, eligible, 10_000, last=readable)) == 550


def test_a_contradicted_label_precedes_an_agreed_one_and_unreadable_clips_are_last() -> None:
    posterior = np.array([[0.02, 0.98], [0.45, 0.55], [0.70, 0.30], [0.05, 0.95], [0.5, 0.5]])
    in_use = np.array([0, 0, 0, 1, 0])  # 0 is contradicted, 3 is agreed on, 4 is doubtful but unreadable
    gain = expected_gain(posterior, in_use)
    np.testing.assert_allclose(gain, [0.98, 0.55, 0.30, 0.05, 0.5])
    labels, last = posterior.argmax(axis=1), np.arange(5) == 4
    assert select_clips_to_label(gain, labels, np.ones(5, bool), 9, last=last) == [0, 1, 2, 3, 4]
    assert select_clips_to_label(gain, labels, ~last, 9, last=last) == [0, 1, 2, 3]


def test_a_request_for_verdicts_counts_those_that_exist(simulate: Simulate) -> None:
    world = simulate(0, 60)
    gold = np.where(np.arange(60) < 12, world.truth, -1)
    assessment = assess(world.votes, world.given, gold, folds=np.arange(60) % 5, seed=0, config=LabelModelConfig())
    words = find_thresholds(assessment, world.given, gold, RefineConfig()).words
    assert all("12 of 30 needed verdicts" in sentence for sentence in words)
    one_label = np.where(np.arange(60) < 40, 1, -1)
    words = find_thresholds(assessment, world.given, one_label, RefineConfig()).words
    assert all("40 verdicts have 1 of 2 needed labels" in sentence for sentence in words)


def test_the_least_number_of_labels_reaches_its_precision() -> None:
    for target in (0.5, 0.85, 0.9, 0.99):
        needed = least_labels(target)
        assert precision_threshold(np.ones(needed), np.ones(needed, bool), target) == 1.0
        assert precision_threshold(np.ones(needed - 1), np.ones(needed - 1, bool), target) == NEVER


def test_a_threshold_reaches_its_precision_or_is_infinite() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(4000)
    right = rng.random(4000) < confidence
    threshold = precision_threshold(confidence, right, 0.9)
    assert 0.75 < threshold < 0.9  # the accuracy above it is (1 + threshold) / 2
    assert right[confidence >= threshold].mean() >= 0.9
    assert precision_threshold(confidence, np.zeros(4000, dtype=bool), 0.9) == NEVER
    assert precision_threshold(np.zeros(0), np.zeros(0, dtype=bool), 0.9) == NEVER
    assert precision_threshold(np.ones(3), np.ones(3, dtype=bool), 0.9) == NEVER  # three labels are too few


def test_a_class_of_low_precision_gets_no_pseudo_labels() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 900)
    votes = np.where((gold == 0) & (rng.random(900) < 0.5), 1, gold)  # half of class 0 looks like class 1
    gold[np.flatnonzero(votes == 2)[2:]] = -1  # two human labels of class 2 are too few to measure a precision
    confidence = rng.uniform(0.6, 0.99, (900, 1))
    probs = np.where(np.eye(3, dtype=bool)[votes], confidence, (1 - confidence) / 2)
    assessment = Assessment(
        prior=probs,
        probs=probs,
        posterior=probs,
        votes={},
        transition=np.eye(3),
        sources=(),
        held_out=probs,
    )
    targets = find_thresholds(assessment, np.full(900, -1), gold, RefineConfig(pseudo_precision=0.72))
    assert targets.pseudo[0] < 0.7
    assert targets.pseudo[1] == NEVER
    assert targets.pseudo[2] == RefineConfig().pseudo_above
    assert "1 of 3 classes" in targets.words[1]


def test_mismatched_inputs_raise_errors() -> None:
    assessment = evidence([0.9, 0.06, 0.04], [0, 0, 0, 1])
    clip = Clip(ClipId("a"))
    with pytest.raises(ValueError, match="2 clips"):
        decide(assessment, [clip, clip], NAMES, RefineConfig(), families=FAMILIES)
    with pytest.raises(ValueError, match="llm"):
        decide(assessment, [clip], NAMES, RefineConfig(), families={k: v for k, v in FAMILIES.items() if k != "llm"})
    with pytest.raises(ValidationError, match="drop_below"):
        RefineConfig(drop_below=0.7)
