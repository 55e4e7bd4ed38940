"""A corpus of csv files and imported features without media, run through the command line."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from ecmf_pipeline.corpora.config import MER_LABELS

pytestmark = pytest.mark.slow

LABELLED, CANDIDATES = 60, 20
WIDTHS = {"face": 24, "audio": 32, "text": 16}


def ecmf_pipe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "ecmf_pipeline", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
    )


def run_successfully(folder: Path, *arguments: str) -> str:
    done = ecmf_pipe(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(text: str) -> list[int]:
    """Return the whole numbers of a text."""
    return [int(number) for number in re.findall(r"\d+", text)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, header: list[str], lines: list[list[str]]) -> None:
    path.write_text("\n".join(",".join(cells) for cells in [header, *lines]) + "\n", encoding="utf-8")


def write_features(folder: Path, truth: dict[str, str]) -> None:
    """Write three folders in the baseline's layout; the features of a label are scattered around its centre."""
    rng = np.random.default_rng(3)
    for modality, width in WIDTHS.items():
        centres = rng.normal(size=(len(MER_LABELS), width))
        (folder / f"{modality}-UTT").mkdir(parents=True)
        for name, label in truth.items():
            # Frame level for audio, utterance level for the others.
            shape = (5, width) if modality == "audio" else (width,)
            values = centres[MER_LABELS.index(label)] + 0.6 * rng.normal(size=shape)
            np.save(folder / f"{modality}-UTT" / f"{name}.npy", values.astype(np.float32))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("csv only")
    rng = np.random.default_rng(5)
    names = [f"sample_{number:04d}" for number in range(LABELLED + CANDIDATES)]
    truth = {name: MER_LABELS[number % 6] for number, name in enumerate(names)}
    corpus = base / "corpus"
    corpus.mkdir()
    write_csv(
        corpus / "track1_train_disdim.csv", ["name", "discrete"], [[name, truth[name]] for name in names[:LABELLED]]
    )
    candidates = [str(name) for name in rng.permutation(names[LABELLED:])]
    write_csv(corpus / "track_all_candidates.csv", ["name"], [[name] for name in candidates])
    write_csv(corpus / "track1_test_dis.csv", ["name", "discrete"], [[name, truth[name]] for name in candidates])
    write_features(base / "features", truth)
    folder = base / "project"
    run_successfully(base, "init", str(folder))
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["models"]["names"] = []
    params["corpus"] = {"kind": "mer", "root": str(corpus)}
    params["encoders"] = {f"my_{modality}": {"type": "imported"} for modality in WIDTHS}
    params["extract"]["encoders"] = {modality: f"my_{modality}" for modality in WIDTHS}
    params["train"]["training"] |= {"seeds": 1, "epochs": 30}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert "80 clips (60 train, 20 candidate, 0 unlabeled), 0 files read" in run_successfully(folder, "index")
    assert "nothing to do" in run_successfully(folder, "rewrite")
    failed = ecmf_pipe(folder, "extract")
    assert failed.returncode == 2
    assert "store import PATH --modality face --encoder my_face" in failed.stderr
    for modality, width in WIDTHS.items():
        arguments = ["store", "import", str(base / "features" / f"{modality}-UTT"), "--modality", modality]
        output = run_successfully(folder, *arguments, "--encoder", f"my_{modality}")
        assert numbers(output.splitlines()[0]) == [80, 0, 0, 0, width]  # new, changed, reused, bad, dimension
    return folder


def test_csv_files_and_imported_features_train_predict_and_submit(project: Path) -> None:
    lines = run_successfully(project, "extract").splitlines()
    assert [line.split(":")[0] for line in lines] == [f"extract {modality}" for modality in WIDTHS]
    assert [numbers(line) for line in lines] == [[0, 80, 0, 0]] * len(WIDTHS)  # done, reused, absent, quarantined
    run_successfully(project, "train")
    run_successfully(project, "predict")
    candidates = [row["name"] for row in rows(project.parent / "corpus/track_all_candidates.csv")]
    truth = {row["name"]: row["discrete"] for row in rows(project.parent / "corpus/track1_test_dis.csv")}
    submitted = rows(project / "data/submission_given.csv")
    assert [row["name"] for row in submitted] == candidates
    assert sum(row["discrete"] == truth[row["name"]] for row in submitted) >= 15  # by chance: 3 of 20
    config = json.loads((project / "data/fusion/given/fusion/config.json").read_text())
    assert {entry["name"]: entry["dim"] for entry in config["modalities"]} == WIDTHS


def test_features_of_other_encoder_with_same_dimension_are_rejected(project: Path) -> None:
    """Otherwise models would predict from wrong features and overwrite the submission."""
    if not (project / "data/submission_given.csv").is_file():  # another process ran the test before
        run_successfully(project, "train")
        run_successfully(project, "predict")
    rng = np.random.default_rng(8)
    folder = project.parent / "junk"
    folder.mkdir()
    for number in range(LABELLED + CANDIDATES):
        np.save(folder / f"sample_{number:04d}.npy", rng.normal(size=WIDTHS["audio"]).astype(np.float32))
    run_successfully(project, "store", "import", str(folder), "--modality", "audio", "--encoder", "junk")
    params, before = project / "params.yaml", (project / "data/submission_given.csv").read_bytes()
    original = params.read_text()
    changed = yaml.safe_load(original)
    changed["encoders"]["junk"] = {"type": "imported"}
    changed["extract"]["encoders"]["audio"] = "junk"
    params.write_text(yaml.safe_dump(changed, sort_keys=False))
    model = "data/fusion/given/fusion"
    failed = [ecmf_pipe(project, *arguments) for arguments in (["predict"], ["evaluate", "--transfer", model])]
    params.write_text(original)
    for done, command in zip(failed, ("ecmf-pipe train", "ecmf-pipe extract"), strict=True):
        assert done.returncode == 2
        assert all(text in done.stderr for text in ("audio", "my_audio", "junk", command))
    assert (project / "data/submission_given.csv").read_bytes() == before
    assert not (project / "data/transfer.json").exists()
    run_successfully(project, "predict")


def test_single_modality_models_are_trained(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "single"
    shutil.copytree(project, folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["train"]["fusion"]["kind"] = "single:face"
    params["train"]["training"] |= {"epochs": 3}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run_successfully(folder, "train")
    kinds = {
        path.parent.name: json.loads(path.read_text())["fusion"]["kind"]
        for path in (folder / "data/fusion/given").glob("*/config.json")
    }
    assert kinds == {"fusion": "single:face", "single_modalities": "mean_probs"}


def test_repeated_import_stores_only_changes(project: Path) -> None:
    folder = project.parent / "features" / "face-UTT"
    arguments = ["store", "import", str(folder), "--modality", "face", "--encoder", "my_face"]
    assert numbers(run_successfully(project, *arguments))[:3] == [0, 0, 80]  # new, changed, reused
    before = np.load(folder / "sample_0003.npy")
    for values in (np.ones(24), before):
        np.save(folder / "sample_0003.npy", values.astype(np.float32))
        assert numbers(run_successfully(project, *arguments))[:3] == [0, 1, 79]
        out = project.parent / f"export {values[0]}"
        run_successfully(
            project,
            "store",
            "export",
            "data/features/face.zarr",
            "--format",
            "npy",
            "--level",
            "utt",
            "--out",
            str(out),
        )
        np.testing.assert_array_equal(np.load(out / "sample_0003.npy"), values.astype(np.float32))


def test_bad_array_is_skipped_and_sets_exit_code(project: Path) -> None:
    path = project.parent / "audio.h5"
    with h5py.File(path, "w") as file:
        for number in range(70):
            file[f"sample_{number:04d}"] = np.full((2, 8), number + 1.0)
        file["sample_0075"] = np.full(8, np.nan)
        file["somebody_else"] = np.ones(8)
    done = ecmf_pipe(project, "store", "import", str(path), "--modality", "audio", "--encoder", "other")
    assert done.returncode == 1
    counts, *details = done.stdout.splitlines()
    assert numbers(counts) == [70, 0, 0, 1, 8]
    assert any("sample_0070" in line and numbers(line)[0] == 9 for line in details), "9 clips have no features"
    assert "'somebody_else'" in done.stdout
    assert "'sample_0075': 8 of 8 values are NaN or infinite" in done.stdout
    assert "other: {type: imported}" in done.stdout
    # Features that params.yaml does not use change nothing.
    assert numbers(run_successfully(project, "extract", "--modality", "audio"))[:3] == [0, 80, 0]


def test_import_under_name_of_computed_encoder_is_rejected(project: Path) -> None:
    params = project / "params.yaml"
    original = params.read_text()
    params.write_text(original.replace("my_audio:\n    type: imported", "my_audio:\n    type: egemaps"))
    arguments = ["--modality", "audio", "--encoder", "my_audio"]
    failed = ecmf_pipe(project, "store", "import", str(project.parent / "features/audio-UTT"), *arguments)
    params.write_text(original)
    assert failed.returncode == 2
    assert "encoders.my_audio" in failed.stderr
