"""Clips, the manifest, the corpus and transcripts.

Every later stage reads the manifest. Its rows are sorted by ``clip_id`` and its bytes depend only on its content. An
unchanged corpus therefore gives an unchanged file, and DVC runs no later stage.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import cached_property
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NewType

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.columns import Rows, are_all_in, are_all_numbers, are_not_blank, are_unique, interned
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.core.files import read_sealed_json, sha256_bytes, sha256_file, write_csv, write_sealed_json
from ecmf_pipeline.core.tables import (
    TableFile,
    one_of,
    open_table,
    parse_count,
    parse_flag,
    parse_number,
    write_sealed_csv,
)

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

ClipId = NewType("ClipId", str)

MAX_CLIP_ID_BYTES = 240
"""Clip ids become file names (``<clip_id>.npy`` on export); file systems allow 255 bytes."""


class Split(StrEnum):
    """Purpose of a clip."""

    TRAIN = "train"
    """Has a given label and is trained on."""
    CANDIDATE = "candidate"
    """Is predicted for the submission. Its label, if known, is the gold label and serves evaluation only."""
    UNLABELED = "unlabeled"
    """All others; may get a pseudo-label."""


class WordsFrom(StrEnum):
    """Where a transcript comes from."""

    NOWHERE = ""
    """There is no transcript."""
    CORPUS = "corpus"
    """A table of the corpus."""
    SUBTITLES = "subtitles"
    """A subtitle file beside the clip, or a subtitle stream in it."""
    MACHINE = "machine"
    """Speech recognition (`transcribe`)."""
    CORRECTED = "corrected"
    """A person corrected the transcript."""


class Half(StrEnum):
    """The part of the pictures that a clip uses: films may show two people side by side."""

    WHOLE = ""
    LEFT = "left"
    RIGHT = "right"


class Modality(StrEnum):
    """Input modalities, one for each branch of the model."""

    GLOBAL = "global"
    FACE = "face"
    AUDIO = "audio"
    TEXT = "text"

    @property
    def is_media(self) -> bool:
        """Whether the features are extracted from the media file; these modalities share one decode."""
        return self is not Modality.TEXT


class Sound(NamedTuple):
    """The file with the sound of a clip.

    Attributes:
        path: The file, relative to the corpus root.
        digest: Digest of the sound, in hex: that of the file, or for a part of a file of it and the times of the part.
            Audio features and transcripts are kept by it.
        file_digest: SHA-256 of the bytes of the file, in hex.
        bytes: Size of the file in bytes.
    """

    path: str
    digest: str
    file_digest: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance.

    Attributes:
        clip_id: Name of the clip; see `validate_clip_id`.
        path: Media file, relative to the corpus root; empty if there is none.
        digest: SHA-256 of the content, in hex: of the file's bytes, or for a part of a file of these, its times
            and its half (`content_digest`). Features, transcripts and quarantine entries are kept by it. Empty if there
            is no file.
        bytes: Size of the file in bytes.
        duration: Length in seconds; 0 if unknown.
        has_video: Whether the file has a video stream.
        has_audio: Whether the file, or the sound file, has an audio stream.
        transcript: Spoken words; empty if there are none or they are unknown.
        translation: Transcript in the other language of the corpus; empty if there is none.
        given_label: Label to train on, which may be wrong; empty if there is none.
        gold_label: True label, used by `evaluate` only; empty if unknown.
        split: Purpose of the clip.
        group: Speaker or dialogue that must not be split across folds; empty if unknown.
        face_path: File of face crops that comes with the corpus, relative to the corpus root; empty if there is none
            or the params do not use it.
        face_digest: SHA-256 of the face crops file, in hex; empty if there is none.
        face_bytes: Size of the face crops file in bytes.
        audio_path: File of the sound beside a media file without sound, relative to the corpus root; empty if the
            sound is in the media file.
        audio_digest: SHA-256 of the sound file, in hex; empty if there is none.
        audio_bytes: Size of the sound file in bytes.
        file_digest: SHA-256 of the bytes of the media file, in hex; differs from `digest` for a part of a file.
        start: Start of the clip in the media file, in seconds.
        end: End of the clip in the media file, in seconds; 0 for the whole file.
        words_from: Where the transcript comes from.
        language: Language code of the transcript (en, zh); empty if unknown.
        half: The half of the pictures that shows the speaker; empty for whole pictures.
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
    audio_path: str = ""
    audio_digest: str = ""
    audio_bytes: int = 0
    file_digest: str = ""
    start: float = 0.0
    end: float = 0.0
    words_from: WordsFrom = WordsFrom.NOWHERE
    language: str = ""
    half: Half = Half.WHOLE

    @property
    def sound(self) -> Sound | None:
        """The file with the sound: the one beside the media file if there is one; None without audio stream."""
        if not self.has_audio:
            return None
        if self.audio_path:
            digest = content_digest(self.audio_digest, self.start, self.end)
            return Sound(self.audio_path, digest, self.audio_digest, self.audio_bytes)
        # Both halves of the pictures have the same sound.
        digest = content_digest(self.file_digest, self.start, self.end) if self.half else self.digest
        return Sound(self.path, digest, self.file_digest, self.bytes)


MANIFEST_COLUMNS = tuple(field.name for field in fields(Clip))
_SPLITS = {split.value: split for split in Split}
_WORDS_FROM = {origin.value: origin for origin in WordsFrom}
_HALVES = {half.value: half for half in Half}
_INDEX = "ecmf-pipe index"
_ARROW_TYPES = {"int": "int64", "float": "double", "bool": "bool"}


class Clips(Rows[Clip]):
    """Clips as columns; see `Rows`. A million clips take 0.4 GB."""

    row_type = Clip
    types: ClassVar[Mapping[str, str]] = {
        field.name: _ARROW_TYPES.get(str(field.type), "string") for field in fields(Clip)
    }
    classes: ClassVar[Mapping[str, Any]] = {"split": Split, "words_from": WordsFrom, "half": Half}

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The clip ids, (n,)."""
        return tuple(self.column("clip_id").tolist())

    @cached_property
    def groups(self) -> list[str]:
        """Speaker or dialogue of each clip, (n,); empty if unknown."""
        groups: list[str] = self.column("group").tolist()
        return groups

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Split of each clip, (n,)."""
        return interned(self.table.column("split"))

    @property
    def has_words(self) -> NDArray[np.bool_]:
        """Whether each clip has a transcript that is not blank, (n,)."""
        return self.is_not_blank("transcript")

    @property
    def sound_digests(self) -> NDArray[np.object_]:
        """Digest of the sound of each clip, (n,); empty without an audio stream. See `Clip.sound`."""
        has_audio = self.column("has_audio")
        digests = self.column("digest").copy()
        is_other = (self.column("audio_path") != "") | (self.column("half") != "")
        for row in (has_audio & is_other).nonzero()[0].tolist():
            sound = self[row].sound
            digests[row] = sound.digest if sound else ""
        digests[~has_audio] = ""
        return digests


def validate_clip_id(name: str) -> ClipId:
    """Return ``name`` as a clip id.

    Clip ids become file names on export, so names that could leave a folder or hide text in a terminal are rejected.

    Raises:
        CorpusError: If the name is empty, too long, ``.`` or ``..``, or holds a path separator or control character.
    """
    shown = ascii(name[:60])
    if not name or name != name.strip():
        raise CorpusError(f"clip id {shown} is empty or has leading or trailing whitespace", "rename the clip")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_CLIP_ID_BYTES:
        raise CorpusError(
            f"clip id {shown}... is longer than {MAX_CLIP_ID_BYTES} bytes", "shorten the name of the clip"
        )
    if name in {".", ".."} or "/" in name or "\\" in name:
        raise CorpusError(f"clip id {shown} is a path, not a plain name", "rename the clip without / and \\")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise CorpusError(f"clip id {shown} holds a control character", "rename the clip")
    return ClipId(name)


def write_manifest(path: Path, clips: Iterable[Clip]) -> bool:
    """Write the manifest, sorted by clip id, unless the file has the same content.

    Returns:
        Whether the file's bytes changed.

    Raises:
        CorpusError: If two clips have the same id.
    """
    rows = sorted(clips, key=lambda clip: clip.clip_id)
    counts = Counter(clip.clip_id for clip in rows)
    if duplicates := [clip_id for clip_id, count in counts.items() if count > 1]:
        raise CorpusError(f"two clips have the id {duplicates[0]!r}", "rename one of them: clip ids must be unique")
    cells = ([_cell(getattr(clip, column)) for column in MANIFEST_COLUMNS] for clip in rows)
    return write_csv(path, MANIFEST_COLUMNS, cells)


def read_manifest(path: Path) -> Clips:
    """Read a manifest that `write_manifest` wrote.

    If the corpus table is beside it (`write_corpus_tables`), the manifest must be the one that it was written with.

    Raises:
        MissingInput: If the file does not exist.
        CorpusError: If the manifest or the corpus table is damaged, or a label is not one of the corpus.
    """
    table = open_table(path, command=_INDEX, error=CorpusError)
    header = table.header()
    if tuple(header) != MANIFEST_COLUMNS:
        raise CorpusError(
            f"{path} is not a manifest of this version of ecmf-pipeline", "write it again", command=_INDEX
        )
    beside = path.with_name(paths.CORPUS.name)
    description = read_corpus_description(beside) if beside.is_file() else None
    labels = {*description.labels, ""} if description else None
    clips = _read_columns(table, labels)
    if clips is None:
        clips = Clips.of(table.parse(lambda row: _clip(row, labels)))
    if description and sha256_bytes(table.data) != description.manifest_sha256:
        raise table.damaged(f"{beside} was written with another manifest, so rows or cells may be missing or changed")
    return clips


def _read_columns(table: TableFile, labels: Set[str] | None) -> Clips | None:
    """Return the clips of a manifest without any damage; None if `_clip` must name the damaged row."""
    columns = table.arrow(Clips.types)
    if columns is None or not are_unique(columns.column("clip_id")):
        return None
    numbers = [name for name, kind in Clips.types.items() if kind in {"int64", "double"}]
    cells: dict[str, Iterable[str]] = {"split": _SPLITS, "words_from": _WORDS_FROM, "half": _HALVES}
    if labels is not None:
        cells |= {"given_label": labels, "gold_label": labels}
    is_sound = all(are_all_numbers(columns.column(name)) for name in numbers)
    is_sound = is_sound and all(are_all_in(columns.column(name), values) for name, values in cells.items())
    return Clips(columns) if is_sound and not any(column.null_count for column in columns.columns) else None


def clip_of_row(cells: Sequence[str]) -> Clip:
    """Return the clip of one row of the manifest, with cells in the order of `MANIFEST_COLUMNS`.

    Raises:
        ValueError: If a cell is damaged.
    """
    return _clip(cells, None)


def content_digest(file_digest: str, start: float, end: float, half: Half = Half.WHOLE) -> str:
    """Return the digest of a part of a file: the time from ``start`` to ``end`` seconds, and a half of the pictures.

    It is that of the file if ``end`` is 0 (all of the time) and the pictures are whole.
    """
    if not file_digest or not (end or half):
        return file_digest
    part = f"{file_digest} {start:.3f} {end:.3f} {half.value}".rstrip()
    return hashlib.sha256(part.encode()).hexdigest()


def marked_transcript(clip: Clip) -> str:
    """Return the transcript for people to read: after "(machine)" if speech recognition wrote it."""
    is_machine = clip.words_from is WordsFrom.MACHINE and clip.transcript.strip()
    return f"({WordsFrom.MACHINE.value}) {clip.transcript}" if is_machine else clip.transcript


def label_indices(clips: Sequence[Clip], labels: Sequence[str]) -> list[int]:
    """Return the given labels as indices into ``labels``, with -1 for clips without one."""
    indices: list[int] = Clips.of(clips).indices("given_label", labels).tolist()
    return indices


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _clip(row: Sequence[str], labels: Set[str] | None) -> Clip:
    clip_id, path, digest, size, duration, has_video, has_audio, transcript, translation, *more = row
    given, gold, split, group, face_path, face_digest, face_bytes, *more = more
    audio_path, audio_digest, audio_bytes, file_digest, start, end, words_from, language, half = more
    if not clip_id:
        raise ValueError("the clip id is empty")
    if labels is not None:
        one_of(given, labels, "given label")
        one_of(gold, labels, "gold label")
    return Clip(  # positional arguments are faster, and corpora have 132,000 clips
        ClipId(clip_id),
        path,
        digest,
        parse_count(size),
        parse_number(duration),
        parse_flag(has_video),
        parse_flag(has_audio),
        transcript,
        translation,
        given,
        gold,
        _SPLITS[one_of(split, _SPLITS, "split")],
        group,
        face_path,
        face_digest,
        parse_count(face_bytes),
        audio_path,
        audio_digest,
        parse_count(audio_bytes),
        file_digest,
        parse_number(start),
        parse_number(end),
        _WORDS_FROM[one_of(words_from, _WORDS_FROM, "words_from")],
        language,
        _HALVES[one_of(half, _HALVES, "half")],
    )


_TEXT_COLUMNS = ["clip_id", "original", "enriched", "translation", "foreign"]


@dataclass(frozen=True, slots=True)
class ClipText:
    """Texts of one clip for the text branch; a missing text is "".

    Attributes:
        original: Transcript.
        enriched: Transcript enriched by the LLM.
        translation: Transcript in the other language of the corpus.
        foreign: The names of those texts that are in a language which the text encoder does not know.
    """

    original: str
    enriched: str = ""
    translation: str = ""
    foreign: tuple[str, ...] = ()

    def having(self, columns: Sequence[str]) -> list[str]:
        """Return the texts of ``columns`` in this order; an empty list if one of them is blank or foreign."""
        if not set(columns).isdisjoint(self.foreign):
            return []
        texts: list[str] = [getattr(self, column) for column in columns]
        return texts if all(text.strip() for text in texts) else []


def write_texts(path: Path, texts: Mapping[str, ClipText]) -> bool:
    """Write the table of texts, sorted by clip id.

    Returns:
        Whether the file's bytes changed.
    """
    return write_sealed_csv(path, _TEXT_COLUMNS, starmap(_text_cells, sorted(texts.items())))


class Texts(Mapping[str, ClipText]):
    """Texts by clip id, stored as columns; instances are created when the first is accessed.

    Args:
        table: The columns of the table of texts, all of text; the clip ids differ.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, texts: Mapping[str, ClipText]) -> Texts:
        """Return texts as columns; texts that are columns already are returned unchanged."""
        if isinstance(texts, cls):
            return texts
        import pyarrow as pa

        rows = [_text_cells(clip_id, text) for clip_id, text in texts.items()]
        columns = list(zip(*rows, strict=True)) or [()] * len(_TEXT_COLUMNS)
        return cls(pa.table([pa.array(column, pa.string()) for column in columns], names=_TEXT_COLUMNS))

    def having(self, columns: Sequence[str]) -> pa.Table:
        """Return the rows in which no text of ``columns`` is blank or foreign; see `ClipText.having`."""
        import numpy as np
        import pyarrow.compute as pc

        usable = np.ones(len(self), np.bool_)
        for column in columns:
            usable &= are_not_blank(self.table.column(column))
            usable &= ~pc.match_substring(self.table.column("foreign"), column).to_numpy()
        return self.table.filter(usable)

    @cached_property
    def _instances(self) -> dict[str, ClipText]:
        return dict(map(_parse_text, zip(*(column.to_pylist() for column in self.table.columns), strict=True)))

    def __getitem__(self, clip_id: str) -> ClipText:
        """Return the texts of a clip."""
        return self._instances[clip_id]

    def __iter__(self) -> Iterator[str]:
        """Yield the clip ids."""
        return iter(self._instances)

    def __len__(self) -> int:
        """Return the number of clips."""
        length: int = self.table.num_rows
        return length


def read_texts(path: Path) -> Texts:
    """Read the table of texts, by clip id.

    Raises:
        MissingInput: If the file does not exist.
        InputError: If the file is damaged.
    """
    table = open_table(path, command="ecmf-pipe rewrite")
    columns = table.arrow(dict.fromkeys(_TEXT_COLUMNS, "string"))
    if columns is None or not are_unique(columns.column("clip_id")):
        return Texts.of(dict(table.parse(_parse_text, _TEXT_COLUMNS)))  # its errors name the row
    return Texts(columns)


def _text_cells(clip_id: str, text: ClipText) -> list[str]:
    return [clip_id, text.original, text.enriched, text.translation, " ".join(text.foreign)]


def _parse_text(row: Sequence[str]) -> tuple[str, ClipText]:
    clip_id, original, enriched, translation, foreign = row
    return clip_id, ClipText(original, enriched, translation, tuple(foreign.split()))


@dataclass(frozen=True, slots=True)
class Corpus:
    """The manifest and the corpus table, both written by `index`.

    Attributes:
        clips: All clips, sorted by id; `Clips` if they are read from the manifest.
        labels: Labels in the order of the model's outputs.
        candidates: Clip ids in the order of the submission.
        synthetic: Whether the corpus is generated.
    """

    clips: Sequence[Clip]
    labels: list[str]
    candidates: list[str]
    synthetic: bool

    @property
    def columns(self) -> Clips:
        """The clips as columns."""
        return Clips.of(self.clips)

    @property
    def given(self) -> NDArray[np.int64]:
        """Given labels as indices, (n,), with -1 for clips without one."""
        return self.columns.indices("given_label", self.labels)


@dataclass(frozen=True, slots=True)
class CorpusDescription:
    """The corpus table.

    Attributes:
        labels: Labels in the order of the model's outputs.
        candidates: Clip ids in the order of the submission.
        synthetic: Whether the corpus is generated.
        manifest_sha256: SHA-256 of the manifest that was written with the table, in hex.
    """

    labels: list[str]
    candidates: list[str]
    synthetic: bool
    manifest_sha256: str


def write_corpus_tables(corpus: Corpus) -> bool:
    """Write the manifest and the corpus table, which holds the digest of the manifest.

    Returns:
        Whether the bytes of the manifest changed.

    Raises:
        CorpusError: If two clips have the same id.
    """
    changed = write_manifest(paths.MANIFEST, corpus.clips)
    write_corpus_description(
        paths.CORPUS,
        CorpusDescription(list(corpus.labels), list(corpus.candidates), corpus.synthetic, sha256_file(paths.MANIFEST)),
    )
    return changed


def write_corpus_description(path: Path, description: CorpusDescription) -> None:
    """Write the corpus table with the digest of its content."""
    write_sealed_json(path, asdict(description))


def read_corpus_description(path: Path = paths.CORPUS) -> CorpusDescription:
    """Read the corpus table.

    Raises:
        MissingInput: If `index` has not run yet.
        InputError: If the file is damaged.
    """
    content = read_sealed_json(path, made_by="index", error=CorpusError)
    if set(content) != {field.name for field in fields(CorpusDescription)}:
        raise CorpusError(f"{path} is of another version of ecmf-pipeline", "write it again", command=_INDEX)
    return CorpusDescription(**content)


def read_corpus_tables() -> Corpus:
    """Read the manifest and the corpus table.

    Raises:
        MissingInput: If `index` has not run yet.
        CorpusError: If one of them is damaged, or they were not written together.
    """
    description = read_corpus_description()
    clips = read_manifest(paths.MANIFEST)
    return Corpus(clips, description.labels, description.candidates, description.synthetic)
