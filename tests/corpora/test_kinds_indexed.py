"""Corpora with a published layout are indexed from real media files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Half, read_manifest
from ecmf_pipeline.core.files import read_sealed_json
from ecmf_pipeline.sharing.found_corpus import find_corpus, write_corpus
from ecmf_pipeline.stages.index import run as index
from tests.corpora import trees

MakeClip = Callable[..., Path]
MEDIA = {".mp4", ".avi", ".flv", ".wav", ".mp3", ".WAV"}


@pytest.mark.parametrize(
    ("kind", "clips"),
    [
        ("ravdess", 66),
        ("cremad", 67),
        ("iemocap", 150),
        ("mosei", 150),
        ("mosi", 200),
        ("chsims", 200),
        ("emodb", 203),
        ("tess", 98),
        ("savee", 140),
        ("table", 801),
    ],
)
def test_each_kind_from_its_folder_to_the_manifest(
    kind: str,
    clips: int,
    repository: Path,
    tmp_path: Path,
    make_clip: MakeClip,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = getattr(trees, kind)(tmp_path / kind)
    content = make_clip(tmp_path / "clip.mp4", pictures=2, size=(16, 16), audio_seconds=0.1).read_bytes()
    for path in root.rglob("*"):
        if path.suffix in MEDIA:
            path.write_bytes(content)
    (tmp_path / "params.yaml").write_text(
        (repository / "params.yaml")
        .read_text()
        .replace("workers: null               # processes that read new files", "workers: 0  # files")
    )
    write_corpus(tmp_path / "params.yaml", find_corpus(root).config)
    monkeypatch.chdir(tmp_path)
    index()
    printed = capsys.readouterr().out
    assert printed.startswith(f"index: {clips} clips")
    assert " 0 quarantined" in printed
    assert " group" in printed.splitlines()[1]
    manifest = read_manifest(paths.MANIFEST)
    assert sum(bool(clip.file_digest) for clip in manifest) == clips - (kind == "table")
    assert {clip.group for clip in manifest} - {""}


def test_cremad_from_files_to_manifest_and_votes(
    tmp_path: Path, make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "CREMA-D"
    for name in ("1001_DFA_ANG_XX", "1002_DFA_SAD_XX"):
        make_clip(root / f"VideoFlash/{name}.flv", pictures=3)
        make_clip(root / f"AudioWAV/{name}.wav", audio_seconds=0.2, video=False)
    trees.touch(root, ["AudioWAV/1003_DFA_SAD_XX.wav"], trees.LFS_POINTER)
    trees.write_table(
        root / "processedResults/tabulatedVotes.csv",
        '"","A","D","F","H","N","S","fileName"',
        [("100001", 3, 1, 0, 0, 0, 0, "1001_DFA_ANG_XX"), ("100002", 0, 0, 0, 0, 1, 1, "1002_DFA_SAD_XX")],
    )
    monkeypatch.chdir(tmp_path)
    settings = "index: {workers: 0, max_quarantined: 0.5}\n"
    Path("params.yaml").write_text(
        f"corpus: {{kind: cremad, root: CREMA-D, labels: [angry, disgust, sad]}}\n{settings}"
    )
    index()
    printed = capsys.readouterr().out
    assert "3 groups (actor); no published split" in printed
    clips = read_manifest(paths.MANIFEST)
    assert [(clip.has_video, clip.has_audio, clip.given_label) for clip in clips] == [
        (True, True, "angry"),
        (True, True, "sad"),
        (False, False, "sad"),
    ]
    assert clips[0].audio_path == "AudioWAV/1001_DFA_ANG_XX.wav"
    assert "git lfs pull" in paths.quarantine("index").read_text()
    rows = list(csv.reader(paths.CORPUS_VOTES.read_text().splitlines()))
    assert rows == [
        ["clip_id", "source", "p_angry", "p_disgust", "p_sad"],
        ["1001_DFA_ANG_XX", "crowd/voice", "0.75", "0.25", "0"],
        ["1002_DFA_SAD_XX", "crowd/voice", "0", "0", "1"],
    ]
    assert read_sealed_json(paths.INDEX_METRICS, made_by="index")["splits"].startswith("3 groups")


def test_iemocap_utterances_share_a_file_and_differ_in_digest(
    tmp_path: Path, make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trees.iemocap(tmp_path / "IEMOCAP", films=False, sentences=False)
    for sound in root.rglob("dialog/wav/*.wav"):
        make_clip(sound, audio_seconds=0.2, video=False)
    film = root / "Session1/dialog/avi/DivX/Ses01F_impro01.avi"
    make_clip(film, pictures=3)
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("corpus: {kind: iemocap, root: IEMOCAP}\nindex: {workers: 0}\n")
    index()
    clips = [clip for clip in read_manifest(paths.MANIFEST) if clip.path.endswith("Ses01F_impro01.avi")]
    assert len(clips) == 10
    assert len({clip.digest for clip in clips}) == 10
    assert len({clip.file_digest for clip in clips}) == 1
    assert {clip.half for clip in clips} == {Half.LEFT, Half.RIGHT}
    assert "wrong_length" in paths.FINDINGS.read_text()  # the film is shorter than its utterances
    assert all(clip.has_video and clip.has_audio for clip in clips)  # the sound is that of dialog/wav
    [header] = csv.reader(paths.CORPUS_VOTES.read_text().splitlines())
    assert header == ["clip_id", "source", "p_neutral", "p_angry", "p_happy", "p_sad"]
