"""Tests of the whole pipeline through its command line and DVC."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from skimage import data

from ecmf_pipeline.fusion.prediction import Ensemble

pytestmark = pytest.mark.slow

SMALL = """
media: {frames: 4}
train: {pool: mean, training: {seeds: 1, epochs: 15}}
vote: {folds: 3, lightgbm: {rounds: 20}}
evaluate: {draws: 100}
"""


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    # use `dvc` and `ecmf-pipe` of the environment that runs the tests
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )


def ecmf_pipe(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "ecmf_pipeline", *words], folder)


def new_project(folder: Path, models: Path, params: str) -> Path:
    created = ecmf_pipe(folder.parent, "init", str(folder))
    assert created.returncode == 0, created.stderr
    shutil.copytree(models, folder / "data" / "models")
    shipped = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(merged(shipped, textwrap.dedent(params)))
    return folder


def merged(shipped: str, changes: str) -> str:
    import yaml

    def merge(below: dict, above: dict) -> dict:
        return below | {
            key: merge(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
            for key, value in above.items()
        }

    return yaml.safe_dump(merge(yaml.safe_load(shipped), yaml.safe_load(changes)), sort_keys=False)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def numbers(output: str, start: str) -> list[int]:
    """Return the integers in the line of an output that begins with ``start``."""
    (line,) = [line for line in output.splitlines() if line.startswith(start)]
    return [int(number) for number in re.findall(r"\d+", line.removeprefix(start))]


def status(folder: Path) -> dict[str, list[str]]:
    """Return the rows of the `ecmf-pipe status` table, by stage."""
    shown = ecmf_pipe(folder, "status")
    assert shown.returncode == 0, shown.stderr
    lines = [line for line in shown.stdout.splitlines()[1:] if not line.startswith(" ")]
    return {line[:18].strip(): line[18:].split() for line in lines}


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory, models) -> Path:
    """A finished `dvc repro` on a small sample corpus, with frame sequences as input of the fusion."""
    changes = SMALL.replace("pool: mean", "pool: frames") + "ablate: {frames: true}\n"
    changes += "sample: {labelled: 12, unlabeled: 3, speakers: 4, min_seconds: 1.5, max_seconds: 2.0}\n"
    folder = new_project(tmp_path_factory.mktemp("sample") / "project", models, changes)
    done = run(["dvc", "repro"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_sample_corpus_produces_all_outputs(sample_run):
    candidates = (sample_run / "data/sample/track_all_candidates.csv").read_text().split()[1:]
    submission = rows(sample_run / "data/submission.csv")
    assert [row["name"] for row in submission] == candidates
    assert len(rows(sample_run / "data/labels/refined.csv")) == 15
    metrics = json.loads((sample_run / "data/metrics/evaluate.json").read_text())
    assert metrics["judged_by"] == "gold"
    assert metrics["clips"] == 15
    assert 0 <= metrics["weighted_f1"] <= 1
    assert set(metrics["modalities"]) == {"global", "face", "audio", "text"}
    assert metrics["labels"]["given"] == {"accuracy": 0.833333, "clips": 12}
    assert {"given labels", "refined labels, rebalanced"} <= set(metrics["controls"]["sets"])
    assert set(metrics["controls"]["fusion"]["sets"]) == set(metrics["controls"]["sets"])
    assert metrics["label_model"]["clips"] == 15
    assert metrics["label_methods"]["clips"] == 15
    assert "given label" in json.loads((sample_run / "data/metrics/sources.json").read_text())["sources"]
    assert len(rows(sample_run / "data/labels/next.csv")) == 15
    page = (sample_run / "data/report/index.html").read_text()
    assert "synthetic" in page


def test_ablate_compares_every_modality_and_model(sample_run):
    metrics = json.loads((sample_run / "data/metrics/ablate.json").read_text())
    names = {row["name"] for row in metrics["variants"]}
    assert {"face alone", "without text", "global and face", "enriched text alone", "attention", "concat"} <= names
    assert "pooled by their mean" in names
    page = (sample_run / "data/report/index.html").read_text()
    assert all(name in page for name in names)
    assert {row["damage"] for row in metrics["robustness"]} == {"missing", "noisy", "shuffled"}
    assert len(rows(sample_run / "data/ablation/variants.csv")) == len(names) + 1


def test_predict_video_processes_a_new_clip(sample_run, make_clip, tmp_path):
    clip = make_clip(tmp_path / "new.mp4", photograph=data.astronaut()[:360], pictures=8, audio_seconds=1.0)
    before = {
        path: path.read_bytes()
        for path in (sample_run / "data").rglob("*")
        if path.is_file() and path.name != ".resources.json"
    }
    shown = ecmf_pipe(sample_run, "predict", "--video", str(clip), "--text", "What a lovely day!", "--json")
    assert shown.returncode == 0, shown.stderr
    prediction = json.loads(shown.stdout)
    assert prediction["model"] == "refined"
    assert prediction["probs"][prediction["label"]] == max(prediction["probs"].values())
    assert sum(prediction["probs"].values()) == pytest.approx(1, abs=1e-4)
    assert set(prediction["modality_weights"]) == {"global", "face", "audio", "text"}
    assert prediction["missing"] == {}
    assert prediction["enriched"].startswith('"What a lovely day!"')
    without_text = ecmf_pipe(sample_run, "predict", "--video", str(clip))
    assert re.search(r"\btext\b.*missing|missing.*\btext\b", without_text.stdout)
    assert "text 0.000" in without_text.stdout
    missing_file = ecmf_pipe(sample_run, "predict", "--video", "nowhere.mp4")
    assert missing_file.returncode == 2
    assert "nowhere.mp4" in missing_file.stderr
    assert {
        path: path.read_bytes()
        for path in (sample_run / "data").rglob("*")
        if path.is_file() and path.name != ".resources.json"
    } == before


def test_a_saved_model_is_evaluated_on_another_corpus(sample_run, tmp_path):
    """The other corpus is the same one here, with one label renamed."""
    shutil.copytree(sample_run / "data/fusion/given/fusion", tmp_path / "model")
    before = (sample_run / "data/metrics/evaluate.json").read_bytes()
    shown = ecmf_pipe(sample_run, "evaluate", "--transfer", str(tmp_path / "model"), "--map", "worried=sad")
    assert shown.returncode == 0, shown.stderr
    transfer = json.loads((sample_run / "data/transfer.json").read_text())
    assert transfer["clips"] == 15
    assert set(transfer) >= {"there", "here", "loss"}
    for model in ("there", "here"):
        assert f"{transfer[model]['weighted_f1']:.4f}" in shown.stdout
    (sample_run / "data/transfer.json").unlink()
    assert (sample_run / "data/metrics/evaluate.json").read_bytes() == before
    unknown_label = ecmf_pipe(sample_run, "evaluate", "--transfer", str(tmp_path / "model"), "--map", "worried=bored")
    assert unknown_label.returncode == 2
    assert "bored" in unknown_label.stderr


def test_the_second_run_computes_nothing(sample_run):
    before = {
        path: path.read_bytes()
        for path in (sample_run / "data").rglob("*")
        if path.is_file() and path.name != ".resources.json"
    }
    again = run(["dvc", "repro"], sample_run)
    assert again.returncode == 0, again.stderr
    assert "0 files read" in again.stdout
    ran = [line for line in again.stdout.splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'segment':", "Running stage 'index':", "Running stage 'settings':"]
    assert {
        path: path.read_bytes()
        for path in (sample_run / "data").rglob("*")
        if path.is_file() and path.name != ".resources.json"
    } == before


def test_dvc_shows_metrics_and_plots(sample_run):
    shown = json.loads(run(["dvc", "metrics", "show", "--json"], sample_run).stdout)
    (summary,) = shown[""]["data"].values()
    evaluation = json.loads((sample_run / "data/metrics/evaluate.json").read_text())
    assert len(summary["data"]) == 10
    assert summary["data"]["f1"] == round(evaluation["weighted_f1"], 4)
    assert summary["data"]["f1_lo"] <= summary["data"]["f1"] <= summary["data"]["f1_hi"]
    printed = [line for line in run(["dvc", "metrics", "show"], sample_run).stdout.splitlines() if line]
    assert len(printed) == 2
    assert max(map(len, printed)) <= 120
    plots = run(["dvc", "plots", "show", "-o", "dvc_plots"], sample_run)
    assert plots.returncode == 0, plots.stderr
    page = (sample_run / "dvc_plots" / "index.html").read_text()
    titles = re.findall(r"(?m)^  - (.*):$", (sample_run / "dvc.yaml").read_text().partition("\nplots:\n")[2])
    assert len(titles) == 5
    assert [title for title in titles if title not in page] == []


def test_status_counts_everything_as_done(sample_run):
    shown = status(sample_run)
    assert shown["extract face"] == ["15", "0", "0", "0"]
    assert shown["report"] == ["yes"]
    assert ["no"] not in shown.values()


def test_predict_rejects_a_model_trained_with_another_pool(sample_run):
    for labels in ("given", "refined"):
        saved = json.loads((sample_run / f"data/fusion/{labels}/fusion/config.json").read_text())
        assert saved["pool"] == "frames"
    params = sample_run / "params.yaml"
    shipped = params.read_text()
    params.write_text(merged(shipped, "train: {pool: max}"))
    refused = ecmf_pipe(sample_run, "predict")
    params.write_text(shipped)
    assert refused.returncode == 2
    assert "train.pool" in refused.stderr
    assert "frames" in refused.stderr
    assert "max" in refused.stderr


def test_evaluation_is_out_of_fold_and_submission_uses_the_whole_ensemble(sample_run):
    for labels in ("given", "refined"):
        evaluated = rows(sample_run / f"data/predictions/{labels}/fusion.csv")
        assert {row["out_of_fold"] for row in evaluated} == {"1"}
        deployed = rows(sample_run / f"data/predictions/{labels}/deployed/fusion.csv")
        assert all(row["out_of_fold"] == "1" for row in deployed if row["split"] == "train")
    given = rows(sample_run / "data/predictions/given/deployed/fusion.csv")
    assert {row["out_of_fold"] for row in given if row["split"] == "candidate"} == {"0"}
    submitted = {row["name"]: row["discrete"] for row in rows(sample_run / "data/submission_given.csv")}
    assert submitted == {row["clip_id"]: row["label"] for row in given if row["split"] == "candidate"}


def test_given_and_refined_models_hold_out_the_same_speakers(sample_run):
    saved = [Ensemble.load(sample_run / f"data/fusion/{labels}/fusion").folds for labels in ("given", "refined")]
    folds = [dict(zip(one.clip_ids, one.held_out_by.tolist(), strict=True)) for one in saved]
    assert folds[0] == folds[1]
    speakers = {row["name"]: row["group"] for row in rows(sample_run / "data/sample/groups.csv")}
    assert len(folds[0]) == len(speakers)
    assert len({(speakers[name], fold) for name, fold in folds[0].items()}) == len(set(speakers.values()))


def test_training_on_features_of_other_settings_fails(sample_run):
    params = sample_run / "params.yaml"
    shipped = params.read_text()
    params.write_text(merged(shipped, "media: {frames: 3}"))
    stale = ecmf_pipe(sample_run, "train")
    assert status(sample_run)["extract face"] == ["0", "15", "0", "0"]
    params.write_text(shipped)
    assert stale.returncode == 2
    assert "data/features/" in stale.stderr
    assert "ecmf-pipe extract --modality" in stale.stderr


def test_refine_rejects_votes_of_other_clips(sample_run):
    votes = sample_run / "data/votes/votes.csv"
    original = votes.read_text()
    lines = original.splitlines(keepends=True)
    first_clip = lines[1].split(",")[0]
    votes.write_text("".join(line for line in lines if not line.startswith(f"{first_clip},")))
    refused = ecmf_pipe(sample_run, "refine")
    votes.write_text(original)
    assert refused.returncode == 2
    assert "ecmf-pipe vote" in refused.stderr


def test_changing_a_custom_prompt_changes_the_llm_settings(sample_run, repository):
    params = sample_run / "params.yaml"
    shipped = params.read_text()
    prompt = sample_run / "my.yaml"
    packaged = repository / "ecmf_pipeline" / "llm" / "prompts" / "emotion_en.yaml"
    prompt.write_text(packaged.read_text())
    params.write_text(merged(shipped, "llm: {prompt: my.yaml}"))
    assert ecmf_pipe(sample_run, "settings").returncode == 0
    before = (sample_run / "data/settings/llm.json").read_bytes()
    prompt.write_text(packaged.read_text().replace("speaker", "person"))
    assert ecmf_pipe(sample_run, "settings").returncode == 0
    after = (sample_run / "data/settings/llm.json").read_bytes()
    params.write_text(shipped)
    assert ecmf_pipe(sample_run, "settings").returncode == 0
    assert before != after


def test_switching_back_to_an_encoder_reuses_its_features(sample_run):
    params = sample_run / "params.yaml"
    shipped = params.read_text()
    params.write_text(merged(shipped, "encoders: {minilm: {inputs: original}}"))
    spoken = sum(bool(row["original"]) for row in rows(sample_run / "data/rewrite/rewrites.csv"))
    switched = ecmf_pipe(sample_run, "extract", "--modality", "text").stdout
    assert numbers(switched, "extract text:")[0] == spoken
    params.write_text(shipped)
    switched_back = ecmf_pipe(sample_run, "extract", "--modality", "text").stdout
    assert numbers(switched_back, "extract text:")[0] == 0


@pytest.fixture(scope="module")
def folder_project(tmp_path_factory, models, make_clip) -> Path:
    """A project on a folder of clips with typical defects, extracted."""
    folder = tmp_path_factory.mktemp("own") / "project"
    clips = folder.parent / "my clips"
    face, tree = data.astronaut()[:256, 64:384], data.coffee()[:256, :320]
    for number in range(4):
        make_clip(clips / f"clip {number}.mp4", pictures=10, photograph=face, audio_seconds=1.0)
    make_clip(clips / "视频.mp4", pictures=10, photograph=face)
    make_clip(clips / "no_face.mp4", pictures=10, photograph=tree, audio_seconds=1.0)
    make_clip(clips / "audio_only.mp4", video=False, audio_seconds=1.0)
    (clips / "zero.mp4").write_bytes(b"")
    labels = [
        "name,label",
        "clip 0,good",
        "clip 1,bad",
        "clip 2,good",
        "clip 3,bad",
        "视频,good",
        "../../etc/passwd,bad",
    ]
    (clips / "labels.csv").write_bytes("\r\n".join(["\ufeff" + labels[0], *labels[1:], ""]).encode())
    texts = ["name,text", "clip 0,I am so glad.", 'clip 1,"This is awful, really."', "clip 2,", "视频,Well then."]
    (clips / "transcripts.csv").write_bytes("\r\n".join(texts).encode())
    changes = SMALL + f"corpus: {{kind: folder, root: '{clips}'}}\nextract: {{max_quarantined: 0.4}}\n"
    new_project(folder, models, changes)
    for verb in ("sample", "index", "transcribe", "rewrite", "extract"):
        done = ecmf_pipe(folder, verb)
        assert done.returncode == 0, done.stderr
    return folder


def test_bad_clips_are_quarantined_with_a_reason(folder_project):
    reasons = {
        path.stem: {row["clip_id"]: row["reason"] for row in rows(path)}
        for path in (folder_project / "data/quarantine").glob("*.csv")
    }
    assert reasons["index"] == {"zero": "UnreadableMedia"}
    assert reasons["extract-face"] == {"no_face": "NoFaceFound"}
    assert reasons["extract-global"] == reasons["extract-audio"] == reasons["extract-text"] == {}
    findings = {(row["kind"], row["clip_id"]) for row in rows(folder_project / "data/index/findings.csv")}
    assert ("no_video_stream", "audio_only") in findings
    assert "bad_clip_id" in {kind for kind, _ in findings}
    shown = status(folder_project)
    assert shown["index"] == ["7", "0", "0", "1"]
    assert shown["extract global"] == ["6", "0", "2", "0"]
    assert shown["extract face"] == ["5", "0", "2", "1"]
    assert shown["extract audio"] == ["6", "0", "2", "0"]
    assert shown["extract text"] == ["3", "0", "5", "0"]


def test_only_new_and_changed_clips_are_computed(folder_project, make_clip):
    clips = folder_project.parent / "my clips"
    again = ecmf_pipe(folder_project, "extract").stdout
    for modality in ("global", "face", "audio", "text"):
        assert numbers(again, f"extract {modality}:")[0] == 0
    make_clip(clips / "new.mp4", pictures=8, photograph=data.astronaut()[:256, 64:384], audio_seconds=0.5)
    make_clip(clips / "clip 3.mp4", pictures=12, photograph=data.astronaut()[:256, 64:384], audio_seconds=1.0)
    text = (clips / "transcripts.csv").read_text()
    (clips / "transcripts.csv").write_text(text.replace("Well then", "Well done"))
    index = ecmf_pipe(folder_project, "index").stdout
    assert "2 files read" in index
    requested_and_cached = numbers(ecmf_pipe(folder_project, "rewrite").stdout, "rewrite:")[2:4]
    assert requested_and_cached == [1, 2]
    extracted = ecmf_pipe(folder_project, "extract").stdout
    assert numbers(extracted, "extract face:")[:2] == [2, 4]
    assert numbers(extracted, "extract text:")[:2] == [1, 2]


def test_too_many_bad_clips_exit_with_1_and_keep_features(folder_project):
    params = folder_project / "params.yaml"
    shipped = params.read_text()
    params.write_text(merged(shipped, "extract: {max_quarantined: 0.1}"))
    none_of_few = "from ecmf_pipeline.runner import quarantine as q; q.ALLOWED_OF_FEW = 0"
    code = f"{none_of_few}; from ecmf_pipeline.cli.main import main; main()"
    stopped = run([sys.executable, "-c", code, "extract", "--modality", "face"], folder_project)
    assert stopped.returncode == 1
    assert re.search(r"NoFaceFound\D{0,3}1\b|\b1\D{0,3}NoFaceFound", stopped.stderr)
    params.write_text(shipped)
    again = ecmf_pipe(folder_project, "extract", "--modality", "face").stdout
    assert numbers(again, "extract face:")[0] == 0


def test_without_labels_nothing_is_trained_and_features_are_kept(folder_project):
    labels = folder_project.parent / "my clips" / "labels.csv"
    original = labels.read_bytes()
    labels.unlink()
    try:
        assert ecmf_pipe(folder_project, "index").returncode == 0
        extracted = ecmf_pipe(folder_project, "extract", "--modality", "global").stdout
        assert numbers(extracted, "extract global:")[0] == 0
        training = ecmf_pipe(folder_project, "train")
        assert training.returncode == 0
        assert "nothing to train" in training.stdout
    finally:
        labels.write_bytes(original)


def test_real_clips_run_through_all_stages(tmp_path, models, shared_data):
    changes = SMALL + f"corpus: {{kind: mer, root: '{shared_data / 'clips'}'}}\nablate: {{plain: false}}\n"
    folder = new_project(tmp_path / "project", models, changes)
    done = run(["dvc", "repro"], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    reasons = {
        path.stem: {row["clip_id"]: row["reason"] for row in rows(path)}
        for path in (folder / "data/quarantine").glob("*.csv")
    }
    assert reasons["extract-global"] == reasons["extract-face"] == {"clip_022": "TruncatedMedia"}
    assert reasons["extract-audio"].pop("clip_022") == "TruncatedMedia"
    assert set(reasons["extract-audio"].values()) == {"SilentAudio"}
    metrics = json.loads((folder / "data/metrics/evaluate.json").read_text())
    assert metrics["judged_by"] == "given"
    assert metrics["clips"] == 20
    assert len(rows(folder / "data/submission.csv")) == 12
    assert len(rows(folder / "data/predictions/refined/fusion.csv")) == 32
