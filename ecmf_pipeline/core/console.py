"""Print to the terminal: result lines, progress bars, formatted numbers; silence what native libraries print.

tqdm is imported where a bar is made: it takes as long to import as `index` needs when nothing has changed.
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
    """A bar on standard error that is silent when standard error is not a terminal."""
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
    """Iterate over ``items`` behind a progress bar."""
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
    """A number of things, such as ``1 part``, ``2 parts``."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def format_part(part: int, whole: int, what: str) -> str:
    """How much of a number is so, such as "2 of them by verdicts"; empty for none of it."""
    if not part:
        return ""
    return f"{part} of them {what}" if part < whole else what if whole == 1 else f"all {what}"


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
