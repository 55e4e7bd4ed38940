from __future__ import annotations

import csv
from pathlib import Path

import av
import mediapipe
import pytest
from mediapipe.tasks.python import BaseOptions, vision

from ecmf_pipeline.core.errors import CorpusError, ModelError
from ecmf_pipeline.corpora.sample.config import SampleConfig
from ecmf_pipeline.corpora.sample.face import FaceRig
from ecmf_pipeline.corpora.sample.generate import SampleSummary, generate, render_clip
from ecmf_pipeline.corpora.sample.plan import plan_clips
from ecmf_pipeline.corpora.sample.speech import Synthesizer

Sample = tuple[Path, SampleSummary]


def column(path: Path, name: str) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row[name] for row in csv.DictReader(file)}


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_sample_has_mer_layout(sample_corpus: Sample) -> None:
    root, _ = sample_corpus
    names = [f"sample_{index:05d}" for index in range(8)]
    tables = {"track1_train_disdim.csv", "track_all_candidates.csv", "subtitle_chieng.csv", "groups.csv", "gold.csv"}
    assert set(contents(root)) == {f"video/{name}.mp4" for name in names} | tables | {"README.txt", "sample.json"}
    headers = {table: (root / table).read_text(encoding="utf-8").splitlines()[0] for table in tables}
    assert headers == {
        "track1_train_disdim.csv": "name,discrete",
        "track_all_candidates.csv": "name",
        "subtitle_chieng.csv": "name,chinese,english",
        "groups.csv": "name,group",
        "gold.csv": "name,discrete",
    }


def test_tables_match_the_plan(sample_corpus: Sample, sample_config: SampleConfig) -> None:
    root, summary = sample_corpus
    plans = plan_clips(sample_config)
    gold, given = column(root / "gold.csv", "discrete"), column(root / "track1_train_disdim.csv", "discrete")
    assert gold == {plan.clip_id: plan.gold_label for plan in plans}
    assert sum(given[name] != gold[name] for name in given) == summary.wrong_labels == 2
    assert set(column(root / "track_all_candidates.csv", "name")) == set(gold) - set(given)
    assert set(column(root / "subtitle_chieng.csv", "chinese").values()) == {""}
    english = column(root / "subtitle_chieng.csv", "english")
    assert english == {plan.clip_id: plan.transcript for plan in plans}
    assert list(english.values()).count("") == 1
    assert column(root / "groups.csv", "group") == {plan.clip_id: f"speaker_{plan.speaker}" for plan in plans}
    assert (summary.written, summary.reused) == (8, 0)


def test_readme_names_synthetic_origin_and_sources(sample_corpus: Sample) -> None:
    text = (sample_corpus[0] / "README.txt").read_text(encoding="utf-8")
    assert all(word in text for word in ("synthetic", "Eileen Collins", "public\n", "eSpeak NG", "Apache-2.0"))


def test_clips_have_expected_streams(sample_corpus: Sample, sample_config: SampleConfig) -> None:
    root, _ = sample_corpus
    silent = 0
    for path in sorted((root / "video").iterdir()):
        with av.open(path) as container:
            video = container.streams.video[0]
            assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert (video.average_rate, video.width, video.height) == (25, 160, 160)
            seconds = video.frames / 25
            assert sample_config.min_seconds <= seconds <= sample_config.max_seconds
            silent += not container.streams.audio
            for audio in container.streams.audio:
                assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 16_000, 1)
                assert float(audio.duration * audio.time_base) == pytest.approx(seconds, abs=0.1)
            assert "creation_time" not in container.metadata
    assert silent == 1


def test_face_is_detected_in_nearly_every_frame(sample_corpus: Sample, face_landmarker: Path) -> None:
    path = face_landmarker.with_name("face_detector.tflite")
    options = vision.FaceDetectorOptions(base_options=BaseOptions(model_asset_path=str(path)))
    frames = detected = 0
    with vision.FaceDetector.create_from_options(options) as detector:
        for clip in (sample_corpus[0] / "video").iterdir():
            with av.open(clip) as container:
                for frame in container.decode(video=0):
                    image = mediapipe.Image(
                        image_format=mediapipe.ImageFormat.SRGB, data=frame.to_ndarray(format="rgb24")
                    )
                    frames += 1
                    detected += bool(detector.detect(image).detections)
    assert frames >= 8 * 50
    assert detected / frames >= 0.95


def test_clips_do_not_depend_on_order_or_workers(
    sample_corpus: Sample, sample_config: SampleConfig, rig: FaceRig, synthesizer: Synthesizer
) -> None:
    plans = plan_clips(sample_config)
    for index in (6, 1, 6):
        rendered = render_clip(plans[index], sample_config, rig, synthesizer)
        assert rendered == (sample_corpus[0] / "video" / f"sample_{index:05d}.mp4").read_bytes()


def test_second_run_renders_nothing(sample_copy: Path, sample_config: SampleConfig, face_landmarker: Path) -> None:
    before = contents(sample_copy)
    times = {path: path.stat().st_mtime_ns for path in (sample_copy / "video").iterdir()}
    summary = generate(sample_config, sample_copy, face_landmarker=face_landmarker, workers=2)
    assert (summary.written, summary.reused) == (0, 8)
    assert contents(sample_copy) == before
    assert {path: path.stat().st_mtime_ns for path in (sample_copy / "video").iterdir()} == times


def test_interrupted_run_is_resumed(sample_copy: Path, sample_config: SampleConfig, face_landmarker: Path) -> None:
    before = contents(sample_copy)
    (sample_copy / "video" / "sample_00002.mp4").unlink()
    (sample_copy / "gold.csv").unlink()
    summary = generate(sample_config, sample_copy, face_landmarker=face_landmarker, workers=1)
    assert (summary.written, summary.reused) == (1, 7)
    assert contents(sample_copy) == before


def test_other_settings_regenerate_the_corpus(sample_copy: Path, face_landmarker: Path) -> None:
    before = contents(sample_copy)
    config = SampleConfig(labelled=2, unlabeled=0, size=128, seed=4)
    summary = generate(config, sample_copy, face_landmarker=face_landmarker, workers=1)
    after = contents(sample_copy)
    assert (summary.written, summary.reused) == (2, 0)
    assert {name for name in after if name.startswith("video/")} == {"video/sample_00000.mp4", "video/sample_00001.mp4"}
    assert after["sample.json"] != before["sample.json"]
    assert after["video/sample_00000.mp4"] != before["video/sample_00000.mp4"]


def test_other_corpus_is_not_overwritten(tmp_path: Path, face_landmarker: Path) -> None:
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "sample_00000.mp4").write_bytes(b"somebody's clip")
    with pytest.raises(CorpusError) as caught:
        generate(SampleConfig(labelled=1), tmp_path, face_landmarker=face_landmarker, workers=1)
    assert str(tmp_path) in caught.value.message
    assert contents(tmp_path) == {"video/sample_00000.mp4": b"somebody's clip"}


def test_missing_and_damaged_weights_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "face_landmarker.task"
    for content in (None, b"not a model"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            generate(SampleConfig(labelled=1), tmp_path / "sample", face_landmarker=path, workers=1)
        assert str(path) in caught.value.message
        assert caught.value.command == "ecmf-pipe models"
