r"""Any folder of clips, with ``labels.csv`` and ``transcripts.csv`` if there are any.

A clip's id is its path below the folder, without extension, its parts joined by two underscores: ``anna/001.mp4`` is
``anna__001``. A bare ``001`` would be shorter, but corpora sorted into folders by speaker or class number their clips
anew in each, and an id that depended on whether another folder has the same number would change when clips are added,
and all that is computed for it with it. The csv files may name a clip by its id, its path (with or without extension,
with ``/`` or ``\``) or, where only one clip has it, its bare name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, ClipId, Split, validate_clip_id
from ecmf_pipeline.core.errors import AmbiguousName, CorpusError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.listing import (
    MEDIA_EXTENSIONS,
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
    clean_name,
    doubled_rows,
    keep_known_labels,
    read_table,
    resolve_names,
    spellings,
    values_by_clip,
)

LABELS = "labels.csv"
TRANSCRIPTS = "transcripts.csv"
LABEL_COLUMNS = ("label", "gold", "group", "split")
JOINT = "__"

SPLITS = {"train": Split.TRAIN, "unlabeled": Split.UNLABELED, "unlabelled": Split.UNLABELED} | dict.fromkeys(
    ("candidate", "test", "val", "valid", "validation", "dev"), Split.CANDIDATE
)
"""What a ``split`` cell may say; everything that is held out is a candidate: predicted, never trained on."""


def read_folder(config: CorpusConfig) -> CorpusListing:
    """List a folder of clips and the folders in it.

    ``labels.csv`` has ``name,label`` and may have ``gold``, ``group`` and ``split``; ``transcripts.csv`` has
    ``name,text`` and may have ``translation``. A labelled clip is trained on and any other is a candidate, unless
    ``split`` says otherwise; the label of a clip that is not trained on counts as gold. A clip that only ``labels.csv``
    names is listed without a path.

    Raises:
        CorpusError: When there is no folder, nothing in it, or a csv file cannot be used.
    """
    root = existing_folder(config.root, "set corpus.root in params.yaml to the folder that holds the clips")
    paths, findings = scan_media(root, nested=True)
    files, odd = name_files(paths, lambda path: JOINT.join(without_media_extension(path).split("/")))
    findings += odd
    resolve = _Names(files)
    columns = _read_labels(root / LABELS, resolve, findings)
    clip_ids = sorted({*files, *columns["label"]})
    if not clip_ids:
        raise CorpusError(
            f"{root} holds no clips ({', '.join(MEDIA_EXTENSIONS)}) and no rows in {LABELS}{first_of(findings)}",
            "set corpus.root in params.yaml to the folder that holds the clips",
        )
    transcripts, translations = _read_transcripts(root / TRANSCRIPTS, resolve, set(clip_ids), findings)
    labels = config.labels or spellings([*columns["label"].values(), *columns["gold"].values()])
    given, unknown = keep_known_labels(columns["label"], labels, f"{LABELS}, column label")
    gold, unknown_gold = keep_known_labels(columns["gold"], labels, f"{LABELS}, column gold")
    split = _splits(clip_ids, given, columns["split"], findings)
    findings += [*unknown, *unknown_gold, *_missing(files, columns["label"], given)]
    clips = tuple(
        Clip(
            clip_id,
            path=files.get(clip_id, ""),
            transcript=transcripts.get(clip_id, ""),
            translation=translations.get(clip_id, ""),
            given_label=given.get(clip_id, "") if split[clip_id] is Split.TRAIN else "",
            gold_label=gold.get(clip_id, "") or ("" if split[clip_id] is Split.TRAIN else given.get(clip_id, "")),
            split=split[clip_id],
            group=columns["group"].get(clip_id, ""),
        )
        for clip_id in clip_ids
    )
    candidates = tuple(clip.clip_id for clip in clips if clip.split is Split.CANDIDATE)
    return CorpusListing(root, clips, labels, candidates, tuple(findings))


class _Names:
    """Finds the clip that a name in a csv file means. It looks names up and never opens a path made from one."""

    def __init__(self, files: Mapping[ClipId, str]) -> None:
        self._files = files
        self._by_stem: dict[str, list[ClipId]] = {}
        for clip_id, path in files.items():
            self._by_stem.setdefault(clean_name(without_media_extension(Path(path).name)), []).append(clip_id)

    def __call__(self, name: str) -> ClipId:
        parts = name.replace("\\", "/").removeprefix("./").split("/")
        if any(part in {"", ".", ".."} for part in parts):
            return validate_clip_id(name)  # which says what is wrong with it
        joined = JOINT.join(parts)
        for wanted in (joined, without_media_extension(joined)):
            if wanted in self._files:
                return ClipId(wanted)
            if len(parts) == 1 and (same := self._by_stem.get(wanted)):
                if len(same) > 1:
                    raise AmbiguousName(
                        f"name {name!r} fits {len(same)} clips, {naming_some(same)}", "write the folder too"
                    )
                return same[0]
        return validate_clip_id(without_media_extension(joined))


def _read_labels(path: Path, resolve: _Names, findings: list[Finding]) -> dict[str, dict[ClipId, str]]:
    """`LABEL_COLUMNS` of ``labels.csv``, each by clip id."""
    if not path.exists():
        return {column: {} for column in LABEL_COLUMNS}
    table = read_table(path, ("name", "label"))
    clip_ids, bad_names = resolve_names(table, resolve)
    findings += [*table.findings, *bad_names, *doubled_rows(table, clip_ids), *_unused_columns(table)]
    columns = {}
    for column in LABEL_COLUMNS:
        columns[column], conflicts = values_by_clip(table, clip_ids, column)
        findings += conflicts
    return columns


def _unused_columns(table: Table) -> Iterator[Finding]:
    """Columns whose names are not known: a misspelt group column would let folds tear speakers apart unnoticed."""
    for column in table.columns:
        if column and column not in {"name", *LABEL_COLUMNS}:
            close = difflib.get_close_matches(column, LABEL_COLUMNS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are name, {', '.join(LABEL_COLUMNS)}"
            yield Finding(FindingKind.UNUSED_COLUMN, "", f"{LABELS}: the column {column!r} is not used; {hint}")


def _read_transcripts(
    path: Path, resolve: _Names, known: set[ClipId], findings: list[Finding]
) -> tuple[dict[ClipId, str], dict[ClipId, str]]:
    """Transcripts and translations by clip id."""
    if not path.exists():
        return {}, {}
    table = read_table(path, ("name", "text"))
    clip_ids, bad_names = resolve_names(table, resolve)
    transcripts, conflicts = values_by_clip(table, clip_ids, "text")
    translations, more_conflicts = values_by_clip(table, clip_ids, "translation")
    findings += [*table.findings, *bad_names, *doubled_rows(table, clip_ids), *conflicts, *more_conflicts]
    if stray := [clip_id for clip_id in transcripts if clip_id not in known]:
        message = f"{TRANSCRIPTS}: {len(stray)} names are of no file and no label: {naming_some(stray)}"
        findings.append(Finding(FindingKind.TRANSCRIPT_WITHOUT_CLIP, "", message, count=len(stray)))
    return transcripts, translations


def _splits(
    clip_ids: Iterable[ClipId], given: Mapping[ClipId, str], wanted: Mapping[ClipId, str], findings: list[Finding]
) -> dict[ClipId, Split]:
    splits: dict[ClipId, Split] = {}
    for clip_id in clip_ids:
        usual = Split.TRAIN if clip_id in given else Split.CANDIDATE
        cell = wanted.get(clip_id, "")
        split = SPLITS.get(cell.casefold()) if cell else usual
        if split is None:
            message = (
                f"{LABELS}: {clip_id!r} has the unknown split {cell!r}: {usual} is used (known: {', '.join(SPLITS)})"
            )
            findings.append(Finding(FindingKind.UNKNOWN_SPLIT, clip_id, message))
        elif split is Split.TRAIN and clip_id not in given:
            message = f"{LABELS}: {clip_id!r} is to be trained on but has no label: it becomes a candidate"
            findings.append(Finding(FindingKind.CONFLICTING_SPLIT, clip_id, message))
            split = None
        splits[clip_id] = usual if split is None else split
    return splits


def _missing(files: Mapping[ClipId, str], rows: Mapping[ClipId, str], given: Mapping[ClipId, str]) -> list[Finding]:
    findings = []
    if not files:
        message = "no clip has a file: only what needs no media can run"
        findings.append(Finding(FindingKind.NO_MEDIA, "", message, count=len(rows)))
    else:
        findings += [
            Finding(FindingKind.LABEL_WITHOUT_FILE, clip_id, f"{LABELS} names {clip_id!r}, which has no file")
            for clip_id in rows
            if clip_id not in files
        ]
    if not given:
        message = f"no clip has a label: {LABELS} (name,label) would hold them"
        findings.append(Finding(FindingKind.NO_LABELS, "", message, count=len(files)))
    elif without := [clip_id for clip_id in files if clip_id not in given]:
        message = f"{len(without)} files have no usable label in {LABELS}: {naming_some(without)}"
        findings.append(Finding(FindingKind.FILE_WITHOUT_LABEL, "", message, count=len(without)))
    return findings
