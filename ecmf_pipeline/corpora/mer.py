"""The layout of MER2023-MER2026: csv files beside a folder ``video`` of files named by clip, and crops of faces."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, ClipId, Split, validate_clip_id
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import MER_LABELS, CorpusConfig
from ecmf_pipeline.corpora.label_npz import TEST_ENTRY, TRAIN_ENTRY, entries_of, read_label_npz
from ecmf_pipeline.corpora.listing import (
    CorpusListing,
    Finding,
    FindingKind,
    existing_folder,
    first_of,
    name_files,
    naming_some,
    scan_media,
    without_media_extension,
)
from ecmf_pipeline.corpora.tables import (
    Table,
    doubled_rows,
    keep_known_labels,
    read_table,
    resolve_names,
    values_by_clip,
)

FACE_CROPS_FOLDER = "openface_face"
FACE_CROPS_EXTENSION = ".npy"
TRAIN_TABLES = ("track1_train_disdim.csv", "track1_train.csv")
CANDIDATE_TABLES = ("track_all_candidates.csv", "track1_track2_candidate.csv")
GOLD_TABLES = ("gold.csv", "track1_test_dis.csv")
LABEL_NPZ = "track1_label_6way.npz"
SUBTITLES = "subtitle_chieng.csv"
LANGUAGES = ("english", "chinese")
"""The columns of the subtitles; of two, since each is the translation of the other."""
GROUPS = "groups.csv"
MEDIA_FOLDER = "video"
FEWEST_FOR_PREFIX = 3
"""Names that must lack their file before a wrong prefix is looked for."""


def read_mer(config: CorpusConfig) -> CorpusListing:
    """List a corpus in MER's raw layout.

    ``<root>/video`` holds the clips; ``track1_train_disdim.csv`` (or MER2026's ``track1_train.csv``; ``name,discrete``)
    the given labels; ``track_all_candidates.csv`` (``track1_track2_candidate.csv``; ``name``) the clips to predict;
    ``subtitle_chieng.csv`` (``name,chinese,english``) the words: ``corpus.transcripts`` says which column is the
    transcript, and the other, if it is there, is its translation. Two more are read when they are there: gold labels
    (``gold.csv`` or ``track1_test_dis.csv``; ``name,discrete``) and speakers (``groups.csv``; ``name,group``). Each may
    be missing. Where there are no csv files of labels or candidates, the baseline's ``track1_label_6way.npz`` is read
    for them. A clip that only such a file names is listed without a path. A candidate is never trained on: a label
    given to it counts as gold.

    Raises:
        CorpusError: When there is no corpus at all, or a csv file cannot be used.
    """
    root = existing_folder(
        config.root, "set corpus.root in params.yaml to the folder that holds `video` and the csv files"
    )
    paths, findings = scan_media(root, MEDIA_FOLDER, nested=False)
    files, odd = name_files(paths, lambda path: without_media_extension(path.removeprefix(f"{MEDIA_FOLDER}/")))
    tables = _Tables(root, files, [*findings, *odd])
    labels = config.labels or MER_LABELS
    given = tables.labels(TRAIN_TABLES, labels) or tables.packed_labels(TRAIN_ENTRY, labels)
    packed = {} if tables.has(CANDIDATE_TABLES) else tables.packed_labels(TEST_ENTRY, labels)
    # Candidates' labels that are all one are how the baseline's file fills in those that nobody knows.
    gold = tables.labels(GOLD_TABLES, labels) or (packed if len(set(packed.values())) > 1 else {})
    candidates = tables.values(CANDIDATE_TABLES, None) or packed
    transcripts, translations = tables.words(config.transcripts)
    groups = tables.values((GROUPS,), "group")
    clip_ids = sorted({*files, *given, *candidates})
    if not clip_ids:
        raise CorpusError(*_nothing_found(root, tables.findings))
    findings = tables.findings
    findings += _missing_files(files, given, candidates)
    findings += _stray_rows(set(clip_ids), gold, transcripts, groups)
    findings += _label_findings(clip_ids, given, candidates)
    clips = tuple(
        Clip(
            clip_id,
            path=files.get(clip_id, ""),
            transcript=transcripts.get(clip_id, ""),
            translation=translations.get(clip_id, ""),
            given_label="" if clip_id in candidates else given.get(clip_id, ""),
            gold_label=gold.get(clip_id, "") or (given.get(clip_id, "") if clip_id in candidates else ""),
            split=_split(clip_id, given, candidates),
            group=groups.get(clip_id, ""),
        )
        for clip_id in clip_ids
    )
    return CorpusListing(root, clips, labels, tuple(candidates), tuple(findings))


class _Tables:
    """The csv files of one corpus: reads them by name and gathers what is odd in them."""

    def __init__(self, root: Path, files: Mapping[ClipId, str], findings: list[Finding]) -> None:
        self.findings = findings
        self._root = root
        self._files = files

    def values(self, names: Sequence[str], column: str | None) -> dict[ClipId, str]:
        """The cells of ``column`` by clip id, in the order of the first table there is; None: names alone."""
        return self._columns(names, [column or "name"], [] if column is None else [column])[0]

    def has(self, names: Sequence[str]) -> bool:
        """Whether any of these tables is there."""
        return bool(self._there(names))

    def packed_labels(self, entry: str, labels: Sequence[str]) -> dict[ClipId, str]:
        """One corpus of the baseline's npz as `labels` gives a table's; nothing where it is not there."""
        path = self._root / LABEL_NPZ
        if not path.is_file() or entry not in entries_of(path):
            return {}
        table = Table(path, ("name", "discrete"), tuple(read_label_npz(path, entry).items()))
        clip_ids, bad_names = resolve_names(table, self._resolve)
        values, _ = values_by_clip(table, clip_ids, "discrete")
        known, unknown = keep_known_labels(values, labels, f"{LABEL_NPZ}: {entry}")
        self.findings += [*bad_names, *unknown]
        return {clip_id: known.get(clip_id, "") for clip_id in values}

    def words(self, transcripts: str) -> tuple[dict[ClipId, str], dict[ClipId, str]]:
        """The subtitles in the language asked for, and those in the other, if the table has them."""
        [other] = [language for language in LANGUAGES if language != transcripts]
        wanted, translations = self._columns((SUBTITLES,), [transcripts, other], [transcripts])
        return wanted, translations

    def _columns(
        self, names: Sequence[str], columns: Sequence[str], required: Sequence[str]
    ) -> list[dict[ClipId, str]]:
        """Several columns of the first table there is; empty cells for one that is not there and not required."""
        there = self._there(names)
        if not there:
            return [{} for _ in columns]
        for unused in there[1:]:
            message = f"{unused} is not read, since {there[0]} is there too: remove the one that does not count"
            self.findings.append(Finding(FindingKind.UNUSED_TABLE, "", message))
        table = read_table(self._root / there[0], ["name", *required])
        clip_ids, bad_names = resolve_names(table, self._resolve)
        self.findings += [*table.findings, *bad_names, *doubled_rows(table, clip_ids)]
        found = []
        for column in columns:
            values, conflicts = values_by_clip(table, clip_ids, column)
            self.findings += conflicts
            found.append(values)
        return found

    def labels(self, names: Sequence[str], labels: Sequence[str]) -> dict[ClipId, str]:
        """The column ``discrete`` by clip id; empty where the label is blank or unknown."""
        values = self.values(names, "discrete")
        known, unknown = keep_known_labels(values, labels, next(iter(self._there(names)), ""))
        self.findings += unknown
        return {clip_id: known.get(clip_id, "") for clip_id in values}

    def _there(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if (self._root / name).exists()]

    def _resolve(self, name: str) -> ClipId:
        clip_id = ClipId(name)
        return clip_id if clip_id in self._files else validate_clip_id(name)


def _split(clip_id: ClipId, given: Mapping[ClipId, str], candidates: Mapping[ClipId, str]) -> Split:
    if clip_id in candidates:
        return Split.CANDIDATE
    return Split.TRAIN if given.get(clip_id) else Split.UNLABELED


def _nothing_found(root: Path, findings: Sequence[Finding]) -> tuple[str, str]:
    tables = sorted(path.name for path in root.glob("*.csv"))
    if any(scan_media(root, nested=True)[0]):
        return f"{root} has clips, but not in MER's layout (a folder `{MEDIA_FOLDER}`)", "set corpus.kind to `folder`"
    return (
        f"{root} holds no clips (`{MEDIA_FOLDER}`) and no names in {TRAIN_TABLES[0]}, {CANDIDATE_TABLES[0]} and their "
        f"like; csv files found: {naming_some(tables, 12) or 'none'}{first_of(findings)}",
        "set corpus.root in params.yaml to the folder that holds `video` and the csv files",
    )


def _missing_files(
    files: Mapping[ClipId, str], given: Mapping[ClipId, str], candidates: Mapping[ClipId, str]
) -> list[Finding]:
    named = {*given, *candidates}
    if not files:
        message = f"no clip has a file in `{MEDIA_FOLDER}`: only what needs no media can run"
        return [Finding(FindingKind.NO_MEDIA, "", message, count=len(named))]
    missing = sorted(named - files.keys())
    findings = [
        Finding(
            FindingKind.CANDIDATE_WITHOUT_FILE if clip_id in candidates else FindingKind.LABEL_WITHOUT_FILE,
            clip_id,
            f"{clip_id!r} stands in the {'candidates' if clip_id in candidates else 'labels'} but has no file in "
            f"`{MEDIA_FOLDER}`",
        )
        for clip_id in missing
    ]
    return findings + find_prefix_mismatch(missing, files.keys() - named)


def find_prefix_mismatch(missing: Iterable[str], unnamed: Set[str]) -> list[Finding]:
    """Say which prefix would match, when many names lack files that are there under another prefix.

    MER's users find names such as ``samplenew3_00012`` in one place and ``samplenew4_00012`` in another.

    Args:
        missing: Names in csv files that have no file.
        unnamed: Files that no csv file names.
    """
    wanted, there = _numbers_by_prefix(missing), _numbers_by_prefix(unnamed)
    findings = []
    for prefix, numbers in sorted(wanted.items()):
        shared = Counter({other: len(numbers & found) for other, found in sorted(there.items())})
        other, count = shared.most_common(1)[0] if shared else ("", 0)
        if count >= FEWEST_FOR_PREFIX and 2 * count >= len(numbers):
            message = (
                f"{len(numbers)} names begin with {prefix!r} and have no file; {count} of them would, with {other!r} "
                "instead: rename the files or the names in the csv files"
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
    clip_ids: Set[ClipId], gold: Mapping[ClipId, str], transcripts: Mapping[ClipId, str], groups: Mapping[ClipId, str]
) -> list[Finding]:
    findings = []
    for kind, what, values in (
        (FindingKind.LABEL_WITHOUT_FILE, "gold label", gold),
        (FindingKind.TRANSCRIPT_WITHOUT_CLIP, "transcript", transcripts),
        (FindingKind.GROUP_WITHOUT_CLIP, "group", groups),
    ):
        if stray := [clip_id for clip_id in values if clip_id not in clip_ids]:
            message = (
                f"{len(stray)} {what}s are of clips that are neither a file nor named elsewhere: {naming_some(stray)}"
            )
            findings.append(Finding(kind, "", message, count=len(stray)))
    return findings


def _label_findings(
    clip_ids: Sequence[ClipId], given: Mapping[ClipId, str], candidates: Mapping[ClipId, str]
) -> list[Finding]:
    findings = [
        Finding(
            FindingKind.CONFLICTING_SPLIT,
            clip_id,
            f"{clip_id!r} has a label to train on and is a candidate: it is not trained on, its label counts as gold",
        )
        for clip_id in candidates
        if given.get(clip_id)
    ]
    if not any(given.values()):
        message = f"no clip has a label to train on: {' or '.join(TRAIN_TABLES)} (name,discrete) would hold them"
        return [*findings, Finding(FindingKind.NO_LABELS, "", message, count=len(clip_ids))]
    if without := [clip_id for clip_id in clip_ids if not given.get(clip_id) and clip_id not in candidates]:
        message = f"{len(without)} clips are neither labelled nor candidates: {naming_some(without)}"
        findings.append(Finding(FindingKind.FILE_WITHOUT_LABEL, "", message, count=len(without)))
    return findings


def with_face_crops(listing: CorpusListing) -> CorpusListing:
    """Give each clip the file of its crops.

    Corpora are handed on with part of these files, under other prefixes, or without the folder: a clip that has none
    is without a face branch, and one finding says how many there are.
    """
    folders, findings = _folders(listing.root)
    clips = []
    for clip in listing.clips:
        folder = folders.pop(clip.clip_id, "")
        path = f"{FACE_CROPS_FOLDER}/{folder}/{folder}{FACE_CROPS_EXTENSION}"
        has_crops = bool(folder) and os.path.isfile(f"{listing.root}/{path}")  # noqa: PTH113  (as in `index`)
        clips.append(replace(clip, face_path=path) if has_crops else clip)
    missing = [clip.clip_id for clip in clips if not clip.face_path]
    if missing:
        message = (
            f"{len(missing)} of {len(clips)} clips have no `{FACE_CROPS_FOLDER}/N/N{FACE_CROPS_EXTENSION}` and so no "
            f"face branch: {naming_some(missing)}; fetch the files, or set faces.source to `detect`"
        )
        findings.append(Finding(FindingKind.NO_FACE_CROPS, "", message, count=len(missing)))
    if folders:
        message = (
            f"{len(folders)} folders in `{FACE_CROPS_FOLDER}` bear no clip's name and are not used: "
            f"{naming_some(sorted(folders.values()))}"
        )
        findings.append(Finding(FindingKind.FACE_CROPS_WITHOUT_CLIP, "", message, count=len(folders)))
    return replace(listing, clips=tuple(clips), findings=(*listing.findings, *findings))


def _folders(root: Path) -> tuple[dict[str, str], list[Finding]]:
    """The folders of crops by clip id, as they are spelt on the disk."""
    try:
        with os.scandir(root / FACE_CROPS_FOLDER) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except FileNotFoundError:
        return {}, []  # that all clips lack theirs says it
    except OSError as error:
        message = f"{FACE_CROPS_FOLDER!r} is passed over: it cannot be read ({error.strerror})"
        return {}, [Finding(FindingKind.UNREADABLE, "", message)]
    return {unicodedata.normalize("NFC", name): name for name in names}, []
