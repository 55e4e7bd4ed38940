"""Segmenting a folder of recordings: cache, quarantine, findings, and the index of its clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import WordsFrom, content_digest
from ecmf_pipeline.core.errors import Interrupted
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.folder import read_files
from ecmf_pipeline.corpora.index import index_corpus
from ecmf_pipeline.corpora.listing import FindingKind
from ecmf_pipeline.corpora.registry import read_corpus
from ecmf_pipeline.corpora.segments import CutRecording, Segment, read_segments, write_segments
from ecmf_pipeline.runner.quarantine import read_quarantine
from ecmf_pipeline.segmentation import run as segmentation
from ecmf_pipeline.segmentation.config import SegmentConfig
from ecmf_pipeline.segmentation.run import SegmentationResult, segment

SRT = "1\n00:00:00,500 --> 00:00:02,000\nGood morning.\n\n2\n00:00:02,500 --> 00:00:05,000\nHow are\nyou?\n"


class Corpus:
    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root, work

    def segment(self, **settings: object) -> SegmentationResult:
        config = SegmentConfig.model_validate({"by": "subtitles", "max_seconds": 4, "workers": 0, "pad": 0} | settings)
        listing = read_files(CorpusConfig(kind="folder", root=self.root))
        clips = index_corpus(listing, self.work / "index.json", workers=0).clips
        return segment(
            listing,
            clips,
            config=config,
            cache_root=self.work / "cache",
            spool=self.work / "spool",
            quarantine_path=self.work / "quarantine.csv",
            index_cache=self.work / "index.json",
        )

    def indexed(self, result: SegmentationResult):
        listing = read_corpus(CorpusConfig(kind="folder", root=self.root), segments=result.recordings)
        return index_corpus(listing, self.work / "index.json", workers=0)


@pytest.fixture
def corpus(tmp_path: Path, make_clip: Callable[..., Path]) -> Corpus:
    """A recording of six seconds with subtitles, and a clip of two."""
    root = tmp_path / "corpus"
    root.mkdir()
    make_clip(root / "talk.mp4", pictures=150, audio_seconds=6.0)
    (root / "talk.en.srt").write_text(SRT)
    make_clip(root / "short.mp4", pictures=50)
    return Corpus(root, tmp_path)


def kinds(result: SegmentationResult) -> list[FindingKind]:
    return [finding.kind for finding in result.findings]


def test_a_recording_is_cut_by_its_subtitle_file_and_a_short_file_stays_whole(corpus):
    result = corpus.segment()
    digest = sha256_file(corpus.root / "talk.mp4")
    segments = (Segment(0.5, 2, "Good morning.", "en"), Segment(2.5, 5, "How are you?", "en"))
    assert result.recordings == {"talk.mp4": CutRecording(digest, segments)}
    assert result.findings == []
    clips = {clip.clip_id: clip for clip in corpus.indexed(result).clips}
    assert sorted(clips) == ["short", "talk__00h00m00s500", "talk__00h00m02s500"]
    clip = clips["talk__00h00m02s500"]
    assert (clip.start, clip.end, clip.duration, clip.group) == (2.5, 5, 2.5, "talk")
    assert (clip.transcript, clip.words_from, clip.language) == ("How are you?", WordsFrom.SUBTITLES, "en")
    assert (clip.file_digest, clip.digest) == (digest, content_digest(digest, 2.5, 5))
    assert clips["short"].group == ""


def test_tables_name_clips_of_recordings(corpus):
    (corpus.root / "labels.csv").write_text("name,label,group\ntalk__00h00m00s500,happy,anna\nshort,sad,\n")
    (corpus.root / "transcripts.csv").write_text("name,text\ntalk__00h00m02s500,How were you?\n")
    clips = {clip.clip_id: clip for clip in corpus.indexed(corpus.segment()).clips}
    assert (clips["talk__00h00m00s500"].given_label, clips["talk__00h00m00s500"].group) == ("happy", "anna")
    clip = clips["talk__00h00m02s500"]
    assert (clip.transcript, clip.words_from) == ("How were you?", WordsFrom.CORPUS)


def test_labelled_clips_of_a_single_recording_are_not_one_group(corpus):
    (corpus.root / "labels.csv").write_text("name,label\ntalk__00h00m00s500,happy\ntalk__00h00m02s500,sad\n")
    index = corpus.indexed(corpus.segment())
    assert {clip.group for clip in index.clips} == {""}
    assert FindingKind.ONE_RECORDING in [finding.kind for finding in index.findings]


def test_cached_recordings_are_not_read_again(corpus, monkeypatch):
    corpus.segment()
    monkeypatch.setattr(segmentation, "read_subtitle_file", lambda _: pytest.fail("read again"))
    assert corpus.segment().read == 0
    assert corpus.segment(max_seconds=3.5, pad=0.1).read == 0
    (corpus.root / "talk.mp4").rename(corpus.root / "speech.mp4")
    (corpus.root / "talk.en.srt").rename(corpus.root / "speech.en.srt")
    assert list(corpus.segment().recordings) == ["speech.mp4"]
    monkeypatch.undo()
    (corpus.root / "speech.en.srt").write_text(SRT.replace("00:00:02,500", "00:00:02,700"))
    assert corpus.segment().recordings["speech.mp4"].segments[1].start == 2.7


def test_a_damaged_subtitle_file_is_quarantined(corpus):
    (corpus.root / "talk.en.srt").write_text("nothing")
    result = corpus.segment(max_quarantined=1.0)
    assert result.recordings == {}
    assert result.quarantined == 1
    assert [entry.clip_id for entry in read_quarantine(corpus.work / "quarantine.csv")] == ["talk"]
    assert kinds(result) == [FindingKind.UNREADABLE]
    assert corpus.segment(max_quarantined=1.0).read == 0
    (corpus.root / "talk.en.srt").write_text(SRT)
    assert len(corpus.segment().recordings) == 1


def test_recordings_without_subtitles_or_speech_give_no_clips(corpus):
    (corpus.root / "talk.en.srt").unlink()
    result = corpus.segment()
    assert kinds(result) == [FindingKind.NO_SUBTITLES]
    assert [clip.clip_id for clip in corpus.indexed(result).clips] == ["short"]
    assert kinds(corpus.segment(by="speech")) == [FindingKind.NO_SPEECH]  # a tone


def test_speech_is_found_in_the_sound(corpus, monkeypatch):
    monkeypatch.setattr(
        segmentation, "find_speech", lambda samples, _: [(0.5, 2.0), (2.2, 3.0), (4.0, len(samples) / 16000)]
    )
    segments = corpus.segment(by="speech").recordings["talk.mp4"].segments
    assert [(one.start, round(one.end, 1)) for one in segments] == [(0.5, 3.0), (4.0, 6.0)]
    assert corpus.segment(by="speech", pause=0.1).read == 0


def test_changed_cues_are_a_finding(corpus):
    (corpus.root / "talk.en.srt").write_text(SRT + "\n3\n00:01:00,000 --> 00:01:02,000\nLate.\n")
    assert kinds(corpus.segment()) == [FindingKind.CUES_CHANGED]


def test_an_interrupted_run_keeps_finished_recordings(corpus, monkeypatch):
    data = (corpus.root / "talk.mp4").read_bytes()
    (corpus.root / "zoo.mp4").write_bytes(data + b"\0")
    (corpus.root / "zoo.srt").write_text(SRT)
    read = segmentation.read_subtitle_file

    def stop_at_zoo(path: Path):
        if path.name == "zoo.srt":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(segmentation, "read_subtitle_file", stop_at_zoo)
    with pytest.raises(Interrupted):
        corpus.segment()
    monkeypatch.undo()
    assert corpus.segment().read == 1


def test_the_table_is_read_as_it_was_written(tmp_path):
    recordings = {
        "a.mp4": CutRecording("d1", (Segment(0, 1.5, "=1+1", "en"), Segment(2, 3))),
        "b/c.wav": CutRecording("d2", ()),
    }
    path, findings = tmp_path / "segments.csv", tmp_path / "findings.csv"
    assert write_segments(path, recordings, findings, ())
    assert read_segments(path) == recordings
    assert not write_segments(path, recordings, findings, ())


def test_outdated_segments_are_a_finding(corpus, make_clip):
    result = corpus.segment()
    make_clip(corpus.root / "talk.mp4", pictures=151, audio_seconds=6.0)
    found = [finding.kind for finding in corpus.indexed(result).findings]
    assert FindingKind.OUTDATED_SEGMENTS in found


@pytest.mark.slow
def test_an_hour_is_searched_for_speech_in_bounded_memory():
    rng = np.random.default_rng(0)
    hour: NDArray[np.float32] = (0.001 * rng.standard_normal(3600 * 16_000)).astype(np.float32)
    assert segmentation.find_speech(hour, 0.5) == []


def test_labels_of_parts_and_of_clips_without_file(tmp_path: Path) -> None:
    (tmp_path / "talk.mp4").touch()
    (tmp_path / "labels.csv").write_text("name,label,duration\ntalk__00h00m00s000,happy,1\ngone,sad,2\n")
    parts = {"talk.mp4": CutRecording("d", (Segment(0, 1.5), Segment(2, 3)))}
    listing = read_corpus(CorpusConfig(kind="folder", root=tmp_path), segments=parts)
    labels = {str(clip.clip_id): clip.given_label for clip in listing.clips}
    assert labels == {"gone": "sad", "talk__00h00m00s000": "happy", "talk__00h00m02s000": ""}
    assert dict(listing.expected_seconds) == {"gone": 2.0}, "the length of a part is known"
