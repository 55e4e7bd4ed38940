"""Sound files and subtitles: as clips, and beside clips."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterable
from pathlib import Path

import av
import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, WordsFrom
from ecmf_pipeline.corpora import measuring
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.index import IndexResult, format_index_summary, index_corpus
from ecmf_pipeline.corpora.listing import CorpusListing, FindingKind, count_by_kind
from ecmf_pipeline.corpora.registry import read_corpus
from ecmf_pipeline.corpora.sidecars import language_code
from tests.media.subtitled import write_sound_with_subtitles

Read = Callable[..., CorpusListing]
IGNORED = {"no_labels", "file_without_label", "empty_class"}


def srt(*lines: str, end: float = 1.0) -> str:
    """Return SubRip with cues one after the other until ``end``."""
    step = end / max(len(lines), 1)
    times = [f"00:00:{number * step:06.3f}".replace(".", ",") for number in range(len(lines) + 1)]
    return "\n".join(f"{n + 1}\n{times[n]} --> {times[n + 1]}\n{line}\n" for n, line in enumerate(lines))


def write_sound(path: Path, hertz: float = 200.0, seconds: float = 2.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 8000 * np.sin(np.arange(int(16_000 * seconds)) * 2 * np.pi * hertz / 16_000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(tone.astype("<i2").tobytes())
    return path


def write_video(path: Path, *, sound: bool = False, level: int = 100) -> Path:
    """Write a film of one grey; its sound has the length of its pictures, two seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for _ in range(20):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8), format="rgb24")
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if audio:
            frame = av.AudioFrame.from_ndarray(np.full((1, 32_000), level, np.int16), format="s16", layout="mono")
            frame.sample_rate = 16_000
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def index(root: Path, kind: str = "folder") -> IndexResult:
    return index_corpus(read_corpus(CorpusConfig(kind=kind, root=root)), root.parent / "cache.json", workers=0)


def kinds(result: IndexResult) -> dict[str, int]:
    return {kind: count for kind, count in count_by_kind(result.findings).items() if kind not in IGNORED}


def by_id(clips: Iterable[Clip]) -> dict[str, Clip]:
    return {clip.clip_id: clip for clip in clips}


class TestSounds:
    def test_sound_files_are_clips_without_pictures_and_not_defects(self, tmp_path: Path) -> None:
        for number, name in enumerate(("anna/1.wav", "anna/2.WAV", "ben/1.wav")):
            write_sound(tmp_path / "c" / name, 200 + number)
        result = index(tmp_path / "c")
        assert [(clip.clip_id, clip.has_video, clip.has_audio) for clip in result.clips] == [
            ("anna__1", False, True),
            ("anna__2", False, True),
            ("ben__1", False, True),
        ]
        assert kinds(result) == {}
        assert not result.quarantined
        assert "\n  sound only" in format_index_summary(result, (), read=3, changed=True)

    def test_one_line_counts_the_sounds_among_films(self, tmp_path: Path) -> None:
        write_sound(tmp_path / "c/a.wav")
        write_video(tmp_path / "c/b.mp4", sound=True)
        result = index(tmp_path / "c")
        assert kinds(result) == {}
        assert "1 of 2 clips: sound only" in format_index_summary(result, (), read=2, changed=True)

    def test_a_sound_with_cover_art_has_no_pictures(self, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir()
        with av.open(str(tmp_path / "c/a.mp3"), "w") as container:
            audio = container.add_stream("mp3", rate=16_000, layout="mono")
            cover = container.add_stream("mjpeg", rate=1)
            cover.width = cover.height = 64
            cover.pix_fmt = "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            frame = av.AudioFrame.from_ndarray(np.full((1, 32_000), 900, np.int16), format="s16p", layout="mono")
            frame.sample_rate = 16_000
            container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
            container.mux(cover.encode(None))
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        [clip] = index(tmp_path / "c").clips
        assert (clip.has_video, clip.has_audio) == (False, True)

    def test_a_sound_beside_a_film_serves_if_the_film_has_none(self, tmp_path: Path) -> None:
        root = tmp_path / "c"
        for name in ("mute", "speaks"):
            write_video(root / f"{name}.mp4", sound=name == "speaks", level=len(name))
            write_sound(root / f"{name}.wav", 100 * len(name))
        result = index(root)
        clips = by_id(result.clips)
        assert clips.keys() == {"mute", "speaks"}
        mute, speaks = clips["mute"], clips["speaks"]
        assert (mute.path, mute.audio_path, mute.has_video, mute.has_audio) == ("mute.mp4", "mute.wav", True, True)
        assert mute.sound is not None
        assert mute.sound[:2] == ("mute.wav", mute.audio_digest)
        assert mute.audio_bytes == (root / "mute.wav").stat().st_size
        assert mute.audio_digest not in {"", mute.digest}
        assert (speaks.audio_path, speaks.audio_digest) == ("", "")
        assert speaks.sound is not None
        assert speaks.sound.path == "speaks.mp4"
        assert kinds(result) == {"sound_not_used": 1}

    def test_a_folder_of_sounds_serves_a_folder_of_films(self, tmp_path: Path) -> None:
        root = tmp_path / "c"
        write_video(root / "video/anna/1.mp4")
        write_video(root / "video/ben/1.mp4", level=50)
        for hertz, name in enumerate(("anna/1", "ben/1", "ben/2"), 200):
            write_sound(root / f"Audio/{name}.wav", hertz)
        result = index(root)
        assert {clip.clip_id: clip.audio_path for clip in result.clips} == {
            "video__anna__1": "Audio/anna/1.wav",
            "video__ben__1": "Audio/ben/1.wav",
            "Audio__ben__2": "",
        }
        assert kinds(result) == {}

    @pytest.mark.parametrize(
        ("extension", "codec"),
        [
            *[(".wav", "pcm_s16le"), (".mp3", "mp3"), (".flac", "flac"), (".opus", "libopus"), (".ogg", "libopus")],
            *[(".m4a", "aac"), (".aac", "aac"), (".aiff", "pcm_s16be"), (".mka", "libopus"), (".caf", "pcm_s16le")],
            *[(".ac3", "ac3"), (".wv", "wavpack"), (".mp2", "mp2"), (".au", "pcm_s16be"), (".w64", "pcm_s16le")],
        ],
    )
    def test_sounds_of_each_format_are_read(self, tmp_path: Path, extension: str, codec: str) -> None:
        (tmp_path / "c").mkdir()
        with av.open(str(tmp_path / f"c/a{extension}"), "w") as container:
            stream = container.add_stream(codec, rate=48_000, layout="mono")
            tone = 8000 * np.sin(np.arange(48_000) * 0.05)
            frame = av.AudioFrame.from_ndarray(tone.astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = 48_000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        [clip] = index(tmp_path / "c").clips
        assert (clip.has_video, clip.has_audio) == (False, True)
        assert clip.duration == pytest.approx(1.0, abs=0.05)

    def test_a_damaged_sound_beside_a_film_is_a_finding(self, tmp_path: Path) -> None:
        write_video(tmp_path / "c/a.mp4")
        (tmp_path / "c/a.wav").write_bytes(b"damaged")
        result = index(tmp_path / "c")
        [clip] = result.clips
        assert (clip.has_audio, clip.audio_path, clip.sound) == (False, "", None)
        assert kinds(result) == {"unreadable": 1}

    def test_the_sound_of_an_unreadable_film_is_used(self, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir()
        (tmp_path / "c/a.mp4").write_bytes(b"damaged")
        write_sound(tmp_path / "c/a.wav")
        result = index(tmp_path / "c")
        [clip] = result.clips
        assert (clip.has_video, clip.has_audio, clip.audio_path) == (False, True, "a.wav")
        assert list(result.quarantined) == ["a"]

    def test_the_sounds_of_mer_serve_and_are_read_only_if_needed(self, tmp_path: Path) -> None:
        root = tmp_path / "c"
        for name in ("mute", "speaks"):
            write_video(root / f"video/{name}.mp4", sound=name == "speaks", level=len(name))
        for hertz, name in enumerate(("mute", "speaks", "alone"), 200):
            write_sound(root / f"audio/{name}.wav", hertz)
        (root / "track1_train.csv").write_text("name,discrete\nmute,sad\nspeaks,happy\nalone,sad\n")
        result = index(root, "mer")
        clips = by_id(result.clips)
        assert {name: (clip.path, clip.audio_path, clip.has_audio) for name, clip in clips.items()} == {
            "alone": ("audio/alone.wav", "", True),
            "mute": ("video/mute.mp4", "audio/mute.wav", True),
            "speaks": ("video/speaks.mp4", "", True),
        }
        assert result.hashed == 4
        assert kinds(result) == {}

    def test_the_sounds_of_meld_serve(self, tmp_path: Path) -> None:
        root = tmp_path / "c"
        write_video(root / "train_splits/dia0_utt0.mp4")
        write_sound(root / "train_splits/dia0_utt0.wav")
        write_sound(root / "train_splits/dia0_utt1.wav", 300)
        table = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\nHi,A,joy,0,0\nNo,A,anger,0,1\n"
        (root / "train_sent_emo.csv").write_text(table)
        result = index(root, "meld")
        assert [(Path(clip.path).suffix, Path(clip.audio_path).suffix) for clip in result.clips] == [
            (".mp4", ".wav"),
            (".wav", ""),
        ]


class TestSubtitles:
    @pytest.mark.parametrize(
        ("names", "used", "language"),
        [
            (["a.srt"], "a.srt", ""),
            (["a.SRT"], "a.SRT", ""),
            (["a.en.srt", "a.zh-CN.srt"], "a.en.srt", "en"),
            (["a.zh.srt", "a.vtt"], "a.vtt", ""),
            (["a.eng.sdh.srt"], "a.eng.sdh.srt", "en"),
            (["a.wav.srt"], "a.wav.srt", ""),
        ],
    )
    def test_the_file_of_a_clip_is_found_by_its_name(
        self, tmp_path: Path, names: list[str], used: str, language: str
    ) -> None:
        write_sound(tmp_path / "c/a.wav")
        for name in names:
            vtt = "WEBVTT\n\n" if name.endswith("vtt") else ""
            content = srt(name)
            (tmp_path / "c" / name).write_text(vtt + (content.replace(",", ".") if vtt else content))
        result = index(tmp_path / "c")
        [clip] = result.clips
        assert (clip.transcript, clip.words_from, clip.language) == (used, WordsFrom.SUBTITLES, language)
        assert kinds(result) == ({"several_subtitles": 1} if len(names) > 1 else {})

    def test_files_of_other_names_and_folders_are_findings(self, tmp_path: Path) -> None:
        write_sound(tmp_path / "c/anna/a.wav")
        for name in ("a.srt", "anna/b.srt", "anna/a.longname.srt"):
            (tmp_path / "c" / name).write_text(srt("words"))
        result = index(tmp_path / "c")
        assert [clip.transcript for clip in result.clips] == [""]
        assert kinds(result) == {"subtitles_without_clip": 3}

    def test_subtitles_in_a_recording_are_its_words(self, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir()
        write_sound_with_subtitles(tmp_path / "c/a.mkv", "srt", {"chi": [(0, 1, "你好"), (1.5, 2, "再见")]})
        [clip] = index(tmp_path / "c").clips
        assert (clip.transcript, clip.words_from, clip.language) == ("你好 再见", WordsFrom.SUBTITLES, "zh")

    def test_the_table_comes_first_and_differing_subtitles_are_findings(self, tmp_path: Path) -> None:
        root = tmp_path / "c"
        for name in ("a", "b"):
            write_sound(root / f"{name}.wav", 100 + ord(name))
            (root / f"{name}.srt").write_text(srt("Hello,", "you."))
        (root / "transcripts.csv").write_text("name,text\na,hello you\nb,Good bye\n")
        result = index(root)
        assert [(clip.transcript, clip.words_from) for clip in result.clips] == [
            ("hello you", WordsFrom.CORPUS),
            ("Good bye", WordsFrom.CORPUS),
        ]
        [finding] = [finding for finding in result.findings if finding.kind is FindingKind.TWO_TRANSCRIPTS]
        assert finding.clip_id == "b"

    def test_a_file_comes_before_the_subtitles_in_the_recording(self, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir()
        write_sound_with_subtitles(tmp_path / "c/a.mkv", "srt", {"eng": [(0, 1, "inside")]})
        (tmp_path / "c/a.srt").write_text(srt("beside"))
        result = index(tmp_path / "c")
        assert [clip.transcript for clip in result.clips] == ["beside"]
        assert kinds(result) == {"two_transcripts": 1}

    def test_bad_subtitles_are_findings(self, tmp_path: Path) -> None:
        root = tmp_path / "c"
        for hertz, name in enumerate(("beyond", "overlap", "damaged", "empty"), 200):
            write_sound(root / f"{name}.wav", hertz)
        (root / "beyond.srt").write_text(srt("one", "two", end=40))
        (root / "overlap.srt").write_text(srt("one", "two").replace("00:00:00,500 -->", "00:00:00,100 -->"))
        (root / "damaged.srt").write_bytes(b"\x00\x01\xff")
        (root / "empty.srt").write_bytes(b"")
        result = index(root)
        words = {clip.clip_id: clip.transcript for clip in result.clips}
        assert words == {"beyond": "one two", "overlap": "one two", "damaged": "", "empty": ""}
        assert {(finding.kind.value, finding.clip_id) for finding in result.findings if finding.clip_id} == {
            ("subtitles_beyond_end", "beyond"),
            ("overlapping_subtitles", "overlap"),
            ("unreadable", "damaged"),
            ("unreadable", "empty"),
        }
        assert not result.quarantined

    def test_only_new_and_changed_files_are_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = tmp_path / "c"
        write_sound(root / "a.wav")
        (root / "a.srt").write_text(srt("one"))
        assert index(root).hashed == 2
        read: list[str] = []
        measure = measuring.measure
        monkeypatch.setattr(measuring, "measure", lambda *given: (read.append(given[1].path), measure(*given))[1])
        assert index(root).clips[0].transcript == "one"
        assert read == []
        (root / "a.srt").write_text(srt("two!"))
        assert index(root).clips[0].transcript == "two!"
        assert read == ["a.srt"]


@pytest.mark.parametrize(
    ("given", "code"), [("eng", "en"), ("chi", "zh"), ("ger", "de"), ("zh-CN", "zh"), ("und", ""), ("xx", ""), ("", "")]
)
def test_language_codes_have_two_letters(given: str, code: str) -> None:
    assert language_code(given) == code
