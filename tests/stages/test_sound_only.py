"""A folder of sound files alone goes through all stages."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ecmf_pipeline.cli.main import app
from ecmf_pipeline.core import paths
from tests.corpora.test_sidecars import write_sound

pytestmark = pytest.mark.slow

CLIPS = 36


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """A project on which all stages ran in the order of `dvc repro`; the pitch of a sound shows its label."""
    folder = tmp_path_factory.mktemp("sounds")
    rows = [["name", "label", "gold"]]
    for number in range(CLIPS):
        label = ("happy", "sad")[number % 2]
        write_sound(folder / f"clips/{number:02d}.wav", hertz=(400 if label == "happy" else 120) + number, seconds=1.0)
        rows.append([f"{number:02d}.wav", label if number < 30 else "", label])
    with (folder / "clips/labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    params = {
        "corpus": {"kind": "folder", "root": "clips"},
        "transcribe": {"model": None},
        "train": {"training": {"folds": 3, "seeds": 1, "epochs": 10}},
        "vote": {"folds": 3, "lightgbm": {"rounds": 5}},
        "evaluate": {"draws": 100},
        "ablate": {"fusions": ["concat"], "draws": 100},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data").mkdir()
    (folder / "data" / "models").symlink_to(models.resolve())
    commands = ["sample", "index", "settings", "transcribe", "rewrite --workers 0"]
    commands += [f"extract --modality {name} --workers 0" for name in ("global", "face", "audio", "text")]
    commands += ["train", "predict", "vote --workers 0", "refine", "train --labels refined", "predict --labels refined"]
    commands += ["evaluate", "ablate", "report", "doctor"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands:
            result = CliRunner().invoke(app, command.split(), catch_exceptions=False)
            assert result.exit_code == 0, f"{command}: {result.output}"
            (folder / f"{command.split()[0]}.txt").write_text(result.output)
    return folder


def test_index_has_one_line_about_the_missing_pictures(project: Path) -> None:
    assert (project / "index.txt").read_text().count("sound only") == 1
    counts = json.loads((project / paths.INDEX_METRICS).read_text())["findings"]
    assert not counts.keys() & {"no_video_stream", "unread_files"}


def test_models_read_the_sound_alone(project: Path) -> None:
    with (project / "data/predictions/refined/fusion.csv").open(newline="") as file:
        predicted = list(csv.DictReader(file))
    assert len(predicted) == CLIPS
    assert {row["w_audio"] for row in predicted} == {"1.000000"}
    assert not {"w_global", "w_face", "w_text"} & predicted[0].keys()


def test_report_and_doctor_treat_pictures_as_absent(project: Path) -> None:
    page = (project / paths.REPORT).read_text()
    assert "No clip has an input of global, face and text" in page
    assert "Settings of face" not in page
    assert 'id="faces"' not in page
    lines = (project / "doctor.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines if "trial global" in line or "trial face" in line] == ["ok", "ok"]
