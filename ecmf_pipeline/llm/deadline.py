"""Calls that block for as long as somebody else likes, waited for no longer than they may take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


class Late(Exception):
    """A call has not returned in time; nobody waits for it any more."""


class Abandoned(Exception):
    """Nobody waits for any call any more."""


class Calls:
    """Waits for calls, each in a thread of its own that ends with the process at the latest; safe to share by threads.

    A client's timeout counts from one piece of an answer to the next, so that a server that sends a byte now and then
    keeps a thread for ever. A thread cannot be stopped, but it can be left alone.

    Attributes:
        running: Calls that have not returned, whether anybody waits for them or not.
    """

    def __init__(self) -> None:
        self.running = 0
        self._lock = threading.Lock()
        self._waited_for: set[Future[Any]] = set()
        self._abandoned = False

    def within(self, seconds: float, call: Callable[[], ResultT]) -> ResultT:
        """What a call returns or raises.

        Args:
            seconds: How long is waited for it.
            call: The call.

        Raises:
            Late: When it takes longer.
            Abandoned: When `abandon` was called before it returned.
        """
        future: Future[ResultT] = Future()
        with self._lock:
            if self._abandoned:
                raise Abandoned
            self._waited_for.add(future)
            self.running += 1
        threading.Thread(target=self._make, args=(future, call), name="request", daemon=True).start()
        try:
            return future.result(seconds)
        except CancelledError:
            raise Abandoned from None
        except TimeoutError:  # or the call's own, which is raised again
            if future.cancel():
                raise Late from None
            return future.result()
        finally:
            with self._lock:
                self._waited_for.discard(future)

    def abandon(self) -> None:
        """Wait for no call any more, neither those under way nor any other."""
        with self._lock:
            self._abandoned = True
            waited_for = set(self._waited_for)
        for future in waited_for:
            future.cancel()

    def _make(self, future: Future[Any], call: Callable[[], Any]) -> None:
        result, raised = None, None
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            raised = error
        with self._lock:
            self.running -= 1
        with suppress(InvalidStateError):  # nobody waits
            future.set_result(result) if raised is None else future.set_exception(raised)
