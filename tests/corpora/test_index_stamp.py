"""`index` with nothing to do says so without loading anything; whatever changes makes it look at all again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import CorpusError, TooManyQuarantined
from ecmf_pipeline.corpora import measuring
from ecmf_pipeline.llm import prompt
from ecmf_pipeline.settings import index_stamp
from ecmf_pipeline.settings import resolve as indexing
from ecmf_pipeline.stages import index as stage

PARAMS = """
corpus: {kind: KIND, root: corpus}
index: {workers: 0, max_quarantined: 0.4}
encoders: {clip: {type: transformers_vision, model: clip}, sounds: {type: egemaps}}
extract: {encoders: {global: clip, audio: sounds}}
llm: {model: llm, gguf_file: none.gguf, prompt: own.yaml}
"""


class Project:
    """A project on a folder of clips, with models of its own, in which `index` runs."""

    def __init__(self, folder: Path, write_media: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.runs = 0
        for name in ("a.mp4", "b.mp4", "deeper/c.mp4"):
            write_media(folder / "corpus" / name)
            write_media(folder / "corpus" / "video" / f"video{Path(name).name}")
        (folder / "corpus" / "labels.csv").write_text("name,label\na,joy\nb,fear\n")
        (folder / "corpus" / "linked").symlink_to(folder / "elsewhere")
        write_media(folder / "elsewhere" / "d.mp4")
        for path in ("llm/none.gguf", "clip/config.json", "clip/model.safetensors"):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text("never read")
        shutil.copy(Path(prompt.__file__).parent / "prompts" / "emotion_en.yaml", folder / "own.yaml")
        self.set_kind("folder")
        monkeypatch.chdir(folder)
        complete = indexing.index

        def counted() -> None:
            self.runs += 1
            complete()

        monkeypatch.setattr(indexing, "index", counted)

    def set_kind(self, kind: str) -> None:
        (self.folder / "params.yaml").write_text(PARAMS.replace("KIND", kind))

    def index(self) -> bool:
        """Run, and tell whether all was looked at."""
        time.sleep(0.06)  # what has just been written is not stamped
        before = self.runs
        stage.run()
        return self.runs > before


@pytest.fixture
def project(tmp_path: Path, write_media: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, write_media, monkeypatch)


def test_with_nothing_to_do_it_repeats_what_it_would_say(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.index()
    assert "7 files read, 0 quarantined; manifest written" in capsys.readouterr().out
    index_stamp.STAMP.unlink()
    assert project.index()
    again = capsys.readouterr().out
    assert "0 files read, 0 quarantined; manifest unchanged" in again
    assert not project.index()
    assert capsys.readouterr().out == again


def _same_size(path: str) -> None:
    """Change a file's content, but neither its size nor its time of change."""
    status = Path(path).stat()
    Path(path).write_bytes(Path(path).read_bytes().swapcase())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _append(path: str) -> None:
    """Add what is a comment in YAML, and no part of the film in a clip."""
    with Path(path).open("a") as file:
        file.write("# more\n")


CHANGES: dict[str, Callable[[], object]] = {
    "a clip is longer": lambda: _append("corpus/a.mp4"),
    "a clip is touched": lambda: os.utime("corpus/deeper/c.mp4"),
    "a clip is new": lambda: shutil.copy("corpus/a.mp4", "corpus/deeper/e.mp4"),
    "a clip is gone": lambda: Path("corpus/b.mp4").unlink(),
    "a clip has another name": lambda: Path("corpus/b.mp4").rename("corpus/f.mp4"),
    "a linked clip is gone": lambda: Path("elsewhere/d.mp4").unlink(),
    "a folder is gone": lambda: shutil.rmtree("corpus/deeper"),
    "a link leads nowhere": lambda: Path("elsewhere").rename("lost"),
    "a label is another": lambda: _same_size("corpus/labels.csv"),
    "transcripts are new": lambda: Path("corpus/transcripts.csv").write_text("name,text\na,hello\n"),
    "params have a comment": lambda: _append("params.yaml"),
    "the prompt is edited": lambda: _append("own.yaml"),
    "the language model is touched": lambda: os.utime("llm/none.gguf"),
    "an encoder is another": lambda: _same_size("clip/model.safetensors"),
    "an encoder has one more file": lambda: Path("clip/tokenizer.json").write_text("{}"),
    "the manifest is gone": lambda: Path("data/manifest.csv").unlink(),
    "the manifest is another": lambda: _append("data/manifest.csv"),
    "a note is gone": lambda: Path("data/settings/llm.json").unlink(),
    "the findings are gone": lambda: Path("data/index/findings.csv").unlink(),
    "the metrics are another": lambda: Path("data/metrics/index.json").write_text("{}"),
    "the quarantine table is gone": lambda: Path("data/quarantine/index.csv").unlink(),
    "the stamp is empty": lambda: index_stamp.STAMP.write_text(""),
    "the stamp is cut off": lambda: os.truncate(index_stamp.STAMP, 200),
    "the stamp is a list": lambda: index_stamp.STAMP.write_text("[]"),
    "the stamp is no text": lambda: index_stamp.STAMP.write_bytes(b"\xff\0"),
    "the stamp says another thing": lambda: index_stamp.STAMP.write_text(
        index_stamp.STAMP.read_text().replace("7 clips", "8 clips")
    ),
    "the stamp watches less": lambda: index_stamp.STAMP.write_text(
        index_stamp.STAMP.read_text().replace('  "llm",\n', "")
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_after_any_change_it_looks_at_all(project: Project, change: Callable[[], object]) -> None:
    project.index()
    assert not project.index()
    change()
    try:
        assert project.index()
    except CorpusError as error:
        pytest.fail(str(error))
    assert not project.index()


def test_of_mers_layout_only_what_its_reader_sees_counts(project: Project, write_media: Callable[..., Path]) -> None:
    project.set_kind("mer")
    project.index()
    write_media(Path("corpus/deeper/g.mp4"))
    assert not project.index()
    write_media(Path("corpus/video/g.mp4"))
    assert project.index()
    Path("corpus/groups.csv").write_text("name,group\nvideoa,anna\n")
    assert project.index()
    assert not project.index()


@pytest.mark.parametrize(("name", "value"), [("__version__", "0.0.0"), ("find_spec", lambda _: None)])
def test_another_package_or_a_decoder_less(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    project.index()
    monkeypatch.setattr(index_stamp, name, value)
    assert project.index()


def test_a_file_that_could_not_be_read_is_tried_every_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    whole = measuring.sha256_file
    monkeypatch.setattr(measuring, "sha256_file", lambda path: (refuse if path.name == "a.mp4" else whole)(path))
    assert project.index()
    assert project.index()
    monkeypatch.setattr(measuring, "sha256_file", whole)
    assert project.index()
    assert not project.index()


def test_weights_that_are_missing_are_looked_for_every_time(project: Project) -> None:
    Path("clip/config.json").rename("config.json")
    assert project.index()
    assert project.index()


def test_what_changes_while_it_runs_is_not_stamped(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    read = indexing.read_corpus

    def changing(config: object, **options: object) -> object:
        listing = read(config, **options)
        _same_size("corpus/labels.csv")
        return listing

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "read_corpus", changing)
        assert project.index()
    assert not index_stamp.STAMP.exists()
    assert project.index()
    assert not project.index()


def test_a_run_that_fails_is_not_stamped(project: Project) -> None:
    for name in ("a", "b", "deeper/c"):
        Path(f"corpus/{name}.mp4").write_text("no film")
    for _ in range(2):
        with pytest.raises(TooManyQuarantined):
            project.index()


def test_the_command_line_loads_nothing_that_reads_a_corpus(project: Project) -> None:
    project.index()
    command = [sys.executable, "-X", "importtime", "-m", "ecmf_pipeline", "index"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 files read, 0 quarantined; manifest unchanged" in shown.stdout
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "ecmf_pipeline.settings.index_stamp" in loaded
    assert not loaded & {
        "numpy",
        "zarr",
        "yaml",
        "av",
        "tqdm",
        "ecmf_pipeline.settings.params",
        "ecmf_pipeline.settings.resolve",
    }


def test_the_stamp_needs_the_standard_library_alone(project: Project) -> None:
    project.index()
    code = (
        "import sys; before = set(sys.modules)\n"
        "from ecmf_pipeline.settings.index_stamp import repeat; assert repeat()\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert names - sys.stdlib_module_names == {'ecmf_pipeline'}, names"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
