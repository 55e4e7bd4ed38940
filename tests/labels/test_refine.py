from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ecmf_pipeline.clips import Clip, ClipId, Split
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.label_model import Assessment, assess_labels
from ecmf_pipeline.labels.refine import Decision, Verdict, decide

Simulate = Callable[..., Any]
NAMES = ("happy", "sad", "angry")
FAMILIES = {"face_linear": "face", "face_lightgbm": "face", "text": "text", "llm": "llm"}


def evidence(posterior: list[float], casts: list[int]) -> Assessment:
    """One clip, of which everything is known; casts of face_linear, face_lightgbm, text, llm."""
    row = np.array([posterior])
    label = int(row.argmax())
    voting = [cast for cast in casts if cast >= 0]
    agreement = np.mean([cast == label for cast in voting]) if voting else np.nan
    return Assessment(
        probs=row,
        posterior=row,
        labels=np.array([label]),
        confidence=row.max(axis=1),
        agreement=np.array([agreement]),
        votes={name: np.array([cast]) for name, cast in zip(FAMILIES, casts, strict=True)},
        transition=np.eye(3),
        sources=(),
    )


def decided(posterior: list[float], casts: list[int], given: str, config: RefineConfig | None = None) -> Decision:
    clip = Clip(ClipId("a"), given_label=given, split=Split.TRAIN if given else Split.UNLABELED)
    [decision] = decide(evidence(posterior, casts), [clip], NAMES, config or RefineConfig(), families=FAMILIES)
    return decision


def test_a_believed_label_is_kept() -> None:
    decision = decided([0.9, 0.06, 0.04], [0, 0, 0, 1], "happy")
    assert (decision.decision, decision.new_label) == (Verdict.KEEP, "happy")
    assert decision.weight == pytest.approx(1.0)  # alone in its class, it is the average
    assert decision.reason == "3 of 4 sources (2 families) say happy (posterior 0.90)"


@pytest.mark.parametrize(
    ("posterior", "casts", "verdict", "new"),
    [
        ([0.02, 0.96, 0.02], [1, 1, 1, 1], Verdict.RELABEL, "sad"),
        ([0.02, 0.94, 0.04], [1, 1, 1, 1], Verdict.DROP, ""),  # not sure enough to overwrite
        ([0.02, 0.96, 0.02], [1, 1, 1, -1], Verdict.DROP, ""),  # both voters of the face count once
        ([0.19, 0.80, 0.01], [1, 1, 0, 1], Verdict.DROP, ""),
        ([0.21, 0.78, 0.01], [1, 1, 0, 1], Verdict.REVIEW, "happy"),
        ([0.49, 0.50, 0.01], [1, 1, 0, 1], Verdict.REVIEW, "happy"),
        ([0.51, 0.48, 0.01], [1, 1, 0, 1], Verdict.KEEP, "happy"),
        ([0.01, 0.98, 0.01], [-1, -1, -1, -1], Verdict.KEEP, "happy"),  # nobody spoke against it
    ],
)
def test_thresholds_of_a_given_label(posterior: list[float], casts: list[int], verdict: Verdict, new: str) -> None:
    decision = decided(posterior, casts, "happy")
    assert (decision.decision, decision.new_label, decision.old_label) == (verdict, new, "happy")
    assert (decision.weight > 0) == (new != "")


def test_the_reason_names_both_labels() -> None:
    decision = decided([0.02, 0.96, 0.02], [1, 1, 1, 1], "happy")
    assert decision.reason == "4 of 4 sources (3 families) say sad (posterior 0.96); given label happy has 0.02"
    assert decision.confidence == pytest.approx(0.96)
    assert decided([0.5, 0.3, 0.2], [-1] * 4, "happy").reason == "no source votes; given label happy stands"


@pytest.mark.parametrize(
    ("posterior", "casts", "verdict"),
    [
        ([0.90, 0.06, 0.04], [0, 0, 0, 1], Verdict.PSEUDO),
        ([0.84, 0.12, 0.04], [0, 0, 0, 1], Verdict.REVIEW),
        ([0.90, 0.06, 0.04], [0, 0, -1, -1], Verdict.REVIEW),  # one family only
        ([0.90, 0.06, 0.04], [-1, -1, -1, -1], Verdict.REVIEW),
    ],
)
def test_thresholds_of_a_pseudo_label(posterior: list[float], casts: list[int], verdict: Verdict) -> None:
    pair = evidence(posterior, casts)
    both = replace(
        pair,
        **{name: np.repeat(getattr(pair, name), 2, axis=0) for name in ("probs", "posterior")},
        **{name: np.repeat(getattr(pair, name), 2) for name in ("labels", "confidence", "agreement")},
        votes={name: np.repeat(cast, 2) for name, cast in pair.votes.items()},
    )
    clips = [Clip(ClipId("a"), given_label="happy", split=Split.TRAIN), Clip(ClipId("b"))]
    unlabeled = decide(both, clips, NAMES, RefineConfig(), families=FAMILIES)[1]
    assert unlabeled.decision is verdict
    if verdict is Verdict.PSEUDO:
        assert (unlabeled.new_label, unlabeled.weight) == ("happy", pytest.approx(0.45))
    else:
        assert (unlabeled.new_label, unlabeled.weight) == ("", 0.0)


def test_a_quota_keeps_the_majority_from_swallowing_the_rest(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(0, 60, unlabeled=600)
    combined = assess_labels(world.votes, world.given)
    config = RefineConfig(pseudo_quota=0.5)
    decisions = decide(combined, world.clips, labels, config, families=world.families)
    for label in labels:
        trained = [d for d in decisions if d.old_label and d.new_label == label]
        pseudo = [d for d in decisions if d.decision is Verdict.PSEUDO and d.new_label == label]
        turned_away = [d for d in decisions if d.reason.endswith(f"; {label} has its quota of pseudo-labels")]
        assert len(pseudo) <= 0.5 * len(trained)
        assert all(d.decision is Verdict.REVIEW and d.weight == 0 for d in turned_away)
        assert turned_away
        assert min(d.confidence for d in pseudo) >= max(d.confidence for d in turned_away)


def test_only_the_splits_that_are_named_get_pseudo_labels(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(0, 60, unlabeled=60)
    clips = [replace(clip, split=Split.CANDIDATE) if clip.split is Split.UNLABELED else clip for clip in world.clips]
    combined = assess_labels(world.votes, world.given)
    both = decide(combined, clips, labels, RefineConfig(), families=world.families)
    neither = decide(combined, clips, labels, RefineConfig(pseudo_splits=(Split.UNLABELED,)), families=world.families)
    assert sum(d.decision is Verdict.PSEUDO for d in both) > 5
    assert not any(d.decision is Verdict.PSEUDO for d in neither)


def test_gold_labels_change_nothing(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(1, 40, unlabeled=20)
    combined = assess_labels(world.votes, world.given)
    golden = [replace(clip, gold_label="happy") for clip in world.clips]
    plain = decide(combined, world.clips, labels, RefineConfig(), families=world.families)
    assert decide(combined, golden, labels, RefineConfig(), families=world.families) == plain


def test_training_labels_get_better_and_few_right_ones_break(simulate: Simulate, labels: tuple[str, ...]) -> None:
    before, after, broken = [], [], []
    for seed in range(8):
        world = simulate(seed, 96)
        combined = assess_labels(world.votes, world.given, seed=seed)
        decisions = decide(combined, world.clips, labels, RefineConfig(), families=world.families)
        right = np.array([d.new_label == labels[t] for d, t in zip(decisions, world.truth, strict=True)])
        trained = np.array([d.weight > 0 for d in decisions])
        given_right = world.given == world.truth
        before.append(given_right.mean())
        after.append(right[trained].mean())
        broken.append((given_right & ~right).sum() / given_right.sum())
        assert after[-1] >= before[-1]
    assert np.mean(after) >= 0.93 > np.mean(before)
    assert np.mean(broken) <= 0.02


def test_each_class_weighs_as_much_as_it_counts(simulate: Simulate, labels: tuple[str, ...]) -> None:
    world = simulate(2, 300)
    decisions = decide(
        assess_labels(world.votes, world.given), world.clips, labels, RefineConfig(), families=world.families
    )
    for label in labels:
        weights = [d.weight for d in decisions if d.new_label == label]
        assert np.mean(weights) == pytest.approx(1.0)


def test_what_does_not_belong_together_is_refused() -> None:
    one = evidence([0.9, 0.06, 0.04], [0, 0, 0, 1])
    clip = Clip(ClipId("a"))
    with pytest.raises(ValueError, match="2 clips"):
        decide(one, [clip, clip], NAMES, RefineConfig(), families=FAMILIES)
    with pytest.raises(ValueError, match=r"no family for \['llm'\]"):
        decide(one, [clip], NAMES, RefineConfig(), families={k: v for k, v in FAMILIES.items() if k != "llm"})
    with pytest.raises(ValidationError, match="drop_below <= review_below"):
        RefineConfig(drop_below=0.7)
