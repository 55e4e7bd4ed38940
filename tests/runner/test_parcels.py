"""Parcels: what one process hands to another."""

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
from ecmf_pipeline.runner import messages as parcels
from ecmf_pipeline.runner.messages import Parcel, pack, unpack
from tests.runner.counting import count_parcels

pytestmark = pytest.mark.skipif(not parcels.ARE_THERE, reason="parcels need Linux")


def mapped_parcels() -> int:
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
    parcel = pack(content)
    unpacked = unpack(parcel)
    parcel.close()
    assert unpacked.keys() == content.keys()
    for name in ("frames", "turned", "transposed", "none", "sound"):
        np.testing.assert_array_equal(unpacked[name], content[name], strict=True)
    assert isinstance(unpacked["error"], UnreadableMedia)
    assert (str(unpacked["error"]), unpacked["words"]) == ("cut off", "so")


def test_arrays_lie_in_the_parcel_and_may_be_written_to():
    parcel = pack([np.zeros(100_000, np.float32), np.ones(3, np.uint8)])
    assert len(pickle.dumps(parcel.layout)) < 1000
    assert parcel.layout.pickled < 1000
    first, second = unpack(parcel), unpack(parcel)
    first[0][7] = 5
    assert second[0][7] == 0
    assert second[0].ctypes.data % 64 == second[1].ctypes.data % 64 == 0
    parcel.close()


def test_memory_is_free_again_when_what_was_unpacked_is_gone():
    held, mapped = count_parcels(), mapped_parcels()
    parcel = pack([np.ones(100_000)])
    (array,) = unpack(parcel)
    parcel.close()
    assert (count_parcels(), mapped_parcels()) == (held + 1, mapped + 1)
    part = array[5:]
    del array
    gc.collect()
    assert mapped_parcels() == mapped + 1
    assert part.sum() == 99_995
    del part
    gc.collect()
    assert (count_parcels(), mapped_parcels()) == (held, mapped)


def test_a_parcel_goes_over_a_line_and_is_not_inherited():
    here, there = Pipe()
    parcel = pack(np.arange(9))
    with here, there:
        parcel.send(here)
        parcel.close()
        received = Parcel.receive(there, parcel.layout)
        assert not os.get_inheritable(received.descriptor)
        np.testing.assert_array_equal(unpack(received), np.arange(9))
        received.close()


def test_a_line_that_is_closed_says_so():
    here, there = Pipe()
    parcel = pack(b"")
    there.close()
    with here, pytest.raises(OSError, match="Broken pipe"):
        parcel.send(here)
    here, there = Pipe()
    here.close()
    with there, pytest.raises(EOFError):
        Parcel.receive(there, parcel.layout)
    parcel.close()


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOSPC])
def test_a_parcel_for_which_there_is_no_room_is_want_of_memory_and_leaves_nothing(monkeypatch, number):
    held = count_parcels()

    def write(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(parcels, "_write", write)
    with pytest.raises(MemoryError, match="no room"):
        pack(b"")
    monkeypatch.undo()
    assert count_parcels() == held
    parcel = pack(b"")
    monkeypatch.setattr(parcels.mmap, "mmap", write)
    with pytest.raises(MemoryError, match="no room"):
        unpack(parcel)
    parcel.close()


def test_what_cannot_be_pickled_is_a_bug_and_leaves_nothing():
    held = count_parcels()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pack(lambda: None)
    assert count_parcels() == held
