"""Ctrl-C and SIGTERM end a run in good order: once, and never in the middle of something that must be whole."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While entered, the first Ctrl-C or SIGTERM raises KeyboardInterrupt; later ones are answered with a line.

    Off the main thread nothing is changed: whoever runs us there handles signals.
    """

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Any] = {}
        self._held = 0
        self._asked = False
        self._raised = False

    def __enter__(self) -> Interruption:
        for number in _SIGNALS:
            try:
                self._previous[number] = signal.signal(number, self._stop)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A stretch of work that is finished first; the interruption comes at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self._raise_if_due()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            sys.stderr.write("\nstopping: what is complete is being made permanent, one moment\n")
        self._asked = True
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._asked and not self._raised and not self._held:
            self._raised = True
            raise KeyboardInterrupt
