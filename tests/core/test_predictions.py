"""Tests of prediction tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.predictions import NO_MODALITY, PredictionTable, fill_with_prior


@pytest.fixture
def table() -> PredictionTable:
    probs, flags = fill_with_prior(np.array([[0.2, 0.8], [np.nan, np.nan]], np.float32), [0.75, 0.25])
    return PredictionTable(
        clip_ids=("a, b", "视频"),
        splits=("train", "candidate"),
        out_of_fold=np.array([True, False]),
        flags=flags,
        label_names=("happy", "sad"),
        probs=probs,
        modalities=("face", "text"),
        modality_weights=np.array([[1, 0], [np.nan, np.nan]], np.float32),
    )


def test_clip_without_usable_modality_gets_the_prior_and_a_flag(table):
    assert table.labels == ["sad", "happy"]
    assert table.flags == ("", NO_MODALITY)


def test_written_table_is_read_back(table, tmp_path):
    table.write(tmp_path / "p.csv")
    read = PredictionTable.read(tmp_path / "p.csv")
    assert read.by_clip() == {"a, b": "sad", "视频": "happy"}
    assert (read.splits, read.flags, read.modalities) == (table.splits, table.flags, table.modalities)
    np.testing.assert_array_equal(read.out_of_fold, table.out_of_fold)
    np.testing.assert_allclose(read.probs, table.probs, atol=1e-6)
    np.testing.assert_allclose(read.modality_weights, table.modality_weights)


def test_missing_and_damaged_tables_are_reported_with_the_command(table, tmp_path):
    with pytest.raises(MissingInput) as caught:
        PredictionTable.read(tmp_path / "p.csv")
    assert caught.value.command == "ecmf-pipe predict"
    with pytest.raises(MissingInput) as caught:
        PredictionTable.read(tmp_path / "p.csv", command="ecmf-pipe predict --labels refined")
    assert caught.value.command == "ecmf-pipe predict --labels refined"
    table.write(tmp_path / "p.csv")
    text = (tmp_path / "p.csv").read_text()
    (tmp_path / "p.csv").write_text(text.replace("0.800000", "much"))
    with pytest.raises(InputError, match="damaged") as caught:
        PredictionTable.read(tmp_path / "p.csv")
    assert caught.value.command == "ecmf-pipe predict"


def test_table_is_also_written_as_reproducible_npz(table, tmp_path):
    table.write(tmp_path / "p.csv")
    first = (tmp_path / "p.npz").read_bytes()
    table.write(tmp_path / "p.csv")
    assert (tmp_path / "p.npz").read_bytes() == first
    with np.load(tmp_path / "p.npz", allow_pickle=False) as npz:
        assert npz["clip_ids"].tolist() == ["a, b", "视频"]
        assert npz["labels"].tolist() == table.labels
        np.testing.assert_array_equal(npz["probs"], table.probs)
        np.testing.assert_array_equal(npz["modality_weights"], table.modality_weights)
        assert set(npz.files) == {
            "clip_ids", "splits", "labels", "out_of_fold", "flags", "label_names", "probs", "modalities",
            "modality_weights", "basis",
        }  # fmt: skip


def test_probabilities_of_branches_are_kept_in_the_npz_only(table, tmp_path):
    of_branches = np.array([[[0.25, 0.75], [np.nan, np.nan]]] * 2, np.float16)
    table.write(tmp_path / "p.csv")
    csv = (tmp_path / "p.csv").read_bytes()
    assert PredictionTable.read(tmp_path / "p.csv").with_branches(tmp_path / "p.csv").branch_probs is None
    replace(table, branches=("face", "text"), branch_probs=of_branches).write(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_bytes() == csv
    read = PredictionTable.read(tmp_path / "p.csv").with_branches(tmp_path / "p.csv")
    assert read.branches == ("face", "text")
    np.testing.assert_array_equal(read.branch_probs, of_branches)


@pytest.mark.parametrize("damage", ["missing", "other", "cut"])
def test_a_damaged_npz_is_reported_with_the_command(table, tmp_path, damage):
    of_branches = np.full((2, 2, 2), 0.5, np.float16)
    table = replace(table, branches=("face", "text"), branch_probs=of_branches)
    table.write(tmp_path / "p.csv")
    npz = tmp_path / "p.npz"
    if damage == "missing":
        npz.unlink()
    elif damage == "other":
        replace(table, probs=table.probs[::-1]).write(tmp_path / "q.csv")
        npz.write_bytes((tmp_path / "q.npz").read_bytes())
    else:
        npz.write_bytes(npz.read_bytes()[:-40])
    with pytest.raises(MissingInput if damage == "missing" else InputError) as caught:
        table.with_branches(tmp_path / "p.csv")
    assert caught.value.command == "ecmf-pipe predict"
