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
    NEVER,
    Decision,
    LabelAction,
    decide,
    find_targets,
    precision_threshold,
    worth_labelling,
)
from tests.labels.assessing import assessed

Simulate = Callable[..., Any]
NAMES = ("happy", "sad", "angry")
FAMILIES = {"face_linear": "face", "face_lightgbm": "face", "text": "text", "llm": "llm"}


def evidence(posterior: list[float], casts: list[int]) -> Assessment:
    """One clip, of which everything is known; casts of face_linear, face_lightgbm, text, llm."""
    row = np.array([posterior])
    return Assessment(
        probs=row,
        posterior=row,
        votes={name: np.array([hard_votes]) for name, hard_votes in zip(FAMILIES, casts, strict=True)},
        transition=np.eye(3),
        sources=(),
    )


def decided(posterior: list[float], casts: list[int], given: str, config: RefineConfig | None = None) -> Decision:
    clip = Clip(ClipId("a"), given_label=given, split=Split.TRAIN if given else Split.UNLABELED)
    [decision] = decide(evidence(posterior, casts), [clip], NAMES, config or RefineConfig(), families=FAMILIES)
    return decision


def test_a_believed_label_is_kept() -> None:
    decision = decided([0.9, 0.06, 0.04], [0, 0, 0, 1], "happy")
    assert (decision.decision, decision.refined_label) == (LabelAction.KEEP, "happy")
    assert decision.weight == pytest.approx(1.0)  # alone in its class, it is the average
    assert decision.reason == "3 of 4 sources (2 families) say happy (posterior 0.90)"


@pytest.mark.parametrize(
    ("posterior", "casts", "verdict", "new"),
    [
        ([0.02, 0.96, 0.02], [1, 1, 1, 1], LabelAction.DROP, ""),  # no verdicts say that replacing it would be right
        ([0.19, 0.80, 0.01], [1, 1, 0, 1], LabelAction.DROP, ""),
        ([0.21, 0.78, 0.01], [1, 1, 0, 1], LabelAction.REVIEW, "happy"),
        ([0.49, 0.50, 0.01], [1, 1, 0, 1], LabelAction.REVIEW, "happy"),
        ([0.51, 0.48, 0.01], [1, 1, 0, 1], LabelAction.DOWN_WEIGHT, "happy"),
        ([0.79, 0.20, 0.01], [0, 1, 0, 1], LabelAction.DOWN_WEIGHT, "happy"),
        ([0.81, 0.18, 0.01], [0, 1, 0, 1], LabelAction.KEEP, "happy"),
        ([0.01, 0.98, 0.01], [-1, -1, -1, -1], LabelAction.KEEP, "happy"),  # nobody spoke against it
    ],
)
def test_thresholds_of_a_given_label(posterior: list[float], casts: list[int], verdict: LabelAction, new: str) -> None:
    decision = decided(posterior, casts, "happy")
    assert (decision.decision, decision.refined_label, decision.given_label) == (verdict, new, "happy")
    assert (decision.weight > 0) == (new != "")


def test_the_reason_names_both_labels() -> None:
    decision = decided([0.02, 0.96, 0.02], [1, 1, 1, 1], "happy")
    said = "4 of 4 sources (3 families) say sad (posterior 0.96); given label happy has 0.02; left out of training"
    assert decision.reason == said
    assert decision.confidence == pytest.approx(0.96)
    assert decided([0.5, 0.3, 0.2], [-1] * 4, "happy").reason == "no source votes; given label happy stands"


@pytest.mark.parametrize(
    ("posterior", "casts", "verdict"),
    [
        ([0.90, 0.06, 0.04], [0, 0, 0, 1], LabelAction.PSEUDO),
        ([0.84, 0.12, 0.04], [0, 0, 0, 1], LabelAction.REVIEW),
        ([0.90, 0.06, 0.04], [0, 0, -1, -1], LabelAction.REVIEW),  # one family only
        ([0.90, 0.06, 0.04], [-1, -1, -1, -1], LabelAction.REVIEW),
    ],
)
def test_thresholds_of_a_pseudo_label(posterior: list[float], casts: list[int], verdict: LabelAction) -> None:
    pair = evidence(posterior, casts)
    both = replace(
        pair,
        **{name: np.repeat(getattr(pair, name), 2, axis=0) for name in ("probs", "posterior")},
        votes={name: np.repeat(hard_votes, 2) for name, hard_votes in pair.votes.items()},
    )
    clips = [Clip(ClipId("a"), given_label="happy", split=Split.TRAIN), Clip(ClipId("b"))]
    unlabeled = decide(both, clips, NAMES, RefineConfig(), families=FAMILIES)[1]
    assert unlabeled.decision is verdict
    if verdict is LabelAction.PSEUDO:
        assert (unlabeled.refined_label, unlabeled.weight) == ("happy", pytest.approx(0.45))
    else:
        assert (unlabeled.refined_label, unlabeled.weight) == ("", 0.0)


def test_a_quota_keeps_the_majority_from_swallowing_the_rest(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(0, 60, unlabeled=600)
    combined = assessed(world.votes, world.given)
    config = RefineConfig(pseudo_quota=0.5, review_budget=0)
    decisions = decide(combined, world.clips, labels, config, families=world.families)
    for label in labels:
        trained = [d for d in decisions if d.given_label and d.refined_label == label]
        pseudo = [d for d in decisions if d.decision is LabelAction.PSEUDO and d.refined_label == label]
        turned_away = [
            d for d in decisions if d.reason.endswith("quota of pseudo-labels") and f"say {label} " in d.reason
        ]
        assert len(pseudo) <= 0.5 * len(trained)
        assert all(d.decision is LabelAction.LEAVE and d.weight == 0 for d in turned_away)
        assert turned_away
        assert min(d.confidence for d in pseudo) >= max(d.confidence for d in turned_away)


def test_only_the_splits_that_are_named_get_pseudo_labels(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(0, 60, unlabeled=60)
    clips = [replace(clip, split=Split.CANDIDATE) if clip.split is Split.UNLABELED else clip for clip in world.clips]
    combined = assessed(world.votes, world.given)
    both = decide(combined, clips, labels, RefineConfig(), families=world.families)
    neither = decide(combined, clips, labels, RefineConfig(pseudo_splits=(Split.UNLABELED,)), families=world.families)
    assert sum(d.decision is LabelAction.PSEUDO for d in both) > 5
    assert not any(d.decision is LabelAction.PSEUDO for d in neither)


def test_gold_labels_change_nothing(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(1, 40, unlabeled=20)
    combined = assessed(world.votes, world.given)
    golden = [replace(clip, gold_label="happy") for clip in world.clips]
    plain = decide(combined, world.clips, labels, RefineConfig(), families=world.families)
    assert decide(combined, golden, labels, RefineConfig(), families=world.families) == plain


def test_training_labels_get_better_and_few_right_ones_break(simulate: Simulate, labels: tuple[str, ...]) -> None:
    before, after, broken = [], [], []
    for seed in range(8):
        world = simulate(seed, 96)
        combined = assessed(world.votes, world.given, seed=seed)
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


def test_labels_weigh_what_they_are_believed(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(2, 300)
    assessment = assessed(world.votes, world.given)
    decisions = decide(assessment, world.clips, labels, RefineConfig(), families=world.families)
    weights = np.array([d.weight for d in decisions])
    trained = weights > 0
    assert weights[trained].mean() == pytest.approx(1.0)
    belief = assessment.posterior[np.arange(300), world.given]
    assert np.corrcoef(weights[trained], belief[trained])[0, 1] > 0.999


def test_verdicts_stand_and_weigh_in_full(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(3, 60, unlabeled=20)
    gold = np.full(80, -1)
    wrong = int(np.flatnonzero(world.given[:60] != world.truth[:60])[0])
    right = int(np.flatnonzero(world.given[:60] == world.truth[:60])[0])
    gold[[wrong, right, 70]] = world.truth[[wrong, right, 70]]
    assessment = assess(world.votes, world.given, gold, folds=np.arange(80) % 5, seed=0, config=LabelModelConfig())
    decisions = decide(assessment, world.clips, labels, RefineConfig(), families=world.families, gold=gold)
    expected = {wrong: LabelAction.RELABEL, right: LabelAction.KEEP, 70: LabelAction.PSEUDO}
    for row, verdict in expected.items():
        decision = decisions[row]
        assert (decision.decision, decision.refined_label) == (verdict, labels[world.truth[row]])
        assert "verdict" in decision.reason
        assert decision.weight == pytest.approx(max(d.weight for d in decisions))


def test_enough_verdicts_let_labels_be_replaced_and_they_are_right(simulate: Simulate, labels: tuple[str, ...]) -> None:
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


def test_unlabeled_clips_that_would_teach_most_are_listed(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(1, 60, unlabeled=200)
    assessment = assessed(world.votes, world.given)
    decisions = decide(assessment, world.clips, labels, RefineConfig(review_budget=7), families=world.families)
    unlabeled = [d for d in decisions if not d.given_label]
    review = [d.confidence for d in unlabeled if d.decision is LabelAction.REVIEW]
    assert len(review) == 7
    assert np.mean(review) < np.mean([d.confidence for d in unlabeled if d.decision is LabelAction.LEAVE])


def test_doubtful_clips_come_first_and_no_class_takes_all(simulate: Simulate) -> None:
    world = simulate(2, 600)
    assessment = assessed(world.votes, world.given)
    known = np.arange(600) < 50
    rows = np.array(worth_labelling(assessment.posterior, known, 60))
    assert len(set(rows.tolist())) == 60
    assert not known[rows].any()
    wrong = world.given != world.truth
    assert wrong[rows].mean() > 1.5 * wrong[50:].mean()
    assert np.bincount(assessment.labels[rows], minlength=6).max() <= 60 / 6 + 1
    assert len(worth_labelling(assessment.posterior, known, 10_000)) == 550


def test_a_threshold_reaches_its_precision_or_is_not_found() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(4000)
    right = rng.random(4000) < confidence
    threshold = precision_threshold(confidence, right, 0.9)
    assert 0.75 < threshold < 0.9  # those above it are right (1 + threshold) / 2 of the time
    assert right[confidence >= threshold].mean() >= 0.9
    assert precision_threshold(confidence, np.zeros(4000, dtype=bool), 0.9) == NEVER
    assert precision_threshold(np.zeros(0), np.zeros(0, dtype=bool), 0.9) == NEVER
    assert precision_threshold(np.ones(3), np.ones(3, dtype=bool), 0.9) == NEVER  # three are too few to know


def test_a_class_that_is_known_to_be_wrong_too_often_gets_no_pseudo_label() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 900)
    found = np.where((gold == 0) & (rng.random(900) < 0.5), 1, gold)  # half of class 0 looks like class 1
    gold[np.flatnonzero(found == 2)[2:]] = -1  # of class 2 two verdicts are too few to show anything
    sure = rng.uniform(0.6, 0.99, (900, 1))
    probs = np.where(np.eye(3, dtype=bool)[found], sure, (1 - sure) / 2)
    known = Assessment(
        probs=probs,
        posterior=probs,
        votes={},
        transition=np.eye(3),
        sources=(),
        held_out=probs,
    )
    targets = find_targets(known, np.full(900, -1), gold, RefineConfig(pseudo_precision=0.72))
    assert targets.pseudo[0] < 0.7
    assert targets.pseudo[1] == NEVER
    assert targets.pseudo[2] == RefineConfig().pseudo_above
    assert "1 of 3 classes get none" in targets.words[1]


def test_what_does_not_belong_together_is_refused() -> None:
    one = evidence([0.9, 0.06, 0.04], [0, 0, 0, 1])
    clip = Clip(ClipId("a"))
    with pytest.raises(ValueError, match="2 clips"):
        decide(one, [clip, clip], NAMES, RefineConfig(), families=FAMILIES)
    with pytest.raises(ValueError, match=r"no family for \['llm'\]"):
        decide(one, [clip], NAMES, RefineConfig(), families={k: v for k, v in FAMILIES.items() if k != "llm"})
    with pytest.raises(ValidationError, match="drop_below <= review_below <= keep_above"):
        RefineConfig(drop_below=0.7)
