"""Timelines of recordings: of a corpus, of a new recording, and on the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Clips
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.predictions import Basis, PredictionTable
from ecmf_pipeline.report.blocks import Collapsible, Figure, Table
from ecmf_pipeline.report.inputs import PredictedClip, ReportInput
from ecmf_pipeline.report.timeline import timeline_section
from ecmf_pipeline.segmentation.config import SegmentConfig
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.single_clip import cut_recording
from ecmf_pipeline.stages.shared.timeline import Moment, moments_of, write_timeline, write_timelines

CLIPS = [
    Clip(ClipId("b"), "talk.mp4", start=400, end=404, transcript="Bye."),
    Clip(ClipId("a"), "talk.mp4", start=1.5, end=4, transcript="Hello."),
    Clip(ClipId("whole"), "short.mp4"),
]
PROBS = np.array([[np.nan, np.nan], [0.25, 0.75], [0.5, 0.5]], np.float32)


def test_moments_are_spans_in_order_of_time():
    assert moments_of(CLIPS, PROBS, ("sad", "happy"), Basis.GIVEN) == [
        Moment("talk.mp4", "a", 1.5, 4, "Hello.", "happy", "given", {"sad": 0.25, "happy": 0.75}),
        Moment("talk.mp4", "b", 400, 404, "Bye.", "", "given", {}),
    ]


def test_only_spans_of_recordings_become_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    created = []
    monkeypatch.setattr(Clips, "row_type", staticmethod(lambda *fields: created.append(fields) or Clip(*fields)))
    table = PredictionTable(
        ("b", "a", "whole"), ("train",) * 3, np.zeros(3, bool), ("", "", ""), ("sad", "happy"), PROBS[[1, 1, 2]], (),
        np.zeros((3, 0), np.float32),
    )  # fmt: skip
    write_timelines("given", Clips.of(CLIPS), table)
    assert len(created) == 2
    rows = csv.DictReader(paths.timeline("given", "csv").read_text().splitlines())
    assert [row["clip_id"] for row in rows] == ["a", "b"]


def test_a_timeline_is_written_as_csv_and_json(tmp_path):
    moments = moments_of(CLIPS, PROBS, ("sad", "happy"), Basis.GIVEN)
    write_timeline(tmp_path / "a.csv", moments, ("sad", "happy"))
    first, second = csv.DictReader((tmp_path / "a.csv").read_text().splitlines())
    assert (first["start"], first["end"], first["label"], first["p_happy"]) == ("1.500", "4.000", "happy", "0.750000")
    assert (second["label"], second["p_happy"]) == ("", "")
    write_timeline(tmp_path / "a.json", moments, ("sad", "happy"))
    assert [one["clip_id"] for one in json.loads((tmp_path / "a.json").read_text())] == ["a", "b"]


def test_the_report_shows_each_recording_in_strips_of_five_minutes():
    predictions = [
        PredictedClip("a", "train", "happy", 0.75, {}, ""),
        PredictedClip("b", "train", "sad", 0.5, {}, "none"),
    ]
    (section,) = timeline_section(ReportInput({"labels": ["sad", "happy"]}, clips=CLIPS, predictions=predictions))
    (figure,) = [block for block in section.blocks if isinstance(block, Figure)]
    assert figure.drawing.count("<rect") == 4  # for wide and for narrow screens
    assert 'class="bar vermillion"' in figure.drawing
    assert 'class="bar grey"' in figure.drawing  # its modalities were not usable
    assert ">5:00<" in figure.drawing
    (hidden,) = [block for block in section.blocks if isinstance(block, Collapsible)]
    (table,) = hidden.blocks
    assert isinstance(table, Table)
    assert [row[2] for row in table.rows] == ["happy", "not usable"]


def test_a_report_without_recordings_has_no_timeline():
    assert timeline_section(ReportInput({"labels": []}, clips=CLIPS[2:])) == []


@pytest.fixture
def params() -> Params:
    return Params().model_copy(update={"segment": SegmentConfig(max_seconds=4, pad=0)})


def test_a_new_recording_is_cut_by_its_subtitles(
    tmp_path: Path, make_clip: Callable[..., Path], params: Params
) -> None:
    path = make_clip(tmp_path / "talk.mp4", pictures=150, audio_seconds=6.0)
    (tmp_path / "talk.srt").write_text(
        "1\n00:00:01,000 --> 00:00:03,000\nHello.\n\n2\n00:00:04,000 --> 00:00:07,000\nBye.\n"
    )
    clips = cut_recording(params, path, tmp_path / "work")
    assert [(clip.start, clip.end, clip.transcript) for clip in clips] == [(1, 3, "Hello."), (4, 6, "Bye.")]
    assert len({clip.digest for clip in clips}) == 2
    assert all(clip.has_audio and clip.has_video and clip.file_digest for clip in clips)


def test_a_recording_without_speech_and_a_short_one(
    tmp_path: Path, make_clip: Callable[..., Path], params: Params
) -> None:
    path = make_clip(tmp_path / "talk.mp4", pictures=150, audio_seconds=6.0)
    with pytest.raises(InputError):
        cut_recording(params, path, tmp_path / "work")
    short = make_clip(tmp_path / "short.mp4", pictures=50)
    (clip,) = cut_recording(params, short, tmp_path / "work2")
    assert (clip.start, clip.end) == (0, 2)
