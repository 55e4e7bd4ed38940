"""End-to-end tests of a text-only corpus: MELD's csv files without clips, from `index` to `report`."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_corpus_description, write_corpus_description
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import read_sealed_json, sha256_file, write_json, write_sealed_json
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.stages.shared.status import output_state
from tests.corpora.test_sidecars import write_sound

UTTERANCES = {
    "anger": ["How dare you!", "I hate this.", "Get out of here!", "You ruined everything.", "Stop it, now!"],
    "joy": ["This is wonderful!", "I love it.", "We won, yay!", "What a great day.", "I am so happy."],
    "neutral": ["The train leaves at ten.", "It is on the table.", "He works there.", "Two of them.", "See page four."],
    "disgust": ["Eww.", "That smells.", "Gross.", "Yuck, no.", "Disgusting."],
}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")


def write_part(root: Path, part: str, dialogues: int, first: int) -> None:
    """Write dialogues with one utterance of each emotion; utterances differ between dialogues."""
    rows = [
        (f"{texts[(dialogue + first) % 5]} {dialogue}", speaker, emotion, dialogue, number)
        for dialogue in range(dialogues)
        for number, ((emotion, texts), speaker) in enumerate(
            zip(UTTERANCES.items(), ("Ross", "Joey", "Ross", "Monica"), strict=True)
        )
    ]
    with (root / f"{part}_sent_emo.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, models: Path, tiny_model: Path) -> Path:
    """A project on which all stages ran in the order of `dvc repro`, with a random two-layer LLM."""
    folder = tmp_path_factory.mktemp("meld")
    root = folder / "csv"
    root.mkdir()
    write_part(root, "train", 10, 0)
    write_part(root, "test", 5, 1)
    params = {
        "corpus": {"kind": "meld", "root": str(root)},
        "llm": {"model": str(tiny_model), "gguf_file": None},
        "train": {"training": {"folds": 3, "seeds": 1, "epochs": 10}},
        "vote": {"folds": 3, "lightgbm": {"rounds": 5}},
        "evaluate": {"draws": 100},
        "ablate": {"fusions": ["concat"], "draws": 100},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data").mkdir()
    (folder / "data" / "models").symlink_to(models.resolve())
    commands = ["sample", "index", "rewrite --workers 0"]
    commands += [f"extract --modality {name} --workers 0" for name in ("global", "face", "audio", "text")]
    commands += ["train", "predict", "vote --workers 0", "refine", "train --labels refined", "predict --labels refined"]
    commands += ["evaluate", "ablate", "report"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands:
            result = CliRunner().invoke(app, command.split(), catch_exceptions=False)
            assert result.exit_code == 0, f"{command}: {result.output}"
            assert "None" not in result.output
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_text_predictions_are_scored_against_gold_labels(project: Path) -> None:
    metrics = json.loads((project / "data/metrics/evaluate.json").read_text())
    assert metrics["judged_by"] == "gold"
    assert metrics["clips"] == 15, "the labelled utterances of the test part"
    assert set(metrics["modalities"]) == {"text"}
    assert metrics["fusion_over_best_modality"] is None, "there is only one modality"
    assert metrics["no_modality"] == 0
    plain = metrics["plain"]["models"]
    assert set(plain) == {"logistic regression", "LightGBM", "SVM", "best plain model"}
    assert all(0 <= scores["weighted_f1"] <= 1 for scores in plain.values())


def test_submission_contains_every_utterance_of_the_test_part(project: Path) -> None:
    submitted = [row["name"] for row in rows(project / "data/submission.csv")]
    assert submitted == [f"test_dia{dialogue}_utt{number}" for dialogue in range(5) for number in range(4)]
    predicted = rows(project / "data/predictions/given/fusion.csv")
    assert len(predicted) == 60
    assert {row["w_text"] for row in predicted} == {"1.000000"}


def test_utterances_of_an_unmapped_emotion_are_unlabeled(project: Path) -> None:
    manifest = {row["clip_id"]: row for row in rows(project / "data/manifest.csv")}
    assert manifest["train_dia0_utt3"]["split"] == "unlabeled"
    assert Ensemble.load(project / "data/fusion/given/fusion").folds.is_trained.sum() == 30


def test_ablation_and_report_contain_the_text_modality_only(project: Path) -> None:
    ablation = json.loads((project / "data/metrics/ablate.json").read_text())
    assert ablation["reference"]["modalities"] == ["text"]
    assert {row["table"] for row in ablation["variants"]} == {"text", "fusion", "plain"}
    assert ablation["weights"]["warnings"] == [], "all weight on the only modality is not a collapse"
    results, *_ = (project / "data/report/index.html").read_text().split("Params of the run")
    assert "None" not in results
    assert "media" in results


def test_new_text_is_predicted_without_a_clip(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    before = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["predict", "--text", "I love  it.", "--json"], catch_exceptions=False)
    prediction = json.loads(result.output)
    assert prediction["clip"] == ""
    assert prediction["modality_weights"] == {"text": 1.0}
    assert prediction["probs"][prediction["label"]] == max(prediction["probs"].values())
    assert prediction["enriched"].startswith('"I love it."')
    assert {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["predict", "--text", ""], "--text"),
        (["predict", "--text", " \t "], "--text"),
        (["predict", "--json"], "--json"),
        (["evaluate", "--map", "joy=happy"], "--map"),
    ],
)
def test_options_of_a_single_clip_or_model_are_rejected_without_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], option: str
) -> None:
    monkeypatch.chdir(project)
    before = {path: path.stat().st_mtime_ns for path in Path("data").rglob("*")}
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert caught.value.message.startswith(f"{option} ")
    assert caught.value.hint is not None
    assert caught.value.exit_code == 2
    assert {path: path.stat().st_mtime_ns for path in Path("data").rglob("*")} == before


@pytest.mark.parametrize("labels", ["given", "refined"])
def test_missing_models_are_reported_with_the_command_of_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("preset: embedded\n")
    with pytest.raises(MissingInput) as caught:
        CliRunner().invoke(app, ["predict", "--text", "I love it.", "--labels", labels], catch_exceptions=False)
    assert caught.value.command == f"ecmf-pipe train --labels {labels}"


@pytest.mark.parametrize("labels", ["given", "refined"])
def test_without_labels_missing_models_ask_for_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: paths.Labels
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("preset: embedded\n")
    write_json(paths.no_models(labels), {})
    with pytest.raises(MissingInput) as caught:
        CliRunner().invoke(app, ["predict", "--text", "I love it.", "--labels", labels], catch_exceptions=False)
    assert caught.value.command == "dvc repro"
    assert output_state(paths.models_trained_on(labels) / "fusion") == "no labels"


def test_a_timeline_is_csv_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"t\.txt"):
        CliRunner().invoke(app, ["predict", "--video", "a.mp4", "--timeline", "t.txt"], catch_exceptions=False)


def test_missing_model_of_a_transfer_is_reported_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInput) as caught:
        CliRunner().invoke(app, ["evaluate", "--transfer", "elsewhere"], catch_exceptions=False)
    assert "elsewhere" in caught.value.message
    assert caught.value.command is None, "training here does not create a model elsewhere"


def test_single_clip_is_not_predicted_by_models_of_other_labels(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    corpus = paths.CORPUS.read_text()
    write_corpus_description(paths.CORPUS, replace(read_corpus_description(), labels=["happy", "angry"]))
    try:
        with pytest.raises(MissingInput, match="labels neutral, angry"):
            CliRunner().invoke(app, ["predict", "--text", "I love it."], catch_exceptions=False)
    finally:
        paths.CORPUS.write_text(corpus)


def test_text_model_is_evaluated_on_another_text_corpus(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    shutil.copytree("data/fusion/given/fusion", "model")
    result = CliRunner().invoke(app, ["evaluate", "--transfer", "model"], catch_exceptions=False)
    transfer = json.loads(Path("data/transfer.json").read_text())
    assert transfer["modalities"] == ["text"]
    assert (transfer["trained_on"], transfer["held_out"]) == (0, 15)
    assert transfer["clips"] == 15
    assert transfer["there"] == transfer["here"], "the same models predict the same clips"
    assert "15 clips" in result.output


def command_of_stale_models(command: str) -> str:
    """Run a command that rejects models of earlier refined labels; return the command that fixes it."""
    with pytest.raises(MissingInput, match=r"before .*refined\.csv changed") as caught:
        CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert caught.value.exit_code == 2
    return str(caught.value.command)


def test_models_and_predictions_of_earlier_refined_labels_are_rejected(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    labels = Path("data/labels/refined.csv")
    record = Path("data/predictions/refined/trained_on.json")
    before = json.loads(record.read_text())
    assert before["labels_sha256"] == sha256_file(labels)
    assert not Path("data/predictions/given/trained_on.json").exists()
    params = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump({**params, "refine": {"drop_below": 0.0, "keep_above": 0.999}}))
    assert CliRunner().invoke(app, ["refine"]).exit_code == 0
    assert sha256_file(labels) != before["labels_sha256"]

    train_and_predict = "ecmf-pipe train --labels refined && ecmf-pipe predict --labels refined"
    assert command_of_stale_models("predict --labels refined") == "ecmf-pipe train --labels refined"
    for command in ("evaluate", "report"):
        assert command_of_stale_models(command) == train_and_predict
    for command in ("predict", "predict --text Hello", "train --labels refined"):  # do not use the stale models
        assert CliRunner().invoke(app, command.split(), catch_exceptions=False).exit_code == 0
    assert command_of_stale_models("evaluate") == train_and_predict, "the models are new, the predictions are not"
    for command in ("predict --labels refined", "evaluate", "report"):
        assert CliRunner().invoke(app, command.split(), catch_exceptions=False).exit_code == 0
    assert json.loads(record.read_text())["labels_sha256"] == sha256_file(labels)

    config = Path("data/fusion/refined/fusion/config.json")  # models without a recorded digest are not rejected
    write_sealed_json(config, {**read_sealed_json(config, made_by="train"), "labels_sha256": ""})
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert CliRunner().invoke(app, ["refine"]).exit_code == 0
    for command in ("predict --labels refined", "evaluate"):
        assert CliRunner().invoke(app, command.split(), catch_exceptions=False).exit_code == 0
    assert not record.exists()


def test_models_trained_on_other_feature_columns_are_rejected(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder concatenates both texts in the reverse order: the width is equal, but each column differs."""
    monkeypatch.chdir(project)
    shipped = Path("params.yaml").read_text()
    saved = json.loads(Path("data/fusion/given/fusion/config.json").read_text())["modalities"]
    assert [(entry["name"], entry["origin"]["encoders"]) for entry in saved] == [("text", ["minilm"])]
    before = Path("data/submission.csv").read_bytes()
    other = {"type": "transformers_text", "inputs": ["enriched", "original"]}
    params = {**yaml.safe_load(shipped), "encoders": {"swapped": other}, "extract": {"encoders": {"text": "swapped"}}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    runner = CliRunner()
    extracted = runner.invoke(app, ["extract", "--modality", "text", "--workers", "0"], catch_exceptions=False)
    commands = (
        ["predict"],
        ["predict", "--labels", "refined"],
        ["predict", "--text", "I love it."],
        ["evaluate", "--transfer", "data/fusion/given/fusion"],
    )
    results = [runner.invoke(app, command) for command in commands]
    Path("params.yaml").write_text(shipped)
    assert extracted.exit_code == 0
    for result in results:
        assert isinstance(result.exception, InputError)
        assert result.exception.message.startswith("text: ")
        assert "minilm" in result.exception.message
        assert "swapped" in result.exception.message
        assert "train" in str(result.exception.hint)
    assert Path("data/submission.csv").read_bytes() == before
    runner.invoke(app, ["extract", "--modality", "text", "--workers", "0"], catch_exceptions=False)
    assert runner.invoke(app, ["predict"], catch_exceptions=False).exit_code == 0


def test_words_of_a_single_sound_come_from_its_subtitles(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project)
    arguments = ["predict", "--json", "--video", str(write_sound(tmp_path / "a.wav"))]
    with pytest.raises(InputError, match="no modality of the models is usable"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nANNA: I love it.\n")
    prediction = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert prediction["modality_weights"] == {"text": 1.0}
    assert prediction["enriched"].startswith('"I love it."')


def test_report_leaves_out_modalities_that_no_clip_has(project: Path) -> None:
    page = (project / paths.REPORT).read_text()
    assert "No clip has an input of global, face and audio" in page
    assert "Settings of global" not in page
    assert "Settings of text" in page
