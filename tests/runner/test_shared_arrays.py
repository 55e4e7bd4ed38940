"""Passing arrays from one process to another."""

from __future__ import annotations

import errno
import gc
import os
import pickle
from multiprocessing.connection import Pipe
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.errors import UnreadableMedia
from ecmf_pipeline.runner import shared_arrays
from ecmf_pipeline.runner.shared_arrays import SharedArrays, pack, unpack
from tests.runner.doubling import count_shared_arrays

pytestmark = pytest.mark.skipif(not shared_arrays.ARE_SUPPORTED, reason="shared arrays need Linux")


def count_mapped_files() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:opened-batch")


def test_unpacked_objects_equal_the_packed_ones():
    frames = np.arange(2 * 5 * 7 * 3, dtype=np.uint8).reshape(2, 5, 7, 3)
    content = {
        "frames": frames,
        "reversed": frames[:, ::-2],
        "transposed": frames.T,
        "empty": np.empty((0, 3), np.float32),
        "audio": np.linspace(0, 1, 1001, dtype=np.float32),
        "error": UnreadableMedia("truncated"),
        "text": "abc",
    }
    shared = pack(content)
    unpacked = unpack(shared)
    shared.close()
    assert unpacked.keys() == content.keys()
    for name in ("frames", "reversed", "transposed", "empty", "audio"):
        np.testing.assert_array_equal(unpacked[name], content[name], strict=True)
    assert isinstance(unpacked["error"], UnreadableMedia)
    assert (str(unpacked["error"]), unpacked["text"]) == ("truncated", "abc")


def test_arrays_use_the_shared_file_and_are_writable():
    shared = pack([np.zeros(100_000, np.float32), np.ones(3, np.uint8)])
    assert len(pickle.dumps(shared.layout)) < 1000
    assert shared.layout.pickled < 1000
    first, second = unpack(shared), unpack(shared)
    first[0][7] = 5
    assert second[0][7] == 0
    assert second[0].ctypes.data % 64 == second[1].ctypes.data % 64 == 0
    shared.close()


def test_memory_is_freed_with_the_last_unpacked_array():
    n_descriptors, n_mapped = count_shared_arrays(), count_mapped_files()
    shared = pack([np.ones(100_000)])
    (array,) = unpack(shared)
    shared.close()
    assert (count_shared_arrays(), count_mapped_files()) == (n_descriptors + 1, n_mapped + 1)
    part = array[5:]
    del array
    gc.collect()
    assert count_mapped_files() == n_mapped + 1
    assert part.sum() == 99_995
    del part
    gc.collect()
    assert (count_shared_arrays(), count_mapped_files()) == (n_descriptors, n_mapped)


def test_shared_arrays_are_sent_over_a_connection_and_not_inherited():
    sender, receiver = Pipe()
    shared = pack(np.arange(9))
    with sender, receiver:
        shared.send(sender)
        shared.close()
        received = SharedArrays.receive(receiver, shared.layout)
        assert not os.get_inheritable(received.descriptor)
        np.testing.assert_array_equal(unpack(received), np.arange(9))
        received.close()


def test_a_closed_connection_raises():
    sender, receiver = Pipe()
    shared = pack(b"")
    receiver.close()
    with sender, pytest.raises(OSError, match="Broken pipe"):
        shared.send(sender)
    sender, receiver = Pipe()
    sender.close()
    with receiver, pytest.raises(EOFError):
        SharedArrays.receive(receiver, shared.layout)
    shared.close()


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC])
def test_missing_memory_raises_memory_error_and_leaks_nothing(monkeypatch, number):
    n_descriptors = count_shared_arrays()

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shared_arrays, "_write", fail)
    with pytest.raises(MemoryError) as caught:
        pack(b"")
    assert os.strerror(number) in str(caught.value)
    monkeypatch.undo()
    assert count_shared_arrays() == n_descriptors
    shared = pack(b"")
    monkeypatch.setattr(shared_arrays.mmap, "mmap", fail)
    with pytest.raises(MemoryError) as caught:
        unpack(shared)
    assert os.strerror(number) in str(caught.value)
    shared.close()


def test_an_unpicklable_object_raises_and_leaks_nothing():
    n_descriptors = count_shared_arrays()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pack(lambda: None)
    assert count_shared_arrays() == n_descriptors
