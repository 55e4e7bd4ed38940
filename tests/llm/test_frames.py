"""Label scores from pictures of clips."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from ecmf_pipeline.core.clips import Clip, ClipId
from ecmf_pipeline.core.errors import ParamsError
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.llm.config import LlmConfig, LlmVotesConfig, ShownFrames
from ecmf_pipeline.llm.frames import encode_jpeg, frame_scores
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.scoring import ScoringResult
from ecmf_pipeline.llm.server_run import estimate_tokens
from ecmf_pipeline.media.config import MediaConfig
from tests.llm.fault_server import LABELS, FaultServer, answer_files, server_config, serving


@pytest.fixture
def clips(tmp_path: Path, make_clip: Callable[..., Path]) -> list[Clip]:
    make_clip(tmp_path / "a.mp4", pictures=12, photograph=data.astronaut()[:256, 64:384])
    make_clip(tmp_path / "b.mp4", pictures=2)
    (tmp_path / "same.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    made = [
        Clip(ClipId(name), f"{name}.mp4", digest, path.stat().st_size, has_video=True, file_digest=digest)
        for name in ("a", "b", "same")
        for path in [tmp_path / f"{name}.mp4"]
        for digest in [sha256_file(path)]
    ]
    return [*made, Clip(ClipId("words"), transcript="Hello.")]


def frames_config(url: str, **frames: Any) -> LlmConfig:
    votes = LlmVotesConfig(frames=ShownFrames.model_validate({"count": 3, "side": 64} | frames))
    return server_config(url, concurrency=2).model_copy(update={"votes": votes, "max_quarantined": 1.0})


def score(folder: Path, clips: list[Clip], config: LlmConfig, faces: FaceConfig | None = None) -> ScoringResult:
    return frame_scores(
        config,
        clips,
        LABELS,
        corpus_root=folder,
        media=MediaConfig(),
        faces=faces or FaceConfig(),
        answer_files=answer_files(folder),
    )


def pictures(server: FaultServer, request: int) -> list[np.ndarray]:
    parts = server.requests[request]["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [
        cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        for url in urls
    ]


def test_each_file_is_sent_once(tmp_path: Path, clips: list[Clip]) -> None:
    plan = {"2": "content: nothing", "3": 'content: {"label": "happy"}'}
    with serving(lambda text, _: plan[text[0]]) as server:
        config = frames_config(server.url, count=3).model_copy(
            update={"server": frames_config(server.url).server.model_copy(update={"scoring": "samples", "samples": 1})}
        )
        result = score(tmp_path, clips, config)
        requests = len(server.requests)
        assert requests == 3, "one for each file, and one more after an invalid answer"
        again = score(tmp_path, clips, config)
        assert len(server.requests) == requests
        assert any(text.startswith("3 pictures") for text in server.received)
        sizes = {picture.shape for number in range(requests) for picture in pictures(server, number)}
        assert max(max(size[:2]) for size in sizes) == 64
        assert server.requests[0]["messages"][0]["role"] == "system"
    assert result.values.argmax(axis=1)[[0, 2]].tolist() == [2, 2]
    assert np.isnan(result.values[[1, 3]]).all()
    np.testing.assert_array_equal(result.values, again.values)
    assert (result.answered, result.empty, result.invalid, again.cached) == (2, 1, 1, 2)


def test_an_unreadable_file_is_quarantined(tmp_path: Path, clips: list[Clip]) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no clip" * 50)
    digest = sha256_file(tmp_path / "broken.mp4")
    broken = replace(
        clips[0], clip_id=ClipId("broken"), path="broken.mp4", digest=digest, file_digest=digest, bytes=350
    )
    with serving(lambda *_: 'content: {"label": "sad"}') as server:
        config = frames_config(server.url)
        config = config.model_copy(
            update={"server": config.server.model_copy(update={"scoring": "samples", "samples": 1})}
        )
        result = score(tmp_path, [clips[0], broken], config)
    assert (result.answered, result.quarantined) == (1, 1)
    assert "UnreadableMedia" in (tmp_path / "quarantine.csv").read_text()


def test_a_file_replaced_by_one_of_the_same_size_is_not_sent(tmp_path: Path, clips: list[Clip]) -> None:
    path = tmp_path / "a.mp4"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with serving(lambda *_: 'content: {"label": "sad"}') as server:
        assert score(tmp_path, clips[:1], frames_config(server.url)).quarantined == 1
        assert server.requests == []
    assert "ChangedSinceIndex" in (tmp_path / "quarantine.csv").read_text()


def test_crops_of_faces_are_sent_if_configured(tmp_path: Path, clips: list[Clip], models: Path) -> None:
    faces = FaceConfig(detector=models / "face_landmarker" / "face_detector.tflite")
    with serving(lambda *_: 'content: {"label": "sad"}') as server:
        config = frames_config(server.url, crops=True, side=96)
        config = config.model_copy(
            update={"server": config.server.model_copy(update={"scoring": "samples", "samples": 1})}
        )
        result = score(tmp_path, clips[:2], config, faces)
        assert {picture.shape for picture in pictures(server, 0)} == {(96, 96, 3)}
    assert (result.answered, result.quarantined) == (1, 1)
    assert "NoFaceFound" in (tmp_path / "quarantine.csv").read_text()


def test_a_jpeg_is_scaled_and_has_the_right_colours() -> None:
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, :, 0] = 220  # red
    content = encode_jpeg(picture, ShownFrames(side=64))
    read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert read.shape == (32, 64, 3)
    assert read[:, :, 2].mean() > 200 > 20 > read[:, :, 0].mean()
    assert encode_jpeg(picture, ShownFrames(side=64)) == content


def test_estimated_tokens_include_pictures() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + "A" * 40000}}
    text = {"type": "text", "text": "What?"}
    few = estimate_tokens([{"role": "user", "content": [picture, text]}])
    assert 500 < few < 2000
    assert estimate_tokens([{"role": "user", "content": [picture, picture, text]}]) > 1.5 * few


def test_a_prompt_without_section_frames_raises_params_error(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_prompt("emotion_zh").frames is not None
    incomplete = load_prompt("emotion_en").model_copy(update={"frames": None})
    monkeypatch.setattr("ecmf_pipeline.llm.frames.load_prompt", lambda _: incomplete)
    with pytest.raises(ParamsError) as caught:
        score(tmp_path, clips, frames_config("http://127.0.0.1:9/v1"))
    assert caught.value.keys == ("llm.prompt",)
    assert "'frames'" in caught.value.message
