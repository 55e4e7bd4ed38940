"""Label scores from a few pictures of each clip, from a server with a vision model."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import ParamsError, TruncatedMedia
from ecmf_pipeline.core.files import FileState, fingerprint, indexed_content, sha256_text
from ecmf_pipeline.corpora.measuring import known_states
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.faces.detector import FaceFinder
from ecmf_pipeline.faces.openface import read_openface
from ecmf_pipeline.llm.answers import AnswerFiles, ScoreCache, TextScores, open_drafts
from ecmf_pipeline.llm.config import LlmConfig, ShownFrames
from ecmf_pipeline.llm.prompt import Message, PictureMessage, Prompt, Turn, json_words, load_prompt
from ecmf_pipeline.llm.questions import Question, answer_questions
from ecmf_pipeline.llm.requests import LabelScorer, ServerStep
from ecmf_pipeline.llm.scoring import ScoringResult, collect_scores
from ecmf_pipeline.llm.server_run import Budget, Drafts
from ecmf_pipeline.media.clip_reader import ClipReader, span_of
from ecmf_pipeline.media.config import MediaConfig

PICTURE_VERSION = 1
"""Increased with every change of code that changes the pictures."""


def frame_scores(
    config: LlmConfig,
    clips: Sequence[Clip],
    labels: Sequence[str],
    *,
    corpus_root: Path,
    media: MediaConfig,
    faces: FaceConfig,
    answer_files: AnswerFiles,
    budget: Budget | None = None,
    index_cache: Path | None = None,
) -> ScoringResult:
    """Return label scores of clips from their pictures, (n, K); only files without cached scores are sent.

    Args:
        config: The server, and the number of pictures.
        clips: The clips, (n,); clips without pictures are skipped.
        labels: Labels to choose from, (K,).
        corpus_root: Folder that the paths of clips are relative to.
        media: Settings of the decoding.
        faces: Settings of the face detection, used if crops of faces are sent.
        answer_files: Files of the stage.
        budget: Limits of the requests that several calls share; None: those of ``config`` for this call.
        index_cache: The cache of `index`. Files in another state than it holds are hashed before they are read; None:
            all files are.

    Raises:
        ParamsError: If the prompt has no section ``frames``.
        TryAgain: See `questions.answer_questions`, also for further errors.
    """
    prompt = load_prompt(config.prompt)
    if prompt.frames is None:
        raise ParamsError(
            f"llm.prompt: {config.prompt} has no section 'frames'", "copy it from emotion_en.yaml", keys=["llm.prompt"]
        )
    keys = frame_keys(clips, config.votes.frames, faces)
    settings = fingerprint(frame_settings(config, labels, media, faces))
    cache = ScoreCache(answer_files.cache, settings, also=[other.cache for other in answer_files.earlier])
    summary = answer_questions(
        keys,
        {clip.clip_id: clip for clip in clips},
        lambda _: 0,  # equal lengths: as many pictures of one size for each clip
        cache=cache,
        answer_files=answer_files,
        steps=lambda _: FrameScoringStep(
            config,
            prompt,
            labels,
            corpus_root,
            media,
            faces,
            open_drafts(answer_files, settings),
            budget or Budget(config.budget),
            known_states(index_cache, corpus_root, [path for clip in clips for path in (clip.path, clip.face_path)])
            if index_cache
            else {},
        ),
        config=config,
        limits={TruncatedMedia.__name__: media.least_readable},
    )
    return collect_scores(cache, [clip.clip_id for clip in clips], keys, labels, summary)


def frame_settings(
    config: LlmConfig, labels: Sequence[str], media: MediaConfig, faces: FaceConfig
) -> Mapping[str, Any]:
    """Return all settings that change the scores, as JSON values, without the files.

    Raises:
        ModelError: If the face detector is required and missing.
    """
    prompt = load_prompt(config.prompt)
    prompt.words(labels)  # raises if two labels share a word
    prompt_fields = prompt.model_dump(mode="json", include={"frames", "labels", "aliases"})
    words = {name: {"word": label["word"]} for name, label in prompt_fields["labels"].items()}
    shown = config.votes.frames
    return {
        "sees": shown.model_dump(mode="json"),
        "recipe": PICTURE_VERSION,
        "max_side": media.max_side,
        "faces": faces.settings() if shown.crops else None,
        "weights": config.weights(),
        "prompt": sha256_text(json.dumps({**prompt_fields, "labels": words}, sort_keys=True, ensure_ascii=False)),
        "labels": list(labels),
        "server": config.server.settings(),
    }


def frame_keys(clips: Sequence[Clip], shown: ShownFrames, faces: FaceConfig) -> dict[str, str]:
    """Return the digest of the file with the pictures of each clip, by clip id; clips without a file are left out."""
    from_openface = shown.crops and faces.source == "openface"
    return {
        clip.clip_id: clip.face_digest if from_openface else clip.digest
        for clip in clips
        if (clip.face_digest if from_openface else clip.digest and clip.has_video)
    }


class FrameScoringStep(ServerStep[Question[Clip], list[bytes], TextScores]):
    """Step that scores the labels of clips from their pictures with a server.

    One thread at a time decodes pictures: detectors hold native objects, and the server takes most of the time.

    Args:
        config: The server, and the number of pictures.
        prompt: The prompt.
        labels: Labels to choose from, (K,).
        corpus_root: Folder that the paths of clips are relative to.
        media: Settings of the decoding.
        faces: Settings of the face detection, used if crops of faces are sent.
        drafts: Paid answers of unfinished clips.
        budget: Limits of the requests.
        states: Known states of files; see `indexed_content`.
    """

    def __init__(
        self,
        config: LlmConfig,
        prompt: Prompt,
        labels: Sequence[str],
        corpus_root: Path,
        media: MediaConfig,
        faces: FaceConfig,
        drafts: Drafts,
        budget: Budget,
        states: Mapping[str, FileState],
    ) -> None:
        super().__init__(config, budget)
        self._shown = config.votes.frames
        self._prompt = prompt
        self._labels = labels
        self._root = corpus_root
        self._reader = ClipReader(media)
        self._faces = faces
        self._states = states
        self._scorer = LabelScorer(self._server, config.server, prompt.words(labels), drafts)
        self._decoder_lock = threading.Lock()
        self._finder: FaceFinder | None = None

    def open(self, item: Question[Clip]) -> list[bytes]:
        """Return the pictures of a clip as JPEG files.

        Raises:
            ClipError: If the clip cannot be read, or has no face although crops of faces are sent.
        """
        with self._decoder_lock:
            pictures = self._pictures(item.content)
        return [encode_jpeg(picture, self._shown) for picture in pictures]

    def ask(self, item: Question[Clip], opened: list[bytes]) -> TextScores:
        """Return the scores of a clip, with the digest of its file as key."""
        messages = picture_messages(self._prompt, opened, self._labels)
        return self._scorer.scores(item.targets[0].digest, messages)

    def close(self) -> None:
        """Close the client and the face detector."""
        super().close()
        if self._finder is not None:
            self._finder.close()

    def _pictures(self, clip: Clip) -> NDArray[np.uint8]:
        shown, faces = self._shown, self._faces
        if shown.crops and faces.source == "openface":
            path = self._root / clip.face_path
            with indexed_content(path, clip.face_digest, self._states.get(clip.face_path), clip.face_bytes):
                return read_openface(path, count=shown.count, size=faces.crop_size).crops
        path = self._root / clip.path
        with indexed_content(path, clip.file_digest, self._states.get(clip.path), clip.bytes):
            (sampling,) = self._reader.samplings(path, span_of(clip), [shown.count])
        if not shown.crops:
            return sampling.frames
        self._finder = self._finder or FaceFinder(faces)
        return self._finder.track(sampling.frames).crops


def picture_messages(prompt: Prompt, pictures: Sequence[bytes], labels: Sequence[str]) -> list[Turn]:
    """Return the turns of the question about pictures.

    Args:
        prompt: The prompt; it must have a section ``frames``.
        pictures: JPEG files.
        labels: Labels to choose from.
    """
    if prompt.frames is None:
        raise ValueError("the prompt has no section 'frames'")
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"}}
        for data in pictures
    ]
    content.append({"type": "text", "text": prompt.frames.item})
    task = prompt.frames.instruction.format(labels=json_words(prompt.words(labels)))
    return [Message(role="system", content=task), PictureMessage(role="user", content=content)]


def encode_jpeg(picture: NDArray[np.uint8], shown: ShownFrames) -> bytes:
    """Encode an RGB picture, uint8 (H, W, 3), as a JPEG file with sides of at most ``shown.side`` pixels."""
    import cv2

    height, width = picture.shape[:2]
    scale = shown.side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    encoded, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, shown.quality])
    if not encoded:
        raise RuntimeError("OpenCV cannot encode the picture as JPEG")
    return bytes(data)
