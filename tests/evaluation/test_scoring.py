"""What `evaluate` measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.evaluation.config import EvaluateConfig
from ecmf_pipeline.evaluation.scoring import Judge, evaluate, label_quality
from ecmf_pipeline.labels.refine import Decision, LabelAction

LABELS = ("happy", "sad")
CONFIG = EvaluateConfig(draws=100)


def clip(name: str, given: str = "", gold: str = "", split: Split = Split.TRAIN, group: str = "") -> Clip:
    return Clip(ClipId(name), given_label=given, gold_label=gold, split=split, group=group)


def table(clips: Sequence[Clip], predicted: Sequence[str]) -> PredictionTable:
    probs = np.array([[0.9, 0.1] if label == "happy" else [0.1, 0.9] for label in predicted], np.float32)
    return PredictionTable(
        clip_ids=tuple(clip.clip_id for clip in clips),
        splits=tuple(clip.split.value for clip in clips),
        out_of_fold=np.ones(len(clips), bool),
        flags=("",) * len(clips),
        label_names=LABELS,
        probs=probs,
        modalities=("face",),
        modality_weights=np.ones((len(clips), 1), np.float32),
    )


NO_VERDICTS = np.full(5, -1)


def decision(name: str, old: str, new: str, weight: float, verdict: LabelAction = LabelAction.KEEP) -> Decision:
    split = Split.TRAIN if old else Split.CANDIDATE
    return Decision(ClipId(name), split, old, new, verdict, weight, 0.9, 1.0, "")


@pytest.fixture
def clips() -> list[Clip]:
    return [
        clip("a", "happy", "happy", group="s1"),
        clip("b", "sad", "happy", group="s1"),
        clip("c", "sad", "sad", group="s2"),
        clip("d", "", "sad", Split.CANDIDATE, group="s2"),
        clip("e", "", "", Split.UNLABELED),
    ]


def test_gold_labels_judge_where_there_are_any(clips):
    judge = Judge(clips, LABELS, CONFIG)
    assert judge.by == "gold"
    assert [clip.clip_id for clip in judge.clips] == ["a", "b", "c", "d"]
    assert judge.scores({"a": "happy", "b": "happy", "c": "sad", "d": "happy"})["accuracy"] == 0.75
    assert judge.scores({"d": "sad"}, Split.CANDIDATE)["weighted_f1"] == 1.0


def test_given_labels_judge_where_there_is_no_gold(clips):
    bare = [clip(c.clip_id, c.given_label, "", c.split) for c in clips]
    judge = Judge(bare, LABELS, CONFIG)
    assert judge.by == "given"
    assert len(judge.clips) == 3


def test_the_whole_evaluation(clips):
    good = table(clips, ["happy", "happy", "sad", "sad", "sad"])
    bad = table(clips, ["sad", "happy", "sad", "happy", "sad"])
    decisions = [decision("a", "happy", "happy", 1.0), decision("b", "sad", "happy", 1.0, LabelAction.RELABEL)]
    tables = {"fusion": good, "face": bad, "text": bad}
    found = evaluate(Judge(clips, LABELS, CONFIG), clips, tables, bad, decisions, NO_VERDICTS)
    assert found["model"] == "refined"
    assert found["weighted_f1"] == found["fusion"]["refined"]["weighted_f1"] < found["fusion"]["given"]["weighted_f1"]
    assert found["fusion_over_best_modality"]["difference"] > 0
    assert found["refined_over_given"]["difference"] < 0
    assert found["confusion"]["counts"] == [[1, 1], [1, 1]]
    assert set(found["by_split"]) == {"train", "candidate"}
    assert found["labels"]["fixed"] == 1


def test_without_gold_nothing_is_said_about_label_quality(clips):
    bare = [clip(c.clip_id, c.given_label, "", c.split) for c in clips]
    good = table(bare, ["happy", "happy", "sad", "sad", "sad"])
    found = evaluate(Judge(bare, LABELS, CONFIG), bare, {"fusion": good}, good, [], NO_VERDICTS)
    assert found["labels"] is None
    assert found["fusion_over_best_modality"] is None


def test_label_quality_counts_what_was_mended_and_what_was_spoilt(clips):
    found = label_quality(
        clips,
        [
            decision("a", "happy", "sad", 1.0, LabelAction.RELABEL),  # was right: broken
            decision("b", "sad", "happy", 0.8, LabelAction.RELABEL),  # was wrong: fixed
            decision("c", "sad", "", 0.0, LabelAction.DROP),  # was right: lost
            decision("d", "", "sad", 0.4, LabelAction.PSEUDO),
            decision("e", "", "sad", 0.4, LabelAction.PSEUDO),  # its truth is unknown
        ],
        {},
    )
    assert found["given"] == {"clips": 3, "accuracy": 0.666667}
    assert found["refined"] == {"clips": 2, "accuracy": 0.5}
    assert (found["fixed"], found["broken"], found["dropped_wrong"], found["dropped_right"]) == (1, 1, 0, 1)
    assert found["pseudo"] == {"clips": 1, "accuracy": 1.0}
    assert {found[f"{name}_by_verdicts"] for name in ("fixed", "broken", "pseudo")} == {0}


def test_what_a_person_mended_is_counted_apart_from_what_the_votes_did(clips):
    decisions = [
        decision("a", "happy", "sad", 1.0, LabelAction.RELABEL),
        decision("b", "sad", "happy", 0.8, LabelAction.RELABEL),
        decision("f", "sad", "happy", 0.8, LabelAction.RELABEL),
        decision("d", "", "sad", 0.4, LabelAction.PSEUDO),
    ]
    more = [*clips, clip("f", "sad", "happy")]
    found = label_quality(more, decisions, {"b": "happy", "c": "sad"})
    assert (found["fixed"], found["fixed_by_verdicts"]) == (2, 1)
    assert (found["broken"], found["broken_by_verdicts"]) == (1, 0)
    assert (found["pseudo"]["clips"], found["pseudo_by_verdicts"]) == (1, 0)
    found = label_quality(more, decisions, {"a": "sad", "d": "sad", "f": "sad"})
    assert found["fixed_by_verdicts"] == 0, "the votes said otherwise than this verdict, which is newer than they"
    assert (found["broken_by_verdicts"], found["pseudo_by_verdicts"]) == (1, 1)
