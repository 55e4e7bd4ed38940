from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.labels import table_files
from ecmf_pipeline.labels.decision_files import REFINED_COLUMNS, read_decisions, write_clips_to_label, write_refined
from ecmf_pipeline.labels.refine import Decision, LabelAction, Vote
from ecmf_pipeline.labels.verdicts import read_answers
from ecmf_pipeline.labels.vote_files import read_votes, write_votes

NAMES = ("快乐", 'say "no", then', "NA")
CLIPS = ("片段,二", "nan", 'b "quoted"', "001")
POSTERIOR = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.0, 1.0, 0.0], [0.25, 0.5, 0.25]])


@pytest.fixture
def votes() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    made = {name: rng.dirichlet(np.ones(3), 4) for name in ("zeta", "llm, 你好", "null")}
    made["llm, 你好"][1] = np.nan
    return made


@pytest.fixture
def decisions() -> list[Decision]:
    kinds = [LabelAction.KEEP, LabelAction.DROP, LabelAction.PSEUDO, LabelAction.REVIEW]
    new = [NAMES[0], "", NAMES[1], ""]
    return [
        Decision(
            ClipId(c),
            Split.TRAIN,
            NAMES[2],
            n,
            k,
            0.1 + 0.2 if n else 0.0,
            1 / 3,
            float("nan"),
            'a, "b"',
            label=n or NAMES[0],
            rival=NAMES[2],
            log_odds=-0.7,
            log_odds_prior=1 / 3,
            log_odds_given=-1.0,
            log_odds_sources=-1 / 30,
        )
        for c, n, k in zip(CLIPS, new, kinds, strict=True)
    ]


def test_votes_with_unusual_names_round_trip(tmp_path: Path, votes: dict[str, Any]) -> None:
    path = tmp_path / "votes.csv"
    write_votes(path, CLIPS, votes, NAMES)
    table = read_votes(path, NAMES)
    assert table.clip_ids == tuple(sorted(CLIPS))
    assert set(table.votes) == set(votes)
    order = [CLIPS.index(clip) for clip in table.clip_ids]
    for source, probs in votes.items():
        assert_allclose(table.votes[source], probs[order], atol=1e-6)
    rewritten = tmp_path / "again.csv"
    write_votes(rewritten, table.clip_ids, table.votes, NAMES)
    assert rewritten.read_bytes() == path.read_bytes()


def test_votes_are_a_sorted_long_table_with_empty_abstentions(tmp_path: Path, votes: dict[str, Any]) -> None:
    path = tmp_path / "votes.csv"
    write_votes(path, CLIPS, votes, NAMES)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["clip_id", "source", "label", *(f"p_{name}" for name in NAMES)]
    assert [(row["clip_id"], row["source"]) for row in rows] == sorted((c, s) for c in CLIPS for s in votes)
    abstention = next(row for row in rows if row["clip_id"] == "nan" and row["source"] == "llm, 你好")
    assert [abstention["label"], *(abstention[f"p_{name}"] for name in NAMES)] == ["", "", "", ""]
    vote = next(row for row in rows if row["clip_id"] == "001" and row["source"] == "zeta")
    assert vote["label"] == NAMES[votes["zeta"][3].argmax()]


def test_vote_bytes_do_not_depend_on_the_order(tmp_path: Path, votes: dict[str, Any]) -> None:
    write_votes(tmp_path / "a.csv", CLIPS, votes, NAMES)
    backwards = {name: votes[name][::-1] for name in reversed(votes)}
    write_votes(tmp_path / "b.csv", CLIPS[::-1], backwards, NAMES)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_row_order_is_free_but_each_source_has_a_row_for_each_clip(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text("clip_id,source,label,p_b,p_a\nz,one,a,0.25,0.75\na,two,b,1,0\nz,two,,,\na,one,,,\n")
    table = read_votes(path, ("a", "b"))
    assert table.clip_ids == ("a", "z")
    assert_array_equal(table.votes["one"], [[np.nan, np.nan], [0.75, 0.25]])
    assert_array_equal(table.votes["two"], [[0, 1], [np.nan, np.nan]])
    path.write_text(path.read_text().removesuffix("a,one,,,\n"))
    with pytest.raises(InputError, match="'a' and source 'one'"):
        read_votes(path, ("a", "b"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "damaged"),
        ("clip_id,source,label,p_a\nx,s,a,1\n", "'p_b'"),
        ("clip_id,source,label,p_a,p_b\nx,s,a,0.9,0.9\n", "row 2: the probabilities"),
        ("clip_id,source,label,p_a,p_b\nx,s,a,,0.9\n", "row 2: the probabilities"),
        ("clip_id,source,label,p_a,p_b\nx,s,a,1,0\ny,s,b,1.5,-0.5\n", "row 3: the probabilities"),
        ("clip_id,source,label,p_a,p_b\nx,s,c,1,0\n", "row 2: unknown label 'c'"),
        ("clip_id,source,label,p_a,p_b\nx,s,b,1,0\n", "row 2: label is 'b'"),
        ("clip_id,source,label,p_a,p_b\nx,s,a,,\n", "row 2: label is 'a'"),
        ("clip_id,source,label,p_a,p_b\nx,s,a,1,0\nx,s,b,0,1\n", "row 3: the source votes twice"),
        ("clip_id,source,label,p_a,p_b\nx,s,a,one,0\n", "row 2: p_a is not a finite number"),
        ("clip_id,source,label,p_a,p_b\nx,s,a,1,0,7\n", "row 2 is damaged: 6 cells instead of 5"),
        ("clip_id,source,label,p_a,p_b\nx,s\n", "row 2 is damaged: 2 cells instead of 5"),
        ('clip_id,source,label,p_a,p_b\nx,"s,a,1,0\n', "damaged"),
    ],
)
def test_damaged_votes_raise_input_error_with_the_command(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "votes.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_votes(path, ("a", "b"))
    assert part in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.command == "ecmf-pipe vote"


def test_missing_tables_raise_missing_input_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingInput) as caught:
        read_votes(tmp_path / "votes.csv", ("a",))
    assert caught.value.command == "ecmf-pipe vote"
    with pytest.raises(MissingInput) as caught:
        read_decisions(tmp_path / "refined.csv")
    assert caught.value.command == "ecmf-pipe refine"


def test_writing_votes_of_another_shape_raises_value_error(tmp_path: Path, votes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shape"):
        write_votes(tmp_path / "votes.csv", CLIPS[:3], votes, NAMES)
    with pytest.raises(ValueError, match="unique"):
        write_votes(tmp_path / "votes.csv", ["x"] * 4, votes, NAMES)


def test_refined_labels_round_trip(tmp_path: Path, votes: dict[str, Any], decisions: list[Decision]) -> None:
    path = tmp_path / "refined.csv"
    write_refined(path, decisions, votes, POSTERIOR, NAMES)
    with path.open(encoding="utf-8", newline="") as file:
        header, *records = csv.reader(file)
    after = [*(f"posterior_{name}" for name in NAMES), *(f"{s}_{x}" for s in sorted(votes) for x in ("vote", "prob"))]
    assert header == [*REFINED_COLUMNS, *after]
    rows = {record[0]: dict(zip(header, record, strict=True)) for record in records}
    posterior = [[float(rows[clip][f"posterior_{name}"]) for name in NAMES] for clip in CLIPS]
    np.testing.assert_allclose(posterior, POSTERIOR)
    decisions_by_clip = {decision.clip_id: decision for decision in read_decisions(path, votes=True)}
    assert list(decisions_by_clip) == sorted(CLIPS)
    dropped = decisions_by_clip[ClipId("nan")]
    assert (dropped.decision, dropped.refined_label, dropped.given_label) == (LabelAction.DROP, "", "NA")
    assert np.isnan(dropped.agreement)
    votes_by_source = {vote.source: vote for vote in dropped.votes}
    assert votes_by_source["llm, 你好"] == Vote("llm, 你好", "")
    assert votes_by_source["zeta"].probability == pytest.approx(votes["zeta"][1].max(), abs=1e-6)
    assert (dropped.label, dropped.rival, dropped.log_odds_given) == (NAMES[0], NAMES[2], -1.0)
    assert not any(decision.votes for decision in read_decisions(path))
    assert {
        name: (decision.refined_label, decision.weight)
        for name, decision in decisions_by_clip.items()
        if decision.weight
    } == {
        CLIPS[0]: (NAMES[0], 0.3),
        CLIPS[2]: (NAMES[1], 0.3),
    }
    assert b"0.333333," in path.read_bytes()


def test_refined_bytes_do_not_depend_on_the_order(
    tmp_path: Path, votes: dict[str, Any], decisions: list[Decision]
) -> None:
    write_refined(tmp_path / "a.csv", decisions, votes, POSTERIOR, NAMES)
    write_refined(
        tmp_path / "b.csv", decisions[::-1], {k: votes[k][::-1] for k in reversed(votes)}, POSTERIOR[::-1], NAMES
    )
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        (",keep,", ",keap,", "unknown decision"),
        (",-1.0,", ",-2.0,", "do not add up"),
        (",-1.0,", ",,", "incomplete"),
        (",0.3,", ",-0.3,", "weight is not a number"),
        (",0.3,", ",,", "weight is not a number"),
        (",0.3,", ",much,", "weight is not a finite number"),
        ("clip_id", "name", "'clip_id'"),
        ("NA,快乐,keep", "NA,,keep", "without a label"),
        ("001", "nan", "twice"),
    ],
)
def test_damaged_refined_labels_raise_input_error_with_the_command(
    tmp_path: Path, votes: dict[str, Any], decisions: list[Decision], old: str, new: str, part: str
) -> None:
    path = tmp_path / "refined.csv"
    write_refined(path, decisions, votes, POSTERIOR, NAMES)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_decisions(path)
    assert part in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.command == "ecmf-pipe refine"


def test_clips_to_label_open_as_text_and_their_verdicts_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "next.csv"
    names = ("=1+1", "-clip", "@b", "'=c", "plain")
    clips = [
        Clip(ClipId(name), path=f"{name}.mp4", transcript="+words", given_label="+sad", split=Split.TRAIN)
        for name in names
    ]
    decisions = [
        Decision(clip.clip_id, clip.split, "+sad", "+sad", LabelAction.KEEP, 1.0, 0.6, 1.0, "=reason") for clip in clips
    ]
    votes = {"-face": np.tile([0.2, 0.8], (5, 1)), "text": np.tile([0.1, 0.9], (5, 1)), "llm": np.full((5, 2), np.nan)}
    votes["text"][1] = [0.9, 0.1]
    write_clips_to_label(path, clips, decisions, votes, np.arange(5) / 10, [4, 3, 2, 1, 0], ("happy", "+sad"))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    assert [float(row["gain"]) for row in rows] == [0.4, 0.3, 0.2, 0.1, 0.0]
    assert (rows[0]["path"], rows[0]["transcript"]) == ("plain.mp4", "'+words")
    assert [row["sources"] for row in rows[2:4]] == [
        "'+sad: text 0.90, -face 0.80",
        "'+sad: -face 0.80; happy: text 0.90",
    ]
    verdicts = tmp_path / "verdicts.csv"
    with verdicts.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["clip_id", "label"], *([row["clip_id"], row["given_label"]] for row in rows)])
    answers, others = read_answers(verdicts, ("happy", "+sad"), names)
    assert ([(a.clip_id, a.label) for a in answers], others) == ([(row.clip_id, "+sad") for row in clips[::-1]], 0)


def test_bytes_do_not_depend_on_the_blocks_of_rows(
    tmp_path: Path, votes: dict[str, Any], decisions: list[Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    def written() -> list[bytes]:
        write_votes(tmp_path / "votes.csv", CLIPS, votes, NAMES)
        write_refined(tmp_path / "refined.csv", decisions, votes, POSTERIOR, NAMES)
        return [(tmp_path / name).read_bytes() for name in ("votes.csv", "refined.csv")]

    whole = written()
    monkeypatch.setattr(table_files, "_BLOCK", 3)
    assert written() == whole


def test_decisions_are_columns_with_the_votes_of_each_source(
    tmp_path: Path, votes: dict[str, Any], decisions: list[Decision]
) -> None:
    path = tmp_path / "refined.csv"
    write_refined(path, decisions, votes, POSTERIOR, NAMES)
    read = read_decisions(path, votes=True)
    assert read.sources == sorted(votes)
    assert read.counts("decision") == {"keep": 1, "drop": 1, "pseudo": 1, "review": 1}
    assert read.is_trained.tolist() == [bool(one.refined_label) for one in read]
    assert [one.clip_id for one in read.where(read.is_trained)] == [one.clip_id for one in read if one.weight > 0]
    assert read[0].votes == next(iter(read)).votes
