from __future__ import annotations

import collections
import os
import pickle
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.corpora import label_npz
from ecmf_pipeline.corpora.label_npz import entries_of, read_label_npz
from ecmf_pipeline.interop.mertools import read_answers, score_submission

TRAIN = {"samplenew3_1": {"emo": "happy"}, "samplenew3_2": {"emo": "sad"}}
TEST = {"妈妈": {"emo": "angry"}}


def write(path: Path, **entries: Any) -> Path:
    np.savez_compressed(path, **{name: np.array(value, dtype=object) for name, value in entries.items()})
    return path


def test_npz_labels_are_read_in_file_order(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.npz", train_corpus=TRAIN, test1_corpus=TEST)
    assert list(read_label_npz(path).items()) == [("samplenew3_1", "happy"), ("samplenew3_2", "sad")]
    assert read_answers(path, "test1_corpus") == {"妈妈": "angry"}
    assert score_submission({"妈妈": "angry"}, read_answers(path, "test1_corpus"))["weighted_f1"] == 1.0
    (tmp_path / "labels.csv").write_text("name,discrete\na,sad\n")
    assert read_answers(tmp_path / "labels.csv") == {"a": "sad"}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    """Older NumPy versions wrote protocol 3, current ones write 4."""
    plain = write(tmp_path / "plain.npz", train_corpus=TRAIN)
    with zipfile.ZipFile(plain) as archive:
        content = archive.read("train_corpus.npy")
    header = content[: content.index(b"\n") + 1]
    with zipfile.ZipFile(tmp_path / "older.npz", "w") as archive:
        archive.writestr("train_corpus.npy", header + pickle.dumps(np.array(TRAIN, dtype=object), protocol=protocol))
    assert read_label_npz(tmp_path / "older.npz") == {"samplenew3_1": "happy", "samplenew3_2": "sad"}


class MaliciousObject:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("position", ["name", "label", "whole"])
def test_code_in_pickle_is_not_executed(tmp_path: Path, position: str) -> None:
    marker = tmp_path / "executed"
    malicious = MaliciousObject(marker)
    value = {"name": {"x": malicious}, "label": {"x": {"emo": malicious}}, "whole": malicious}[position]
    path = write(tmp_path / "malicious.npz", train_corpus=value)
    with pytest.raises(InputError) as caught:
        read_label_npz(path)
    assert "posix.mkdir" in caught.value.message
    assert caught.value.hint
    assert not marker.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"x": {"emo": 3}}, "'x' has no dictionary"),
        ({"x": {"val": "1"}}, "'x' has no dictionary of strings with key 'emo'"),
        ({"x": "happy"}, "'x' has no dictionary"),
        ({1: {"emo": "sad"}}, "'1' has no dictionary"),
        ("happy", "holds a str"),
        (collections.OrderedDict(x={"emo": "sad"}), "collections.OrderedDict"),
        ({"x": {"emo": np.str_("sad")}}, "numpy"),
    ],
)
def test_other_types_than_dictionaries_and_strings_are_rejected(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_label_npz(write(tmp_path / "labels.npz", train_corpus=value))
    assert message in caught.value.message
    assert f"{tmp_path / 'labels.npz'}: train_corpus" in caught.value.message


def test_files_that_are_not_label_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(MissingInput) as missing:
        read_label_npz(tmp_path / "none.npz")
    assert "none.npz" in missing.value.message
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "plain.npz", train_corpus=np.zeros(3), deep=np.array([TRAIN, TRAIN], dtype=object))
    for name, entry, message in (
        ("text.npz", "train_corpus", "not an npz file"),
        ("plain.npz", "train_corpus", "shape (3,)"),
        ("plain.npz", "deep", "shape (2,)"),
        ("plain.npz", "other", "no entry 'other'"),
    ):
        with pytest.raises(InputError) as caught:
            read_label_npz(tmp_path / name, entry)
        assert name in caught.value.message
        assert message in caught.value.message
    whole = write(tmp_path / "whole.npz", train_corpus=TRAIN)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(tmp_path / "cut.npz", "w") as cut:
        cut.writestr("train_corpus.npy", archive.read("train_corpus.npy")[:-20])
    with pytest.raises(InputError) as truncated:
        read_label_npz(tmp_path / "cut.npz")
    assert "cut.npz" in truncated.value.message
    assert re.search("damaged|refused", truncated.value.message)


def test_flipped_bytes_raise_input_error_only(tmp_path: Path) -> None:
    """Flipped bytes anywhere in the file give the labels or an `InputError`, no other exception."""
    names = {f"sample_{number:04d}": {"emo": ("happy", "sad", "angry")[number % 3]} for number in range(50)}
    content = write(tmp_path / "whole.npz", train_corpus=names).read_bytes()
    messages = []
    for start in range(0, len(content), 3):
        damaged = tmp_path / "damaged.npz"
        damaged.write_bytes(
            content[:start] + bytes(byte ^ 0xFF for byte in content[start : start + 8]) + content[start + 8 :]
        )
        for read in (read_label_npz, entries_of):
            try:
                read(damaged)
            except InputError as error:
                messages.append(error.message)
    assert any("Error -3 while decompressing" in message for message in messages)
    assert all(str(tmp_path) in message for message in messages)


def test_encrypted_entry_is_rejected(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "labels.npz", train_corpus=TRAIN).read_bytes())
    content[content.find(b"PK\x03\x04") + 6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "labels.npz").write_bytes(content)
    with pytest.raises(InputError, match="entry train_corpus is encrypted"):
        read_label_npz(tmp_path / "labels.npz")


def test_entry_that_is_not_an_array_is_rejected(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "labels.npz", "w") as archive:
        archive.writestr("train_corpus", b"happy")
    with pytest.raises(InputError) as caught:
        read_label_npz(tmp_path / "labels.npz")
    assert "train_corpus" in caught.value.message
    assert ".npy" in caught.value.message


def write_pickle(path: Path, pickled: bytes) -> Path:
    """Write a pickle with the npy header of an object array."""
    with zipfile.ZipFile(write(path, train_corpus=TRAIN)) as archive:
        content = archive.read("train_corpus.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_corpus.npy", content[: content.index(b"\n") + 1] + pickled)
    return path


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"\x95"], ids=["BINBYTES8", "BINUNICODE8", "FRAME"])
def test_huge_pickle_length_is_rejected(tmp_path: Path, opcode: bytes) -> None:
    path = write_pickle(tmp_path / "huge.npz", b"\x80\x04" + opcode + b"\xff" * 8 + b".")
    with pytest.raises(InputError, match=r"train_corpus is (damaged|refused)"):
        read_label_npz(path)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x04}r\xff\xff\xff\x0f.",
        b"\x80\x02}p268435455\n.",
        b"\x80\x04\x95\xff\xff\xff\x0f\0\0\0\0}.",
        b"\x80\x04\x8e\xff\xff\xff\x0f\0\0\0\0.",
        b"\x80\x05\x96\xff\xff\xff\x0f\0\0\0\0.",
        b"\x80\x04X\xff\xff\xff\x0f.",
    ],
    ids=["LONG_BINPUT", "PUT", "FRAME", "BINBYTES8", "BYTEARRAY8", "BINUNICODE"],
)
def test_sizes_beyond_the_pickle_take_no_memory(tmp_path: Path, pickled: bytes) -> None:
    """Each declares 256 MB or a memo of 268 million entries."""
    path = write_pickle(tmp_path / "huge.npz", pickled)
    peak_bytes = peak_of_reading(path)
    assert peak_bytes < 2**22


def test_zip_bombs_take_no_memory(tmp_path: Path) -> None:
    for name, compression, size in (
        ("deflated", zipfile.ZIP_DEFLATED, label_npz.MAX_ENTRY_BYTES + 1),
        ("lzma", zipfile.ZIP_LZMA, 2**24),
    ):
        path = tmp_path / f"{name}.npz"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("train_corpus.npy", bytes(size))
        assert peak_of_reading(path) < 2**22


def peak_of_reading(path: Path) -> int:
    """Return the peak of traced memory while a file is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read_label_npz(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def module_state() -> list[dict[str, Any]]:
    """Copy the attributes of all objects of the module."""
    return [dict(vars(value)) for value in vars(label_npz).values() if hasattr(value, "__dict__")]


@pytest.mark.parametrize(
    "name", [b"numpy.core.multiarray\n_reconstruct", b"numpy._core.multiarray\n_reconstruct", b"numpy\nndarray"]
)
def test_pickle_cannot_modify_the_reader(tmp_path: Path, name: bytes) -> None:
    """The pickle sets an attribute on a stub; the module and the next reader must not see it."""
    before = module_state()
    build = b"\x80\x02c" + name + b"\n}X\x06\x00\x00\x00hackedX\x01\x00\x00\x00ysb."
    with pytest.raises(InputError, match="train_corpus is damaged"):
        read_label_npz(write_pickle(tmp_path / "patching.npz", build))
    assert module_state() == before
    assert read_label_npz(write(tmp_path / "labels.npz", train_corpus=TRAIN)) == {
        "samplenew3_1": "happy",
        "samplenew3_2": "sad",
    }
