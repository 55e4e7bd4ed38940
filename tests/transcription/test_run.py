"""Clips without words are transcribed once; words of the corpus are replaced by corrections only."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, WordsFrom, content_digest, marked_transcript, write_manifest
from ecmf_pipeline.core.errors import Interrupted, TryAgain
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner.quarantine import read_quarantine
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.settings.resolve import resolve
from ecmf_pipeline.stages import models as models_stage
from ecmf_pipeline.stages import transcribe as stage
from ecmf_pipeline.stages.shared import single_clip
from ecmf_pipeline.stages.shared.inputs import read_manifest_with_transcripts
from ecmf_pipeline.transcription import run as transcription_run
from ecmf_pipeline.transcription.config import TranscribeConfig
from ecmf_pipeline.transcription.run import TranscriptionResult, fetch_model, transcribe
from ecmf_pipeline.transcription.table import Transcript, Verdict, read_transcripts
from tests.transcription.fakes import FakeRecogniser

Fake = type[FakeRecogniser]


def clip_of(path: Path, **changes: object) -> Clip:
    digest = sha256_file(path)
    clip = Clip(
        ClipId(path.stem),
        path=path.name,
        digest=digest,
        file_digest=digest,
        bytes=path.stat().st_size,
        duration=2.0,
        has_audio=True,
    )
    return replace(clip, **changes)  # type: ignore[arg-type]


@pytest.fixture
def clips(tmp_path: Path, make_clip: Callable[..., Path]) -> list[Clip]:
    """Three clips without words (two are the same file), one with words, one without sound, one broken."""
    make_clip(tmp_path / "a.mp4", pictures=5, audio_seconds=1.0)
    (tmp_path / "same.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    make_clip(tmp_path / "b.mp4", pictures=5, audio_seconds=1.6)
    (tmp_path / "broken.mp4").write_bytes(b"no film" * 100)
    clips = [clip_of(tmp_path / f"{name}.mp4") for name in ("a", "b", "broken", "same")]
    with_words = replace(clips[0], clip_id=ClipId("said"), transcript="Hello.", words_from=WordsFrom.CORPUS)
    return [*clips, with_words, Clip(ClipId("mute"), path="mute.mp4", digest="0" * 64)]


def run(folder: Path, clips: list[Clip], shard: Shard | None = None, **changes: object) -> TranscriptionResult:
    config = {"model": "embedded", "device": "cpu", "max_quarantined": 0.5, "workers": 0}
    return transcribe(
        clips,
        media=MediaConfig(),
        config=TranscribeConfig.model_validate(config | changes),
        corpus_root=folder,
        cache_root=folder / "cache",
        spool=folder / ".spool",
        quarantine_path=folder / "quarantine.csv",
        shard=shard,
    )


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the fetched models; nothing is fetched."""
    names: list[str] = []
    monkeypatch.setattr(transcription_run, "fetch", lambda model, _: names.append(model.name) or True)
    return names


def test_each_sound_is_transcribed_once(tmp_path: Path, clips: list[Clip], fake: Fake, fetched: list[str]) -> None:
    first = run(tmp_path, clips)
    assert (first.transcribed, first.reused, first.quarantined) == (2, 0, 1)
    assert {name: transcript.text for name, transcript in first.transcripts.items()} == {
        "a": "1.0 seconds",
        "b": "1.6 seconds",
        "same": "1.0 seconds",
    }
    (entry,) = read_quarantine(tmp_path / "quarantine.csv")
    assert (entry.clip_id, entry.reason) == ("broken", "UnreadableMedia")
    parts = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.jsonl")}
    again = run(tmp_path, clips, batch_size=1, min_loudness=-3)
    assert (again.transcribed, again.reused, again.quarantined) == (0, 3, 1)
    assert {transcript.verdict for transcript in again.transcripts.values()} == {Verdict.QUIET}
    assert {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.jsonl")} == parts
    assert (fake.created, fetched) == (1, ["whisper_base"]), "the model is fetched and loaded only if it is needed"
    assert run(tmp_path, clips, language="zh").transcribed == 2


def test_shards_transcribe_each_sound_once_and_are_merged(tmp_path: Path, clips: list[Clip], fake: Fake) -> None:
    counts = [run(tmp_path, clips, Shard(number, 3)).transcribed for number in (1, 2, 3)]
    assert sum(counts) == 2
    assert not (tmp_path / "cache").exists()
    assert run(tmp_path, clips, Shard(1, 1)).transcribed == 0, "also the broken clip is not tried again"
    merged = run(tmp_path, clips)
    assert (merged.transcribed, merged.reused, merged.quarantined, len(merged.transcripts)) == (0, 3, 1, 3)
    assert sorted(fake.recognised) == [1.0, 1.6]
    assert [entry.clip_id for entry in read_quarantine(tmp_path / "quarantine.csv")] == ["broken"]


def test_an_interrupted_run_is_resumed(tmp_path: Path, clips: list[Clip], fake: Fake) -> None:
    fake.interrupt_after = 1
    with pytest.raises(Interrupted):
        run(tmp_path, clips[:2], batch_size=1)
    fake.interrupt_after = None
    assert run(tmp_path, clips[:2]).transcribed == 1
    assert sorted(fake.recognised) == [1.0, 1.6]


@pytest.mark.usefixtures("fake")
def test_changed_file_is_retried(tmp_path: Path, clips: list[Clip]) -> None:
    with pytest.raises(TryAgain) as caught:
        run(tmp_path, [replace(clips[0], bytes=7)], max_quarantined=1)
    assert "ChangedSinceIndex" in caught.value.message
    path = tmp_path / "b.mp4"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(TryAgain):
        run(tmp_path, clips[1:2], max_quarantined=1)
    assert run(tmp_path, clips[:1]).transcribed == 1


@pytest.mark.usefixtures("fake")
def test_silence_has_no_words_and_is_no_failure(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    make_clip(tmp_path / "silent.mp4", pictures=2, audio_seconds=0.5, amplitude=0.0)
    result = run(tmp_path, [clip_of(tmp_path / "silent.mp4")], max_quarantined=0)
    assert result.transcripts == {"silent": Transcript("", Verdict.SILENT)}
    assert result.quarantined == 0


def test_sound_beside_the_clip_and_parts_of_a_file(tmp_path: Path, make_clip: Callable[..., Path], fake: Fake) -> None:
    film = make_clip(tmp_path / "film.mp4", pictures=5)
    sound = make_clip(tmp_path / "sound.m4a", video=False, audio_seconds=3.0)
    digest, size = sha256_file(sound), sound.stat().st_size
    beside = clip_of(film, audio_path=sound.name, audio_digest=digest, audio_bytes=size)
    parts = [
        replace(
            clip_of(sound, digest=content_digest(digest, start, end), start=start, end=end), clip_id=ClipId(f"{start}")
        )
        for start, end in ((0.5, 1.5), (1.0, 2.8))
    ]
    result = run(tmp_path, [beside, *parts], max_quarantined=0)
    assert {name: transcript.text for name, transcript in result.transcripts.items()} == {
        "film": "3.0 seconds",
        "0.5": "1.0 seconds",
        "1.0": "1.8 seconds",
    }
    again = replace(beside, clip_id=ClipId("again"), path="other.mp4", digest="1" * 64)
    assert run(tmp_path, [again]).reused == 1, "the sound is known, whatever the pictures are"
    assert sorted(fake.recognised) == [1.0, 1.8, 3.0]


def test_the_embedded_model_is_fetched_only_for_clips_with_sound_and_without_words(
    clips: list[Clip], fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TranscribeConfig(model="embedded")
    assert not fetch_model(config, clips[4:])
    assert not fetch_model(TranscribeConfig(model="some/other"), clips)
    assert fetched == []
    assert fetch_model(config, clips)
    monkeypatch.chdir(tmp_path)
    names: list[str] = []
    monkeypatch.setattr(models_stage, "fetch", lambda model, _: names.append(model.name) or True)
    Path("params.yaml").write_text(f"corpus: {{kind: folder, root: {tmp_path}}}\nmodels: {{names: [minilm]}}\n")
    models_stage.run()
    write_manifest(paths.MANIFEST, clips[4:])
    models_stage.run()
    assert names == ["minilm"] * 2
    write_manifest(paths.MANIFEST, clips)
    models_stage.run()
    assert names[2:] == ["minilm", "whisper_base"]


@pytest.mark.usefixtures("fake")
def test_a_new_clip_gets_machine_made_words(tmp_path: Path, clips: list[Clip]) -> None:
    params = Params.model_validate({"transcribe": {"device": "cpu"}})
    (tmp_path / "scratch").mkdir()
    [found] = single_clip.with_words(params, [clips[0]], tmp_path, tmp_path / "scratch")
    assert (found.transcript, found.words_from) == ("1.0 seconds", WordsFrom.MACHINE)
    assert marked_transcript(found) == "(machine) 1.0 seconds"
    [broken] = single_clip.with_words(params, [clips[2]], tmp_path, tmp_path / "scratch")
    assert broken.words_from is WordsFrom.NOWHERE


def test_the_stage_adds_recognised_and_corrected_words(
    tmp_path: Path, clips: list[Clip], fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = f"corpus: {{kind: folder, root: {tmp_path}}}\n"
    write_manifest(paths.MANIFEST, clips)
    Path("params.yaml").write_text(f"{corpus}transcribe: {{model: null}}\n")
    stage.run()
    assert read_transcripts(paths.TRANSCRIPTS) == {}
    assert paths.quarantine("transcribe").is_file()
    Path("params.yaml").write_text(f"{corpus}transcribe: {{device: cpu, max_quarantined: 0.5}}\n")
    settings = resolve(load_params(), [])["transcribe"]
    before = settings()
    capsys.readouterr()
    stage.run(workers=0)
    assert re.findall(r"\d+", capsys.readouterr().out)[0] == "2"

    def words() -> dict[str, tuple[str, str, str]]:
        clips = read_manifest_with_transcripts(load_params())
        return {clip.clip_id: (clip.transcript, clip.words_from.value, clip.language) for clip in clips}

    recognised = {
        "a": ("1.0 seconds", "machine", "en"),
        "b": ("1.6 seconds", "machine", "en"),
        "broken": ("", "", ""),
        "mute": ("", "", ""),
        "said": ("Hello.", "corpus", ""),
        "same": ("1.0 seconds", "machine", "en"),
    }
    assert words() == recognised
    paths.CORRECTIONS.parent.mkdir()
    paths.CORRECTIONS.write_text("Name;Text\na.mp4;One second\nb;\nsaid;Hello there.\nmute;Nothing to hear\n")
    assert settings() != before, "DVC runs the stage again"
    stage.run(workers=0)
    assert words() == recognised | {
        "a": ("One second", "corrected", "en"),
        "b": ("", "corrected", ""),
        "said": ("Hello there.", "corrected", ""),
        "mute": ("Nothing to hear", "corrected", ""),
    }
    assert len(fake.recognised) == 2
    Path("params.yaml").write_text(f"{corpus}transcribe: {{model: null}}\n")
    stage.run()
    assert {name: row for name, (_, row, _) in words().items() if row} == dict.fromkeys(
        ("a", "b", "said", "mute"), "corrected"
    )
