"""Corpora with a published layout are indexed from real media files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.core.files import read_sealed_json
from ecmf_pipeline.stages.index import run as index
from tests.corpora import trees

MakeClip = Callable[..., Path]


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
    assert all(clip.has_video and clip.has_audio for clip in clips)  # the sound is that of dialog/wav
    assert list(csv.reader(paths.CORPUS_VOTES.read_text().splitlines())) == [["clip_id", "source"]]
