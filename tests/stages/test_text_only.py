"""A corpus of words alone, MELD's csv files without its clips, from index to report."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.files import sha256_file

SAID = {
    "anger": ["How dare you!", "I hate this.", "Get out of here!", "You ruined everything.", "Stop it, now!"],
    "joy": ["This is wonderful!", "I love it.", "We won, yay!", "What a great day.", "I am so happy."],
    "neutral": ["The train leaves at ten.", "It is on the table.", "He works there.", "Two of them.", "See page four."],
    "disgust": ["Eww.", "That smells.", "Gross.", "Yuck, no.", "Disgusting."],
}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")


def write_part(root: Path, part: str, dialogues: int, first: int) -> None:
    """Dialogues of one utterance of each emotion, in which each speaker says something else."""
    rows = [
        (f"{texts[(dialogue + first) % 5]} {dialogue}", speaker, emotion, dialogue, number)
        for dialogue in range(dialogues)
        for number, ((emotion, texts), speaker) in enumerate(
            zip(SAID.items(), ("Ross", "Joey", "Ross", "Monica"), strict=True)
        )
    ]
    with (root / f"{part}_sent_emo.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, models: Path, tiny_model: Path) -> Path:
    """All verbs as `dvc repro` runs them, one after another, with an LLM of two random layers."""
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
    verbs = ["sample", "index", "rewrite --workers 0"]
    verbs += [f"extract --modality {name} --workers 0" for name in ("global", "face", "audio", "text")]
    verbs += ["train", "predict", "vote --workers 0", "refine", "train --labels refined", "predict --labels refined"]
    verbs += ["evaluate", "ablate", "report"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for verb in verbs:
            done = CliRunner().invoke(app, verb.split(), catch_exceptions=False)
            assert done.exit_code == 0, f"{verb}: {done.output}"
            assert "None" not in done.output
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_words_alone_are_judged_by_gold(project: Path) -> None:
    metrics = json.loads((project / "data/metrics/evaluate.json").read_text())
    assert metrics["judged_by"] == "gold"
    assert metrics["clips"] == 15, "the test part without what has no label"
    assert set(metrics["modalities"]) == {"text"}
    assert metrics["fusion_over_best_modality"] is None, "there is one modality: nothing to be better than"
    assert metrics["no_modality"] == 0


def test_every_utterance_of_the_test_part_is_submitted(project: Path) -> None:
    submitted = [row["name"] for row in rows(project / "data/submission.csv")]
    assert submitted == [f"test_dia{dialogue}_utt{number}" for dialogue in range(5) for number in range(4)]
    predicted = rows(project / "data/predictions/given/fusion.csv")
    assert len(predicted) == 60
    assert {row["w_text"] for row in predicted} == {"1.000000"}


def test_an_emotion_without_a_label_is_left_unlabeled(project: Path) -> None:
    manifest = {row["clip_id"]: row for row in rows(project / "data/manifest.csv")}
    assert manifest["train_dia0_utt3"]["split"] == "unlabeled"
    trained = json.loads((project / "data/fusion/given/fusion/config.json").read_text())["trained"]
    assert len(trained) == 30


def test_the_report_and_the_ablation_say_what_there_is(project: Path) -> None:
    found = json.loads((project / "data/metrics/ablate.json").read_text())
    assert found["reference"]["modalities"] == ["text"]
    assert {row["table"] for row in found["variants"]} == {"text", "fusion"}
    assert found["weights"]["warnings"] == [], "one modality that has all the weight is no collapse"
    page = (project / "data/report/index.html").read_text()
    assert "None" not in page.split("Params of the run")[0]
    assert "only what needs no media can run" in page


def test_new_words_are_judged_without_a_clip(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    before = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    told = CliRunner().invoke(app, ["predict", "--text", "I love  it.", "--json"], catch_exceptions=False)
    found = json.loads(told.output)
    assert found["clip"] == ""
    assert found["modality_weights"] == {"text": 1.0}
    assert found["probs"][found["label"]] == max(found["probs"].values())
    assert found["enriched"].startswith('"I love it."')
    assert {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--text", ""], "the text is empty: give what is said as --text, or a clip's file as --video"),
        (["predict", "--text", " \t "], "the text is empty: give what is said as --text"),
        (["predict", "--json"], "--json is of one clip: give its file as --video, or what is said as --text"),
        (["evaluate", "--map", "joy=happy"], "--map is of a model from elsewhere: give its folder as --transfer"),
    ],
)
def test_what_is_asked_of_no_clip_or_model_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(project)
    before = {path: path.stat().st_mtime_ns for path in Path("data").rglob("*")}
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2
    assert {path: path.stat().st_mtime_ns for path in Path("data").rglob("*")} == before


def test_one_clip_is_not_judged_by_models_of_other_labels(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    known = paths.CORPUS.read_text()
    paths.CORPUS.write_text(json.dumps(json.loads(known) | {"labels": ["happy", "angry"]}))
    try:
        with pytest.raises(MissingInput, match="the saved models know the labels neutral, angry"):
            CliRunner().invoke(app, ["predict", "--text", "I love it."], catch_exceptions=False)
    finally:
        paths.CORPUS.write_text(known)


def test_a_model_of_words_is_judged_on_another_corpus_of_words(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    shutil.copytree("data/fusion/given/fusion", "model")
    done = CliRunner().invoke(app, ["evaluate", "--transfer", "model"], catch_exceptions=False)
    assert "less the one of here" in done.output
    found = json.loads(Path("data/transfer.json").read_text())
    assert found["modalities"] == ["text"]
    assert (found["trained_on"], found["held_out"]) == (0, 15)
    assert found["clips"] == 15
    assert found["there"] == found["here"], "the same models judge the same clips"
    assert "15 clips have names that it knows, 0 of them trained on" in done.output


def refused(verb: str) -> str:
    """How to mend what a verb refuses as missing."""
    with pytest.raises(
        MissingInput, match=r"trained on refined labels as they were before .*refined.csv changed"
    ) as no:
        CliRunner().invoke(app, verb.split(), catch_exceptions=False)
    assert no.value.exit_code == 2
    return str(no.value.hint)


def test_models_and_predictions_of_earlier_refined_labels_are_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    labels = Path("data/labels/refined.csv")
    noted = Path("data/predictions/refined/trained_on.json")
    before = json.loads(noted.read_text())
    assert before == {"labels_sha256": sha256_file(labels)}
    assert not Path("data/predictions/given/trained_on.json").exists()
    params = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump({**params, "refine": {"drop_below": 0.0, "keep_above": 0.999}}))
    assert CliRunner().invoke(app, ["refine"]).exit_code == 0
    assert sha256_file(labels) != before["labels_sha256"]

    hint = "run `ecmf-pipe train --labels refined`"
    assert hint in refused("predict --labels refined")
    for verb in ("evaluate", "report"):
        assert f"{hint}, then `ecmf-pipe predict --labels refined`" in refused(verb)
    for verb in ("predict", "predict --text Hello", "train --labels refined"):  # what has no part in it goes on
        assert CliRunner().invoke(app, verb.split(), catch_exceptions=False).exit_code == 0
    assert hint in refused("evaluate"), "the models are new, the predictions not yet"
    for verb in ("predict --labels refined", "evaluate", "report"):
        assert CliRunner().invoke(app, verb.split(), catch_exceptions=False).exit_code == 0
    assert json.loads(noted.read_text()) == {"labels_sha256": sha256_file(labels)}

    config = Path("data/fusion/refined/fusion/config.json")  # saved before digests were noted: nothing is known
    config.write_text(json.dumps({**json.loads(config.read_text()), "labels_sha256": ""}))
    labels.write_text(labels.read_text() + "\n")
    for verb in ("predict --labels refined", "evaluate"):
        assert CliRunner().invoke(app, verb.split(), catch_exceptions=False).exit_code == 0
    assert not noted.exists()


def test_a_model_of_other_columns_is_not_asked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both texts side by side, and the same two the other way round: as wide, and every column is another."""
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
    words = (["predict"], ["predict", "--labels", "refined"], ["predict", "--text", "I love it."])
    refused = [runner.invoke(app, verb) for verb in (*words, ["evaluate", "--transfer", "data/fusion/given/fusion"])]
    Path("params.yaml").write_text(shipped)
    assert extracted.exit_code == 0
    for done in refused:
        assert isinstance(done.exception, InputError)
        told = "text: the saved model was trained on features of minilm, and they are of swapped now"
        assert told in str(done.exception)
        assert "`ecmf-pipe train` again" in str(done.exception)
    assert Path("data/submission.csv").read_bytes() == before
    runner.invoke(app, ["extract", "--modality", "text", "--workers", "0"], catch_exceptions=False)
    assert runner.invoke(app, ["predict"], catch_exceptions=False).exit_code == 0
