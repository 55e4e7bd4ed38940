"""Read the layout of MER2023-MER2026: csv files, a folder ``video`` with one file per clip, and face crops."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, ClipId, Split, validate_clip_id
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.core.files import picture_files
from ecmf_pipeline.corpora.config import MER_LABELS, CorpusConfig
from ecmf_pipeline.corpora.label_npz import TEST_ENTRY, TRAIN_ENTRY, entries_of, read_label_npz
from ecmf_pipeline.corpora.labels import keep_known_labels
from ecmf_pipeline.corpora.listing import (
    CorpusListing,
    Finding,
    FindingKind,
    first_finding_suffix,
    quote_names,
    require_folder,
)
from ecmf_pipeline.corpora.names import require_matches, resolve_names
from ecmf_pipeline.corpora.scan import (
    Scan,
    name_files,
    scan_media,
    strip_media_extension,
    unread_by_name,
    unread_findings,
)
from ecmf_pipeline.corpora.sidecars import match_subtitles, split_sounds
from ecmf_pipeline.corpora.tables import Table, duplicate_rows, find_table, read_table, values_by_clip

FACE_CROPS_FOLDER = "openface_face"
FACE_CROPS_EXTENSION = ".npy"
TRAIN_TABLES = ("track1_train_disdim.csv", "track1_train.csv")
CANDIDATE_TABLES = ("track_all_candidates.csv", "track1_track2_candidate.csv")
GOLD_TABLES = ("gold.csv", "track1_test_dis.csv", "track1_test.csv")
LABEL_NPZ = "track1_label_6way.npz"
SUBTITLES = "subtitle_chieng.csv"
LANGUAGES = ("english", "chinese")
"""The language columns of the subtitles; one is the transcript, the other its translation."""
GROUPS = "groups.csv"
MEDIA_FOLDER = "video"
SOUND_FOLDER = "audio"
TABLES = (*TRAIN_TABLES, *CANDIDATE_TABLES, *GOLD_TABLES, LABEL_NPZ, SUBTITLES, GROUPS)
MIN_PREFIX_MATCHES = 3
"""Minimum number of names without file that must match another prefix before a prefix mismatch is reported."""


def read_mer(config: CorpusConfig) -> CorpusListing:
    """List a corpus in MER's raw layout.

    Clips are in ``<root>/video``. ``<root>/audio/NAME.wav`` serves if a clip has no sound or no video file. The tables
    are optional:

    - given labels: ``track1_train_disdim.csv``, or MER2026's ``track1_train.csv`` (``name,discrete``);
    - candidates to predict: ``track_all_candidates.csv``, or ``track1_track2_candidate.csv`` (``name``);
    - subtitles: ``subtitle_chieng.csv`` (``name,chinese,english``). ``corpus.transcripts`` selects the transcript
      column; the other column is the translation;
    - gold labels: ``gold.csv``, or ``track1_test_dis.csv``, or MER2026's ``track1_test.csv`` (``name,discrete``);
    - speakers: ``groups.csv`` (``name,group``).

    If the csv files of labels or candidates are missing, the baseline's ``track1_label_6way.npz`` replaces them. A
    clip that only a table names has no path. A candidate is never trained on: its given label counts as gold.

    Raises:
        CorpusError: If the corpus is missing or empty, or a csv file is unusable.
    """
    root = require_folder(
        config.root, f"set corpus.root in params.yaml to the folder with {MEDIA_FOLDER} and the csv files"
    )
    scan = scan_media(root, MEDIA_FOLDER, nested=False)
    in_sounds = scan_media(root, SOUND_FOLDER, nested=False)
    videos, file_findings = name_files(scan.media, _id_of)
    sound_files, sound_findings = name_files([*in_sounds.sounds, *scan.sounds], _id_of)
    files, sounds = split_sounds(videos, sound_files)
    subtitles, subtitle_findings = match_subtitles([*scan.subtitles, *in_sounds.subtitles], files)
    findings = [*scan.findings, *in_sounds.findings, *file_findings, *sound_findings, *subtitle_findings]
    findings += unread_findings(scan)
    if config.kind != "sample":
        findings += _unread_in_root(
            scan, scan_media(root, nested=False), [find_table(root / name).name for name in TABLES]
        )
    unread = unread_by_name(scan, _file_name)
    tables = _TableReader(root, files, unread, findings)
    labels = config.labels or MER_LABELS
    given = tables.labels(TRAIN_TABLES, labels) or tables.npz_labels(TRAIN_ENTRY, labels)
    npz_gold = {} if tables.has(CANDIDATE_TABLES) else tables.npz_labels(TEST_ENTRY, labels)
    # The baseline's file gives all candidates the same label if the true labels are unknown.
    gold = tables.labels(GOLD_TABLES, labels) or (npz_gold if len(set(npz_gold.values())) > 1 else {})
    candidates = tables.values(CANDIDATE_TABLES, None) or npz_gold
    transcripts, translations = tables.subtitles(config.transcripts)
    groups = tables.values((GROUPS,), "group")
    clip_ids = sorted({*files, *given, *candidates})
    if not clip_ids:
        raise CorpusError(*_empty_corpus_error(root, tables.findings))
    findings = tables.findings
    findings += _missing_files(root, files, given, candidates, unread)
    findings += _stray_rows(root, set(clip_ids), gold, transcripts, groups)
    findings += _label_findings(root, clip_ids, given, candidates)
    clips = tuple(
        Clip(
            clip_id,
            path=files.get(clip_id, ""),
            audio_path=sounds.get(clip_id, ""),
            transcript=transcripts.get(clip_id, ""),
            translation=translations.get(clip_id, ""),
            given_label="" if clip_id in candidates else given.get(clip_id, ""),
            gold_label=gold.get(clip_id, "") or (given.get(clip_id, "") if clip_id in candidates else ""),
            split=_split(clip_id, given, candidates),
            group=groups.get(clip_id, ""),
        )
        for clip_id in clip_ids
    )
    return CorpusListing(root, clips, labels, tuple(candidates), tuple(findings), subtitles=subtitles)


def _id_of(path: str) -> str:
    return strip_media_extension(_file_name(path))


def _file_name(path: str) -> str:
    return path.removeprefix(f"{MEDIA_FOLDER}/").removeprefix(f"{SOUND_FOLDER}/")


def _unread_in_root(scan: Scan, in_root: Scan, tables: Sequence[str]) -> list[Finding]:
    """Return findings about tables with other names, and about media files that are not directly in the folder."""
    findings = list(unread_findings(in_root, tables))
    if misplaced := [*in_root.media, *in_root.sounds, *scan.folders]:
        message = (
            f"media files beside {MEDIA_FOLDER} and folders in it are not read: {quote_names(misplaced)}; move the "
            f"clips into {MEDIA_FOLDER}"
        )
        findings.append(Finding(FindingKind.UNREAD_FILES, "", message, count=len(misplaced)))
    return findings


class _TableReader:
    """Read the tables of one corpus and collect their findings."""

    def __init__(
        self, root: Path, files: Mapping[ClipId, str], unread: Mapping[str, str], findings: list[Finding]
    ) -> None:
        self.findings = findings
        self._root = root
        self._files = files
        self._unread = unread

    def values(self, names: Sequence[str], column: str | None) -> dict[ClipId, str]:
        """Return the cell of ``column`` for each clip of the first existing table, in its order; None: the names."""
        return self._columns(names, [column or "name"], [] if column is None else [column])[0]

    def has(self, names: Sequence[str]) -> bool:
        """Return whether any of the tables exists."""
        return bool(self._existing(names))

    def npz_labels(self, entry: str, labels: Sequence[str]) -> dict[ClipId, str]:
        """Read an entry of the baseline's npz like `labels` reads a table; empty if it does not exist."""
        path = self._root / LABEL_NPZ
        if not path.is_file() or entry not in entries_of(path):
            return {}
        table = Table(path, ("name", "discrete"), tuple(read_label_npz(path, entry).items()))
        clip_ids, bad_names = resolve_names(table, self._resolve, self._files)
        require_matches(table, clip_ids, self._files, self._unread)
        values, _ = values_by_clip(table, clip_ids, "discrete")
        known, unknown = keep_known_labels(values, labels, f"{LABEL_NPZ}: {entry}")
        self.findings += [*bad_names, *unknown]
        return {clip_id: known.get(clip_id, "") for clip_id in values}

    def subtitles(self, transcripts: str) -> tuple[dict[ClipId, str], dict[ClipId, str]]:
        """Return the subtitles in the language ``transcripts``, and those in the other language if they exist."""
        [other] = [language for language in LANGUAGES if language != transcripts]
        in_language, translations = self._columns((SUBTITLES,), [transcripts, other], [transcripts])
        return in_language, translations

    def _columns(
        self, names: Sequence[str], columns: Sequence[str], required: Sequence[str]
    ) -> list[dict[ClipId, str]]:
        """Read columns of the first existing table; a missing column that is not required has empty cells."""
        existing = self._existing(names)
        if not existing:
            return [{} for _ in columns]
        for unused in existing[1:]:
            message = f"{unused} is ignored because {existing[0]} exists; remove one of the two"
            self.findings.append(Finding(FindingKind.UNUSED_TABLE, "", message))
        table = read_table(self._root / existing[0], ["name", *required])
        clip_ids, bad_names = resolve_names(table, self._resolve, self._files)
        if "discrete" in required:
            require_matches(table, clip_ids, self._files, self._unread)
        self.findings += [*table.findings, *bad_names, *duplicate_rows(table, clip_ids)]
        values_of_columns = []
        for column in columns:
            values, conflicts = values_by_clip(table, clip_ids, column)
            self.findings += conflicts
            values_of_columns.append(values)
        return values_of_columns

    def labels(self, names: Sequence[str], labels: Sequence[str]) -> dict[ClipId, str]:
        """Return the label of each clip from column ``discrete``; empty if it is blank or unknown."""
        values = self.values(names, "discrete")
        known, unknown = keep_known_labels(values, labels, next(iter(self._existing(names)), ""))
        self.findings += unknown
        return {clip_id: known.get(clip_id, "") for clip_id in values}

    def _existing(self, names: Sequence[str]) -> list[str]:
        return [table.name for name in names if (table := find_table(self._root / name)).exists()]

    def _resolve(self, name: str) -> ClipId:
        for spelling in (name, strip_media_extension(name)):
            if (clip_id := ClipId(spelling)) in self._files:
                return clip_id
        return validate_clip_id(name)


def _table_name(root: Path, names: Sequence[str]) -> str:
    """Return the first table or label npz that exists, for messages; the first name if none exists."""
    return next((name for name in (*names, LABEL_NPZ) if (root / name).exists()), names[0])


def _split(clip_id: ClipId, given: Mapping[ClipId, str], candidates: Mapping[ClipId, str]) -> Split:
    if clip_id in candidates:
        return Split.CANDIDATE
    return Split.TRAIN if given.get(clip_id) else Split.UNLABELED


def _empty_corpus_error(root: Path, findings: Sequence[Finding]) -> tuple[str, str]:
    """Return message and hint of the error for a corpus without clips."""
    tables = sorted(path.name for path in root.glob("*.csv"))
    if scan_media(root, nested=True).media:
        return (
            f"{root} has clips, but not in MER's layout (no clips in folder {MEDIA_FOLDER})",
            "set corpus.kind to folder in params.yaml",
        )
    return (
        f"{root} has no clips in folder {MEDIA_FOLDER} and no names in {TRAIN_TABLES[0]} or {CANDIDATE_TABLES[0]}; "
        f"csv files: {quote_names(tables, 12) or 'none'}{first_finding_suffix(findings)}",
        f"set corpus.root in params.yaml to the folder with {MEDIA_FOLDER} and the csv files",
    )


def _missing_files(
    root: Path,
    files: Mapping[ClipId, str],
    given: Mapping[ClipId, str],
    candidates: Mapping[ClipId, str],
    unread: Mapping[str, str],
) -> list[Finding]:
    """Return findings about clips of tables that have no file."""
    named = {*given, *candidates}
    if not files:
        message = f"{MEDIA_FOLDER}: no clip has a file: only text can be used; add the media files"
        return [Finding(FindingKind.NO_MEDIA, "", message, count=len(named))]
    missing = sorted(named - files.keys())
    train_table, candidate_table = _table_name(root, TRAIN_TABLES), _table_name(root, CANDIDATE_TABLES)
    findings = [
        Finding(
            FindingKind.CANDIDATE_WITHOUT_FILE if clip_id in candidates else FindingKind.LABEL_WITHOUT_FILE,
            clip_id,
            f"{candidate_table if clip_id in candidates else train_table}: clip {clip_id!r} has no file in folder "
            f"{MEDIA_FOLDER}; {unread.get(clip_id, 'add the file or remove the row')}",
        )
        for clip_id in missing
    ]
    return findings + find_prefix_mismatch(missing, files.keys() - named)


def find_prefix_mismatch(missing: Iterable[str], unnamed: Set[str]) -> list[Finding]:
    """Report names that would match a file if their prefix were another.

    In MER releases, names such as ``samplenew3_00012`` in one place are ``samplenew4_00012`` in another.

    Args:
        missing: Names in csv files that have no file.
        unnamed: Files that no csv file names.
    """
    missing_numbers, file_numbers = _numbers_by_prefix(missing), _numbers_by_prefix(unnamed)
    findings = []
    for prefix, numbers in sorted(missing_numbers.items()):
        shared = Counter({other: len(numbers & others) for other, others in sorted(file_numbers.items())})
        other, count = shared.most_common(1)[0] if shared else ("", 0)
        if count >= MIN_PREFIX_MATCHES and 2 * count >= len(numbers):
            message = (
                f"{len(numbers)} names with prefix {prefix!r} have no file, but {count} of them have one with prefix "
                f"{other!r}; rename the files or the names"
            )
            findings.append(Finding(FindingKind.PREFIX_MISMATCH, "", message, count=count))
    return findings


def _numbers_by_prefix(names: Iterable[str]) -> dict[str, set[str]]:
    numbers: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        if match := re.fullmatch(r"(.*?)(\d+)", name):
            numbers[match[1]].add(match[2])
    return numbers


def _stray_rows(
    root: Path,
    clip_ids: Set[ClipId],
    gold: Mapping[ClipId, str],
    transcripts: Mapping[ClipId, str],
    groups: Mapping[ClipId, str],
) -> list[Finding]:
    """Return findings about rows whose clip has no file and occurs in no table of labels or candidates."""
    findings = []
    for kind, table, values in (
        (FindingKind.LABEL_WITHOUT_FILE, _table_name(root, GOLD_TABLES), gold),
        (FindingKind.TRANSCRIPT_WITHOUT_CLIP, SUBTITLES, transcripts),
        (FindingKind.GROUP_WITHOUT_CLIP, GROUPS, groups),
    ):
        if stray := [clip_id for clip_id in values if clip_id not in clip_ids]:
            message = (
                f"{table}: {format_count(len(stray), 'row')} of clips without file and without label or candidate row: "
                f"{quote_names(stray)}; correct the names or remove the rows"
            )
            findings.append(Finding(kind, "", message, count=len(stray)))
    return findings


def _label_findings(
    root: Path, clip_ids: Sequence[ClipId], given: Mapping[ClipId, str], candidates: Mapping[ClipId, str]
) -> list[Finding]:
    """Return findings about labels of candidates and clips without label."""
    train_table = _table_name(root, TRAIN_TABLES)
    findings = [
        Finding(
            FindingKind.CONFLICTING_SPLIT,
            clip_id,
            f"{train_table}: clip {clip_id!r} has a label but is a candidate: it is not trained on, and its label "
            "counts as gold; remove it from one of the two tables",
        )
        for clip_id in candidates
        if given.get(clip_id)
    ]
    if not any(given.values()):
        message = (
            f"{train_table}: no clip has a label: labels are zero-shot, unverified; list labels in columns "
            "name,discrete to train a model"
        )
        return [*findings, Finding(FindingKind.NO_LABELS, "", message, count=len(clip_ids))]
    if unlabelled := [clip_id for clip_id in clip_ids if not given.get(clip_id) and clip_id not in candidates]:
        message = (
            f"{train_table}: {format_count(len(unlabelled), 'clip')} without label and not a candidate: "
            f"{quote_names(unlabelled)}; add rows to use them"
        )
        findings.append(Finding(FindingKind.FILE_WITHOUT_LABEL, "", message, count=len(unlabelled)))
    return findings


def add_face_crops(listing: CorpusListing) -> CorpusListing:
    """Add the path of its face crops to each clip.

    Some copies of a corpus have only a part of these files, other prefixes, or no such folder. A clip without face
    crops gets no face features; one finding counts these clips.
    """
    folders, findings = _folders(listing.root)
    clips = []
    for clip in listing.clips:
        folder = folders.pop(clip.clip_id, "")
        clips.append(replace(clip, face_path=_crops_path(listing.root, folder)) if folder else clip)
    missing = [clip.clip_id for clip in clips if not clip.face_path]
    if missing:
        message = (
            f"{FACE_CROPS_FOLDER}: face crops (NAME/NAME{FACE_CROPS_EXTENSION}, or pictures in NAME) are missing for "
            f"{len(missing)} of {len(clips)} clips, which get no face features: {quote_names(missing)}; add the files, "
            "or set faces.source to detect in params.yaml"
        )
        findings.append(Finding(FindingKind.NO_FACE_CROPS, "", message, count=len(missing)))
    if folders:
        message = (
            f"{FACE_CROPS_FOLDER}: {format_count(len(folders), 'folder')} without matching clip: "
            f"{quote_names(sorted(folders.values()))}; rename or remove them"
        )
        findings.append(Finding(FindingKind.FACE_CROPS_WITHOUT_CLIP, "", message, count=len(folders)))
    return replace(listing, clips=tuple(clips), findings=(*listing.findings, *findings))


def _crops_path(root: Path, folder: str) -> str:
    """Return the npy file with the crops of a clip, or the folder if it has pictures (MER2023), or ""."""
    path = f"{FACE_CROPS_FOLDER}/{folder}/{folder}{FACE_CROPS_EXTENSION}"
    if os.path.isfile(f"{root}/{path}"):  # noqa: PTH113  (as in `index`)
        return path
    return f"{FACE_CROPS_FOLDER}/{folder}" if picture_files(root / FACE_CROPS_FOLDER / folder) else ""


def _folders(root: Path) -> tuple[dict[str, str], list[Finding]]:
    """Return the folder name on disk for each clip id (NFC) that has face crops."""
    try:
        with os.scandir(root / FACE_CROPS_FOLDER) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except FileNotFoundError:
        return {}, []  # `add_face_crops` reports that all clips lack face crops
    except OSError as error:
        message = f"{FACE_CROPS_FOLDER} cannot be read ({error.strerror}): no face crops are used; allow reading it"
        return {}, [Finding(FindingKind.UNREADABLE, "", message)]
    return {unicodedata.normalize("NFC", name): name for name in names}, []
