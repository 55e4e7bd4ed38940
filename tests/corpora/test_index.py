from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from ecmf_pipeline.core.clips import ClipId, read_manifest, write_manifest
from ecmf_pipeline.core.errors import FileUnreachable, UnreadableMedia
from ecmf_pipeline.core.files import FileState, sha256_file
from ecmf_pipeline.corpora import measuring
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.index import IndexResult, format_index_summary, index_corpus, select_findings
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind, count_by_kind
from ecmf_pipeline.runner import quarantine

Read = Callable[..., CorpusListing]
Write = Callable[..., Path]


class Project:
    """A folder of clips and the index of it."""

    def __init__(self, folder: Path, read: Read) -> None:
        self.root = folder / "corpus"
        self.cache = folder / ".index-cache.json"
        self.manifest = folder / "manifest.csv"
        self._read = read

    def list(self) -> CorpusListing:
        listing: CorpusListing = self._read(self.root)
        return listing

    def index(self, workers: int = 2) -> IndexResult:
        result = index_corpus(self.list(), self.cache, workers=workers)
        write_manifest(self.manifest, result.clips)
        assert read_manifest(self.manifest) == list(result.clips)
        return result


@pytest.fixture
def project(tmp_path: Path, read: Read, write_media: Write) -> Project:
    project = Project(tmp_path, read)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_media(project.root / name)
    (project.root / "labels.csv").write_text("name,label\na,joy\nb,fear\nc,joy\n")
    return project


def test_files_are_measured(project: Project, write_media: Write) -> None:
    write_media(project.root / "d.mkv", "both")
    write_media(project.root / "e.webm", "webm")
    result = project.index()
    clips = {str(clip.clip_id): clip for clip in result.clips}
    assert clips["a"].digest == sha256_file(project.root / "a.mp4")
    assert clips["a"].bytes == (project.root / "a.mp4").stat().st_size
    assert clips["a"].duration == pytest.approx(0.5, abs=0.02)
    assert (clips["a"].has_video, clips["a"].has_audio) == (True, False)
    assert (clips["d"].has_video, clips["d"].has_audio) == (True, True)
    assert clips["e"].duration == pytest.approx(0.5, abs=0.11)
    assert (result.hashed, result.reused, result.quarantined) == (5, 0, {})


def test_unchanged_corpus_reads_and_writes_nothing(project: Project) -> None:
    first = project.index()
    stamps = [path.stat().st_mtime_ns for path in (project.manifest, project.cache)]
    second = project.index()
    assert (second.hashed, second.reused) == (0, 3)
    assert second.clips == first.clips
    assert second.findings == first.findings
    assert [path.stat().st_mtime_ns for path in (project.manifest, project.cache)] == stamps


def test_new_mtime_with_same_content_leaves_manifest_unchanged(project: Project) -> None:
    project.index()
    before = project.manifest.read_bytes()
    os.utime(project.root / "b.mp4", (1, 1))
    assert project.index().hashed == 1
    assert project.manifest.read_bytes() == before
    assert project.index().hashed == 0


def test_only_changed_files_are_read(project: Project, write_media: Write) -> None:
    before = {str(clip.clip_id): clip.digest for clip in project.index().clips}
    write_media(project.root / "b.mp4", "other pictures")
    write_media(project.root / "d.mp4")
    result = project.index()
    after = {str(clip.clip_id): clip.digest for clip in result.clips}
    assert (result.hashed, result.reused) == (2, 2)
    assert after["b"] != before["b"]
    assert (after["a"], after["c"]) == (before["a"], before["c"])


def test_new_size_with_same_mtime_is_a_change(project: Project, write_media: Write) -> None:
    project.index()
    status = (project.root / "b.mp4").stat()
    write_media(project.root / "b.mp4", mark="longer than before")
    os.utime(project.root / "b.mp4", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert project.index().hashed == 1


def test_changed_labels_cause_no_file_read(project: Project) -> None:
    project.index()
    (project.root / "labels.csv").write_text("name,label\na,fear\nb,fear\nc,joy\n")
    result = project.index()
    assert result.hashed == 0
    assert result.clips[0].given_label == "fear"


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"version": 1}', b'{"version": 1, "root": "?", "files": {}}']
)
def test_missing_or_damaged_cache_is_rebuilt(project: Project, content: bytes | None) -> None:
    project.index()
    before = project.manifest.read_bytes()
    if content is None:
        project.cache.unlink()
    else:
        project.cache.write_bytes(content)
    assert project.index().hashed == 3
    assert project.manifest.read_bytes() == before
    assert project.index().hashed == 0


def test_cache_with_damaged_row_is_ignored(project: Project) -> None:
    project.index()
    text = project.cache.read_text()
    project.cache.write_text(text.replace("true", "7", 1))
    assert text != project.cache.read_text()
    assert project.index().hashed == 3


def test_cache_of_other_corpus_is_ignored(project: Project, write_media: Write) -> None:
    project.index()
    other = project.root.with_name("other")
    for path in sorted(project.root.glob("*.mp4")):
        write_media(other / path.name, mark="X.mp4")
        status = path.stat()
        os.utime(other / path.name, ns=(status.st_atime_ns, status.st_mtime_ns))
    project.root = other
    assert project.index().hashed == 3


def test_bad_files_are_quarantined(project: Project, write_media: Write, media_bytes: dict[str, bytes]) -> None:
    (project.root / "empty.mp4").touch()
    (project.root / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (project.root / "half.mp4").write_bytes(media_bytes["pictures"][:400])
    write_media(project.root / "sound.mp4", "sound")
    result = project.index()
    reasons = {str(clip_id): (bad.reason, bad.message) for clip_id, bad in result.quarantined.items()}
    assert list(reasons) == ["empty", "half", "noise"]
    assert {reason for reason, _ in reasons.values()} == {UnreadableMedia.__name__}
    assert "0 bytes" in reasons["empty"][1]
    clips = {str(clip.clip_id): clip for clip in result.clips}
    assert clips["a"].has_video
    assert clips["noise"].digest == sha256_file(project.root / "noise.mp4")
    assert not clips["noise"].has_video
    assert (clips["sound"].has_video, clips["sound"].has_audio) == (False, True)
    assert [f.clip_id for f in result.findings if f.kind == "no_video_stream"] == ["sound"]
    again = project.index()
    assert again.hashed == 0
    assert again.quarantined == result.quarantined
    assert again.findings == result.findings


def test_a_file_that_was_cut_off_is_reported(project: Project) -> None:
    """Half of the packets of a Matroska file are missing; only its header has the length."""
    path = project.root / "long.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for _ in range(40):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuvj420p")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = project.index()
    (finding,) = (finding for finding in result.findings if finding.kind == "truncated")
    assert (finding.clip_id, result.quarantined) == ("long", {})
    assert {clip.clip_id: clip.duration for clip in result.clips}["long"] == pytest.approx(4, abs=0.11)
    assert project.index().findings == result.findings


def test_duplicate_content_is_reported(project: Project, write_media: Write) -> None:
    write_media(project.root / "y.mp4", mark="a.mp4")
    for name in ("empty1.mp4", "empty2.mp4"):
        (project.root / name).touch()
    [finding] = [f for f in project.index().findings if f.kind == "duplicate_content"]
    assert finding.clip_id == "y"
    assert all(text in finding.message for text in ("'y.mp4'", "'a.mp4'", "train", "candidate"))


@pytest.mark.parametrize(("names", "leaks"), [(("z1", "z2"), False), (("a", "z1"), True)])
def test_duplicates_of_clips_that_are_not_trained_on_do_not_affect_training(
    project: Project, write_media: Write, names: tuple[str, str], leaks: bool
) -> None:
    for name in names:
        write_media(project.root / f"{name}.mp4", mark="same bytes")
    [finding] = [f for f in project.index().findings if f.kind == "duplicate_content"]
    assert ("both training and evaluation" in finding.message) is leaks


def test_file_removed_after_scan_is_quarantined(project: Project) -> None:
    listing = project.list()
    (project.root / "b.mp4").unlink()
    result = index_corpus(listing, project.cache, workers=2)
    [(clip_id, measured)] = result.quarantined.items()
    assert (clip_id, measured.digest, measured.reason) == ("b", "", FileUnreachable.__name__)
    assert (result.hashed, len(result.clips)) == (2, 3)


def test_file_changed_during_read_is_quarantined_and_retried(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_slowly(path: Path) -> str:
        digest = sha256_file(path)
        if path.name == "b.mp4":
            with path.open("ab") as file:
                file.write(b"more")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "sha256_input", hash_slowly)
        [(clip_id, measured)] = project.index(workers=0).quarantined.items()
    assert (clip_id, measured.digest, measured.reason) == ("b", "", FileUnreachable.__name__)
    assert "b.mp4 changed" in measured.message
    result = project.index()
    assert (result.hashed, result.quarantined) == (1, {})


def test_file_without_read_permission_is_retried(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        if path.name == "b.mp4":
            raise PermissionError(13, "Permission denied")
        return sha256_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "sha256_input", refuse)
        [measured] = project.index(workers=0).quarantined.values()
    assert measured.reason == FileUnreachable.__name__
    assert "Permission denied" in measured.message
    assert project.index().hashed == 1


def test_interrupt_loses_only_the_current_batch(
    project: Project, write_media: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(measuring.BATCH_SIZE):
        write_media(project.root / f"f{i:02d}.mp4")

    def interrupted(path: Path) -> str:
        if path.name == f"f{measuring.BATCH_SIZE - 1}.mp4":
            raise KeyboardInterrupt
        return sha256_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "sha256_input", interrupted)
        with pytest.raises(KeyboardInterrupt):
            project.index(workers=0)
    assert not project.manifest.exists()
    result = project.index()
    assert (result.hashed, result.reused) == (3, measuring.BATCH_SIZE)


def test_interrupt_while_taking_a_batch_loses_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    put, paths = measuring.IndexCache.put, []

    def interrupted(cache: measuring.IndexCache, path: str, *values: Any) -> None:
        if len(paths) == 1:
            raise KeyboardInterrupt
        paths.append(path)
        put(cache, path, *values)

    with monkeypatch.context() as patch:
        patch.setattr(measuring.IndexCache, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            project.index(workers=0)
    result = project.index(workers=0)
    assert (result.hashed, result.reused) == (0, 3)


def test_batches_of_killed_run_are_adopted_for_same_corpus_only(project: Project) -> None:
    listing = project.list()
    writer = measuring.CacheWriter(measuring.IndexCache(project.cache, project.root))
    file = measuring.FileToMeasure("a.mp4", FileState.of(project.root / "a.mp4"))
    writer.spool.keep("first-000000", [(file, measuring.Measurement("0" * 64, 1.0, 1.0, True, False))])
    spool, backup = project.cache.with_name(".index.spool"), project.root.with_name("backup")
    shutil.copytree(spool, backup)
    result = index_corpus(listing, project.cache, workers=0)
    assert (result.hashed, result.reused, result.clips[0].digest) == (2, 1, "0" * 64)
    shutil.copytree(backup, spool)
    project.cache.unlink()
    project.root = project.root.rename(project.root.with_name("other"))
    assert project.index(workers=0).hashed == 3


@pytest.mark.parametrize("step", ["sha256_input", "probe_media"])
def test_an_unexpected_exception_quarantines_its_file_until_the_program_changes(
    project: Project, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    function: Any = getattr(measuring, step)

    def broken(path: Path) -> Any:
        if path.name == "b.mp4":
            raise ZeroDivisionError
        return function(path)

    with monkeypatch.context() as patch:
        patch.setattr(measuring, step, broken)
        result = project.index(workers=0)
        assert {str(clip_id): measured.reason for clip_id, measured in result.quarantined.items()} == {
            "b": "UnexpectedError"
        }
        assert "ZeroDivisionError" in result.quarantined[ClipId("b")].message
        expected = "" if step == "sha256_input" else sha256_file(project.root / "b.mp4")
        assert result.clips[1].digest == expected
        assert project.index(workers=0).hashed == 0
    for module in (measuring, quarantine):
        monkeypatch.setattr(module, "program_version", lambda: "another")
    result = project.index(workers=0)
    assert (result.hashed, result.reused, result.quarantined) == (1, 2, {})


@pytest.mark.parametrize("in_place", [True, False])
def test_new_content_with_same_size_and_mtime_is_a_change(project: Project, write_media: Write, in_place: bool) -> None:
    before = {str(clip.clip_id): clip.digest for clip in project.index().clips}
    path = project.root / "b.mp4"
    times = path.stat()
    other = path if in_place else project.root.with_name("other.mp4")
    write_media(other, mark="z.mp4")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    result = project.index()
    assert (result.hashed, result.reused) == (1, 2)
    assert result.clips[1].digest == sha256_file(path) != before["b"]


def test_a_file_that_cannot_settle_is_measured_but_not_remembered(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of its file server is ahead, so a later change could leave its state as it is."""
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "wait_until_settled", lambda _: False)
        assert all(clip.digest for clip in project.index(workers=0).clips)
    assert project.index(workers=0).hashed == 3


def test_known_states_are_those_of_files_with_a_digest(project: Project) -> None:
    project.index()
    names = [f"{name}.mp4" for name in "abcd"]
    states = measuring.known_states(project.cache, project.root, names)
    assert states == {f"{name}.mp4": FileState.of(project.root / f"{name}.mp4") for name in "abc"}
    assert measuring.known_states(project.cache, project.root / "other", names) == {}
    assert measuring.known_states(project.cache.with_name("missing"), project.root, names) == {}


def test_unusual_names_reach_the_manifest(project: Project, write_media: Write) -> None:
    for name in ("妈妈.mp4", "a:b.mp4", 'q"u,o.mp4', "%03d.mp4", "n" * 230 + ".mp4", "folder é/x.mp4"):
        write_media(project.root / name)
    (project.root / "transcripts.csv").write_text('name,text\n妈妈,"two\r\nlines, ""quoted"""\n')
    result = project.index()
    assert result.quarantined == {}
    assert all(clip.has_video for clip in result.clips)
    assert {str(clip.clip_id): clip.transcript for clip in result.clips}["妈妈"] == 'two lines, "quoted"'


def test_clips_without_file_are_kept(project: Project) -> None:
    (project.root / "c.mp4").unlink()
    result = project.index()
    assert [clip.path for clip in result.clips] == ["a.mp4", "b.mp4", ""]
    assert count_by_kind(result.findings) == {"label_without_file": 1}


def make_finding(kind: FindingKind, number: int) -> Finding:
    return Finding(kind, "", f"{kind.value} {number}")


def test_each_kind_of_finding_is_shown_before_one_is_repeated() -> None:
    media, labels, rows = FindingKind.NO_MEDIA, FindingKind.NO_LABELS, FindingKind.DUPLICATE_ROW
    kinds = [media, media, media, labels, media, rows, rows]
    findings = [make_finding(kind, number) for number, kind in enumerate(kinds)]
    shown = [finding.message for finding in select_findings(findings, 5)]
    assert shown == ["no_media 0", "no_labels 3", "duplicate_row 5", "no_media 1", "duplicate_row 6"]
    one_of_each = [make_finding(kind, number) for number, kind in enumerate(FindingKind)]
    assert select_findings(one_of_each, 5) == one_of_each[:5]
    assert select_findings(findings[:2], 5) == findings[:2]


@pytest.mark.parametrize(("count", "lines"), [(0, 1), (5, 6), (6, 7), (17, 7)])
def test_summary_shows_at_most_five_findings(count: int, lines: int) -> None:
    findings = tuple(make_finding(FindingKind.DUPLICATE_ROW, number) for number in range(count))
    result = IndexResult((), findings, {}, hashed=0, reused=0)
    summary, *shown = format_index_summary(result, MER_LABELS, read=0, changed=False).splitlines()
    assert summary.startswith("index: 0 clips")
    assert len(shown) + 1 == lines
    assert [line.strip() for line in shown[:5]] == [finding.message for finding in findings[:5]]
    if count > 5:
        assert shown[-1].strip() == f"... and {count - 5} more in data/index/findings.csv"


def test_findings_name_file_and_clip(tmp_path: Path, read: Read, write_media: Write) -> None:
    root = tmp_path / "corpus"
    write_media(root / "a.mp4")
    write_media(root / "copy.mp4", mark="a.mp4")
    write_media(root / "sound.mp4", "sound")
    (root / "labels.csv").write_text("name,label\na,joy\na,joy\nlost,fear\nsound,joy\ncopy,joy\ncopy,fear\n")
    result = index_corpus(read(root), tmp_path / "cache.json", workers=0)
    expected = {
        ("duplicate_row", "a"): "labels.csv",
        ("duplicate_row", "copy"): "labels.csv",
        ("conflicting_row", "copy"): "labels.csv",
        ("label_without_file", "lost"): "labels.csv",
        ("no_video_stream", "sound"): "sound.mp4",
        ("duplicate_content", "copy"): "copy.mp4",
    }
    named = {
        (finding.kind.value, str(finding.clip_id)): finding.message for finding in result.findings if finding.clip_id
    }
    assert named.keys() == expected.keys()
    for (kind, clip_id), file in expected.items():
        assert file in named[kind, clip_id]
        assert repr(clip_id) in named[kind, clip_id]


def test_real_clips(shared_data: Path, tmp_path: Path, read: Read) -> None:
    listing = read(shared_data / "clips", "mer")
    result = index_corpus(listing, tmp_path / "cache.json", workers=2)
    assert (result.hashed, result.quarantined) == (32, {})
    assert [(finding.kind, finding.clip_id) for finding in result.findings] == [
        ("unread_files", ""),
        ("truncated", "clip_022"),
    ]
    assert "SOURCES.csv" in result.findings[0].message
    assert sum(clip.has_audio for clip in result.clips) == 13
    assert all(clip.has_video and 2 < clip.duration < 20 for clip in result.clips)
    assert index_corpus(listing, tmp_path / "cache.json", workers=2).hashed == 0
