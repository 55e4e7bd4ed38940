"""The clips with cards: changed, dropped, reviewed and misjudged ones first, each label in turn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.labels.refine import Decision, LabelAction
from ecmf_pipeline.report.inputs import PredictedClip, ReportInput
from ecmf_pipeline.report.neighbours import Neighbours
from ecmf_pipeline.report.sample import choose_clips

LABELS = ["sad", "happy"]
ACTIONS = {0: LabelAction.RELABEL, 1: LabelAction.DROP, 2: LabelAction.REVIEW}


def make_run(clips: int) -> ReportInput:
    """Return a run in which clips 0, 1 and 2 of each hundred are changed, dropped and reviewed, and 3 is misjudged."""
    manifest, decisions, predictions = [], [], []
    for number in range(clips):
        name, label = ClipId(f"clip{number:05d}"), LABELS[number // 100 % 2]
        manifest.append(Clip(name, given_label=label, split=Split.TRAIN))
        action = ACTIONS.get(number % 100, LabelAction.KEEP)
        decisions.append(Decision(name, Split.TRAIN, label, label, action, 1.0, 0.9, 0.5, "", label))
        wrong = LABELS[1 - LABELS.index(label)]
        predictions.append(PredictedClip(name, "train", wrong if number % 100 == 3 else label, 0.9))
    return ReportInput(corpus={"labels": LABELS}, clips=manifest, refined=decisions, predictions=predictions)


def test_all_clips_of_a_small_corpus_have_a_card() -> None:
    chosen = choose_clips(make_run(300))
    assert len(chosen) == len(set(chosen)) == 300
    assert {int(name[4:]) % 100 for name in chosen[:12]} == {0, 1, 2, 3}


def test_clips_of_interest_come_first_and_the_rest_is_spread_over_labels() -> None:
    chosen = choose_clips(make_run(4000), 400)
    numbers = [int(name[4:]) for name in chosen]
    assert sum(number % 100 < 4 for number in numbers) == 160  # all of them
    rest = Counter(number // 100 % 2 for number in numbers if number % 100 >= 4)
    assert rest == {0: 120, 1: 120}


def test_each_kind_has_a_share_if_not_all_fit() -> None:
    chosen = choose_clips(make_run(4000), 40)
    assert Counter(int(name[4:]) % 100 for name in chosen) == {0: 10, 1: 10, 2: 10, 3: 10}


def test_near_duplicates_and_outliers_come_before_the_random_sample() -> None:
    found = Neighbours(
        4000, (("clip00010", "clip01020", 0.99), ("clip00010", "clip00000", 0.98)), (("clip02030", 5.0),)
    )
    chosen = choose_clips(replace(make_run(4000), neighbours=found), 400)
    assert len(chosen) == len(set(chosen)) == 400
    assert chosen[160:163] == ["clip00010", "clip01020", "clip02030"]
    assert choose_clips(replace(make_run(4000), neighbours=found), 40) == choose_clips(make_run(4000), 40)
