"""Damage the tables between the stages: each mutation gives an error with the file, or the same parsed result."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import (
    Clip,
    ClipId,
    ClipText,
    Corpus,
    Split,
    read_corpus_tables,
    read_manifest,
    read_texts,
    write_corpus_tables,
    write_texts,
)
from ecmf_pipeline.core.errors import EcmfError, MissingInput
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.labels.refine import Decision, LabelAction
from ecmf_pipeline.labels.tables import read_decisions, read_votes, write_refined, write_votes
from ecmf_pipeline.stages.shared.inputs import read_given_predictions, refined_labels
from ecmf_pipeline.transcription.table import Transcript, Verdict, read_transcripts, write_transcripts

LABELS = ["happy", "sad"]
CLIPS = 28

Draw = random.Random
Rows = list[list[str]]


def dump(rows: Rows) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def load(data: bytes) -> Rows:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def cut_at_a_byte(data: bytes, draw: Draw) -> bytes:
    return data[: draw.randrange(len(data))]


def remove_a_row(data: bytes, draw: Draw) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[draw.randrange(len(lines))]
    return b"".join(lines)


def repeat_a_row(data: bytes, draw: Draw) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return b"".join(lines)


def replace_a_cell(data: bytes, draw: Draw) -> bytes:
    rows = load(data)
    row = draw.choice(rows[1:])
    row[draw.randrange(len(row))] = draw.choice(["", "x", "-1", "nan", "inf", "1e999", "0", "happy", "train", "1_0"])
    return dump(rows)


def rename_a_column(data: bytes, draw: Draw) -> bytes:
    rows = load(data)
    rows[0][draw.randrange(len(rows[0]))] = draw.choice(["", "label", "clip_id", "weight "])
    return dump(rows)


def change_a_byte(data: bytes, draw: Draw) -> bytes:
    position = draw.randrange(len(data))
    return data[:position] + bytes([draw.choice([0, 0xFF, 0xC3, draw.randrange(256)])]) + data[position + 1 :]


CSV_KINDS = (cut_at_a_byte, remove_a_row, repeat_a_row, replace_a_cell, rename_a_column, change_a_byte)
JSON_KINDS = (cut_at_a_byte, remove_a_row, repeat_a_row, change_a_byte)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write all tables of a small corpus."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, CLIPS)
    clips = [
        Clip(
            ClipId(f"c{row:02d}"),
            path=f"c{row:02d}.mp4",
            digest=f"{row:064x}",
            bytes=1000 + row,
            duration=2.5,
            has_video=True,
            transcript=f'She said "{row}", then left.',
            given_label=LABELS[label] if row < 20 else "",
            gold_label=LABELS[label] if row % 2 else "",
            split=Split.TRAIN if row < 20 else Split.CANDIDATE,
        )
        for row, label in enumerate(truth.tolist())
    ]
    ids = [str(clip.clip_id) for clip in clips]
    write_corpus_tables(Corpus(clips, LABELS, ids[20:], synthetic=False))
    votes = {name: rng.dirichlet((1, 1), CLIPS) for name in ("face/linear", "llm")}
    votes["llm"][::5] = np.nan
    write_votes(paths.VOTES, ids, votes, LABELS)
    posterior = rng.dirichlet((1, 1), CLIPS)
    decisions = [
        Decision(
            clip.clip_id, clip.split, clip.given_label, clip.given_label, LabelAction.KEEP, 0.5, 0.8, 0.5, "agree",
            "happy", "sad", 1.5, 0.5, 0.75, 0.25,
        )
        if clip.given_label
        else Decision(
            clip.clip_id, clip.split, "", "", LabelAction.LEAVE, 0.0, 0.6, float("nan"), "unsure",
            "sad", "happy", 0.5, 0.25, 0.0, 0.25,
        )
        for clip in clips
    ]  # fmt: skip
    write_refined(paths.REFINED, decisions, votes, posterior, LABELS)
    PredictionTable(
        clip_ids=tuple(ids),
        splits=tuple(clip.split.value for clip in clips),
        out_of_fold=np.ones(CLIPS, bool),
        flags=("",) * CLIPS,
        label_names=tuple(LABELS),
        probs=rng.dirichlet((1, 1), CLIPS).astype(np.float32),
        modalities=("face", "text"),
        modality_weights=np.full((CLIPS, 2), 0.5, np.float32),
    ).write(paths.predictions("given") / "fusion.csv")
    write_texts(paths.REWRITES, {name: ClipText(f"text {name}", "enriched") for name in ids[::3]})
    write_transcripts(paths.TRANSCRIPTS, {name: Transcript("Hi.", "en", -0.5, Verdict.USED) for name in ids[::4]})


def corpus() -> Corpus:
    return read_corpus_tables()


def as_cells(value: Any) -> Any:
    """Return comparable plain values; NaN as text."""
    if isinstance(value, np.ndarray):
        return np.round(value.astype(float), 6).astype(str).tolist()
    if isinstance(value, dict):
        return {key: as_cells(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_cells(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return [as_cells(getattr(value, name)) for name in value.__dataclass_fields__]
    return str(value)


TABLES: dict[str, tuple[Path, Callable[[], Any]]] = {
    "manifest": (paths.MANIFEST, read_corpus_tables),
    "manifest alone": (paths.MANIFEST, lambda: read_manifest(paths.MANIFEST)),
    "corpus": (paths.CORPUS, read_corpus_tables),
    "refined": (paths.REFINED, lambda: read_decisions(paths.REFINED, votes=True, corpus=corpus())),
    "votes": (paths.VOTES, lambda: read_votes(paths.VOTES, LABELS, [clip.clip_id for clip in corpus().clips])),
    "predictions": (paths.predictions("given") / "fusion.csv", lambda: read_given_predictions("fusion", corpus())),
    "rewrites": (paths.REWRITES, lambda: read_texts(paths.REWRITES)),
    "transcripts": (paths.TRANSCRIPTS, lambda: read_transcripts(paths.TRANSCRIPTS)),
}

UNCHECKED = {
    "refined": {"refined_label", "decision", "weight", "confidence", "agreement", "reason"},
    "predictions": {"out_of_fold", "flag", "w_face", "w_text"},
}
"""Columns in which another valid value cannot be distinguished from the written one."""


def is_undetectable(table: str, before: bytes, after: bytes) -> bool:
    """Return whether one cell has another valid value, or the last digit of a probability differs."""
    old, new = load(before), load(after)
    assert [len(row) for row in old] == [len(row) for row in new]
    pairs = zip(old, new, strict=True)
    [(column, x, y)] = [(old[0][i], a[i], b[i]) for a, b in pairs for i in range(len(a)) if a[i] != b[i]]
    if column.startswith(("p_", "posterior_")):
        return abs(float(x) - float(y)) < 1e-5
    return column in UNCHECKED.get(table, ()) or (table == "refined" and column.endswith(("_vote", "_prob")))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("table", list(TABLES))
@pytest.mark.parametrize("mutations", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_each_mutation_is_an_error_with_the_file_or_has_no_effect(table: str, mutations: int) -> None:
    path, read = TABLES[table]
    original = path.read_bytes()
    expected = as_cells(read())
    kinds = JSON_KINDS if path.suffix == ".json" else CSV_KINDS
    draw = random.Random(7)
    errors = []
    for number in range(mutations):
        kind = kinds[number % len(kinds)]
        mutated = kind(original, draw)
        path.write_bytes(mutated)
        try:
            result = as_cells(read())
        except EcmfError as error:
            errors.append((kind, error))
            continue
        if result != expected:
            assert is_undetectable(table, original, mutated), (kind.__name__, mutated)
    assert len(errors) > mutations / 2
    for kind, error in errors:
        assert path.name in error.message
        assert error.command is not None
        if kind is replace_a_cell and table in {"refined", "votes", "predictions"}:  # the others have a digest
            assert "row" in error.message, error


def replace_once(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("table", "old", "new", "row"),
    [
        ("manifest", ",happy,,train,", ",glad,,train,", "row "),
        ("refined", ",train,", ",tarin,", "row 2"),
        ("refined", "c00,", "c99,", ""),
        ("votes", "c00,face/linear,", "c00,llm,", "row 3"),
        ("predictions", "c01,", "c00,", "row 3"),
        ("corpus", '"labels"', '"label"', ""),
        ("corpus", "false", '"no"', ""),
        ("corpus", '"c20",', "7,", ""),
        ("corpus", "c20", "c99", ""),
        ("corpus", "false", "true", ""),
    ],
)
def test_a_wrong_value_is_reported_with_file_row_and_command(table: str, old: str, new: str, row: str) -> None:
    path, read = TABLES[table]
    replace_once(path, old, new)
    with pytest.raises(EcmfError) as caught:
        read()
    assert caught.value.exit_code == 2
    assert path.name in caught.value.message
    assert row in caught.value.message
    assert caught.value.command is not None


@pytest.mark.usefixtures("project")
def test_refined_labels_that_are_cut_at_the_end_of_a_row_are_not_trained_on() -> None:
    assert len(refined_labels(corpus()).clips) == 20
    lines = paths.REFINED.read_bytes().splitlines(keepends=True)
    paths.REFINED.write_bytes(b"".join(lines[:12]))
    with pytest.raises(MissingInput, match="'c11'") as caught:
        refined_labels(corpus())
    assert caught.value.command == "ecmf-pipe refine"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("table", ["rewrites", "transcripts"])
def test_partial_tables_that_are_cut_differ_from_their_digest(table: str) -> None:
    path, read = TABLES[table]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(EcmfError, match="SHA-256"):
        read()


@pytest.mark.usefixtures("project")
def test_a_manifest_that_is_cut_at_the_end_of_a_row_is_rejected_by_stages_that_read_only_it() -> None:
    paths.MANIFEST.write_bytes(b"".join(paths.MANIFEST.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(EcmfError, match="another manifest") as caught:
        read_manifest(paths.MANIFEST)
    assert caught.value.command == "ecmf-pipe index"
