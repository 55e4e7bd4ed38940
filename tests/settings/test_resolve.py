"""`settings`: whatever a stage depends on beside params.yaml changes that stage's file, and no other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.core import files, paths
from ecmf_pipeline.core.errors import MissingInput, ParamsError
from ecmf_pipeline.llm import prompt
from ecmf_pipeline.settings import resolve
from ecmf_pipeline.stages import settings as stage

PARAMS = """
corpus: {kind: folder, root: corpus}
encoders: {clip: {type: transformers_vision, model: clip}, sounds: {type: egemaps}}
extract: {encoders: {global: clip, audio: sounds}}
transcribe: {model: whisper}
llm: {model: llm, gguf_file: none.gguf, prompt: own.yaml, cues_prompt: cues.yaml}
rewrite: {prompt: rewrite.yaml}
vote: {sources: [votes.csv], inputs: [text]}
refine: {verdicts: verdicts.csv}
"""
PROMPTS = Path(prompt.__file__).parent / "prompts"


class Project:
    """A project with models and prompts of its own, after `index`."""

    def __init__(self, folder: Path) -> None:
        paths.CORPUS.parent.mkdir()
        self.set_labels("joy", "fear")
        models = ("llm/none.gguf", "clip/config.json", "clip/model.safetensors", "whisper/config.json")
        for name in (*models, "verdicts.csv"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("never read")
        shutil.copy(PROMPTS / "emotion_en.yaml", "own.yaml")
        shutil.copy(PROMPTS / "cues_en.yaml", "cues.yaml")
        shutil.copy(PROMPTS / "rewrite" / "rewrite_en.yaml", "rewrite.yaml")
        Path("params.yaml").write_text(PARAMS)
        time.sleep(0.06)

    def set_labels(self, *labels: str) -> None:
        paths.CORPUS.write_text(json.dumps({"labels": labels, "candidates": [], "synthetic": False}))

    def read(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in paths.SETTINGS.glob("*.json")}

    def changes(self) -> set[str]:
        """Run, and return the names of the files that have changed."""
        before = self.read()
        stage.run()
        return {name for name, content in self.read().items() if before.get(name) != content}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def _replace(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def _same_size(path: str) -> None:
    status = Path(path).stat()
    Path(path).write_bytes(Path(path).read_bytes().swapcase())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[], object], set[str]]] = {
    "nothing": (lambda: None, set()),
    "a comment in params": (lambda: _replace("params.yaml", "llm:", "# more\nllm:"), set()),
    "how fast the LLM is asked": (lambda: _replace("params.yaml", "model: llm,", "model: llm, batch_size: 3,"), set()),
    "the prompt": (lambda: _replace("own.yaml", "speaker", "person"), {"llm"}),
    "a comment in the prompt": (lambda: Path("own.yaml").write_text("# more\n" + Path("own.yaml").read_text()), set()),
    "the prompt of the rewrite": (lambda: _replace("rewrite.yaml", "speaker", "person"), {"rewrite"}),
    "a prompt that is not used": (lambda: _replace("cues.yaml", "speaker", "person"), set()),
    "the language model": (lambda: _same_size("llm/none.gguf"), {"llm"}),
    "the language model's time": (lambda: os.utime("llm/none.gguf"), set()),
    "an encoder": (lambda: _same_size("clip/model.safetensors"), {"extract-global"}),
    "a new file of an encoder": (lambda: Path("clip/tokenizer.json").write_text("{}"), {"extract-global"}),
    "the speech model": (lambda: _same_size("whisper/config.json"), {"transcribe"}),
    "the verdicts": (lambda: _same_size("verdicts.csv"), {"labels"}),
    "votes that were missing": (lambda: Path("votes.csv").write_text("clip_id,source,label\n"), {"labels"}),
    "rounds": (lambda: _replace("params.yaml", "vote: {", "vote: {rounds: 2, "), {"rounds"}),
    "inputs of the votes": (lambda: _replace("params.yaml", "[text]", "[text, cues]"), {"vote"}),
    "a file that is gone": (lambda: (paths.SETTINGS / "llm.json").unlink(), {"llm"}),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_change_concerns_those_who_depend_on_it(
    project: Project, change: Callable[[], object], expected: set[str]
) -> None:
    if expected == {"vote"}:
        _replace("params.yaml", "clip, audio: sounds", "clip, face: faces, audio: sounds")
        _replace("params.yaml", "sounds: {type: egemaps}", "sounds: {type: egemaps}, faces: {type: mini_xception}")
    project.changes()
    change()
    time.sleep(0.06)
    assert project.changes() == expected
    assert project.changes() == set()


def test_labels_of_the_corpus_are_asked_for(project: Project) -> None:
    project.changes()
    project.set_labels("joy", "anger")
    assert project.changes() == {"llm"}
    assert json.loads((paths.SETTINGS / "llm.json").read_text())["labels"] == ["joy", "anger"]


def test_another_version_of_the_package(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.changes()
    monkeypatch.setattr(resolve, "__version__", "0.0.0")
    assert project.changes() == {"package"}


def test_missing_weights_are_reported_and_looked_for_every_time(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.changes()
    Path("clip/config.json").rename("config.json")
    assert project.changes() == {"extract-global"}
    assert "extract-global: clip holds no config.json" in capsys.readouterr().out
    assert project.changes() == set()
    assert "extract-global: clip holds no config.json" in capsys.readouterr().out
    Path("config.json").rename("clip/config.json")
    assert project.changes() == {"extract-global"}


def test_a_missing_prompt_is_an_error(project: Project) -> None:
    Path("own.yaml").unlink()
    with pytest.raises(ParamsError):
        project.changes()


def test_it_needs_an_indexed_corpus(project: Project) -> None:
    paths.CORPUS.unlink()
    with pytest.raises(MissingInput):
        project.changes()


def test_weights_are_read_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.changes()
    read = []
    monkeypatch.setattr(files, "sha256_file", read.append)
    project.changes()
    assert read == []


def test_unchanged_files_are_left_alone(project: Project) -> None:
    project.changes()
    times = {path: path.stat().st_mtime_ns for path in paths.SETTINGS.iterdir()}
    project.changes()
    assert {path: path.stat().st_mtime_ns for path in paths.SETTINGS.iterdir()} == times


def test_the_command_line_loads_nothing_heavy(project: Project) -> None:
    project.changes()
    command = [sys.executable, "-X", "importtime", "-m", "ecmf_pipeline", "settings"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout == "settings: unchanged\n"
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "ecmf_pipeline.settings.resolve" in loaded
    assert not loaded & {"torch", "transformers", "pandas", "numpy", "zarr", "av", "tqdm", "huggingface_hub"}
