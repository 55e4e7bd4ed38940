"""MELD: utterances of a television series, csv files with or without the clips ``dia{D}_utt{U}.mp4``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.core.errors import CorpusError, ParamsError
from ecmf_pipeline.corpora.config import MELD_TO_MER, MER_LABELS, CorpusConfig
from ecmf_pipeline.corpora.listing import (
    CorpusListing,
    Finding,
    FindingKind,
    existing_folder,
    naming_some,
    scan_media,
    without_media_extension,
)
from ecmf_pipeline.corpora.tables import read_table

PARTS = {"train": "train_sent_emo.csv", "dev": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
"""MELD's parts: each counts its dialogues from 0, so that a clip's name begins with its part."""

COLUMNS = ("utterance", "speaker", "emotion", "dialogue_id", "utterance_id")
CANDIDATES = "test"


def read_meld(config: CorpusConfig) -> CorpusListing:
    """List MELD as it is published, any of its three csv files.

    Clips are looked for below the corpus folder, in folders named after their part (``train_splits``,
    ``dev_splits_complete``, ``output_repeated_splits_test``); without any, only the words can be used. A clip is named
    ``train_dia0_utt3``. The train and dev parts are labelled; the test part are candidates, whose labels are gold.
    ``corpus.mapping`` turns MELD's emotions into labels; an emotion that maps to "" leaves its clips without one.

    Raises:
        CorpusError: When no csv file is there, or one cannot be used.
        ParamsError: When ``corpus.mapping`` names what is no emotion of the files, nor of MELD, or one twice.
    """
    root = existing_folder(config.root, "set corpus.root in params.yaml to the folder that holds train_sent_emo.csv")
    findings: list[Finding] = []
    rows = list(_rows(root, config, findings))
    if not rows:
        raise CorpusError(
            f"{root} holds none of {', '.join(PARTS.values())}, or they hold no utterance",
            "set corpus.root in params.yaml to the folder of MELD's csv files",
        )
    mapping = MELD_TO_MER if config.mapping is None else _casefolded(config.mapping, {emotion for _, emotion in rows})
    labels = config.labels or _labels_of(mapping)
    files = _files(root, findings)
    findings += _label_findings([emotion for _, emotion in rows], mapping, labels)
    if not files:
        message = "no clip has a file dia{D}_utt{U}.mp4: only what needs no media can run"
        findings.append(Finding(FindingKind.NO_MEDIA, "", message, count=len(rows)))
    elif lacking := [clip.clip_id for clip, _ in rows if clip.clip_id not in files]:
        message = f"{len(lacking)} utterances have no file: {naming_some(lacking)}"
        findings.append(Finding(FindingKind.LABEL_WITHOUT_FILE, "", message, count=len(lacking)))
    clips = sorted(
        (_labelled(clip, mapping.get(emotion, ""), labels, files) for clip, emotion in rows),
        key=lambda clip: clip.clip_id,
    )
    order = tuple(clip.clip_id for clip, _ in rows if clip.split is Split.CANDIDATE)
    return CorpusListing(root, tuple(clips), labels, order, tuple(findings))


def _casefolded(mapping: Mapping[str, str], emotions: set[str]) -> dict[str, str]:
    """The user's mapping as the files' emotions are kept; MELD's own need not all occur in a part of it."""
    if odd := [emotion for emotion in mapping if emotion.casefold() not in emotions | set(MELD_TO_MER)]:
        raise ParamsError(
            f"corpus.mapping: {', '.join(map(repr, odd))}: no utterance has such an emotion",
            f"the files have {', '.join(sorted(emotions - {''}))}",
        )
    counts = Counter(emotion.casefold() for emotion in mapping)
    if twice := [emotion for emotion in mapping if counts[emotion.casefold()] > 1]:
        raise ParamsError(f"corpus.mapping: {', '.join(map(repr, twice))} are one emotion", "map it once")
    return {emotion.casefold(): label for emotion, label in mapping.items()}


def _labels_of(mapping: Mapping[str, str]) -> tuple[str, ...]:
    wanted = {label for label in mapping.values() if label}
    return MER_LABELS if wanted <= set(MER_LABELS) else tuple(sorted(wanted))


def _rows(root: Path, config: CorpusConfig, findings: list[Finding]) -> Iterable[tuple[Clip, str]]:
    """Clips without file and label, each with its emotion."""
    seen: set[str] = set()
    for part, name in PARTS.items():
        if not (root / name).is_file():
            continue
        table = read_table(root / name, COLUMNS)
        findings += table.findings
        columns = [table.column(column) for column in COLUMNS]
        for text, speaker, emotion, dialogue, utterance in zip(*columns, strict=True):
            if not (dialogue.isdecimal() and utterance.isdecimal()):
                message = f"{name}: a row has no numbers in Dialogue_ID and Utterance_ID ({dialogue!r}, {utterance!r})"
                findings.append(Finding(FindingKind.MALFORMED_ROW, "", message))
                continue
            of_dialogue = f"{part}_dia{int(dialogue)}"
            clip_id = ClipId(f"{of_dialogue}_utt{int(utterance)}")
            if clip_id in seen:
                findings.append(Finding(FindingKind.DUPLICATE_ROW, clip_id, f"{name} has {clip_id!r} twice"))
                continue
            seen.add(clip_id)
            split = Split.CANDIDATE if part == CANDIDATES else Split.TRAIN
            group = of_dialogue if config.groups == "dialogue" else " ".join(speaker.split())
            yield Clip(clip_id, transcript=text, split=split, group=group), emotion.casefold()


def _files(root: Path, findings: list[Finding]) -> dict[str, str]:
    """Path by clip id; a folder's name says which part it is of."""
    paths, odd = scan_media(root, nested=True)
    findings += odd
    files: dict[str, str] = {}
    for path in sorted(paths):
        stem = re.fullmatch(r"dia(\d+)_utt(\d+)", without_media_extension(Path(path).name))
        parts = [part for part in PARTS if any(part in folder.casefold() for folder in Path(path).parts[:-1])]
        if stem and len(parts) == 1:
            files.setdefault(f"{parts[0]}_dia{int(stem[1])}_utt{int(stem[2])}", path)
    return files


def _labelled(clip: Clip, mapped: str, labels: Sequence[str], files: Mapping[str, str]) -> Clip:
    label = mapped if mapped in labels else ""
    candidate = clip.split is Split.CANDIDATE
    return replace(
        clip,
        path=files.get(clip.clip_id, ""),
        given_label="" if candidate else label,
        gold_label=label if candidate else "",
        split=clip.split if candidate or label else Split.UNLABELED,
    )


def _label_findings(emotions: Iterable[str], mapping: Mapping[str, str], labels: Sequence[str]) -> list[Finding]:
    findings = []
    for emotion, count in sorted(Counter(emotions).items()):
        label = mapping.get(emotion, "")
        if label not in labels:
            how = f"is mapped to {label!r}, which is no label" if label else "has no label in corpus.mapping"
            message = f"the emotion {emotion!r} {how}: its {count} clips are not labelled"
            findings.append(Finding(FindingKind.UNKNOWN_LABEL, "", message, count=count))
    return findings
