"""Clips, the manifest that lists them, the corpus they make up, and their transcripts.

The manifest is the one table every later stage starts from. Its rows are sorted by ``clip_id`` and its bytes depend on
nothing but its content, so that an unchanged corpus leaves the file, and all that DVC derives from it, alone.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NewType

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.errors import CorpusError, InputError, MissingInput
from ecmf_pipeline.core.files import read_json, read_text, write_csv

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ClipId = NewType("ClipId", str)

MAX_CLIP_ID_BYTES = 240
"""A clip id names files (``<clip_id>.npy`` on export); file systems allow 255 bytes."""


class Split(StrEnum):
    """What a clip is for."""

    TRAIN = "train"
    """Has a given label and is trained on."""
    CANDIDATE = "candidate"
    """Must be predicted: stands in the submission. A label it has is kept as gold, for evaluation only."""
    UNLABELED = "unlabeled"
    """Neither: may serve as a source of pseudo-labels."""


class Modality(StrEnum):
    """The branches of the model."""

    GLOBAL = "global"
    FACE = "face"
    AUDIO = "audio"
    TEXT = "text"

    @property
    def is_media(self) -> bool:
        """Whether the features come from the clip's file (and share its one decode)."""
        return self is not Modality.TEXT


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance.

    Attributes:
        clip_id: Its name; see `validate_clip_id`.
        path: Its file, relative to the corpus root; empty when there is none.
        digest: SHA-256 of the file's bytes, in hex; empty when there is no file.
        bytes: The file's size.
        duration: Length in seconds; 0 when unknown.
        has_video: Whether the file holds a video stream.
        has_audio: Whether the file holds an audio stream.
        transcript: The words that are spoken; empty when there are none or they are unknown.
        translation: The same in the corpus' other language; empty when there is none.
        given_label: The label to train on, which may be wrong; empty when there is none.
        gold_label: The true label, read by `evaluate` alone; empty when unknown.
        split: What the clip is for.
        group: The speaker or dialogue that folds must not tear apart; empty when unknown.
        face_path: Crops of its face that come with the corpus, relative to the corpus root; empty when there are none,
            or they are not asked for.
        face_digest: SHA-256 of that file's bytes, in hex; empty when there is no such file.
        face_bytes: That file's size.
    """

    clip_id: ClipId
    path: str = ""
    digest: str = ""
    bytes: int = 0
    duration: float = 0.0
    has_video: bool = False
    has_audio: bool = False
    transcript: str = ""
    translation: str = ""
    given_label: str = ""
    gold_label: str = ""
    split: Split = Split.UNLABELED
    group: str = ""
    face_path: str = ""
    face_digest: str = ""
    face_bytes: int = 0


MANIFEST_COLUMNS = tuple(field.name for field in fields(Clip))
_SPLITS = {split.value: split for split in Split}


def validate_clip_id(name: str) -> ClipId:
    """Return ``name`` as a clip id, or say why it cannot be one.

    Clip ids become file names on export, so nothing that could leave a folder or hide in a terminal gets through.

    Raises:
        CorpusError: When the name is empty, too long, ``.`` or ``..``, holds a path separator or a control character.
    """
    shown = ascii(name[:60])
    if not name or name != name.strip():
        raise CorpusError(f"clip id {shown} is empty or has space around it", "rename the clip")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_CLIP_ID_BYTES:
        raise CorpusError(f"clip id {shown}... is longer than {MAX_CLIP_ID_BYTES} bytes", "shorten the clip's name")
    if name in {".", ".."} or "/" in name or "\\" in name:
        raise CorpusError(f"clip id {shown} would leave its folder", "clip ids are plain names without / and \\")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise CorpusError(f"clip id {shown} holds a control character", "rename the clip")
    return ClipId(name)


def write_manifest(path: Path, clips: Iterable[Clip]) -> bool:
    """Write the manifest, sorted by clip id, unless the file already says the same.

    Returns:
        Whether the file's bytes changed.

    Raises:
        CorpusError: When two clips share an id.
    """
    rows = sorted(clips, key=lambda clip: clip.clip_id)
    counts = Counter(clip.clip_id for clip in rows)
    if doubled := [clip_id for clip_id, count in counts.items() if count > 1]:
        raise CorpusError(f"clip id {doubled[0]!r} stands twice in the manifest", "clip ids must be unique")
    cells = ([_cell(getattr(clip, column)) for column in MANIFEST_COLUMNS] for clip in rows)
    return write_csv(path, MANIFEST_COLUMNS, cells)


def read_manifest(path: Path) -> list[Clip]:
    """Read a manifest written by `write_manifest`.

    Raises:
        MissingInput: When there is none yet.
        CorpusError: When a row is damaged.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing", "run `ecmf-pipe index` (or `dvc repro`) first")
    reader = csv.reader(io.StringIO(read_text(path)))
    header = next(reader, [])
    if tuple(header) != MANIFEST_COLUMNS:
        raise CorpusError(f"{path} is not a manifest of this version", "run `ecmf-pipe index` to write it anew")
    clips = []
    for number, row in enumerate(reader, start=2):
        try:
            clips.append(_clip(row))
        except (ValueError, IndexError) as error:
            raise CorpusError(f"{path}: row {number} is damaged ({error})", "run `ecmf-pipe index`") from error
    return clips


def labels_of(clips: Sequence[Clip], labels: Sequence[str]) -> list[int]:
    """The given labels as indices into ``labels``, -1 where there is none."""
    index = {label: position for position, label in enumerate(labels)}
    return [index[clip.given_label] if clip.given_label else -1 for clip in clips]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _clip(row: Sequence[str]) -> Clip:
    clip_id, path, digest, size, duration, has_video, has_audio, words, translation, *more = row
    given, gold, split, group, face_path, face_digest, face_bytes = more
    if split not in _SPLITS:
        raise ValueError(f"{split!r} is no split")
    return Clip(  # by position, in the order of the columns: corpora have 132,000 clips
        ClipId(clip_id),
        path,
        digest,
        int(size),
        float(duration),
        has_video == "1",
        has_audio == "1",
        words,
        translation,
        given,
        gold,
        _SPLITS[split],
        group,
        face_path,
        face_digest,
        int(face_bytes),
    )


_COLUMNS = ["clip_id", "original", "enriched", "translation"]


@dataclass(frozen=True, slots=True)
class ClipText:
    """The text branch's view of a clip; "" stands for what there is none of.

    Attributes:
        original: What was said.
        enriched: The same, enriched by the LLM.
        translation: The same in the corpus' other language.
    """

    original: str
    enriched: str = ""
    translation: str = ""

    def having(self, columns: Sequence[str]) -> list[str]:
        """The texts of some columns, in their order; none where one of them is blank."""
        texts: list[str] = [getattr(self, column) for column in columns]
        return texts if all(text.strip() for text in texts) else []


def write_texts(path: Path, texts: Mapping[str, ClipText]) -> bool:
    """Write the table, sorted by clip id.

    Returns:
        Whether the file's bytes changed.
    """
    rows = ([clip_id, text.original, text.enriched, text.translation] for clip_id, text in sorted(texts.items()))
    return write_csv(path, _COLUMNS, rows)


def read_texts(path: Path) -> dict[str, ClipText]:
    """Read the table by clip id.

    Raises:
        MissingInput: When `rewrite` has not run yet.
        InputError: When it is damaged.
    """
    if not path.is_file():
        raise MissingInput(f"{path} is missing", "run `ecmf-pipe rewrite` (or `dvc repro`) first")
    header, *rows = list(csv.reader(io.StringIO(read_text(path)))) or [[]]
    if header != _COLUMNS or any(len(row) != len(header) for row in rows):
        raise InputError(f"{path} is damaged", "run `ecmf-pipe rewrite` again")
    return {clip_id: ClipText(*texts) for clip_id, *texts in rows}


@dataclass(frozen=True, slots=True)
class Corpus:
    """The manifest and what `index` wrote beside it.

    Attributes:
        clips: All clips, sorted by id.
        labels: The labels, in the order of the model's outputs.
        candidates: Clip ids in the order of the submission.
        synthetic: Whether the corpus is generated.
    """

    clips: list[Clip]
    labels: list[str]
    candidates: list[str]
    synthetic: bool

    @property
    def given(self) -> NDArray[np.int64]:
        """The given labels as indices, (n,), -1 where there is none."""
        import numpy as np  # `index` and `settings` read manifests too, and are to start fast

        return np.array(labels_of(self.clips, self.labels), np.int64)


def read_corpus_tables() -> Corpus:
    """Read what `index` wrote.

    Raises:
        MissingInput: When it has not run yet.
    """
    clips = read_manifest(paths.MANIFEST)
    corpus: dict[str, Any] = read_json(paths.CORPUS, made_by="index")
    return Corpus(clips, corpus["labels"], corpus["candidates"], corpus["synthetic"])
