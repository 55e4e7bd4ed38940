"""Conversion of out-of-memory errors of libraries to MemoryError."""

from __future__ import annotations

import errno
import subprocess
import sys

import numpy as np
import pytest

from ecmf_pipeline.llm.questions import Question
from ecmf_pipeline.llm.scoring import ScoringStep
from ecmf_pipeline.runner import Target
from ecmf_pipeline.runner.machine import as_out_of_memory


class OpenCvError(Exception):
    """Imitates OpenCV's error: one class for all errors, with a code."""

    code = -4


OpenCvError.__module__, OpenCvError.__name__ = "cv2", "error"


class OutOfMemoryError(RuntimeError):
    """Imitates torch's error, with any message."""


OutOfMemoryError.__module__ = "torch"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("8 TB"),
        OpenCvError("(-4:Insufficient memory) Failed to allocate 8 bytes"),
        OutOfMemoryError("HIP is full"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported elsewhere"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried 8"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:72] data. DefaultCPUAllocator: not enough memory: you tried 8"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_out_of_memory_errors_become_memory_errors(error):
    with pytest.raises(MemoryError) as caught, as_out_of_memory():
        raise error
    assert "\n" not in str(caught.value)
    assert caught.value is error or caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("out of memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_other_errors_are_not_converted(error):
    with pytest.raises(type(error)) as caught, as_out_of_memory():
        raise error
    assert caught.value is error


def test_other_opencv_errors_are_not_converted():
    cv2 = pytest.importorskip("cv2")
    with pytest.raises(cv2.error, match="empty"), as_out_of_memory():
        cv2.resize(np.zeros((0, 0), np.uint8), (4, 4))


def test_real_torch_errors_are_converted():
    torch = pytest.importorskip("torch")
    with pytest.raises(MemoryError, match="allocate memory"), as_out_of_memory():
        torch.empty(10**15)
    with pytest.raises(MemoryError, match="GPU full"), as_out_of_memory():
        raise torch.OutOfMemoryError("GPU full")


def test_the_module_imports_no_heavy_library():
    listed = "import sys, ecmf_pipeline.runner.machine; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    assert not {"torch", "cv2", "numpy"} & set(result.stdout.split())


class ModelWithoutMemory:
    """A model that runs out of memory for any text."""

    cut = frozenset()

    def score(self, texts, labels):
        if texts:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return np.empty((0, len(labels)))


def test_an_out_of_memory_error_of_a_language_model_is_converted():
    item = Question("so", (Target("clip", "llm", "digest"),))
    with pytest.raises(MemoryError, match="can't allocate"):
        ScoringStep(ModelWithoutMemory(), ["joy", "grief"]).work([(item, "so")])
    assert item.alone() == [item]
