"""Tests of the stages on a corpus with too few labels to train on."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Split, read_manifest, write_corpus_tables
from ecmf_pipeline.core.errors import CorpusError, InputError, MissingInput
from ecmf_pipeline.core.predictions import ABSTAINS, NO_MODALITY, Basis, PredictionTable
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.training import fit
from ecmf_pipeline.interop.mertools import read_submission
from ecmf_pipeline.labels.decision_files import read_decisions
from ecmf_pipeline.labels.vote_files import read_votes
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.settings.resolve import resolve
from ecmf_pipeline.stages import ablate, evaluate, predict, refine, train, vote
from ecmf_pipeline.stages.shared import zero_shot
from ecmf_pipeline.stages.shared.inputs import read_project_corpus

CLIPS = 40
LABELS = ("happy", "sad", "angry")
TRUTH = np.arange(CLIPS) % 3
PARAMS = "vote: {inputs: []}\nrefine: {zero_shot_above: 0.42}\nevaluate: {draws: 100}\n"


def clips(**changes: dict[int, str]) -> list[Clip]:
    """Clips without labels; ``changes`` sets fields of some of them."""
    made = [
        Clip(ClipId(f"c{row:02d}"), path=f"c{row:02d}.mp4", has_video=True, split=Split.CANDIDATE)
        for row in range(CLIPS)
    ]
    for name, values in changes.items():
        for row, value in values.items():
            made[row] = replace(made[row], **{name: value})  # type: ignore[arg-type]
    return made


def write_corpus(made: list[Clip]) -> None:
    write_corpus_tables(Corpus(made, [*LABELS], [clip.clip_id for clip in made], synthetic=False))


def write_verdicts(count: int) -> None:
    paths.VERDICTS.parent.mkdir(exist_ok=True)
    rows = "".join(f"c{row:02d},{LABELS[TRUTH[row]]}\n" for row in range(count))
    paths.VERDICTS.write_text(f"clip_id,label\n{rows}")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project up to `extract`, whose face network votes with probability 0.8, but not on clips 3 and 4."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    write_corpus(clips())
    votes = np.where(np.eye(3)[TRUTH] > 0, 0.8, 0.1)
    votes[3] = np.nan
    votes[4] = (0.36, 0.32, 0.32)
    monkeypatch.setattr(vote, "zero_shot_votes", lambda _params, _corpus: {zero_shot.FACE_SOURCE: votes})
    rng = np.random.default_rng(0)
    features = {"face": (3 * np.eye(3)[TRUTH] + rng.normal(size=(CLIPS, 3))).astype(np.float32)}
    monkeypatch.setattr(refine, "read_features", lambda _params, _clips: features)
    monkeypatch.setattr(vote, "read_features", lambda _params, _clips: features)


def run_all() -> None:
    train.run("given")
    predict.run("given")
    vote.run()
    refine.run()
    train.run("refined")
    predict.run("refined")
    evaluate.run()
    ablate.run()


def test_all_stages_run_without_labels_and_mark_their_results(capsys: pytest.CaptureFixture[str]) -> None:
    run_all()
    decisions = read_decisions(paths.REFINED)
    assert {one.basis for one in decisions} == {Basis.ZERO_SHOT}
    labelled = {str(one.clip_id): one.refined_label for one in decisions}
    assert labelled["c00"] == "happy"
    assert labelled["c03"] == labelled["c04"] == ""
    table = PredictionTable.read(paths.deployed_predictions("refined"), clips=read_manifest(paths.MANIFEST))
    assert table.basis is Basis.ZERO_SHOT
    assert dict(zip(table.clip_ids, table.flags, strict=True))["c03"] == NO_MODALITY
    assert dict(zip(table.clip_ids, table.flags, strict=True))["c04"] == ABSTAINS
    with paths.submission("refined").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert (rows["c00"]["discrete"], rows["c00"]["basis"]) == ("happy", "zero-shot")
    assert rows["c04"]["discrete"] == ""
    with pytest.raises(CorpusError):
        read_submission(paths.submission("refined"))
    summary = json.loads(paths.SUMMARY.read_text())
    assert summary["basis"] == "zero-shot"
    assert not {"f1", "acc"} & summary.keys(), "no accuracy is claimed"
    assert json.loads((paths.METRICS / "evaluate.json").read_text())["weighted_f1"] is None
    for path in (paths.training_curve("given"), paths.submission("given"), paths.ABLATION / "variants.csv"):
        assert len(path.read_text().splitlines()) == 1, "only a header"
    printed = capsys.readouterr().out
    assert "0 of 30 verdicts" in printed
    assert f"first clips of {paths.NEXT}" in printed


def test_verdicts_are_sure_labels_and_are_not_asked_again() -> None:
    write_verdicts(12)
    vote.run()
    refine.run()
    predict.run("refined")
    evaluate.run()
    decisions = read_decisions(paths.REFINED)
    assert [one.basis for one in decisions[:12]] == [Basis.VERDICTS] * 12
    assert all(one.refined_label == LABELS[TRUTH[row]] for row, one in enumerate(decisions[:12]))
    with paths.NEXT.open(newline="") as file:
        asked = [row["clip_id"] for row in csv.DictReader(file)]
    assert asked
    assert not set(asked) & {f"c{row:02d}" for row in range(12)}
    described = json.loads((paths.METRICS / "evaluate.json").read_text())["zero_shot"]
    assert (described["verdicts"], described["verdicts_needed"]) == (12, 30)


def test_thirty_verdicts_become_the_labels_of_training() -> None:
    params = load_params()
    settings = resolve(params, LABELS)["basis"]
    nothing = settings()
    write_verdicts(29)
    assert read_project_corpus(params).basis is Basis.ZERO_SHOT
    assert settings() == nothing, "train does not run again"
    write_verdicts(30)
    labelled = read_project_corpus(params)
    assert labelled.basis is Basis.VERDICTS
    assert [clip.given_label for clip in labelled.corpus.clips] == [
        LABELS[label] if row < 30 else "" for row, label in enumerate(TRUTH)
    ]
    assert settings() != nothing
    Path("params.yaml").write_text("vote: {inputs: [], folds: 3, lightgbm: null}\n")
    vote.run()
    votes = read_votes(paths.VOTES, LABELS).votes
    assert set(votes) == {"face/linear", zero_shot.FACE_SOURCE}, "voters are trained on the verdicts"


def test_labels_of_one_class_count_as_verdicts() -> None:
    write_corpus(clips(given_label=dict.fromkeys(range(0, 15, 3), "happy")))
    run_all()
    labelled = read_project_corpus(load_params())
    assert labelled.basis is Basis.ZERO_SHOT
    assert (labelled.known >= 0).sum() == 5
    assert read_decisions(paths.REFINED)[3].refined_label == "happy", "no source votes on this clip"


def test_gold_labels_give_an_accuracy_without_the_clips_with_verdicts() -> None:
    write_corpus(clips(gold_label={row: LABELS[TRUTH[row]] for row in range(20)}))
    write_verdicts(10)
    vote.run()
    refine.run()
    predict.run("refined")
    evaluate.run()
    metrics = json.loads((paths.METRICS / "evaluate.json").read_text())
    assert (metrics["judged_by"], metrics["clips"]) == ("gold", 10)
    assert metrics["accuracy"] == 1.0


def test_a_corpus_without_any_source_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vote, "zero_shot_votes", lambda _params, _corpus: {})
    with pytest.raises(InputError):
        vote.run()


def test_a_saved_model_votes_with_its_labels_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = {"face": (5 * np.eye(3)[TRUTH]).astype(np.float32)}
    training = TrainingConfig(folds=2, seeds=1, epochs=20, learning_rate=1e-2)
    model = fit(features, TRUTH, label_names=("joy", "sadness", "anger"), fusion=FusionConfig(), training=training)
    model.save(tmp_path / "other")

    class Stored:
        modalities = ("face",)
        stores: dict[str, object] = {}  # noqa: RUF012

        def read(self, clip_ids: list[str], _pool: str) -> dict[str, np.ndarray]:
            return {"face": features["face"][[int(name[1:]) for name in clip_ids]]}

    monkeypatch.setattr(zero_shot, "open_stored", lambda _params, _clips: Stored())
    Path("params.yaml").write_text("vote: {inputs: [], transfer: {films: {folder: other}}}\n")
    vote.run()
    votes = read_votes(paths.VOTES, LABELS).votes["transfer:films"]
    assert (votes.argmax(axis=1) == TRUTH).mean() > 0.9
    Path("params.yaml").write_text("vote: {inputs: [], transfer: {films: {folder: absent}}}\n")
    with pytest.raises(MissingInput, match=r"vote\.transfer\.films"):
        vote.run()


def test_given_labels_are_used_as_before() -> None:
    write_corpus(clips(given_label={row: LABELS[TRUTH[row]] for row in range(4)} | {4: "happy", 3: "sad"}))
    labelled = read_project_corpus(load_params())
    assert labelled.basis is Basis.GIVEN
    assert (labelled.known < 0).all()
