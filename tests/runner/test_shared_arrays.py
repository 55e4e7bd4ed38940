"""Arrays that one process hands to another."""

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
from tests.runner.counting import count_shared

pytestmark = pytest.mark.skipif(not shared_arrays.ARE_SUPPORTED, reason="shared arrays need Linux")


def mapped_files() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:opened-batch")


def test_what_is_unpacked_is_what_was_packed():
    frames = np.arange(2 * 5 * 7 * 3, dtype=np.uint8).reshape(2, 5, 7, 3)
    content = {
        "frames": frames,
        "turned": frames[:, ::-2],
        "transposed": frames.T,
        "none": np.empty((0, 3), np.float32),
        "sound": np.linspace(0, 1, 1001, dtype=np.float32),
        "error": UnreadableMedia("cut off"),
        "words": "so",
    }
    shared = pack(content)
    unpacked = unpack(shared)
    shared.close()
    assert unpacked.keys() == content.keys()
    for name in ("frames", "turned", "transposed", "none", "sound"):
        np.testing.assert_array_equal(unpacked[name], content[name], strict=True)
    assert isinstance(unpacked["error"], UnreadableMedia)
    assert (str(unpacked["error"]), unpacked["words"]) == ("cut off", "so")


def test_arrays_lie_in_the_shared_file_and_may_be_written_to():
    shared = pack([np.zeros(100_000, np.float32), np.ones(3, np.uint8)])
    assert len(pickle.dumps(shared.layout)) < 1000
    assert shared.layout.pickled < 1000
    first, second = unpack(shared), unpack(shared)
    first[0][7] = 5
    assert second[0][7] == 0
    assert second[0].ctypes.data % 64 == second[1].ctypes.data % 64 == 0
    shared.close()


def test_memory_is_free_again_when_what_was_unpacked_is_gone():
    held, mapped = count_shared(), mapped_files()
    shared = pack([np.ones(100_000)])
    (array,) = unpack(shared)
    shared.close()
    assert (count_shared(), mapped_files()) == (held + 1, mapped + 1)
    part = array[5:]
    del array
    gc.collect()
    assert mapped_files() == mapped + 1
    assert part.sum() == 99_995
    del part
    gc.collect()
    assert (count_shared(), mapped_files()) == (held, mapped)


def test_shared_arrays_go_over_a_connection_and_are_not_inherited():
    here, there = Pipe()
    shared = pack(np.arange(9))
    with here, there:
        shared.send(here)
        shared.close()
        received = SharedArrays.receive(there, shared.layout)
        assert not os.get_inheritable(received.descriptor)
        np.testing.assert_array_equal(unpack(received), np.arange(9))
        received.close()


def test_a_line_that_is_closed_says_so():
    here, there = Pipe()
    shared = pack(b"")
    there.close()
    with here, pytest.raises(OSError, match="Broken pipe"):
        shared.send(here)
    here, there = Pipe()
    here.close()
    with there, pytest.raises(EOFError):
        SharedArrays.receive(there, shared.layout)
    shared.close()


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC])
def test_shared_arrays_for_which_there_is_no_room_are_as_out_of_memory_and_leave_nothing(monkeypatch, number):
    held = count_shared()

    def write(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shared_arrays, "_write", write)
    with pytest.raises(MemoryError, match="no room"):
        pack(b"")
    monkeypatch.undo()
    assert count_shared() == held
    shared = pack(b"")
    monkeypatch.setattr(shared_arrays.mmap, "mmap", write)
    with pytest.raises(MemoryError, match="no room"):
        unpack(shared)
    shared.close()


def test_what_cannot_be_pickled_is_a_bug_and_leaves_nothing():
    held = count_shared()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pack(lambda: None)
    assert count_shared() == held
