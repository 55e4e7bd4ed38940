from __future__ import annotations

import collections
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.corpora import label_npz
from ecmf_pipeline.corpora.label_npz import entries_of, read_label_npz
from ecmf_pipeline.interop.mertools import full_score, read_answers

TRAIN = {"samplenew3_1": {"emo": "happy"}, "samplenew3_2": {"emo": "sad"}}
TEST = {"妈妈": {"emo": "angry"}}


def write(path: Path, **entries: Any) -> Path:
    np.savez_compressed(path, **{name: np.array(value, dtype=object) for name, value in entries.items()})
    return path


def test_npz_labels_are_read_in_file_order(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.npz", train_corpus=TRAIN, test1_corpus=TEST)
    assert list(read_label_npz(path).items()) == [("samplenew3_1", "happy"), ("samplenew3_2", "sad")]
    assert read_answers(path, "test1_corpus") == {"妈妈": "angry"}
    assert full_score({"妈妈": "angry"}, read_answers(path, "test1_corpus"))["weighted_f1"] == 1.0
    (tmp_path / "labels.csv").write_text("name,discrete\na,sad\n")
    assert read_answers(tmp_path / "labels.csv") == {"a": "sad"}


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
def test_code_in_pickle_is_not_executed(tmp_path: Path, where: str) -> None:
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
def test_other_types_than_dictionaries_and_strings_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_label_npz(write(tmp_path / "odd.npz", train_corpus=value))


def test_files_that_are_not_label_files_are_refused(tmp_path: Path) -> None:
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


def test_flipped_bytes_raise_input_error_only(tmp_path: Path) -> None:
    """Anywhere in the file, they give the labels or an `InputError`, never another."""
    names = {f"sample_{number:04d}": {"emo": ("happy", "sad", "angry")[number % 3]} for number in range(50)}
    content = write(tmp_path / "whole.npz", train_corpus=names).read_bytes()
    told = []
    for start in range(0, len(content), 3):
        damaged = tmp_path / "damaged.npz"
        damaged.write_bytes(
            content[:start] + bytes(byte ^ 0xFF for byte in content[start : start + 8]) + content[start + 8 :]
        )
        for read in (read_label_npz, entries_of):
            try:
                read(damaged)
            except InputError as error:
                told.append(error.message)
    assert any("Error -3 while decompressing" in what for what in told)
    assert all(str(tmp_path) in what for what in told)


def test_encrypted_entry_is_refused(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "labels.npz", train_corpus=TRAIN).read_bytes())
    content[content.find(b"PK\x03\x04") + 6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "labels.npz").write_bytes(content)
    with pytest.raises(InputError, match="train_corpus is encrypted"):
        read_label_npz(tmp_path / "labels.npz")


def test_entry_that_is_not_an_array_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "labels.npz", "w") as archive:
        archive.writestr("train_corpus", b"happy")
    with pytest.raises(InputError, match=r"train_corpus is no array: its name does not end in \.npy"):
        read_label_npz(tmp_path / "labels.npz")


def write_pickle(path: Path, pickled: bytes) -> Path:
    """A pickle in the envelope that NumPy writes."""
    with zipfile.ZipFile(write(path, train_corpus=TRAIN)) as archive:
        content = archive.read("train_corpus.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_corpus.npy", content[: content.index(b"\n") + 1] + pickled)
    return path


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"\x95"], ids=["BINBYTES8", "BINUNICODE8", "FRAME"])
def test_huge_pickle_length_is_refused(tmp_path: Path, opcode: bytes) -> None:
    path = write_pickle(tmp_path / "huge.npz", b"\x80\x04" + opcode + b"\xff" * 8 + b".")
    with pytest.raises(InputError, match=r"train_corpus is (damaged|refused)"):
        read_label_npz(path)


@pytest.mark.parametrize(
    "name", [b"numpy.core.multiarray\n_reconstruct", b"numpy._core.multiarray\n_reconstruct", b"numpy\nndarray"]
)
def test_pickle_cannot_modify_the_reader(tmp_path: Path, name: bytes) -> None:
    """It names a stand-in, and has an attribute of it set: the next reader must not find that."""
    before = [dict(vars(one)) for one in vars(label_npz).values() if hasattr(one, "__dict__")]
    build = b"\x80\x02c" + name + b"\n}X\x06\x00\x00\x00hackedX\x01\x00\x00\x00ysb."
    with pytest.raises(InputError, match="train_corpus is damaged"):
        read_label_npz(write_pickle(tmp_path / "patching.npz", build))
    assert [dict(vars(one)) for one in vars(label_npz).values() if hasattr(one, "__dict__")] == before
    assert read_label_npz(write(tmp_path / "labels.npz", train_corpus=TRAIN)) == {
        "samplenew3_1": "happy",
        "samplenew3_2": "sad",
    }
