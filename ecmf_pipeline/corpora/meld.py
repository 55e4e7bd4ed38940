"""Read MELD, utterances of a television series: csv files, with or without the clips ``dia{D}_utt{U}.mp4``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import MELD_TO_MER, MER_LABELS, CorpusConfig
from ecmf_pipeline.corpora.lengths import table_lengths
from ecmf_pipeline.corpora.listing import (
    CorpusListing,
    Finding,
    FindingKind,
    quote_names,
    require_folder,
)
from ecmf_pipeline.corpora.mapping import chosen_mapping, unmapped_findings
from ecmf_pipeline.corpora.scan import is_sound_file, scan_media, strip_media_extension, unread_findings
from ecmf_pipeline.corpora.sidecars import match_subtitles
from ecmf_pipeline.corpora.tables import read_table

TABLES = {"train": "train_sent_emo.csv", "dev": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
"""The csv file of each part of MELD. Dialogue numbers restart in each part, so clip ids begin with the part."""

COLUMNS = ("utterance", "speaker", "emotion", "dialogue_id", "utterance_id")
CANDIDATES = "test"


def read_meld(config: CorpusConfig) -> CorpusListing:
    """List MELD in its published layout; one of its three csv files is enough, in the folder or in one below it.

    Clips are searched below the corpus folder, in folders whose names contain the part (``train_splits``,
    ``dev_splits_complete``, ``output_repeated_splits_test``). Without clips, only text can be used. Clip ids have the
    form ``train_dia0_utt3``. The train and dev parts are labelled. Clips of the test part are candidates, and their
    labels are gold. ``corpus.mapping`` maps MELD's emotions to labels; "" means no label.

    Raises:
        CorpusError: If no csv file exists, or one is unusable.
        ParamsError: If ``corpus.mapping`` has an emotion that neither the files nor MELD have, or has one twice.
    """
    root = require_folder(config.root, "set corpus.root in params.yaml to the folder that holds train_sent_emo.csv")
    findings: list[Finding] = []
    expected: dict[ClipId, float] = {}
    rows = list(_rows(root, config, findings, expected))
    if not rows:
        raise CorpusError(
            f"{root} has no utterances in {', '.join(TABLES.values())}",
            "set corpus.root in params.yaml to the folder with MELD's csv files",
        )
    mapping = chosen_mapping(config.mapping, MELD_TO_MER, {emotion for _, emotion in rows})
    labels = config.labels or _default_labels(mapping)
    scan = scan_media(root, nested=True)
    findings += [*scan.findings, *unread_findings(scan, tuple(_find_tables(root).values()))]
    sounds = {strip_media_extension(path): path for path in scan.sounds}
    beside = {strip_media_extension(path) for path in scan.media}
    alone = [path for stem, path in sounds.items() if stem not in beside]
    files = _files(root, [*scan.media, *alone], findings)
    subtitles, subtitle_findings = match_subtitles(scan.subtitles, files)
    findings += subtitle_findings
    findings += unmapped_findings([emotion for _, emotion in rows], mapping, labels)
    if not files:
        message = f"{root}: no clip has a file dia{{D}}_utt{{U}}.mp4: only text can be used; add the media files"
        findings.append(Finding(FindingKind.NO_MEDIA, "", message, count=len(rows)))
    elif missing := [clip.clip_id for clip, _ in rows if clip.clip_id not in files]:
        message = (
            f"{root}: {format_count(len(missing), 'utterance')} without file: {quote_names(missing)}; add the files"
        )
        findings.append(Finding(FindingKind.LABEL_WITHOUT_FILE, "", message, count=len(missing)))
    if extra := sorted(files.keys() - {clip.clip_id for clip, _ in rows}):
        message = f"{root}: {format_count(len(extra), 'file')} without csv row: {quote_names(extra)}; add the rows"
        findings.append(Finding(FindingKind.FILE_WITHOUT_LABEL, "", message, count=len(extra)))
    clips = sorted(
        (_complete_clip(clip, mapping.get(emotion, ""), labels, files, sounds) for clip, emotion in rows),
        key=lambda clip: clip.clip_id,
    )
    order = tuple(clip.clip_id for clip, _ in rows if clip.split is Split.CANDIDATE)
    return CorpusListing(
        root,
        tuple(clips),
        labels,
        order,
        tuple(findings),
        expected_seconds=expected,
        subtitles=subtitles,
        groups=config.groups,
        splits="published split: the train and dev parts are trained on, the test part is predicted",
    )


def _default_labels(mapping: Mapping[str, str]) -> tuple[str, ...]:
    """Return MER's labels if they contain all mapped labels, else the mapped labels, sorted."""
    mapped = {label for label in mapping.values() if label}
    return MER_LABELS if mapped <= set(MER_LABELS) else tuple(sorted(mapped))


def _find_tables(root: Path) -> dict[str, str]:
    """Return the csv file of each part, relative to ``root``: in it, or in one of its folders (``train/``)."""
    found = ((part, [*root.glob(name), *sorted(root.glob(f"*/{name}"))]) for part, name in TABLES.items())
    return {part: paths[0].relative_to(root).as_posix() for part, paths in found if paths}


def _rows(
    root: Path, config: CorpusConfig, findings: list[Finding], expected: dict[ClipId, float]
) -> Iterable[tuple[Clip, str]]:
    """Yield each clip, without path and label, and its emotion; add its length to ``expected``."""
    seen: set[str] = set()
    for part, name in _find_tables(root).items():
        table = read_table(root / name, COLUMNS)
        lengths, invalid_times = table_lengths(table, "starttime", "endtime")
        findings += [*table.findings, *invalid_times]
        columns = [table.column(column) for column in COLUMNS]
        for seconds, text, speaker, emotion, dialogue, utterance in zip(lengths, *columns, strict=True):
            if not (dialogue.isdecimal() and utterance.isdecimal()):
                message = (
                    f"{name}: a row has no numbers in Dialogue_ID and Utterance_ID ({dialogue!r}, {utterance!r}): it "
                    "is ignored; correct or remove it"
                )
                findings.append(Finding(FindingKind.MALFORMED_ROW, "", message))
                continue
            dialogue_id = f"{part}_dia{int(dialogue)}"
            clip_id = ClipId(f"{dialogue_id}_utt{int(utterance)}")
            if clip_id in seen:
                message = f"{name}: clip {clip_id!r} has several rows: the first is used; keep one of them"
                findings.append(Finding(FindingKind.DUPLICATE_ROW, clip_id, message))
                continue
            seen.add(clip_id)
            expected[clip_id] = seconds
            split = Split.CANDIDATE if part == CANDIDATES else Split.TRAIN
            group = dialogue_id if config.groups == "dialogue" else " ".join(speaker.split())
            yield Clip(clip_id, transcript=text, split=split, group=group), emotion.casefold()


def _files(root: Path, paths: Sequence[str], findings: list[Finding]) -> dict[ClipId, str]:
    """Return the path of each clip id, of the media files ``paths``; the name of a folder determines the part.

    Raises:
        CorpusError: If there are media files, but none has the name of an utterance.
    """
    files: dict[ClipId, str] = {}
    unnamed: list[str] = []
    repeated: list[str] = []
    for path in paths:
        stem = re.fullmatch(r"dia(\d+)_utt(\d+)", strip_media_extension(Path(path).name))
        parts = [part for part in TABLES if any(part in folder.casefold() for folder in Path(path).parts[:-1])]
        if not stem or len(parts) != 1:
            unnamed.append(path)
        elif files.setdefault(ClipId(f"{parts[0]}_dia{int(stem[1])}_utt{int(stem[2])}"), path) != path:
            repeated.append(path)
    if unnamed:
        listed = f"{format_count(len(unnamed), 'media file')} not read: {quote_names(unnamed, 5)}"
        hint = f"name each dia{{D}}_utt{{U}}, in a folder whose name contains one of {', '.join(TABLES)}"
        if not files:
            raise CorpusError(f"{root}: no utterance has a file; {listed}", hint)
        message = f"{listed}; {hint}"
        findings.append(Finding(FindingKind.UNREAD_FILES, "", message, count=len(unnamed)))
    if repeated:
        message = (
            f"{format_count(len(repeated), 'media file')} not read, because another file of the same clip comes first "
            f"in order of names: {quote_names(repeated)}; remove one of the two"
        )
        findings.append(Finding(FindingKind.DUPLICATE_CLIP, "", message, count=len(repeated)))
    return files


def _complete_clip(
    clip: Clip, mapped: str, labels: Sequence[str], files: Mapping[ClipId, str], sounds: Mapping[str, str]
) -> Clip:
    """Add path, sound file, label and split to a clip; ``sounds`` has the sound files by path without extension."""
    label = mapped if mapped in labels else ""
    candidate = clip.split is Split.CANDIDATE
    path = files.get(clip.clip_id, "")
    return replace(
        clip,
        path=path,
        audio_path="" if is_sound_file(path) else sounds.get(strip_media_extension(path), ""),
        given_label="" if candidate else label,
        gold_label=label if candidate else "",
        split=clip.split if candidate or label else Split.UNLABELED,
    )
