"""`ecmf-pipe doctor`, as a user runs it."""

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


def doctor(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder.parent / "hub")}
    command = [sys.executable, "-m", "ecmf_pipeline", "doctor", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    document = json.loads(done.stdout)
    assert document["exit_code"] == done.returncode
    return {check["name"]: check for check in document["checks"]}


def files(folder: Path) -> dict[Path, tuple[int, int] | None]:
    cached = ("models", ".digests.json")  # digests of weights are remembered by whoever reads them
    found = [path for path in folder.rglob("*") if not set(cached) & set(path.parts)]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None for path in found}


@pytest.fixture
def project(tmp_path, models, make_clip) -> Path:
    folder, clips = tmp_path / "project", tmp_path / "clips"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "models").symlink_to(models.resolve())
    for number in range(6):
        make_clip(
            clips / f"clip_{number}.mp4", pictures=10, photograph=data.astronaut()[:128, 64:192], audio_seconds=0.5
        )
    change(folder, {"corpus": {"kind": "folder", "root": str(clips)}, "extract": {"encoders": FAST, "workers": 3}})
    return folder


def change(folder: Path, changes: dict[str, dict[str, Any]]) -> None:
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text()) if path.is_file() else {"media": {"frames": 2}}
    for section, values in changes.items():
        params[section] = {**params.get(section, {}), **values}
    path.write_text(yaml.safe_dump(params))


def test_a_sound_project_passes_and_nothing_in_it_is_touched(project):
    before = files(project.parent)
    done = doctor(project, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert files(project.parent) == before
    found = checks(done)
    parts = {f"{what} {modality}" for what in ("encoder", "trial") for modality in FAST}
    assert set(found) == {"weights", "device", "corpus", "llm", "disk"} | parts
    assert found["encoder global"]["figures"]["dim"] == 1280
    trial = found["trial global"]["figures"]
    assert (trial["tried"], trial["missing"], trial["failed"]) == (4, 6, [])
    assert trial["bytes_a_clip"] >= 2 * 1280 * 2  # two frames of float16, and what stands beside them
    assert trial["projected_seconds"] == pytest.approx(trial["seconds_a_clip"] * 6 / 3)
    needed = sum(found[f"trial {name}"]["figures"]["bytes_a_clip"] * 6 for name in FAST)
    assert found["disk"]["figures"]["needed"] == pytest.approx(needed, abs=1)


def test_clips_that_are_done_are_not_projected(project):
    for verb in ("index", "rewrite", "extract"):
        words = [sys.executable, "-m", "ecmf_pipeline", verb]
        subprocess.run(words, cwd=project, check=True, capture_output=True)
    found = checks(doctor(project, "--json"))
    assert found["trial audio"]["figures"]["missing"] == found["trial global"]["figures"]["missing"] == 0
    assert found["disk"]["figures"]["needed"] == 0


def test_a_bad_clip_is_named_and_the_rest_goes_on(project, make_clip):
    clips = project.parent / "clips"
    (clips / "clip_0.mp4").write_bytes(b"no film")
    make_clip(
        clips / "clip_5.mp4", pictures=10, photograph=data.astronaut()[:128, 64:192], audio_seconds=0.5, amplitude=0.0
    )
    done = doctor(project)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("warning  clip") and "clip_0: UnreadableMedia" in line for line in lines)
    assert any(line.startswith("warning  trial audio") and "clip_5: SilentAudio" in line for line in lines)
    assert any(line.startswith("ok       trial global     4 of 4 clips") for line in lines)


def test_a_hub_model_that_cannot_be_reached_is_a_clear_failure(project):
    change(project, {"encoders": {"far": {"type": "transformers_vision", "model": "nobody/has-this"}}})
    change(project, {"extract": {"encoders": {"global": "far", "audio": "egemaps"}}})
    done = doctor(project, "--json")
    assert done.returncode == 2
    found = checks(done)
    assert (
        "'nobody/has-this' is neither a folder here nor a model that the hub gives"
        in found["encoder global"]["message"]
    )
    assert "network" in found["encoder global"]["hint"]
    assert "trial global" not in found
    assert found["trial audio"]["state"] == "ok"


def test_missing_weights_and_a_missing_corpus_fail(project):
    (project / "data" / "models").unlink()
    change(project, {"corpus": {"root": "nowhere"}})
    done = doctor(project)
    assert done.returncode == 2
    assert "run `ecmf-pipe models`" in done.stdout
    assert "nowhere" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_llm_is_asked_about_what_clips_say(project, tiny_model):
    lines = [f"clip_{number},I am so glad number {number}" for number in range(6)]
    (project.parent / "clips" / "transcripts.csv").write_text("\n".join(["name,text", *lines]))
    change(project, {"llm": {"model": str(tiny_model), "gguf_file": None}})
    change(project, {"extract": {"encoders": {"text": "minilm"}}})
    found = checks(doctor(project, "--json"))
    assert found["llm"]["state"] == "ok", found["llm"]
    assert found["llm"]["figures"]["missing"] == 6
    assert found["trial text"]["figures"]["tried"] == 4
    change(project, {"llm": {"model": "nowhere/at-all", "gguf_file": None}})
    done = doctor(project, "--json")
    found = checks(done)
    assert done.returncode == 2
    assert found["llm"]["state"] == "failure"
    assert "nowhere/at-all" in found["llm"]["message"]
    assert "not tried" in found["trial text"]["message"]
