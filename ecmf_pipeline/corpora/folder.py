r"""Read a folder of clips, with optional ``labels.csv`` and ``transcripts.csv``.

A clip id is the path relative to the folder, without extension, its parts joined by two underscores: ``anna/001.mp4``
is ``anna__001``. The folder is always part of the id, because corpora with one folder per speaker or class often
restart numbering in each. Ids therefore do not change when clips are added, and computed features stay valid. The csv
files may name a clip by id, by path (with or without extension, with ``/`` or ``\``) or, if unique, by bare file name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, ClipId, Split, WordsFrom, validate_clip_id
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import AmbiguousName, CorpusError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.labels import keep_known_labels, labels_in_use
from ecmf_pipeline.corpora.lengths import LENGTH_COLUMNS, table_lengths
from ecmf_pipeline.corpora.listing import (
    CorpusListing,
    Finding,
    FindingKind,
    SubtitleFile,
    first_finding_suffix,
    quote_names,
    require_folder,
)
from ecmf_pipeline.corpora.names import ID_SEPARATOR, require_matches, resolve_names
from ecmf_pipeline.corpora.scan import (
    Scan,
    name_files,
    scan_media,
    strip_media_extension,
    unread_by_name,
    unread_findings,
)
from ecmf_pipeline.corpora.segments import WHOLE_FILE, Segment, Segments, segment_id
from ecmf_pipeline.corpora.sidecars import match_subtitles, split_sounds
from ecmf_pipeline.corpora.tables import (
    Table,
    clean_name,
    duplicate_rows,
    find_table,
    read_table,
    reject_computed,
    values_by_clip,
)

LABELS = "labels.csv"
TRANSCRIPTS = "transcripts.csv"
LABEL_COLUMNS = ("label", "gold", "group", "split")

SPLITS = {"train": Split.TRAIN, "unlabeled": Split.UNLABELED, "unlabelled": Split.UNLABELED} | dict.fromkeys(
    ("candidate", "test", "val", "valid", "validation", "dev"), Split.CANDIDATE
)
"""The split of each value of column ``split``. Held-out clips are candidates: predicted, never trained on."""


def read_files(config: CorpusConfig) -> CorpusListing:
    """List the files of a folder, each as a clip, without its tables.

    Raises:
        CorpusError: If the folder does not exist.
    """
    files = _list_files(config.root)
    clips = tuple(
        Clip(clip_id, path=path, audio_path=files.sounds.get(clip_id, "")) for clip_id, path in files.media.items()
    )
    return CorpusListing(files.root, clips, (), (), tuple(files.findings), subtitles=files.subtitles)


@dataclass(frozen=True, slots=True)
class _Files:
    """The scanned files: that of each clip, its sound file, its subtitle file, and findings."""

    root: Path
    scan: Scan
    media: dict[ClipId, str]
    sounds: dict[ClipId, str]
    subtitles: dict[ClipId, SubtitleFile]
    findings: list[Finding]


def _list_files(root: Path) -> _Files:
    require_folder(root, "set corpus.root in params.yaml to the folder that holds the clips")
    scan = scan_media(root, nested=True)
    videos, file_findings = name_files(scan.media, _id_of)
    sound_files, sound_findings = name_files(scan.sounds, _id_of)
    files, sounds = split_sounds(videos, sound_files)
    subtitles, subtitle_findings = match_subtitles(scan.subtitles, files)
    findings = [*scan.findings, *file_findings, *sound_findings, *subtitle_findings]
    return _Files(root, scan, files, sounds, subtitles, findings)


def read_folder(config: CorpusConfig, segments: Segments | None = None) -> CorpusListing:
    """List the clips of a folder and its subfolders: video files, and sound files, which have no pictures.

    A sound file beside a video file of the same name is no clip; it serves if the video file has no sound. So do
    subtitle files of the same name as a clip without a transcript.

    ``labels.csv`` has the columns ``name,label`` and optionally ``gold``, ``group``, ``split``, and ``start``, ``end``
    or ``duration``; ``transcripts.csv`` has ``name,text`` and optionally ``translation``. If ``split`` is empty, a
    labelled clip is in the training split and any other clip is a candidate. The label of a clip outside the training
    split counts as gold. A clip that only ``labels.csv`` names has no path.

    Each recording among ``segments`` is replaced by its clips, which are one group unless ``labels.csv`` has groups.

    Raises:
        CorpusError: If the folder does not exist or has no clips, or a csv file is unusable.
    """
    listed = _list_files(config.root)
    root, scan = listed.root, listed.scan
    parts = _parts(listed.media, segments or {})
    files = {clip_id: part.path for clip_id, part in parts.items()}
    labels_path, transcripts_path = find_table(root / LABELS), find_table(root / TRANSCRIPTS)
    tables = (labels_path.name, transcripts_path.name)
    findings = [*listed.findings, *unread_findings(scan, tables)]
    unread = unread_by_name(scan, _joined)
    resolve = _NameResolver(files)
    columns, expected = _read_labels(labels_path, resolve, unread, findings)
    clip_ids = sorted({*files, *columns["label"]})
    if not clip_ids:
        raise CorpusError(
            f"{root} has no video or sound files and {LABELS} has no rows{first_finding_suffix(findings)}",
            "set corpus.root in params.yaml to the folder that holds the clips",
        )
    transcripts, translations = _read_transcripts(transcripts_path, resolve, set(clip_ids), findings)
    labels = config.labels or labels_in_use([*columns["label"].values(), *columns["gold"].values()])
    given, unknown = keep_known_labels(columns["label"], labels, f"{LABELS}, column label")
    gold, unknown_gold = keep_known_labels(columns["gold"], labels, f"{LABELS}, column gold")
    split = _assign_splits(clip_ids, given, columns["split"], findings)
    findings += [*unknown, *unknown_gold, *_missing_findings(files, columns["label"], given, unread)]
    groups = _groups(clip_ids, parts, columns["group"], given, findings)
    clips = tuple(
        Clip(
            clip_id,
            path=part.path,
            audio_path=listed.sounds.get(part.recording, ""),
            start=part.segment.start,
            end=part.segment.end,
            language=part.segment.language,
            transcript=transcripts.get(clip_id) or part.segment.text,
            words_from=WordsFrom.SUBTITLES if part.segment.text and not transcripts.get(clip_id) else WordsFrom.NOWHERE,
            translation=translations.get(clip_id, ""),
            given_label=given.get(clip_id, "") if split[clip_id] is Split.TRAIN else "",
            gold_label=gold.get(clip_id, "") or ("" if split[clip_id] is Split.TRAIN else given.get(clip_id, "")),
            split=split[clip_id],
            group=groups.get(clip_id, ""),
        )
        for clip_id in clip_ids
        for part in [parts.get(clip_id, _Part(clip_id, ""))]
    )
    candidates = tuple(clip.clip_id for clip in clips if clip.split is Split.CANDIDATE)
    cut = {clip.clip_id for clip in clips if clip.end}
    return CorpusListing(
        root,
        clips,
        labels,
        candidates,
        tuple(findings),
        expected_seconds={name: seconds for name, seconds in expected.items() if name not in cut},
        subtitles=listed.subtitles,
        cut_digests={path: recording.digest for path, recording in (segments or {}).items()},
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """The recording of a clip: its id and path, and the segment of it; a segment without end is the whole file."""

    recording: ClipId
    path: str
    segment: Segment = WHOLE_FILE


def _groups(
    clip_ids: Iterable[ClipId],
    parts: Mapping[ClipId, _Part],
    cells: Mapping[ClipId, str],
    given: Mapping[ClipId, str],
    findings: list[Finding],
) -> dict[ClipId, str]:
    """Return the groups of clips: those of the table, else the recording, unless all labelled clips are of one."""
    by_recording = {name: part.recording for name, part in parts.items() if part.segment.end and not cells.get(name)}
    labelled = {by_recording.get(name) or cells.get(name) or name for name in given}
    if by_recording and len(labelled) == 1:
        message = (
            f"all labelled clips are of recording {min(labelled)!r}: folds divide it, so scores may be too high for "
            "other recordings; label clips of another recording"
        )
        findings.append(Finding(FindingKind.ONE_RECORDING, "", message))
        by_recording = {}
    return {name: cells.get(name, "") or by_recording.get(name, "") for name in clip_ids}


def _parts(files: Mapping[ClipId, str], segments: Segments) -> dict[ClipId, _Part]:
    """Return the recording of each clip id."""
    parts: dict[ClipId, _Part] = {}
    for clip_id, path in files.items():
        if path in segments:
            parts |= {segment_id(clip_id, one): _Part(clip_id, path, one) for one in segments[path].segments}
        else:
            parts[clip_id] = _Part(clip_id, path)
    return parts


def _id_of(path: str) -> str:
    return _joined(strip_media_extension(path))


def _joined(path: str) -> str:
    return ID_SEPARATOR.join(path.split("/"))


class _NameResolver:
    """Map a name in a csv file to a clip id. Names are looked up; no path made from a name is opened."""

    def __init__(self, files: Mapping[ClipId, str]) -> None:
        self.files = files
        self._by_stem: dict[str, list[ClipId]] = {}
        for clip_id, path in files.items():
            self._by_stem.setdefault(clean_name(strip_media_extension(Path(path).name)), []).append(clip_id)

    def __call__(self, name: str) -> ClipId:
        parts = name.replace("\\", "/").removeprefix("./").split("/")
        if any(part in {"", ".", ".."} for part in parts):
            return validate_clip_id(name)  # raises an error with the reason
        joined = ID_SEPARATOR.join(parts)
        for candidate in (joined, strip_media_extension(joined)):
            if candidate in self.files:
                return ClipId(candidate)
            if len(parts) == 1 and (matches := self._by_stem.get(candidate)):
                if len(matches) > 1:
                    raise AmbiguousName(
                        f"name {name!r} matches {len(matches)} clips ({quote_names(matches)})",
                        "write the name with its folder, or the clip id",
                    )
                return matches[0]
        return validate_clip_id(strip_media_extension(joined))


def _read_labels(
    path: Path, resolve: _NameResolver, unread: Mapping[str, str], findings: list[Finding]
) -> tuple[dict[str, dict[ClipId, str]], dict[ClipId, float]]:
    """Return the value of each clip id for each of `LABEL_COLUMNS`, and the length of each clip."""
    if not path.exists():
        return {column: {} for column in LABEL_COLUMNS}, {}
    table = read_table(path, ("name", "label"))
    reject_computed(table)
    clip_ids, bad_names = resolve_names(table, resolve, resolve.files)
    require_matches(table, clip_ids, resolve.files, unread)
    findings += [*table.findings, *bad_names, *duplicate_rows(table, clip_ids), *_unused_columns(table)]
    columns = {}
    for column in LABEL_COLUMNS:
        columns[column], conflicts = values_by_clip(table, clip_ids, column)
        findings += conflicts
    lengths, invalid_times = table_lengths(table, *LENGTH_COLUMNS)
    findings += invalid_times
    return columns, {clip_id: seconds for clip_id, seconds in zip(clip_ids, lengths, strict=True) if clip_id}


def _unused_columns(table: Table) -> Iterator[Finding]:
    """Yield a finding for each unknown column: a misspelt ``group`` would silently split speakers across folds."""
    for column in table.columns:
        if column and column not in {"name", *LABEL_COLUMNS, *LENGTH_COLUMNS}:
            close = difflib.get_close_matches(column, LABEL_COLUMNS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known columns are name, {', '.join(LABEL_COLUMNS)}"
            yield Finding(FindingKind.UNUSED_COLUMN, "", f"{LABELS}: column {column!r} is ignored; {hint}")


def _read_transcripts(
    path: Path, resolve: _NameResolver, known: set[ClipId], findings: list[Finding]
) -> tuple[dict[ClipId, str], dict[ClipId, str]]:
    """Return the transcript and the translation of each clip id."""
    if not path.exists():
        return {}, {}
    table = read_table(path, ("name", "text"))
    clip_ids, bad_names = resolve_names(table, resolve, resolve.files)
    transcripts, conflicts = values_by_clip(table, clip_ids, "text")
    translations, more_conflicts = values_by_clip(table, clip_ids, "translation")
    findings += [*table.findings, *bad_names, *duplicate_rows(table, clip_ids), *conflicts, *more_conflicts]
    if stray := [clip_id for clip_id in transcripts if clip_id not in known]:
        message = (
            f"{TRANSCRIPTS}: {format_count(len(stray), 'row')} of clips without file and label: {quote_names(stray)}; "
            "correct the names or remove the rows"
        )
        findings.append(Finding(FindingKind.TRANSCRIPT_WITHOUT_CLIP, "", message, count=len(stray)))
    return transcripts, translations


def _assign_splits(
    clip_ids: Iterable[ClipId], given: Mapping[ClipId, str], cells: Mapping[ClipId, str], findings: list[Finding]
) -> dict[ClipId, Split]:
    """Return the split of each clip from its cell in ``labels.csv``; a clip without label is not trained on.

    Raises:
        CorpusError: If a cell is no split: the clip may be held out, and must not be trained on by mistake.
    """
    if unknown := {clip_id: cell for clip_id, cell in cells.items() if cell and cell.casefold() not in SPLITS}:
        names = sorted(set(unknown.values()))
        near = difflib.get_close_matches(names[0].casefold(), SPLITS, n=1)
        raise CorpusError(
            f"{LABELS}: {format_count(len(unknown), 'clip')} with an unknown split: {quote_names(names)}; the first is "
            f"{next(iter(unknown))!r}",
            f"use {', '.join(SPLITS)}, or an empty cell" + (f"; did you mean {near[0]!r}?" if near else ""),
        )
    splits: dict[ClipId, Split] = {}
    for clip_id in clip_ids:
        default = Split.TRAIN if clip_id in given else Split.CANDIDATE
        cell = cells.get(clip_id, "")
        split = SPLITS[cell.casefold()] if cell else default
        if split is Split.TRAIN and clip_id not in given:
            message = (
                f"{LABELS}: clip {clip_id!r} is in split train but has no label: it becomes a candidate; add a label "
                "or change the split"
            )
            findings.append(Finding(FindingKind.CONFLICTING_SPLIT, clip_id, message))
            split = default
        splits[clip_id] = split
    return splits


def _missing_findings(
    files: Mapping[ClipId, str], rows: Mapping[ClipId, str], given: Mapping[ClipId, str], unread: Mapping[str, str]
) -> list[Finding]:
    """Return findings about clips without file and files without label."""
    findings = []
    if not files:
        message = f"{LABELS}: none of its clips has a file: only text can be used; add the media files"
        findings.append(Finding(FindingKind.NO_MEDIA, "", message, count=len(rows)))
    else:
        findings += [
            Finding(
                FindingKind.LABEL_WITHOUT_FILE,
                clip_id,
                f"{LABELS}: clip {clip_id!r} has no file; {unread.get(clip_id, 'add the file or remove the row')}",
            )
            for clip_id in rows
            if clip_id not in files
        ]
    if not given:
        found = "no clip has a usable label" if rows else "there are no labels"
        message = (
            f"{LABELS}: {found}: without 30 verdicts, predicted labels are zero-shot, unverified; list labels in "
            "columns name,label to train a model"
        )
        findings.append(Finding(FindingKind.NO_LABELS, "", message, count=len(files)))
    elif unlabelled := [clip_id for clip_id in files if clip_id not in given]:
        message = (
            f"{LABELS}: {format_count(len(unlabelled), 'file')} without usable label: {quote_names(unlabelled)}; add "
            "rows to train on them"
        )
        findings.append(Finding(FindingKind.FILE_WITHOUT_LABEL, "", message, count=len(unlabelled)))
    return findings
