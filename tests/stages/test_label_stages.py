"""Tests of `vote`, `refine` and `evaluate` on synthetic features."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Split, read_manifest, write_corpus_tables
from ecmf_pipeline.core.errors import InputError, MissingInput, TooFewClips
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.core.tables import write_sealed_csv
from ecmf_pipeline.labels.decision_files import read_decisions
from ecmf_pipeline.report.evidence import evidence_blocks
from ecmf_pipeline.settings import resolve
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages import evaluate, refine, vote
from ecmf_pipeline.stages.shared.inputs import all_votes, read_labelled_corpus

CLIPS = 60
TRUTH = np.arange(CLIPS) % 2
PARAMS = """
train: {fusion: {hidden: 8, heads: 2}, training: {folds: 3, seeds: 1, epochs: 5, learning_rate: 0.02}}
vote: {folds: 3, rounds: ROUNDS, lightgbm: null}
evaluate: {draws: 100}
"""


def table(labels: np.ndarray[Any, Any]) -> PredictionTable:
    clips = read_manifest(paths.MANIFEST)
    return PredictionTable(
        clip_ids=tuple(clip.clip_id for clip in clips),
        splits=tuple(clip.split.value for clip in clips),
        out_of_fold=np.ones(CLIPS, dtype=bool),
        flags=("",) * CLIPS,
        label_names=("happy", "sad"),
        probs=np.where(np.eye(2)[labels] > 0, 0.9, 0.1).astype(np.float32),
        modalities=("face", "text"),
        modality_weights=np.full((CLIPS, 2), 0.5, np.float32),
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A project that is finished up to `predict`; the returned function sets the number of voting rounds."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    features = {
        name: (rng.normal(size=(CLIPS, 4)) + 1.5 * TRUTH[:, None]).astype(np.float32) for name in ("face", "text")
    }
    for stage in (vote, evaluate):
        monkeypatch.setattr(stage, "read_features", lambda _params, _clips: features)
    names = ("happy", "sad")
    clips = [
        Clip(
            ClipId(f"c{row:02d}"),
            given_label=names[label if row % 7 else 1 - label] if row < 50 else "",
            gold_label=names[label],
            split=Split.TRAIN if row < 50 else Split.UNLABELED,
        )
        for row, label in enumerate(TRUTH.tolist())
    ]
    write_corpus_tables(Corpus(clips, [*names], [], synthetic=False))
    for labels, name in (("given", "fusion"), ("given", "face"), ("refined", "fusion")):
        table(TRUTH).write(paths.predictions(labels) / f"{name}.csv")  # type: ignore[arg-type]

    def set_rounds(rounds: int) -> None:
        Path("params.yaml").write_text(PARAMS.replace("ROUNDS", str(rounds)))

    return set_rounds


def sources() -> set[str]:
    with paths.VOTES.open(newline="") as file:
        return {row["source"] for row in csv.DictReader(file)}


def test_one_round_takes_the_vote_of_the_fusion_model_from_predict(project: Callable[[int], None]) -> None:
    project(1)
    vote.run()
    assert sources() == {"face/linear", "text/linear", "all/linear", "llm"}
    votes = all_votes(read_labelled_corpus())
    np.testing.assert_allclose(votes["fusion"], np.where(np.eye(2)[TRUTH] > 0, 0.9, 0.1), atol=1e-6)
    write_corpus_tables(Corpus(read_manifest(paths.MANIFEST)[:-1], ["happy", "sad"], [], synthetic=False))
    with pytest.raises(MissingInput, match="other clips") as caught:
        refine.run()
    assert caught.value.command == "ecmf-pipe vote"


def test_several_rounds_train_the_fusion_model_and_all_outputs_are_written(
    project: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project(2)
    increasing = iter(range(10))
    monkeypatch.setattr(vote, "held_out_score", lambda *_, **__: float(next(increasing)))
    vote.run()
    assert "round 2 is used" in capsys.readouterr().out
    assert sources() == {"face/linear", "text/linear", "all/linear", "llm", "fusion"}
    votes = all_votes(read_labelled_corpus())
    assert not np.allclose(votes["fusion"], np.where(np.eye(2)[TRUTH] > 0, 0.9, 0.1))
    refine.run()
    evaluate.run()
    metrics = json.loads((paths.METRICS / "evaluate.json").read_text())
    assert set(metrics["controls"]["fusion"]["sets"]) == set(metrics["controls"]["sets"])
    assert metrics["label_methods"]["clips"] == CLIPS
    assert {"majority", "Dawid-Skene", "gold-only stack"} <= set(metrics["label_methods"]["methods"])
    by_source = json.loads(paths.SOURCES.read_text())["sources"]
    assert set(by_source) == {"face/linear", "text/linear", "all/linear", "llm", "fusion", "given label"}
    assert by_source["llm"]["votes"] == 0
    assert by_source["llm"]["reliability"] is None
    assert "fusion model" in capsys.readouterr().out


def test_labels_that_verdicts_replace_are_counted_separately(
    project: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    project(1)
    wrong = [clip for clip in read_manifest(paths.MANIFEST) if clip.given_label not in {clip.gold_label, ""}][:3]
    Path("verdicts.csv").write_text("clip_id,label\n" + "".join(f"{c.clip_id},{c.gold_label}\n" for c in wrong))
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "refine: {verdicts: verdicts.csv}\n")
    vote.run()
    refine.run()
    printed = capsys.readouterr().out
    assert "3 relabel (all by verdict)" in printed
    assert "3 of 30 needed verdicts" in printed
    evaluate.run()
    labels = json.loads((paths.METRICS / "evaluate.json").read_text())["labels"]
    assert labels["fixed_by_verdicts"] == labels["fixed"] == 3, "votes replace no label without 30 verdicts"
    assert "all by human labels" in capsys.readouterr().out


def test_clips_to_label_next_are_listed_with_their_file_words_and_votes(project: Callable[[int], None]) -> None:
    project(1)
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("lightgbm: null", "lightgbm: null, inputs: []")
    )
    corpus = read_labelled_corpus()
    clips = [
        replace(
            clip, path=f"{clip.clip_id}.mp4", has_audio=row % 2 == 0, transcript="" if row % 4 == 1 else f"word {row}"
        )
        for row, clip in enumerate(corpus.clips)
    ]
    write_corpus_tables(replace(corpus, clips=clips))
    vote.run()
    refine.run()
    with paths.NEXT.open(newline="") as file:
        rows = list(csv.DictReader(file))
    number = [int(row["clip_id"][1:]) for row in rows]
    assert set(number) == {row for row in range(CLIPS) if row % 4 != 1}, "unreadable clips without words are left out"
    readable = [row % 2 == 0 for row in number]
    assert readable == sorted(readable, reverse=True), "clips that can only be read are last"
    gains = np.array([float(row["gain"]) for row in rows if int(row["clip_id"][1:]) % 2 == 0])
    assert (np.diff(gains) <= 0).all()
    assert rows[0]["path"] == f"{rows[0]['clip_id']}.mp4"
    assert rows[0]["transcript"] == f"word {number[0]}"
    decision = {decision.clip_id: decision for decision in read_decisions(paths.REFINED, votes=True)}[
        rows[0]["clip_id"]
    ]
    for one in decision.votes:
        assert (f"{one.source} {one.probability or 0:.2f}" in rows[0]["sources"]) == bool(one.label)
    first_five = [row for row in number[:5] if row < 50]
    assert np.mean([row % 7 == 0 for row in first_five]) > 0.5, "wrong given labels precede right ones"


def write_sources(**files: str) -> None:
    """Write csv files of votes, given without their header, and add them to the params."""
    for name, text in files.items():
        Path(f"{name}.csv").write_text(f"clip_id,source,label\n{text}")
    names = ", ".join(f"{name}.csv" for name in files)
    params = Path("params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("lightgbm: null", f"lightgbm: null, sources: [{names}]"))


def test_votes_of_the_corpus_are_used_without_being_listed(project: Callable[[int], None]) -> None:
    project(1)
    paths.CORPUS_VOTES.parent.mkdir(parents=True, exist_ok=True)
    paths.CORPUS_VOTES.write_text("clip_id,source\n")
    vote.run()
    assert sources() == {"face/linear", "text/linear", "all/linear", "llm"}
    paths.CORPUS_VOTES.write_text("clip_id,source,p_happy,p_sad\nc00,crowd/voice,0.25,0.75\n")
    vote.run()
    assert "crowd/voice" in sources()
    votes = all_votes(read_labelled_corpus())
    np.testing.assert_allclose(votes["crowd/voice"][0], [0.25, 0.75])


def test_an_altered_table_of_votes_of_the_corpus_is_refused(project: Callable[[int], None]) -> None:
    project(1)
    write_sealed_csv(
        paths.CORPUS_VOTES, ["clip_id", "source", "p_happy", "p_sad"], [["c00", "crowd/voice", 0.25, 0.75]]
    )
    paths.CORPUS_VOTES.write_text(paths.CORPUS_VOTES.read_text().replace("0.25,0.75", "0.75,0.25"))
    with pytest.raises(InputError, match=r"index/votes.csv") as caught:
        vote.run()
    assert caught.value.command == "ecmf-pipe index"


def test_external_votes_are_written_last_and_used_by_all_stages(
    project: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    project(1)
    write_sources(b="c00,zoe_vote,happy\nc01,amy,sad\n", a="c02,face/linear2_prob,happy\nc03,text/lightgbm,sad\n")
    written: list[str] = []
    write = vote.write_votes
    monkeypatch.setattr(
        vote,
        "write_votes",
        lambda path, clip_ids, votes, labels: (written.extend(votes), write(path, clip_ids, votes, labels)),
    )
    vote.run()
    own = {"face/linear", "text/linear", "all/linear", "llm"}
    assert set(written[:4]) == own
    assert written[4:] == ["amy", "zoe_vote", "face/linear2_prob", "text/lightgbm"]
    assert own <= vote._own_sources(load_params())
    refine.run()
    evaluate.run()
    assert {"amy", "zoe_vote", "face/linear2_prob"} <= json.loads(paths.SOURCES.read_text())["sources"].keys()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "c00,llm,happy\n"}, "a.csv: .* 'llm'"),
        ({"a": "c00,text/linear,happy\n"}, "a.csv: .* 'text/linear'"),
        ({"a": "c00,fusion,happy\n"}, "a.csv: .* 'fusion'"),
        ({"a": "c00,me,happy\n", "b": "c00,me,happy\n"}, "b.csv: .* 'me'"),
        ({"a": "c00,me,happy\n", "b": "c00,you,glad\n"}, "b.csv: .*label"),
    ],
)
def test_external_votes_are_checked_before_voting_starts(
    project: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, files: dict[str, str], message: str
) -> None:
    project(1)
    write_sources(**files)
    monkeypatch.setattr(vote, "vote_in_rounds", lambda *_, **__: pytest.fail("voters were trained"))
    monkeypatch.setattr(vote, "llm_votes", lambda *_, **__: pytest.fail("the LLM was queried"))
    with pytest.raises(InputError, match=message):
        vote.run()


def test_control_without_enough_clips_for_the_fusion_model_is_reported(
    project: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project(1)
    vote.run()
    refine.run()

    def too_few(*_: object, **__: object) -> None:
        raise TooFewClips("3 clips are left", "label more")

    monkeypatch.setattr("ecmf_pipeline.stages.evaluate.fusion_predictions", too_few)
    monkeypatch.setattr("ecmf_pipeline.evaluation.label_quality.BASELINES", {})
    evaluate.run()
    controls = json.loads((paths.METRICS / "evaluate.json").read_text())["controls"]
    assert "fusion" not in controls
    assert "3 clips are left" in controls["no_fusion"]
    assert "3 clips are left" in capsys.readouterr().out
    assert any("3 clips are left" in str(block) for block in evidence_blocks({"controls": controls}))


def test_settings_of_several_rounds_include_the_training_of_the_fusion_model(project: Callable[[int], None]) -> None:
    project(1)
    one = resolve._rounds(load_params())
    project(2)
    two = resolve._rounds(load_params())
    assert one == {"rounds": 1}
    assert two["train"]["fusion"]["hidden"] == 8
