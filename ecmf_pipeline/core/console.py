"""Result lines, warnings, progress bars and formatted numbers for the terminal.

tqdm is imported inside the functions that use it: its import takes as long as a run of `index` without changes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ecmf_pipeline.core.errors import format_message

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")


def echo(line: str) -> None:
    """Print a result line to standard output."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def warn(message: str, hint: str | None = None, command: str | None = None) -> None:
    """Print a warning to standard error, above any progress bar; the run continues.

    Args:
        message: What happened and where.
        hint: How to fix it.
        command: The shell command that fixes it.
    """
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        sys.stderr.write(f"warning: {format_message(message, hint, command)}\n")
        sys.stderr.flush()


def progress_bar(description: str, total: int, *, unit: str = "clip") -> tqdm[NoReturn]:
    """Return a progress bar on standard error; it prints nothing if standard error is not a terminal."""
    from tqdm import tqdm

    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
        smoothing=0.1,
    )


def progress(
    items: Iterable[Item], description: str, *, total: int | None = None, unit: str = "clip"
) -> Iterator[Item]:
    """Iterate over ``items`` and show a progress bar."""
    from tqdm import tqdm

    yield from tqdm(
        items, desc=description, total=total, unit=unit, disable=not sys.stderr.isatty(), dynamic_ncols=True
    )


def format_bytes(count: float) -> str:
    """Format a number of bytes, such as ``405.6 MB``."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def format_count(count: int, one: str, many: str | None = None) -> str:
    """Format a number with its noun, such as ``1 part`` or ``2 parts``."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def format_share(part: int, whole: int, description: str) -> str:
    """Format a part of a whole, such as ``2 of them by verdicts`` or ``all by verdicts``; empty if ``part`` is 0."""
    if not part:
        return ""
    if part < whole:
        return f"{part} of them {description}"
    return description if whole == 1 else f"all {description}"


@contextmanager
def silence_native_stderr() -> Iterator[None]:
    """Redirect file descriptor 2 to /dev/null while a native object is built or freed.

    MediaPipe and TensorFlow Lite write build notes directly to the descriptor, so neither `logging` nor
    `contextlib.redirect_stderr` can suppress them. Python exceptions still propagate.
    """
    stderr_copy = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)
        os.close(devnull)
