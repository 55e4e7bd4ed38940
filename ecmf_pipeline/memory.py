"""Memory that runs out, told alike whichever library says so."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_OPENCV_NO_MEMORY = -4
_SAID_BY_LIBRARIES = ("out of memory", "not enough memory", "allocate memory", "_alloc_failed", "bad_alloc")
"""Torch's allocator for the processor (on Linux, on Windows), CUDA, cuBLAS and C++ itself."""


@contextmanager
def want_of_memory() -> Iterator[None]:
    """Within it, memory that runs out is a MemoryError, also where torch, CUDA, OpenCV or the system say it otherwise.

    Raises:
        MemoryError: With what the library said.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or not _is_want_of_memory(error):
            raise
        raise MemoryError(str(error).partition("\n")[0].strip()) from error


def _is_want_of_memory(error: Exception) -> bool:
    """By names and words: no library is loaded for a type that only one of its own errors can have."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    if "cv2.error" in kinds:
        return getattr(error, "code", None) == _OPENCV_NO_MEMORY
    if "torch.OutOfMemoryError" in kinds:
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _SAID_BY_LIBRARIES)
