"""Selection and drawing of contact sheets, and reasons for missing ones."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.errors import UnreadableMedia
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.sampling import read_frames, read_frames_at
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.contact_sheets import _spread_positions, face_sheets
from ecmf_pipeline.report.inputs import ReportInput
from ecmf_pipeline.report.page import render
from ecmf_pipeline.runner.quarantine import QuarantineEntry
from ecmf_pipeline.store import FeatureRow, FeatureStore, StoreWriter, create_settings_group

MEDIA = {"frames": 4, "max_side": 1280, "reader": "pyav"}
FOUND = {"media": MEDIA, "faces": {"source": "detect", "align": "none"}}
CUT = {"media": {"frames": 4}, "faces": {"source": "openface"}}


class Corpus:
    """Clips of one photograph with made-up landmark qualities."""

    def __init__(self, root: Path, make_clip) -> None:
        self.root = root
        self.clips: list[Clip] = []
        self.rows: list[FeatureRow] = []
        self.make_clip = make_clip

    def add(self, name: str, quality: float, **side: np.ndarray) -> None:
        path = self.make_clip(self.root / f"{name}.mp4", pictures=8, photograph=data.astronaut()[:256, 64:384])
        frames, times = read_frames(path, MediaConfig(**MEDIA))
        clip = Clip(ClipId(name), path.name, sha256_file(path), path.stat().st_size, has_video=True)
        self.clips.append(clip)
        count = len(frames)
        arrays = {
            "times": times,
            "boxes": np.tile(np.array([113, 82, 95, 95], np.float32), (count, 1)),
            "scores": np.full(count, 0.9, np.float32),
            "landmarks": np.full((count, 12), 120, np.float32),
            "landmark_quality": np.full(count, quality, np.float32),
        }
        self.rows.append(FeatureRow(name, clip.digest, np.ones((count, 2), np.float32), side or arrays))

    def store(self, settings=FOUND) -> FeatureStore:
        root = self.root / "face.zarr"
        key = create_settings_group(root, settings, dim=2, dtype="float32")
        with StoreWriter(root, key) as writer:
            writer.append(self.rows)
        return FeatureStore(root, key)

    def sheets(self, store: FeatureStore, count: int = 6, quarantine=(), root: Path | None = None):
        return face_sheets(
            store, self.clips, quarantine, corpus_root=root or self.root, media=MediaConfig(reader="pyav"), count=count
        )


@pytest.fixture
def corpus(tmp_path, make_clip) -> Corpus:
    made = Corpus(tmp_path, make_clip)
    for name, quality in (("a", 0.9), ("b", 0.2), ("c", 0.6), ("d", 0.95)):
        made.add(name, quality)
    return made


def entry(corpus: Corpus, name: str, store: FeatureStore, reason: str = "NoFaceFound") -> QuarantineEntry:
    (clip,) = (clip for clip in corpus.clips if clip.clip_id == name)
    return QuarantineEntry(name, "extract", "face", reason, "0 of 4", clip.digest, store.fingerprint, "now")


def test_clips_range_from_lowest_to_highest_landmark_quality(corpus):
    sheets, problem = corpus.sheets(corpus.store(), count=3)
    assert problem == ""
    assert [sheet.clip_id for sheet in sheets] == ["b", "c", "d"]
    assert "0.20, the lowest of 4" in sheets[0].reason
    assert "0.95, the highest" in sheets[-1].reason


@pytest.mark.parametrize(
    ("length", "count", "positions"),
    [(31, 6, [0, 1, 5, 11, 19, 30]), (3, 6, [0, 1, 2]), (1, 1, [0]), (0, 3, []), (9, 0, [])],
)
def test_positions_are_distinct_and_denser_near_the_first(length, count, positions):
    assert _spread_positions(length, count).tolist() == positions


def test_a_sheet_shows_the_crops_of_its_clip(corpus):
    (sheet,), _ = corpus.sheets(corpus.store(), count=1)
    picture = cv2.imdecode(np.frombuffer(sheet.picture, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert picture.shape == (sheet.height, sheet.width, 3)
    first = picture[-144 : -144 + 112, :112]
    expected = cv2.resize(data.astronaut()[54:206, 148:300], (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(first.astype(int) - expected).mean() < 12
    assert "4 crops from 0.04 s to 0.28 s" in sheet.description


def test_the_same_store_gives_the_same_sheets(corpus):
    store = corpus.store()
    assert corpus.sheets(store) == corpus.sheets(store)


def test_a_third_of_the_sheets_are_clips_without_a_face(corpus):
    corpus.add("tree", 0.0)
    corpus.rows.pop()
    store = corpus.store()
    entries = [entry(corpus, "tree", store), entry(corpus, "tree", store, "OutOfMemory")]
    sheets, _ = corpus.sheets(store, count=3, quarantine=entries)
    assert [sheet.clip_id for sheet in sheets] == ["b", "d", "tree"]
    assert "no face" in sheets[-1].reason
    assert sheets[-1].picture
    outdated = [replace(entries[0], digest="other"), replace(entries[0], fingerprint="other")]
    assert "tree" not in [sheet.clip_id for sheet in corpus.sheets(store, quarantine=outdated)[0]]


def test_a_missing_file_has_no_sheet_and_does_not_affect_others(corpus):
    store = corpus.store()
    (corpus.root / "b.mp4").unlink()
    sheets, _ = corpus.sheets(store)
    assert [bool(sheet.problem) for sheet in sheets] == [True, False, False, False]
    assert "not on this machine" in sheets[0].problem
    page = render(ReportInput({"labels": []}, face_sheets=sheets), ReportConfig())
    assert "1 chosen clip is not shown" in page
    assert page.count("data:image/jpeg;base64,") == 3


def test_a_missing_corpus_gives_one_notice(corpus, tmp_path):
    sheets, problem = corpus.sheets(corpus.store(), root=tmp_path / "elsewhere")
    assert sheets == []
    assert "not on this machine" in problem
    assert problem in render(ReportInput({"labels": []}, no_face_sheets=problem), ReportConfig())


def test_a_changed_file_is_not_shown(corpus, make_clip):
    store = corpus.store()
    make_clip(corpus.root / "b.mp4", pictures=30, durations_ms=[33] * 30, photograph=data.astronaut()[:256, 64:384])
    assert corpus.sheets(store)[0][0].problem.startswith("the file has changed")


def test_imported_features_have_no_sheet(corpus):
    corpus.rows = [replace(row, side={}) for row in corpus.rows]
    sheets, problem = corpus.sheets(corpus.store())
    assert sheets == []
    assert "no clip has features of face crops" in problem


def test_supplied_crops_are_shown_unchanged(tmp_path, make_clip):
    corpus = Corpus(tmp_path, make_clip)
    path = tmp_path / "a.npy"
    np.save(path, np.full((9, 112, 112, 3), (0, 0, 250), np.uint8))  # BGR: red
    clip = Clip(ClipId("a"), face_path=path.name, face_digest=sha256_file(path), face_bytes=path.stat().st_size)
    corpus.clips = [clip]
    side = {"frames": np.array([1, 4, 7]), "boxes": np.zeros((3, 4), np.float32)}
    corpus.rows = [FeatureRow("a", clip.face_digest, np.ones((3, 2), np.float32), side)]
    (sheet,), _ = corpus.sheets(corpus.store(CUT))
    assert "3 crops" in sheet.description
    picture = cv2.imdecode(np.frombuffer(sheet.picture, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert picture[50, 50, 0] > 240
    assert picture[50, 50, 2] < 15


def test_the_page_embeds_pictures_and_escapes_clip_ids(corpus):
    sheets, _ = corpus.sheets(corpus.store(), count=1)
    odd = replace(sheets[0], clip_id='<script>"x')
    page = render(ReportInput({"labels": []}, face_sheets=[odd]), ReportConfig())
    assert '<script>"x' not in page
    (address,) = re.findall(r'<img src="([^"]+)"', page)
    assert base64.b64decode(address.removeprefix("data:image/jpeg;base64,")) == odd.picture


def test_a_report_without_sheets_has_no_faces_section():
    assert 'id="faces"' not in render(ReportInput({"labels": []}), ReportConfig())


def test_frames_are_read_again_at_the_same_times(make_clip, tmp_path):
    path = make_clip(tmp_path / "a.mp4", pictures=20, durations_ms=[20, 60] * 10)
    config = MediaConfig(frames=5, reader="pyav")
    frames, times = read_frames(path, config)
    np.testing.assert_array_equal(read_frames_at(path, config, times[1:4]), frames[1:4])
    with pytest.raises(UnreadableMedia):
        read_frames_at(path, config, times + np.float32(0.013))
