"""Generate the sample corpus in MER2025's raw layout."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.console import progress_bar
from ecmf_pipeline.core.errors import CorpusError, InputError, ModelError
from ecmf_pipeline.core.files import (
    fingerprint,
    read_sealed_json,
    sha256_file,
    write_atomic,
    write_csv,
    write_sealed_json,
)
from ecmf_pipeline.corpora.sample.config import SampleConfig
from ecmf_pipeline.corpora.sample.face import FaceRig, find_landmarks, make_rig
from ecmf_pipeline.corpora.sample.plan import ClipPlan, draw_acting, plan_clips, prosody, read_transcripts
from ecmf_pipeline.corpora.sample.scene import FRAMES_PER_SECOND, draw_speaker, render
from ecmf_pipeline.corpora.sample.speech import SAMPLE_RATE, Synthesizer, add_room_noise, loudness, speak_within

AAC_FRAME = 1024
"""Samples per AAC packet."""
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAMES_PER_SECOND
GENERATOR_VERSION = 1
"""Incremented whenever the same settings produce other clips than before."""
SETTINGS_FILE = "sample.json"
MEDIA_FOLDER = "video"
TABLES = ("track1_train_disdim.csv", "track_all_candidates.csv", "subtitle_chieng.csv", "groups.csv", "gold.csv")
CHUNK_SIZE = 4
"""Clips per task of a worker; each task starts a new synthesiser."""


def encode_mp4(frames: Iterable[NDArray[np.uint8]], samples: NDArray[np.float32] | None, size: int) -> bytes:
    """Encode frames as H.264 and samples as AAC.

    Args:
        frames: RGB frames at `FRAMES_PER_SECOND`, each uint8 (size, size, 3).
        samples: Mono sound within -1..1 at `SAMPLE_RATE`, (n,); None for a file without audio stream.
        size: Side of a frame, in pixels.

    Returns:
        The content of the file, without date and software version.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        video.width = video.height = size
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        # Without cpu-independent, x264 165 sometimes writes other bytes for the same frames, even on one thread.
        video.options = {
            "crf": "23",
            "preset": "veryfast",
            "threads": "1",
            "flags": "+bitexact",
            "x264-params": "cpu-independent=1",
        }
        audio = None
        if samples is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            audio.bit_rate = 64_000
            audio.options = {"flags": "+bitexact", "threads": "1"}
        for pixels in frames:
            planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2YUV_I420)
            container.mux(video.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(video.encode(None))
        if audio is not None and samples is not None:
            for start in range(0, len(samples), AAC_FRAME):
                block = samples[None, start : start + AAC_FRAME]
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = SAMPLE_RATE, start
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return file.getvalue()


def render_clip(plan: ClipPlan, config: SampleConfig, rig: FaceRig, synthesizer: Synthesizer) -> bytes:
    """Render a clip. The result depends only on its plan and the configuration.

    Returns:
        The content of an mp4 file: H.264 at 25 frames per second and, if the plan has audio, AAC at 16 kHz.
    """
    rng = np.random.default_rng([config.seed, plan.index])
    speaker = draw_speaker(rig, plan.speaker, config.seed)
    face = draw_acting(plan.gold_label, config.weak, rng)
    voice = draw_acting(plan.gold_label, config.weak, rng)
    lead, tail = rng.uniform(0.1, 0.4, 2)
    longest = max(config.max_seconds - lead - tail, config.max_seconds / 2)
    clip_prosody = prosody(voice, rng)
    speech = speak_within(synthesizer, plan.spoken, speaker.voice, clip_prosody, longest)
    frames = _frame_count(lead + len(speech) / SAMPLE_RATE + tail, config)
    length = frames * SAMPLES_PER_FRAME
    start = int((length - len(speech)) * lead / (lead + tail))
    sound = add_room_noise(speech, start, length, speaker.voice.room, rng)
    pictures = render(rig, speaker, face, loudness(sound, frames), config.size, rng)
    return encode_mp4(pictures, sound if plan.has_audio else None, config.size)


def _frame_count(seconds: float, config: SampleConfig) -> int:
    shortest = int(np.ceil(config.min_seconds * FRAMES_PER_SECOND))
    longest = max(shortest, int(config.max_seconds * FRAMES_PER_SECOND))
    return int(np.clip(round(seconds * FRAMES_PER_SECOND), shortest, longest))


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """The counts of a `generate` run.

    Attributes:
        written: Clips rendered by this run.
        reused: Clips rendered by an earlier run with the same settings.
        wrong_labels: Given labels that differ from the gold label.
    """

    written: int
    reused: int
    wrong_labels: int


def generate(config: SampleConfig, root: Path, *, face_landmarker: Path, workers: int) -> SampleSummary:
    """Write the missing files of the corpus.

    A clip depends only on the settings and its number. An interrupted run can therefore be continued, with any number
    of workers. Clips of other settings are removed first.

    Args:
        config: Size and difficulty.
        root: The corpus folder.
        face_landmarker: MediaPipe's FaceLandmarker task file, which detects the landmarks of the photograph.
        workers: Number of worker processes, with one thread each.

    Raises:
        ModelError: If the task file does not exist or detects no face in the photograph.
        CorpusError: If ``root`` holds another corpus.
    """
    if not face_landmarker.is_file():
        raise ModelError(f"{face_landmarker} does not exist", "fetch the default weights", command="ecmf-pipe models")
    plans = plan_clips(config)
    folder = root / MEDIA_FOLDER
    settings = {
        "config": config.model_dump(mode="json"),
        "generator_version": GENERATOR_VERSION,
        "transcripts": fingerprint(read_transcripts()),
        "face_landmarker": sha256_file(face_landmarker),
    }
    _prepare_folder(root, settings)
    missing = [plan for plan in plans if not _clip_path(folder, plan).is_file()]
    if missing:
        _render_all(missing, config, face_landmarker, folder, workers)
    _write_tables(plans, root)
    write_atomic(root / "README.txt", resources.files(__package__).joinpath("README.txt").read_bytes())
    return SampleSummary(
        written=len(missing),
        reused=len(plans) - len(missing),
        wrong_labels=sum(plan.given_label not in {"", plan.gold_label} for plan in plans),
    )


def _prepare_folder(root: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings to ``root`` and remove the clips of other settings."""
    stamp = {"fingerprint": fingerprint(settings), "settings": settings}
    path = root / SETTINGS_FILE
    if path.is_file():
        with suppress(InputError):  # a damaged file counts as other settings
            if read_sealed_json(path, made_by="sample").get("fingerprint") == stamp["fingerprint"]:
                return
        for clip in (root / MEDIA_FOLDER).glob("sample_*.mp4"):
            clip.unlink()
        for table in TABLES:
            (root / table).unlink(missing_ok=True)
    elif any((root / name).exists() for name in (*TABLES, MEDIA_FOLDER)):
        raise CorpusError(
            f"{root} holds another corpus", "move it to another folder and set corpus.root to that folder"
        )
    write_sealed_json(path, stamp)


def _clip_path(folder: Path, plan: ClipPlan) -> Path:
    return folder / f"{plan.clip_id}.mp4"


def _render_all(
    plans: Sequence[ClipPlan], config: SampleConfig, face_landmarker: Path, folder: Path, workers: int
) -> None:
    """Render clips in worker processes; an interrupt cancels all chunks that have not started."""
    landmarks = find_landmarks(face_landmarker)
    chunks = [plans[start : start + CHUNK_SIZE] for start in range(0, len(plans), CHUNK_SIZE)]
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(chunks)), mp_context=get_context("spawn"), initializer=_start_worker
    )
    try:
        with progress_bar("sample", len(plans)) as bar:
            for future in as_completed(
                pool.submit(_render_chunk, chunk, config, landmarks, folder) for chunk in chunks
            ):
                bar.update(future.result())
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Use one thread per process and leave interrupts to the parent process."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _render_chunk(plans: Sequence[ClipPlan], config: SampleConfig, landmarks: NDArray[np.float64], folder: Path) -> int:
    rig = make_rig(landmarks)
    with Synthesizer() as synthesizer:
        for plan in plans:
            write_atomic(_clip_path(folder, plan), render_clip(plan, config, rig, synthesizer))
    return len(plans)


def _write_tables(plans: Sequence[ClipPlan], root: Path) -> None:
    labelled = [plan for plan in plans if plan.given_label]
    unlabeled = [plan for plan in plans if not plan.given_label]
    train, candidates, subtitles, groups, gold = (root / name for name in TABLES)
    write_csv(train, ("name", "discrete"), ((plan.clip_id, plan.given_label) for plan in labelled))
    write_csv(candidates, ("name",), ((plan.clip_id,) for plan in unlabeled))
    write_csv(subtitles, ("name", "chinese", "english"), ((plan.clip_id, "", plan.transcript) for plan in plans))
    write_csv(groups, ("name", "group"), ((plan.clip_id, f"speaker_{plan.speaker}") for plan in plans))
    write_csv(gold, ("name", "discrete"), ((plan.clip_id, plan.gold_label) for plan in plans))
