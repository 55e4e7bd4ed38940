"""End-to-end tests of `ecmf-pipe doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from skimage import data

FAST = {"global": "efficientnet_lite0", "audio": "egemaps"}


def run_doctor(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "hub")}
    command = [sys.executable, "-m", "ecmf_pipeline", "doctor", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def checks_of(process: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    document = json.loads(process.stdout)
    assert document["exit_code"] == process.returncode
    return {check["name"]: check for check in document["checks"]}


def file_states(folder: Path) -> dict[Path, tuple[int, int] | None]:
    excluded = {"models", ".digests.json", ".trial.json"}  # cached digests of weights, and the measurements
    paths = [path for path in folder.rglob("*") if not excluded & set(path.parts)]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None for path in paths}


@pytest.fixture
def project(tmp_path, models, make_clip) -> Path:
    folder, clips = tmp_path / "project", tmp_path / "clips"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "models").symlink_to(models.resolve())
    for number in range(6):
        make_clip(
            clips / f"clip_{number}.mp4", pictures=10, photograph=data.astronaut()[:128, 64:192], audio_seconds=0.5
        )
    change_params(
        folder, {"corpus": {"kind": "folder", "root": str(clips)}, "extract": {"encoders": FAST, "workers": 3}}
    )
    return folder


def change_params(folder: Path, changes: dict[str, dict[str, Any]]) -> None:
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text()) if path.is_file() else {"media": {"frames": 2}}
    for section, values in changes.items():
        params[section] = {**params.get(section, {}), **values}
    path.write_text(yaml.safe_dump(params))


@pytest.mark.slow
def test_sound_project_passes_and_is_not_changed(project):
    before = file_states(project.parent)
    process = run_doctor(project, "--json")
    assert process.returncode == 0, process.stdout + process.stderr
    assert file_states(project.parent) == before
    checks = checks_of(process)
    by_modality = {f"{check} {modality}" for check in ("encoder", "trial") for modality in FAST}
    assert set(checks) == {"weights", "device", "corpus", "llm", "disk"} | by_modality
    assert checks["encoder global"]["figures"]["dim"] == 1280
    trial = checks["trial global"]["figures"]
    assert (trial["tried"], trial["missing"], trial["failed"]) == (4, 6, [])
    assert trial["bytes_a_clip"] >= 2 * 1280 * 2  # two frames of float16
    assert trial["projected_seconds"] == pytest.approx(trial["seconds_a_clip"] * 6 / 3)
    needed = sum(checks[f"trial {name}"]["figures"]["bytes_a_clip"] * 6 for name in FAST)
    assert checks["disk"]["figures"]["needed"] == pytest.approx(needed, abs=1)


@pytest.mark.slow
def test_finished_clips_are_not_projected(project):
    for command in ("index", "rewrite", "extract"):
        arguments = [sys.executable, "-m", "ecmf_pipeline", command]
        subprocess.run(arguments, cwd=project, check=True, capture_output=True)
    checks = checks_of(run_doctor(project, "--json"))
    assert checks["trial audio"]["figures"]["missing"] == checks["trial global"]["figures"]["missing"] == 0
    assert checks["disk"]["figures"]["needed"] == 0


@pytest.mark.slow
def test_bad_clips_are_reported_and_the_others_are_checked(project, make_clip):
    clips = project.parent / "clips"
    (clips / "clip_0.mp4").write_bytes(b"no film")
    make_clip(
        clips / "clip_5.mp4", pictures=10, photograph=data.astronaut()[:128, 64:192], audio_seconds=0.5, amplitude=0.0
    )
    process = run_doctor(project)
    assert process.returncode == 1
    lines = process.stdout.splitlines()
    assert any(line.startswith("warning  clip") and "clip_0: UnreadableMedia" in line for line in lines)
    assert any(line.startswith("warning  trial audio") and "clip_5: SilentAudio" in line for line in lines)
    assert any(line.startswith("ok       trial global     4 of 4 clips") for line in lines)


def test_unreachable_hub_model_fails_with_a_network_hint(project):
    change_params(project, {"encoders": {"far": {"type": "transformers_vision", "model": "nobody/has-this"}}})
    change_params(project, {"extract": {"encoders": {"global": "far", "audio": "egemaps"}}})
    process = run_doctor(project, "--json")
    assert process.returncode == 2
    checks = checks_of(process)
    assert checks["encoder global"]["state"] == "failure"
    assert "'nobody/has-this'" in checks["encoder global"]["message"]
    assert "network" in checks["encoder global"]["hint"]
    assert "trial global" not in checks
    assert checks["trial audio"]["state"] == "ok"


def test_missing_weights_and_a_missing_corpus_fail(project):
    (project / "data" / "models").unlink()
    change_params(project, {"corpus": {"root": "nowhere"}})
    process = run_doctor(project)
    assert process.returncode == 2
    assert "ecmf-pipe models" in process.stdout
    assert "nowhere" in process.stdout
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_llm_is_tried_with_transcripts_of_the_corpus(project, tiny_model):
    lines = [f"clip_{number},I am so glad number {number}" for number in range(6)]
    (project.parent / "clips" / "transcripts.csv").write_text("\n".join(["name,text", *lines]))
    change_params(project, {"llm": {"model": str(tiny_model), "gguf_file": None}})
    change_params(project, {"extract": {"encoders": {"text": "minilm"}}})
    checks = checks_of(run_doctor(project, "--json"))
    assert checks["llm"]["state"] == "ok", checks["llm"]
    assert checks["llm"]["figures"]["missing"] == 6
    assert checks["trial text"]["figures"]["tried"] == 4
    change_params(project, {"llm": {"model": "nowhere/at-all", "gguf_file": None}})
    process = run_doctor(project, "--json")
    checks = checks_of(process)
    assert process.returncode == 2
    assert checks["llm"]["state"] == "failure"
    assert "nowhere/at-all" in checks["llm"]["message"]
    assert checks["trial text"]["figures"] == {}
