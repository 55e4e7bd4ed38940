"""Keep native libraries' start-up chatter off the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """Send file descriptor 2 nowhere while a native object is built or freed.

    MediaPipe and TensorFlow Lite write build notes straight to the descriptor, where neither `logging` nor
    `contextlib.redirect_stderr` reaches them. Python exceptions still pass.
    """
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
