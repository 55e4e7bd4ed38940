"""Clips without transcript are transcribed once; transcripts of the corpus are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, write_manifest
from ecmf_pipeline.core.errors import InputError, MissingInput, TryAgain
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner.quarantine import read_quarantine
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages import transcribe as stage
from ecmf_pipeline.stages.shared.inputs import read_manifest_with_transcripts
from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.run import TranscriptionResult, transcribe
from ecmf_pipeline.transcription.table import (
    Transcript,
    TranscriptRecord,
    Verdict,
    assess_transcript,
    read_transcripts,
    with_transcripts,
    write_transcripts,
)


@pytest.fixture
def clips(tmp_path: Path, make_clip: Callable[..., Path]) -> list[Clip]:
    """Three clips without transcript (two are the same file), one with transcript, one silent, one broken."""
    make_clip(tmp_path / "a.mp4", pictures=5, audio_seconds=1.0)
    (tmp_path / "same.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    make_clip(tmp_path / "b.mp4", pictures=5, audio_seconds=1.6, amplitude=0.1)
    (tmp_path / "broken.mp4").write_bytes(b"no film" * 100)
    clips = [
        Clip(ClipId(name), path=f"{name}.mp4", digest=sha256_file(path), bytes=path.stat().st_size, has_audio=True)
        for name in ("a", "b", "broken", "same")
        for path in [tmp_path / f"{name}.mp4"]
    ]
    transcribed = replace(clips[0], clip_id=ClipId("said"), transcript="Hello.")
    return [*clips, transcribed, Clip(ClipId("silent"), path="silent.mp4", digest="0" * 64)]


def run(folder: Path, clips: list[Clip], model: Path, **changes: object) -> TranscriptionResult:
    config = {
        "model": str(model),
        "device": "cpu",
        "language": "en",
        "max_quarantined": 0.5,
        "min_confidence": -99,
        "workers": 0,
    }
    return transcribe(
        clips,
        media=MediaConfig(),
        config=TranscribeConfig.model_validate(config | changes),
        corpus_root=folder,
        cache_root=folder / "cache",
        spool=folder / ".spool",
        quarantine_path=folder / "quarantine.csv",
    )


def test_each_file_is_transcribed_once(tmp_path: Path, clips: list[Clip], tiny_whisper: Path) -> None:
    first = run(tmp_path, clips, tiny_whisper)
    assert (first.transcribed, first.reused, first.quarantined) == (2, 0, 1)
    assert set(first.transcripts) == {"a", "b", "same"}
    assert first.transcripts["a"] == first.transcripts["same"]
    (entry,) = read_quarantine(tmp_path / "quarantine.csv")
    assert (entry.clip_id, entry.reason) == ("broken", "UnreadableMedia")
    parts = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.jsonl")}
    again = run(tmp_path, clips, tiny_whisper, batch_size=1)
    assert (again.transcribed, again.reused, again.quarantined) == (0, 3, 1)
    assert again.transcripts == first.transcripts
    assert {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.jsonl")} == parts
    stricter = run(tmp_path, clips, tiny_whisper, min_confidence=-0.0001)
    assert stricter.transcribed == 0, "verdicts are computed from cached transcripts"
    verdicts = {transcript.verdict for transcript in stricter.transcripts.values()}
    assert verdicts <= {Verdict.UNSURE, Verdict.SILENT}
    assert run(tmp_path, clips, tiny_whisper, language="zh").transcribed == 2


def test_changed_file_is_retried(tmp_path: Path, clips: list[Clip], tiny_whisper: Path) -> None:
    stale = [replace(clips[0], bytes=7)]
    with pytest.raises(TryAgain) as caught:
        run(tmp_path, stale, tiny_whisper, max_quarantined=1)
    assert "ChangedSinceIndex" in caught.value.message
    assert run(tmp_path, clips[:1], tiny_whisper).transcribed == 1


def test_a_file_replaced_by_one_of_the_same_size_is_not_transcribed(
    tmp_path: Path, clips: list[Clip], tiny_whisper: Path
) -> None:
    path = tmp_path / "a.mp4"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(TryAgain) as caught:
        run(tmp_path, clips[:1], tiny_whisper, max_quarantined=1)
    assert "ChangedSinceIndex" in caught.value.message


def test_verdict_depends_on_confidence_and_repetition() -> None:
    config = TranscribeConfig(min_confidence=-0.5)
    verdicts = {
        "so it is": Verdict.USED,
        "": Verdict.SILENT,
        "thank you " * 40: Verdict.REPEATS,
    }
    for text, verdict in verdicts.items():
        assert assess_transcript(TranscriptRecord("k", text, -0.5, "en"), config).verdict is verdict
    assert assess_transcript(TranscriptRecord("k", "so it is", -0.51, "en"), config).verdict is Verdict.UNSURE


def test_transcripts_of_corpus_are_not_replaced() -> None:
    clips = [
        Clip(ClipId("a")),
        Clip(ClipId("b"), transcript="Mine."),
        Clip(ClipId("c"), translation="Hers."),
        Clip(ClipId("d")),
        Clip(ClipId("e")),
    ]
    transcripts = {name: Transcript("New.", "en", -0.1, Verdict.USED) for name in "abc"}
    transcripts["d"] = Transcript("Perhaps.", "en", -3, Verdict.UNSURE)
    assert [clip.transcript for clip in with_transcripts(clips, transcripts)] == ["New.", "Mine.", "", "", ""]


def test_transcript_table_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "transcripts.csv"
    with pytest.raises(MissingInput) as missing:
        read_transcripts(path)
    assert missing.value.command == "ecmf-pipe transcribe"
    table = {
        "b": Transcript('He said "no", then', "en", -0.25, Verdict.USED),
        "a": Transcript("", "", -2, Verdict.SILENT),
    }
    assert write_transcripts(path, table)
    assert not write_transcripts(path, table)
    assert read_transcripts(path) == table
    for damaged in (
        "",
        "clip_id\na\n",
        path.read_text() + "c,x,en,high,used\n",
        path.read_text() + "c,x,en,-1,maybe\n",
    ):
        path.write_text(damaged)
        with pytest.raises(InputError) as caught:
            read_transcripts(path)
        assert str(path) in caught.value.message


def test_cache_line_round_trip() -> None:
    row = TranscriptRecord("0" * 64, "她说:“好”", -0.5, "zh")
    assert TranscriptRecord.parse(row.line().encode()) == row
    for damaged in (b"{}", b"{", b"[]", json.dumps({"key": 1, "text": "", "confidence": 0, "language": ""}).encode()):
        with pytest.raises(ValueError, match="validation error"):
            TranscriptRecord.parse(damaged)


def test_stage_is_off_by_default_and_adds_transcripts_if_on(
    tmp_path: Path,
    clips: list[Clip],
    tiny_whisper: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = f"corpus: {{kind: folder, root: {tmp_path}}}\n"
    Path("params.yaml").write_text(corpus)
    write_manifest(paths.MANIFEST, clips)
    stage.run()
    assert capsys.readouterr().out.startswith("transcribe:")
    assert read_transcripts(paths.TRANSCRIPTS) == {}
    assert paths.quarantine("transcribe").is_file()
    config = f"{{model: {tiny_whisper}, device: cpu, language: en, min_confidence: -99, max_quarantined: 0.5}}"
    Path("params.yaml").write_text(f"{corpus}transcribe: {config}\n")
    stage.run(workers=0)
    assert re.findall(r"\d+", capsys.readouterr().out)[0] == "2"
    texts = {clip.clip_id: clip.transcript for clip in read_manifest_with_transcripts(load_params())}
    table = read_transcripts(paths.TRANSCRIPTS)
    used = {name for name, transcript in table.items() if transcript.verdict is Verdict.USED}
    assert used
    assert {name for name, text in texts.items() if text} == used | {"said"}
    assert texts["said"] == "Hello."
