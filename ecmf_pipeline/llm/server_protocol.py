"""Calls that block for as long as somebody else likes, waited for no longer than they may take."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

from ecmf_pipeline.core.progress import warn
from ecmf_pipeline.llm.client import Chat, Generated, question_key
from ecmf_pipeline.llm.config import ServerConfig
from ecmf_pipeline.llm.drafts import TRIES, Draft, Drafts
from ecmf_pipeline.llm.schema import InvalidAnswer, Schema

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


_REFUSING = {400, 422}
_NOT_HERE = re.compile(r"unsupported|not supported|does not support|only the default", re.IGNORECASE)


class Dialect:
    """The names and options that a server takes; what it has taught holds for all further requests.

    Safe to use from several threads: each lesson is one assignment, and is the same whoever learns it.
    """

    def __init__(self) -> None:
        self._room = "max_tokens"
        self._tempered = True

    def put(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options as this server takes them.

        Args:
            options: As most servers take them: ``max_tokens``, ``temperature`` and others.
        """
        named = {self._room if name == "max_tokens" else name: value for name, value in options.items()}
        return {name: value for name, value in named.items() if name != "temperature" or self._tempered}

    def learn(self, status: int, said: str, sent: Mapping[str, Any]) -> bool:
        """Learn from a refusal.

        Args:
            status: Its HTTP status.
            said: Its message.
            sent: The options that were refused.

        Returns:
            Whether the request should be sent again, since it would be put otherwise now.
        """
        if status not in _REFUSING:
            return False
        refuses = _NOT_HERE.search(said) is not None
        if "max_tokens" in sent and ("max_completion_tokens" in said or (refuses and "max_tokens" in said)):
            self._room = "max_completion_tokens"
            return True
        if "temperature" in sent and "temperature" in said and refuses:
            if self._tempered:
                warn("llm: the server takes no temperature: whatever is asked, its answers are drawn at its own")
            self._tempered = False
            return True
        return False


class ServerGenerator:
    """A `client.Generator`; safe to use from several threads.

    Args:
        server: Who is asked (a `server.ChatServer`).
        config: How.
        drafts: What has been paid for of questions that are not finished; None: nothing.
    """

    def __init__(self, server: Any, config: ServerConfig, drafts: Drafts | None = None) -> None:
        self._server = server
        self._config = config
        self._drafts = Drafts(None) if drafts is None else drafts

    def generate(self, chats: Sequence[Chat], schema: Schema) -> list[Generated]:
        """Answer each chat; see `client.Generator`.

        Raises:
            ServerUnavailable: When the server fails again and again.
            RequestRefused: When it refuses this very request.
            ModelError: When it refuses all, or cannot do what is asked of it.
            BudgetSpent: When a request would go beyond the budget.
            Stopped: When the run is ending.
        """
        return [self._answer(chat, schema) for chat in chats]

    def stop(self) -> None:
        """Send nothing any more."""
        self._server.stop()

    def abandon(self) -> None:
        """Send nothing any more, and hear none of the requests under way."""
        self._server.abandon()

    def close(self) -> None:
        """Close the client."""
        self._server.close()

    def _answer(self, chat: Chat, schema: Schema) -> Generated:
        """The likeliest answer; where that is invalid, one that is drawn, since the same would come again."""
        raw: list[str] = []
        key = question_key(chat)
        form, room = schema.json_schema(), max(self._config.answer_tokens, schema.most_tokens())
        for attempt in range(TRIES):
            if draft := self._drafts.get(key, attempt):
                raw.append(draft.raw)
                continue
            drawn = {"temperature": self._config.sample_temperature, "seed": self._config.seed} if attempt else {}
            answer = self._server.ask(chat, form, answer_tokens=room, **drawn)
            try:
                return Generated(schema.read(answer.content), tuple(raw))
            except InvalidAnswer as error:
                raw.append(self._drafts.keep(key, attempt, Draft(None, f"{error}: {answer.content}")).raw)
        return Generated(None, tuple(raw))
