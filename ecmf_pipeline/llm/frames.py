"""Label scores from a few pictures of each clip, by a server whose model can see."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import ChangedSinceIndex, ParamsError
from ecmf_pipeline.core.files import fingerprint, sha256_text
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.faces.detector import FaceFinder
from ecmf_pipeline.faces.openface import read_openface
from ecmf_pipeline.llm.answers import Question, ScoreBooks, ScoreCache, TextScores, ask_about, drafts_of
from ecmf_pipeline.llm.config import LlmConfig, ShownFrames
from ecmf_pipeline.llm.prompt import Message, PictureMessage, Prompt, Turn, json_words, load_prompt
from ecmf_pipeline.llm.requests import LabelAsker, ServerStep
from ecmf_pipeline.llm.scoring import Scored, scores_kept
from ecmf_pipeline.llm.server_run import Budget, Drafts
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.media.containers import has_changed, resolved_reader
from ecmf_pipeline.media.sampling import read_samplings

if TYPE_CHECKING:
    pass

RECIPE = 1
"""Raised with every change of code that changes the pictures."""


def frame_scores(
    config: LlmConfig,
    clips: Sequence[Clip],
    labels: Sequence[str],
    *,
    corpus_root: Path,
    media: MediaConfig,
    faces: FaceConfig,
    books: ScoreBooks,
    budget: Budget | None = None,
) -> Scored:
    """Label scores of clips by their pictures, (n, K), asking only about files that no cache knows.

    Args:
        config: The server, and how many pictures it is shown.
        clips: The clips, (n,); those without such pictures are not asked about.
        labels: Labels to choose from, (K,).
        corpus_root: What the clips' paths are relative to.
        media: How clips are decoded.
        faces: How faces are found, where they are shown.
        books: Where the stage keeps what it has asked.
        budget: What may still be sent, where a stage asks in several loops; None: one for this loop.

    Raises:
        ParamsError: When the prompt does not say how a server is asked about pictures.
        TryAgain: As `answers.ask_about` does, with what else it raises.
    """
    prompt = load_prompt(config.prompt)
    if prompt.frames is None:
        raise ParamsError(f"llm.prompt: {config.prompt} has no section `frames`", "copy it from emotion_en.yaml")
    keys = frame_keys(clips, config.votes.frames, faces)
    settings = fingerprint(frame_settings(config, labels, media, faces))
    cache = ScoreCache(books.cache, settings)
    found = ask_about(
        keys,
        {clip.clip_id: clip for clip in clips},
        lambda _: 0,  # as many pictures of one size
        cache=cache,
        books=books,
        steps=lambda _: ShowingStep(
            config,
            prompt,
            labels,
            corpus_root,
            media,
            faces,
            drafts_of(books, settings),
            budget or Budget(config.budget),
        ),
        config=config,
    )
    return scores_kept(cache, [clip.clip_id for clip in clips], keys, labels, found)


def frame_settings(
    config: LlmConfig, labels: Sequence[str], media: MediaConfig, faces: FaceConfig
) -> Mapping[str, Any]:
    """All that changes the scores, beside the files, as plain JSON values.

    Raises:
        ModelError: When the face detector is asked for and not there.
    """
    prompt = load_prompt(config.prompt)
    prompt.words(labels)  # refuses labels that would share a word
    asked = prompt.model_dump(mode="json", include={"frames", "labels", "aliases"})
    words = {name: {"word": label["word"]} for name, label in asked["labels"].items()}
    shown = config.votes.frames
    return {
        "sees": shown.model_dump(mode="json"),
        "recipe": RECIPE,
        "reader": resolved_reader(media),
        "max_side": media.max_side,
        "faces": faces.settings() if shown.crops else None,
        "weights": config.weights(),
        "prompt": sha256_text(json.dumps({**asked, "labels": words}, sort_keys=True, ensure_ascii=False)),
        "labels": list(labels),
        "server": config.server.settings(),
    }


def frame_keys(clips: Sequence[Clip], shown: ShownFrames, faces: FaceConfig) -> dict[str, str]:
    """Digest of the file that pictures of each clip come from, by clip id; clips without such a file are left out."""
    cut = shown.crops and faces.source == "openface"
    return {
        clip.clip_id: clip.face_digest if cut else clip.digest
        for clip in clips
        if (clip.face_digest if cut else clip.digest and clip.has_video)
    }


class ShowingStep(ServerStep[Question[Clip], list[bytes], TextScores]):
    """Shows a server pictures of clips.

    Pictures are decoded by one thread at a time: detectors hold native objects, and the server is what takes long.

    Args:
        config: The server, and how many pictures it is shown.
        prompt: What is asked.
        labels: Labels to choose from, (K,).
        corpus_root: What the clips' paths are relative to.
        media: How clips are decoded.
        faces: How faces are found, where they are shown.
        drafts: What has been paid for of clips that are not finished.
        budget: What may still be sent.
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
    ) -> None:
        super().__init__(config, budget)
        self._shown = config.votes.frames
        self._prompt = prompt
        self._labels = labels
        self._root = corpus_root
        self._media = media
        self._faces = faces
        self._asker = LabelAsker(self._server, config.server, prompt.words(labels), drafts)
        self._decoding = threading.Lock()
        self._finder: FaceFinder | None = None

    def open(self, item: Question[Clip]) -> list[bytes]:
        """The clip's pictures as JPEG files.

        Raises:
            ClipError: When it cannot be read, or shows no face where faces are asked for.
        """
        with self._decoding:
            pictures = self._pictures(item.about)
        return [as_jpeg(picture, self._shown) for picture in pictures]

    def ask(self, item: Question[Clip], opened: list[bytes]) -> TextScores:
        """The scores of a clip, under the digest of its file."""
        shown = picture_messages(self._prompt, opened, self._labels)
        return self._asker.scores(item.targets[0].digest, shown)

    def close(self) -> None:
        """Close the client, and free the face detector."""
        super().close()
        if self._finder is not None:
            self._finder.close()

    def _pictures(self, clip: Clip) -> NDArray[np.uint8]:
        shown, faces = self._shown, self._faces
        if shown.crops and faces.source == "openface":
            return read_openface(self._root / clip.face_path, count=shown.count, size=faces.crop_size).crops
        path = self._root / clip.path
        if has_changed(path, clip.bytes):
            raise ChangedSinceIndex("the file has changed since it was indexed: run `ecmf-pipe index`")
        (sampling,) = read_samplings(path, self._media, [shown.count])
        if not shown.crops:
            return sampling.frames
        self._finder = self._finder or FaceFinder(faces)
        return self._finder.track(sampling.frames).crops


def picture_messages(prompt: Prompt, pictures: Sequence[bytes], labels: Sequence[str]) -> list[Turn]:
    """The turns that ask about pictures.

    Args:
        prompt: Says what is asked; has a section ``frames``.
        pictures: JPEG files.
        labels: Labels to choose from.
    """
    if prompt.frames is None:
        raise ValueError("the prompt has no section `frames`")
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"}}
        for data in pictures
    ]
    content.append({"type": "text", "text": prompt.frames.item})
    task = prompt.frames.instruction.format(labels=json_words(prompt.words(labels)))
    return [Message(role="system", content=task), PictureMessage(role="user", content=content)]


def as_jpeg(picture: NDArray[np.uint8], shown: ShownFrames) -> bytes:
    """An RGB picture, uint8 (H, W, 3), as a JPEG file of at most ``shown.side`` pixels a side."""
    import cv2

    height, width = picture.shape[:2]
    scale = shown.side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    written, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, shown.quality])
    if not written:
        raise RuntimeError("OpenCV wrote no JPEG")
    return bytes(data)
