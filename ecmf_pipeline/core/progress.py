"""What the user sees: a line for what was done, and on a terminal a progress bar for every loop that may last.

tqdm is imported where a bar is made: it takes as long to import as `index` has to do where nothing changed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")


def say(line: str) -> None:
    """Tell the user, on standard output, what a stage did."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def warn(line: str) -> None:
    """Tell the user, on standard error, what did not go as planned although the run goes on."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        sys.stderr.write(f"{line}\n")
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
