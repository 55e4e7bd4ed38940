"""Tests that `tools.compare_runs` finds each kind of difference between two runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from safetensors.numpy import save_file

from tools.compare_runs import compare

TABLE = "clip_id,label,p_happy,reason\na,happy,0.25,unchanged\nb,sad,0.75,unchanged\n"


@pytest.fixture
def run(tmp_path) -> Path:
    data = tmp_path / "before"
    part = data / "features" / "face.zarr" / "f00d" / "part-000000-1"
    part.mkdir(parents=True)
    (data / "features" / "face.zarr" / "zarr.json").write_text(json.dumps({"attributes": {"current": "f00d"}}))
    attributes = {"clip_id": ["a", "b"], "digest": ["1", "2"], "length": [1, 2]}
    group = zarr.open_group(str(part), mode="w", attributes=attributes)
    group.create_array("values", data=np.arange(6, dtype=np.float16).reshape(3, 2) + 1)
    (data / "labels.csv").write_text(TABLE)
    (data / "metrics.json").write_text(json.dumps({"weighted_f1": 0.5, "of": ["a", "b"]}))
    np.savez(data / "answers.npz", labels=np.array(["happy", "sad"]), probs=np.array([0.25, np.nan], np.float32))
    save_file({"weight": np.ones(3, np.float32)}, data / "weights.safetensors")
    (data / "rewrite" / "cache").mkdir(parents=True)
    (data / "rewrite" / "cache" / "part.jsonl").write_text('{"key": "k", "scores": [0.5, 0.25]}\n')
    return data


@pytest.fixture
def other(run) -> Path:
    return Path(shutil.copytree(run, run.parent / "after"))


def differing(before: Path, after: Path) -> dict[str, tuple[int, float, int]]:
    """Return the number of different values, the largest difference and the number of missing values, by file."""
    different = [comparison for comparison in compare(before, after) if not comparison.equal]
    return {
        comparison.name: (comparison.different, comparison.largest, len(comparison.missing)) for comparison in different
    }


def part_of(data: Path) -> Path:
    return next((data / "features" / "face.zarr" / "f00d").iterdir())


def test_copies_are_equal_under_different_fingerprints(run, other):
    (other / "features" / "face.zarr" / "f00d").rename(other / "features" / "face.zarr" / "cafe")
    (other / "features" / "face.zarr" / "zarr.json").write_text(json.dumps({"attributes": {"current": "cafe"}}))
    assert differing(run, other) == {}
    assert sum(comparison.values for comparison in compare(run, other)) == 8 + 10 + 3 + 4 + 3 + 3


def test_one_changed_value_of_a_store_differs(run, other):
    zarr.open_array(str(part_of(other) / "values"), mode="r+")[1, 0] = np.float16(3.5)
    assert differing(run, other) == {"features/face.zarr": (1, 0.5, 0)}


def test_swapped_clips_of_a_store_differ(run, other):
    document = json.loads((part_of(other) / "zarr.json").read_text())
    document["attributes"] |= {"clip_id": ["b", "a"], "digest": ["2", "1"], "length": [2, 1]}
    (part_of(other) / "zarr.json").write_text(json.dumps(document))
    assert differing(run, other)["features/face.zarr"][0] > 0


def test_a_missing_chunk_raises_system_exit(run, other):
    shutil.rmtree(part_of(other) / "values" / "c")
    with pytest.raises(SystemExit, match="1 of 1 chunks are missing"):
        differing(run, other)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("0.75", "0.750001", (1, pytest.approx(1e-6), 0)),
        ("b,sad", "b,happy", (1, 0.0, 0)),
        ("b,sad,0.75,unchanged\n", "", (1, 0.0, 4)),
        ("p_happy", "p_sad", (1, 0.0, 4)),
    ],
)
def test_changed_tables_differ(run, other, old, new, expected):
    (other / "labels.csv").write_text(TABLE.replace(old, new))
    assert differing(run, other) == {"labels.csv": expected}


def test_another_order_of_rows_differs(run, other):
    head, one, two = TABLE.splitlines()
    (other / "labels.csv").write_text("\n".join([head, two, one]))
    assert differing(run, other) == {"labels.csv": (1, 0.0, 0)}


def test_changed_sentences_are_counted_separately(run, other):
    (other / "labels.csv").write_text(TABLE.replace("unchanged", "another sentence", 1))
    assert differing(run, other) == {}
    assert {c.name: c.sentences for c in compare(run, other) if c.sentences} == {"labels.csv": 1}


def test_a_number_under_a_sentence_key_is_compared(run, other):
    for data, error in ((run, 0.5), (other, 0.25)):
        (data / "metrics.json").write_text(json.dumps({"calibration": {"error": error, "reason": "why"}}))
    assert differing(run, other) == {"metrics.json": (1, 0.25, 0)}


def test_changed_json_arrays_weights_and_answers_differ(run, other):
    (other / "metrics.json").write_text(json.dumps({"weighted_f1": 0.75, "of": ["a"]}))
    np.savez(other / "answers.npz", labels=np.array(["happy", "worried"]), probs=np.array([0.5, np.nan], np.float32))
    save_file({"weight": np.array([1, 1, 1.5], np.float32)}, other / "weights.safetensors")
    (other / "rewrite" / "cache" / "part.jsonl").write_text('{"key": "k", "scores": [0.5, 0.125]}\n')
    assert differing(run, other) == {
        "metrics.json": (1, 0.25, 1),
        "answers.npz": (2, 0.25, 0),
        "weights.safetensors": (1, 0.5, 0),
        "rewrite/cache": (1, 0.125, 0),
    }


def test_a_file_on_one_side_only_differs(run, other):
    (other / "metrics.json").unlink()
    assert differing(run, other) == {"metrics.json": (0, 0.0, 1)}


def test_an_empty_folder_raises_system_exit(run, tmp_path):
    with pytest.raises(SystemExit, match="nothing"):
        list(compare(run, tmp_path / "nothing"))
