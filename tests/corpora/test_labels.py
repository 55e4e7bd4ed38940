"""Probable mistakes in labels and groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.corpora.labels import label_findings
from ecmf_pipeline.corpora.listing import CorpusListing, Finding


def findings(rows: Sequence[tuple[str, str, str]], labels: Sequence[str] = ("happy", "sad")) -> list[Finding]:
    """Return the findings of clips with the given label, gold label and group of each row."""
    clips = tuple(
        Clip(ClipId(f"c{i}"), given_label=given, gold_label=gold, group=group, split=Split.TRAIN)
        for i, (given, gold, group) in enumerate(rows)
    )
    return list(label_findings(CorpusListing(Path("corpus"), clips, tuple(labels), ())))


SOUND = [("happy", "happy", "anna"), ("sad", "", "ben")] * 10


def test_sound_labels_have_no_findings() -> None:
    assert findings(SOUND) == []
    assert findings([("happy", "", ""), ("sad", "", "")]) == []


@pytest.mark.parametrize(
    ("rows", "labels", "kind", "count", "parts"),
    [
        ([("hapy", "", "cora")], ("hapy", "happy", "sad"), "rare_label", 1, ["'hapy'", "'happy' (10 clips)"]),
        ([("bored", "", "cora")], ("bored", "happy", "sad"), "rare_label", 1, ["'bored'", "once"]),
        ([("sad", "sadd", "cora")] * 2, ("happy", "sad", "sadd"), "gold_label_not_given", 2, ["'sadd'", "'sad'"]),
        ([("N/A", "", "cora")] * 2, ("happy", "sad", "N/A"), "label_means_unknown", 2, ["'N/A'"]),
        ([], ("happy", "sad", "angry", "fear"), "empty_class", 2, ["'angry', 'fear'"]),
        ([("1", "", "cora"), ("2", "", "cora")] * 2, ("1", "2", "happy", "sad"), "numeric_label", 2, ["'1', '2'"]),
        ([("sad", "", "")] * 3, ("happy", "sad"), "clip_without_group", 3, ["3 of 23", "'c20'"]),
        ([("sad", "", "Unknown")] * 3, ("happy", "sad"), "unknown_group", 3, ["'Unknown'"]),
        ([("sad", "", "Anna")], ("happy", "sad"), "different_case", 1, ["'Anna' and 'anna'"]),
    ],
)
def test_mistake_is_reported(
    rows: list[tuple[str, str, str]], labels: tuple[str, ...], kind: str, count: int, parts: list[str]
) -> None:
    [finding] = findings([*SOUND, *rows], labels)
    assert (finding.kind, finding.count) == (kind, count)
    assert all(part in finding.message for part in parts)


def test_a_single_label_is_reported_before_training_fails() -> None:
    [finding] = findings([("happy", "", "")] * 3, ("happy",))
    assert (finding.kind, finding.count) == ("single_label", 3)
    assert "'happy'" in finding.message


def test_clips_that_differ_only_in_case_are_reported() -> None:
    clips = tuple(Clip(ClipId(name)) for name in ("V000", "v000", "v001"))
    [finding] = label_findings(CorpusListing(Path("corpus"), clips, (), ()))
    assert (finding.kind, finding.count) == ("different_case", 1)
    assert "'V000' and 'v000'" in finding.message
