"""`index` scans the corpus only if something has changed since the last complete run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.errors import CorpusError, TooManyQuarantined
from ecmf_pipeline.corpora import last_scan, measuring, registry
from ecmf_pipeline.stages import index as stage

PARAMS = """
corpus: {kind: KIND, root: corpus}
index: {workers: 0, max_quarantined: 0.4}
extract: {encoders: {ENCODERS}}
"""


class Project:
    """A project with a folder of clips."""

    def __init__(self, folder: Path, write_media: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.scans = 0
        for name in ("a.mp4", "b.mp4", "deeper/c.mp4"):
            write_media(folder / "corpus" / name)
            write_media(folder / "corpus" / "video" / f"video{Path(name).name}")
        (folder / "corpus" / "labels.csv").write_text("name,label\na,joy\nb,fear\n")
        (folder / "corpus" / "linked").symlink_to(folder / "elsewhere")
        write_media(folder / "elsewhere" / "d.mp4")
        self.set_params()
        monkeypatch.chdir(folder)
        read_corpus = registry.read_corpus

        def count_scan(*arguments: object, **options: object) -> object:
            self.scans += 1
            return read_corpus(*arguments, **options)

        monkeypatch.setattr(registry, "read_corpus", count_scan)

    def set_params(self, kind: str = "folder", more: str = "", encoders: str = "audio: egemaps") -> None:
        params = PARAMS.replace("KIND", kind).replace("ENCODERS", encoders)
        (self.folder / "params.yaml").write_text(params + more)

    def index(self) -> bool:
        """Run `index` and return whether it scanned the corpus."""
        time.sleep(0.06)  # a run is not recorded if it starts right after a file was written
        before = self.scans
        stage.run()
        return self.scans > before


@pytest.fixture
def project(tmp_path: Path, write_media: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, write_media, monkeypatch)


def test_unchanged_index_prints_summary_of_a_scan(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.index()
    assert "7 files read, 0 quarantined; manifest written" in capsys.readouterr().out
    paths.LAST_SCAN.unlink()
    assert project.index()
    output = capsys.readouterr().out
    assert "0 files read, 0 quarantined; manifest unchanged" in output
    assert "labels.csv: 5 files without usable label" in output, "findings are printed"
    assert not project.index()
    assert capsys.readouterr().out == output


def _same_size(path: str) -> None:
    """Change the content of a file but neither its size nor its modification time."""
    status = Path(path).stat()
    Path(path).write_bytes(Path(path).read_bytes().swapcase())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _append(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("# more\n")


CHANGES: dict[str, Callable[[], object]] = {
    "a clip is longer": lambda: _append("corpus/a.mp4"),
    "a clip is touched": lambda: os.utime("corpus/deeper/c.mp4"),
    "a clip has other content of the same size and time": lambda: _same_size("corpus/a.mp4"),
    "a clip is new": lambda: shutil.copy("corpus/a.mp4", "corpus/deeper/e.mp4"),
    "a clip is gone": lambda: Path("corpus/b.mp4").unlink(),
    "a clip has another name": lambda: Path("corpus/b.mp4").rename("corpus/f.mp4"),
    "a linked clip is gone": lambda: Path("elsewhere/d.mp4").unlink(),
    "a folder is gone": lambda: shutil.rmtree("corpus/deeper"),
    "a link leads nowhere": lambda: Path("elsewhere").rename("lost"),
    "a label has changed": lambda: _same_size("corpus/labels.csv"),
    "subtitles are new": lambda: Path("corpus/a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n"),
    "transcripts are new": lambda: Path("corpus/transcripts.csv").write_text("name,text\na,hello\n"),
    "labels are set": lambda: Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("root: corpus", "root: corpus, labels: [joy, fear]")
    ),
    "fewer bad files are allowed": lambda: Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("0.4", "0.3")
    ),
    "the manifest is gone": lambda: paths.MANIFEST.unlink(),
    "the manifest has changed": lambda: _append("data/manifest.csv"),
    "the corpus file is gone": lambda: paths.CORPUS.unlink(),
    "the findings are gone": lambda: paths.FINDINGS.unlink(),
    "the metrics have changed": lambda: paths.INDEX_METRICS.write_text("{}"),
    "the quarantine table is gone": lambda: paths.quarantine("index").unlink(),
    "the record is empty": lambda: paths.LAST_SCAN.write_text(""),
    "the record is cut off": lambda: os.truncate(paths.LAST_SCAN, 50),
    "the record is a list": lambda: paths.LAST_SCAN.write_text("[]"),
    "the record is binary": lambda: paths.LAST_SCAN.write_bytes(b"\xff\0"),
    "the record has another summary": lambda: paths.LAST_SCAN.write_text(
        paths.LAST_SCAN.read_text().replace("7 clips", "8 clips")
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_causes_a_scan(project: Project, change: Callable[[], object]) -> None:
    project.index()
    assert not project.index()
    change()
    try:
        assert project.index()
    except CorpusError as error:
        pytest.fail(str(error))
    assert not project.index()


def test_params_of_other_stages_cause_no_scan(project: Project) -> None:
    project.index()
    project.set_params(more="llm: {batch_size: 2}\n# a comment\n")
    assert not project.index()


def test_only_files_of_mer_layout_cause_a_scan(project: Project, write_media: Callable[..., Path]) -> None:
    project.set_params("mer")
    project.index()
    write_media(Path("corpus/deeper/g.mp4"))
    assert not project.index()
    write_media(Path("corpus/video/g.mp4"))
    assert project.index()
    Path("corpus/groups.csv").write_text("name,group\nvideoa,anna\n")
    assert project.index()
    assert not project.index()


def test_face_crops_are_scanned_if_params_use_them(project: Project) -> None:
    project.set_params("mer", "faces: {source: openface}\n", encoders="face: mini_xception")
    project.index()
    assert not project.index()
    crops = Path("corpus/openface_face/videoa/videoa.npy")
    crops.parent.mkdir(parents=True)
    crops.write_bytes(b"never read by index")
    assert project.index()
    assert not project.index()
    project.set_params("mer")
    assert project.index()


def test_other_package_version_causes_a_scan(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.index()
    monkeypatch.setattr(last_scan.ecmf_pipeline, "__file__", str(project.folder / "other" / "__init__.py"))
    assert project.index()


def test_unreadable_file_is_retried_in_each_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    sha256_input = measuring.sha256_input
    monkeypatch.setattr(
        measuring, "sha256_input", lambda path: (refuse if path.name == "a.mp4" else sha256_input)(path)
    )
    assert project.index()
    assert project.index()
    monkeypatch.setattr(measuring, "sha256_input", sha256_input)
    assert project.index()
    assert not project.index()


def test_run_during_a_change_is_not_recorded(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    read = registry.read_corpus

    def changing(config: object, **options: object) -> object:
        listing = read(config, **options)  # type: ignore[arg-type]
        _same_size("corpus/labels.csv")
        return listing

    with monkeypatch.context() as patch:
        patch.setattr(registry, "read_corpus", changing)
        assert project.index()
    assert not paths.LAST_SCAN.exists()
    assert project.index()
    assert not project.index()


def test_failed_run_is_not_recorded(project: Project) -> None:
    for name in ("a", "b", "deeper/c", "d"):
        Path(f"corpus/{name}.mp4").write_text("no film")
    for _ in range(2):
        with pytest.raises(TooManyQuarantined):
            project.index()


def test_unchanged_index_imports_no_heavy_module(project: Project) -> None:
    project.index()
    command = [sys.executable, "-X", "importtime", "-m", "ecmf_pipeline", "index"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 files read, 0 quarantined; manifest unchanged" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ecmf_pipeline.corpora.last_scan" in loaded
    assert not loaded & {
        "numpy",
        "zarr",
        "av",
        "tqdm",
        "torch",
        "ecmf_pipeline.corpora.index",
        "ecmf_pipeline.runner.run",
    }


def test_unwritable_record_causes_another_scan(project: Project) -> None:
    paths.LAST_SCAN.mkdir(parents=True)
    assert project.index() == project.index()
    assert paths.LAST_SCAN.is_dir()
