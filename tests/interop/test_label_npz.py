from __future__ import annotations

import collections
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.errors import InputError, MissingInput
from ecmf_pipeline.interop.label_npz import read_label_npz
from ecmf_pipeline.interop.mertools import read_labels, score_submission

TRAIN = {"samplenew3_1": {"emo": "happy"}, "samplenew3_2": {"emo": "sad"}}
TEST = {"妈妈": {"emo": "angry"}}


def write(path: Path, **entries: Any) -> Path:
    np.savez_compressed(path, **{name: np.array(value, dtype=object) for name, value in entries.items()})
    return path


def test_the_baselines_file_is_read_in_its_order(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.npz", train_corpus=TRAIN, test1_corpus=TEST)
    assert list(read_labels(path).items()) == [("samplenew3_1", "happy"), ("samplenew3_2", "sad")]
    assert read_labels(path, "test1_corpus") == {"妈妈": "angry"}
    assert score_submission({"妈妈": "angry"}, read_labels(path, "test1_corpus")) == 1.0
    (tmp_path / "labels.csv").write_text("name,discrete\na,sad\n")
    assert read_labels(tmp_path / "labels.csv") == {"a": "sad"}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    """NumPy has written protocol 3, and writes 4."""
    plain = write(tmp_path / "plain.npz", train_corpus=TRAIN)
    with zipfile.ZipFile(plain) as archive:
        content = archive.read("train_corpus.npy")
    header = content[: content.index(b"\n") + 1]
    with zipfile.ZipFile(tmp_path / "older.npz", "w") as archive:
        archive.writestr("train_corpus.npy", header + pickle.dumps(np.array(TRAIN, dtype=object), protocol=protocol))
    assert read_label_npz(tmp_path / "older.npz") == {"samplenew3_1": "happy", "samplenew3_2": "sad"}


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("where", ["name", "label", "whole"])
def test_nothing_in_it_is_run(tmp_path: Path, where: str) -> None:
    mark = tmp_path / "was here"
    evil = Evil(mark)
    value = {"name": {"x": evil}, "label": {"x": {"emo": evil}}, "whole": evil}[where]
    path = write(tmp_path / "evil.npz", train_corpus=value)
    with pytest.raises(InputError, match=r"names posix\.mkdir") as caught:
        read_label_npz(path)
    assert caught.value.hint
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"x": {"emo": 3}}, "'x' has no dictionary of strings"),
        ({"x": {"val": "1"}}, "'x' has no dictionary of strings with 'emo'"),
        ({"x": "happy"}, "'x' has no dictionary"),
        ({1: {"emo": "sad"}}, "'1' has no dictionary"),
        ("happy", "holds a str"),
        (collections.OrderedDict(x={"emo": "sad"}), r"names collections\.OrderedDict"),
        ({"x": {"emo": np.str_("sad")}}, "names numpy"),
    ],
)
def test_anything_but_plain_dictionaries_and_strings_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_label_npz(write(tmp_path / "odd.npz", train_corpus=value))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="missing"):
        read_label_npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="not an npz file"):
        read_label_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "plain.npz", train_corpus=np.zeros(3), deep=np.array([TRAIN, TRAIN], dtype=object))
    with pytest.raises(InputError, match="shape"):
        read_label_npz(tmp_path / "plain.npz")
    with pytest.raises(InputError, match="shape"):
        read_label_npz(tmp_path / "plain.npz", "deep")
    with pytest.raises(InputError, match="no entry 'other'"):
        read_label_npz(tmp_path / "plain.npz", "other")
    whole = write(tmp_path / "whole.npz", train_corpus=TRAIN)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(tmp_path / "cut.npz", "w") as cut:
        cut.writestr("train_corpus.npy", archive.read("train_corpus.npy")[:-20])
    with pytest.raises(InputError, match=r"damaged|refused"):
        read_label_npz(tmp_path / "cut.npz")
