"""Ctrl-C and SIGTERM end a run in good order: once, and never in the middle of something that must be whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2


class Interruption:
    """While entered, the first Ctrl-C or SIGTERM raises KeyboardInterrupt; later ones are answered with a line.

    Off the main thread nothing is changed: whoever runs us there handles signals.

    Attributes:
        asked: Whether a signal has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._held = 0
        self._settled = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        with suppress(ValueError):  # not the main thread
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A stretch of work that is finished first; an interruption comes at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self._raise_if_due()

    def settle(self) -> None:
        """From here on nothing is raised any more: the run is putting away what it has."""
        self._settled = True

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked or self._settled:
            # Straight to the descriptor: a handler may have broken into a write to `sys.stderr`.
            with suppress(OSError):
                os.write(_STDERR, b"\nstopping; what is complete is being made permanent, one moment\n")
        self.asked = True
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self.asked and not self._settled and not self._held:
            self._settled = True
            raise KeyboardInterrupt


@contextmanager
def hurried(hurry: Callable[[], None]) -> Iterator[None]:
    """While the block waits for something, a Ctrl-C or SIGTERM first ends that, then does what it did before.

    Args:
        hurry: Lets go of what is waited for; must need no lock that the block may hold.
    """
    previous: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        hurry()
        if callable(before := previous[signal.Signals(number)]):
            before(number, frame)

    with suppress(ValueError):  # not the main thread
        for number in _SIGNALS:
            previous[number] = signal.getsignal(number)
            signal.signal(number, handle)
    try:
        yield
    finally:
        with suppress(ValueError):
            for number, before in previous.items():
                signal.signal(number, signal.SIG_DFL if before is None else before)
