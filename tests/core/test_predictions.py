"""Tables of predictions."""

from __future__ import annotations

import numpy as np
import pytest

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.core.predictions import NO_MODALITY, PredictionTable, with_prior


@pytest.fixture
def table() -> PredictionTable:
    probs, flags = with_prior(np.array([[0.2, 0.8], [np.nan, np.nan]], np.float32), [0.75, 0.25])
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


def test_a_clip_that_nothing_could_judge_gets_the_prior_and_says_so(table):
    assert table.labels == ["sad", "happy"]
    assert table.flags == ("", NO_MODALITY)


def test_what_is_written_is_read_back(table, tmp_path):
    table.write(tmp_path / "p.csv")
    found = PredictionTable.read(tmp_path / "p.csv")
    assert found.by_clip() == {"a, b": "sad", "视频": "happy"}
    assert (found.splits, found.flags, found.modalities) == (table.splits, table.flags, table.modalities)
    np.testing.assert_array_equal(found.out_of_fold, table.out_of_fold)
    np.testing.assert_allclose(found.probs, table.probs, atol=1e-6)
    np.testing.assert_allclose(found.modality_weights, table.modality_weights)


def test_missing_and_damaged_tables_say_what_to_do(table, tmp_path):
    with pytest.raises(MissingInput, match="ecmf-pipe predict"):
        PredictionTable.read(tmp_path / "p.csv")
    table.write(tmp_path / "p.csv")
    text = (tmp_path / "p.csv").read_text()
    (tmp_path / "p.csv").write_text(text.replace("0.800000", "much"))
    with pytest.raises(InputError, match="damaged"):
        PredictionTable.read(tmp_path / "p.csv")


def test_the_same_table_stands_beside_it_as_npz(table, tmp_path):
    table.write(tmp_path / "p.csv")
    first = (tmp_path / "p.npz").read_bytes()
    table.write(tmp_path / "p.csv")
    assert (tmp_path / "p.npz").read_bytes() == first
    with np.load(tmp_path / "p.npz", allow_pickle=False) as packed:
        assert packed["clip_ids"].tolist() == ["a, b", "视频"]
        assert packed["labels"].tolist() == table.labels
        np.testing.assert_array_equal(packed["probs"], table.probs)
        np.testing.assert_array_equal(packed["modality_weights"], table.modality_weights)
        assert set(packed.files) == {
            "clip_ids", "splits", "labels", "out_of_fold", "flags", "label_names", "probs", "modalities",
            "modality_weights",
        }  # fmt: skip
