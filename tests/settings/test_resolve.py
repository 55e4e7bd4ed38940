"""Tests of `settings`: a change of an input changes the settings of the stages that use it, and no others."""

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
from ecmf_pipeline.core.clips import CorpusDescription, write_corpus_description
from ecmf_pipeline.core.errors import MissingInput, ParamsError
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.llm import prompt
from ecmf_pipeline.settings import resolve
from ecmf_pipeline.stages import settings as stage

PARAMS = """
corpus: {kind: folder, root: corpus}
encoders:
  clip: {type: transformers_vision, model: clip}
  sounds: {type: egemaps}
  words: {type: transformers_text, model: words, inputs: both}
extract: {encoders: {global: clip, audio: sounds, text: words}}
transcribe: {model: whisper}
llm: {model: llm, gguf_file: none.gguf, prompt: own.yaml, cues_prompt: cues.yaml}
rewrite: {prompt: rewrite.yaml}
vote: {sources: [votes.csv], inputs: [text]}
refine: {verdicts: verdicts.csv}
"""
PROMPTS = Path(prompt.__file__).parent / "prompts"


class Project:
    """An indexed project with its own models and prompts."""

    def __init__(self, folder: Path) -> None:
        paths.CORPUS.parent.mkdir()
        self.set_labels("joy", "fear")
        models = (
            "llm/none.gguf",
            "clip/config.json",
            "clip/model.safetensors",
            "whisper/config.json",
            "whisper/model.bin",
            "whisper/tokenizer.json",
            "words/config.json",
        )
        for name in (*models, "verdicts.csv"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("never read")
        shutil.copy(PROMPTS / "emotion_en.yaml", "own.yaml")
        shutil.copy(PROMPTS / "cues_en.yaml", "cues.yaml")
        shutil.copy(PROMPTS / "rewrite" / "rewrite_en.yaml", "rewrite.yaml")
        Path("params.yaml").write_text(PARAMS)
        time.sleep(0.06)

    def set_labels(self, *labels: str) -> None:
        write_corpus_description(paths.CORPUS, CorpusDescription([*labels], [], synthetic=False, manifest_sha256=""))

    def read(self) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in paths.SETTINGS.glob("*.json")}

    def changes(self) -> set[str]:
        """Run the stage and return the names of the changed files."""
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


def _change_content_only(path: str) -> None:
    """Change the content of a file, but not its size and modification time."""
    status = Path(path).stat()
    Path(path).write_bytes(Path(path).read_bytes().swapcase())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[], object], set[str]]] = {
    "nothing": (lambda: None, set()),
    "a comment in params": (lambda: _replace("params.yaml", "llm:", "# more\nllm:"), set()),
    "the batch size of the LLM": (lambda: _replace("params.yaml", "model: llm,", "model: llm, batch_size: 3,"), set()),
    "the prompt": (lambda: _replace("own.yaml", "speaker", "person"), {"llm"}),
    "a comment in the prompt": (lambda: Path("own.yaml").write_text("# more\n" + Path("own.yaml").read_text()), set()),
    "the prompt of the rewrite": (lambda: _replace("rewrite.yaml", "speaker", "person"), {"rewrite"}),
    "a prompt that is not used": (lambda: _replace("cues.yaml", "speaker", "person"), set()),
    "the language model": (lambda: _change_content_only("llm/none.gguf"), {"llm"}),
    "the mtime of the language model": (lambda: os.utime("llm/none.gguf"), set()),
    "an encoder": (lambda: _change_content_only("clip/model.safetensors"), {"extract-global"}),
    "a new file of an encoder": (lambda: Path("clip/tokenizer.json").write_text("{}"), {"extract-global"}),
    "the speech model": (lambda: _change_content_only("whisper/config.json"), {"transcribe"}),
    "corrected transcripts": (
        lambda: write_atomic(paths.CORRECTIONS, "name,text\n"),
        {"transcribe"},
    ),
    "the verdicts": (lambda: _change_content_only("verdicts.csv"), {"labels"}),
    "a missing file of votes": (lambda: Path("votes.csv").write_text("clip_id,source,label\n"), {"labels"}),
    "rounds": (lambda: _replace("params.yaml", "vote: {", "vote: {rounds: 2, "), {"rounds"}),
    "inputs of the votes": (lambda: _replace("params.yaml", "[text]", "[text, cues]"), {"vote"}),
    "a text encoder that reads no enriched text": (
        lambda: _replace("params.yaml", "inputs: both", "inputs: original"),
        {"rewrite", "extract-text"},
    ),
    "a deleted settings file": (lambda: (paths.SETTINGS / "llm.json").unlink(), {"llm"}),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_change_affects_only_the_stages_that_depend_on_it(
    project: Project, change: Callable[[], object], expected: set[str]
) -> None:
    if expected == {"vote"}:
        _replace("params.yaml", "clip, audio: sounds", "clip, face: faces, audio: sounds")
        _replace("params.yaml", "sounds: {type: egemaps}", "sounds: {type: egemaps}\n  faces: {type: mini_xception}")
    project.changes()
    change()
    time.sleep(0.06)
    assert project.changes() == expected
    assert project.changes() == set()


def test_new_labels_of_the_corpus_change_the_llm_settings(project: Project) -> None:
    project.changes()
    project.set_labels("joy", "anger")
    assert project.changes() == {"llm"}
    assert json.loads((paths.SETTINGS / "llm.json").read_text())["labels"] == ["joy", "anger"]


def test_another_package_version_changes_the_package_settings(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.changes()
    monkeypatch.setattr(resolve, "__version__", "0.0.0")
    assert project.changes() == {"package"}


def test_missing_weights_are_reported_at_each_run(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.changes()
    Path("clip/config.json").rename("config.json")
    assert project.changes() == {"extract-global"}
    assert _reports_missing_config(capsys.readouterr().out)
    assert project.changes() == set()
    assert _reports_missing_config(capsys.readouterr().out)
    Path("config.json").rename("clip/config.json")
    assert project.changes() == {"extract-global"}


def _reports_missing_config(output: str) -> bool:
    return any("extract-global" in line and "config.json" in line for line in output.splitlines())


def test_missing_prompt_raises_params_error(project: Project) -> None:
    Path("own.yaml").unlink()
    with pytest.raises(ParamsError):
        project.changes()


def test_settings_need_an_indexed_corpus(project: Project) -> None:
    paths.CORPUS.unlink()
    with pytest.raises(MissingInput):
        project.changes()


def test_unchanged_weights_are_not_read_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.changes()
    read_files = []
    monkeypatch.setattr(files, "sha256_file", read_files.append)
    project.changes()
    assert read_files == []


def test_unchanged_settings_are_not_written_again(project: Project) -> None:
    project.changes()
    times = {path: path.stat().st_mtime_ns for path in paths.SETTINGS.iterdir()}
    project.changes()
    assert {path: path.stat().st_mtime_ns for path in paths.SETTINGS.iterdir()} == times


def test_settings_command_imports_no_heavy_library(project: Project) -> None:
    project.changes()
    command = [sys.executable, "-X", "importtime", "-m", "ecmf_pipeline", "settings"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout == "settings: unchanged\n"
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "ecmf_pipeline.settings.resolve" in imported
    assert not imported & {"torch", "transformers", "pandas", "numpy", "zarr", "av", "tqdm", "huggingface_hub"}
