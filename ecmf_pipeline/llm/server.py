"""One chat with an OpenAI-compatible server, through OpenAI's own client library.

The library speaks the protocol, on an event loop in a thread of its own, where a request can be cancelled as a whole;
tries, waits and budgets are counted here, so that every request that leaves is one that the budget knows of. Whatever a
server sends back is cleared of the key before anything else sees it.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any

import openai
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice
from pydantic import ValidationError

from ecmf_pipeline.core.errors import ModelError, RequestRefused, ServerUnavailable, TryAgain
from ecmf_pipeline.llm.config import ServerConfig
from ecmf_pipeline.llm.prompt import Turn
from ecmf_pipeline.llm.server_protocol import Answer, Dialect, ServerKey, Token, response_format, retry_after
from ecmf_pipeline.llm.server_run import Budget, about_tokens

_NOT_NOW = {408, 409, 425, 429}
_ABOUT_THIS_TEXT = {400, 413, 422}
_TRIES_TO_REACH = 3
"""A server that was never there is not waited for as one that fails: mostly its address is wrong."""

_FAILED_AT_LEAST = 4
"""Questions in a row on which a server fails before it is down, however few are asked at once."""


class Stopped(Exception):
    """The run is ending: nothing is sent any more."""


class _Fault(Exception):
    """The server failed in a way that may pass.

    Args:
        what: What it did.
        wait: Seconds after which it wants to be asked again; None where it does not say.
        unreachable: Whether there was nobody to fail.
    """

    def __init__(self, what: str, wait: float | None = None, *, unreachable: bool = False) -> None:
        super().__init__(what)
        self.wait = wait
        self.unreachable = unreachable


class ChatServer:
    """Asks a server; safe to use from several threads.

    Args:
        model: Name under which the server serves it.
        config: Where it is, and how it is asked.
        budget: What may be sent.
        rng: Jitter of the waits.

    Raises:
        ModelError: When the environment variable of the key is not set, or holds what can be no key.
    """

    def __init__(self, model: str, config: ServerConfig, budget: Budget, *, rng: random.Random | None = None) -> None:
        self.model = model
        self.config = config
        self.budget = budget
        self._rng = rng or random.Random()
        self._stopped = threading.Event()
        self._answered = False
        self._gives_logprobs = False
        self._dialect = Dialect()
        self._lock = threading.Lock()
        self._failed = 0  # questions in a row that it failed on, with no answer to any other in between
        self._key = ServerKey.of(config)
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url, api_key=self._key.text or "none", max_retries=0, timeout=config.timeout
        )
        self._abandoned = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send nothing any more; requests under way are heard to the end, which their timeout sets."""
        self._stopped.set()

    def abandon(self) -> None:
        """Send nothing any more, and hear none of the requests under way."""
        self._stopped.set()
        self._abandoned = True
        self._loop.call_soon_threadsafe(self._cancel_all)

    def close(self) -> None:
        """Close the connections."""
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def ask(
        self,
        messages: Sequence[Turn],
        schema: Mapping[str, Any],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        logprobs: bool = False,
        answer_tokens: int | None = None,
    ) -> Answer:
        """Ask until there is an answer.

        Args:
            messages: The turns of the chat.
            schema: What the answer should be; the caller checks whether it is.
            temperature: Of the sampling; 0 takes the likeliest.
            seed: Of the sampling.
            logprobs: Whether the answer's tokens are wanted with their alternatives.
            answer_tokens: Most tokens of the answer; None: as the config says.

        Raises:
            ServerUnavailable: When the server fails again and again.
            TryAgain: When it has done so for so many questions in a row that it is down, and not one of them at fault.
            RequestRefused: When it refuses this very request.
            ModelError: When there is no server, it refuses all (key, model, rights), or cannot do what is asked of it.
            BudgetSpent: When the request would go beyond the budget.
            Stopped: When the run is ending.
        """
        room = answer_tokens or self.config.answer_tokens
        options: dict[str, Any] = {"temperature": temperature, "max_tokens": room}
        options |= {"seed": seed} if seed is not None else {}
        options |= {"logprobs": True, "top_logprobs": 20} if logprobs else {}
        options |= response_format(self.config, schema)
        reserved = about_tokens(messages) + room
        fault = _Fault("was not asked")
        for attempt in range(self.config.max_retries + 1):
            if attempt and self._stopped.wait(self._wait(attempt, fault.wait)):
                raise Stopped
            try:
                answer = self._once(messages, options, reserved, logprobs=logprobs)
            except _Fault as error:
                fault = error
                if fault.unreachable and attempt >= _TRIES_TO_REACH - 1 and not self._answered:
                    raise ModelError(
                        f"no server can be reached at {self.config.base_url} ({fault})",
                        "start it, or mend llm.server.base_url, then run the same command again",
                    ) from None
            else:
                with self._lock:
                    self._failed = 0
                return answer
        raise self._given_up(fault)

    def _given_up(self, fault: _Fault) -> Exception:
        """What to make of a question on which it failed in all tries: is it that question, or the server?"""
        with self._lock:
            self._failed += 1
            failed = self._failed
        last = self._key.cleared(f"last: {fault}")
        if failed < max(_FAILED_AT_LEAST, 2 * self.config.concurrency):
            return ServerUnavailable(f"the server failed {self.config.max_retries + 1} times, {last}")
        return TryAgain(f"the server at {self.config.base_url} failed on {failed} questions in a row, {last}")

    def _once(self, messages: Sequence[Turn], options: dict[str, Any], reserved: int, *, logprobs: bool) -> Answer:
        if self._stopped.is_set():
            raise Stopped
        while (completion := self._paid_for(messages, options, reserved)) is None:
            pass
        return self._read(completion.choices[0], logprobs=logprobs)

    def _paid_for(self, messages: Sequence[Turn], options: dict[str, Any], reserved: int) -> ChatCompletion | None:
        """Send one request; None where the server wants it put otherwise, which is known from then on."""
        sent = self._dialect.put(options)
        self.budget.reserve(reserved)
        used = 0
        try:
            completion = self._completion(messages, sent)
            told = completion.usage.total_tokens if completion and completion.usage else 0
            used = told if told > 0 else reserved if completion else 0  # no answer takes nothing, whatever it says
        finally:
            self.budget.settle(reserved, used)
        return completion

    def _read(self, choice: Choice, *, logprobs: bool) -> Answer:
        """What a server said.

        Raises:
            RequestRefused: When its filter held the answer back.
            ModelError: When log-probabilities are wanted and it seems to give none at all.
        """
        message = choice.message
        if choice.finish_reason == "content_filter":
            raise RequestRefused("the server's content filter held the answer back")
        content = self._key.cleared(message.content or message.refusal or "")
        if not logprobs:
            return Answer(content)
        if given := choice.logprobs and choice.logprobs.content:
            self._gives_logprobs = True
            tokens = tuple(
                Token(
                    self._key.cleared(token.token),
                    tuple((self._key.cleared(other.token), other.logprob) for other in token.top_logprobs),
                )
                for token in given
            )
            return Answer(content, tokens)
        # One answer without any says nothing of the others where it is empty or a refusal, or others had them.
        if (message.content or "").strip() and not message.refusal and not self._gives_logprobs:
            raise ModelError(
                f"{self.config.base_url} gives no log-probabilities of {self.model}", "set llm.server.scoring: samples"
            )
        return Answer(content)

    def _completion(self, messages: Sequence[Turn], sent: dict[str, Any]) -> ChatCompletion | None:
        if self._stopped.is_set():  # it may have had to wait for its share of the budget
            raise Stopped
        try:
            content = asyncio.run_coroutine_threadsafe(self._sent(messages, sent), self._loop).result()
        except CancelledError:
            raise Stopped from None
        except TimeoutError:
            raise _Fault(f"no whole answer in {self.config.timeout:g} seconds") from None
        except openai.APIStatusError as error:
            if self._dialect.learn(error.status_code, str(error.message), sent):
                return None
            raise self._refusal(error) from None  # its chain holds the request, and that the key
        except openai.APIConnectionError as error:
            # A connection that was never made: refused, no such host. By name: openai brings one httpx or another.
            unreachable = type(error.__cause__).__name__ == "ConnectError"
            what = _root_cause(error) if unreachable else type(error).__name__
            raise _Fault(self._key.cleared(what), unreachable=unreachable) from None
        try:
            completion = ChatCompletion.model_validate_json(content)
        except ValidationError:
            raise _Fault("what it sent is no answer") from None
        if not completion.choices:
            raise _Fault("an answer without choices")
        self._answered = True
        return completion

    async def _sent(self, messages: Sequence[Turn], sent: dict[str, Any]) -> bytes:
        """The body of an answer, if it comes in time: a client's own timeout begins anew with every byte.

        Raises:
            TimeoutError: When it does not.
            CancelledError: When nobody waits for it any more.
        """
        if self._abandoned:
            raise CancelledError
        create: Any = self._client.chat.completions.with_raw_response.create
        async with asyncio.timeout(self.config.timeout):
            raw = await create(model=self.model, messages=list(messages), **sent)
        body: bytes = raw.http_response.content
        return body

    def _cancel_all(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        said = self._key.cleared(" ".join(str(error.message).split()))[:300]
        what = f"HTTP {error.status_code}: {said}"
        if error.code != "insufficient_quota" and (error.status_code in _NOT_NOW or error.status_code >= 500):
            return _Fault(f"HTTP {error.status_code}", retry_after(error.response.headers))
        if error.status_code in _ABOUT_THIS_TEXT and self._answered:
            return RequestRefused(what)
        return ModelError(
            f"{self.config.base_url} refuses to answer as {self.model} ({what})",
            "check llm.model, llm.server (base_url, key_env, structured, scoring) and the account",
        )

    def _wait(self, attempt: int, told: float | None) -> float:
        """Seconds before a retry: what the server says, else twice the last wait, both with jitter."""
        jitter = self._rng.random()
        if told is not None:
            return min(told * (1 + 0.1 * jitter), self.config.longest_wait)
        longest = self.config.first_wait * 2.0 ** (attempt - 1)
        return min(longest * (0.5 + 0.5 * jitter), self.config.longest_wait)


def _root_cause(error: BaseException) -> str:
    """The operating system's reason why a connection was not made: the libraries above it say no more than that."""
    while within := error.exceptions[0] if isinstance(error, ExceptionGroup) else error.__cause__ or error.__context__:
        error = within
    return os.strerror(error.errno) if isinstance(error, ConnectionError) and error.errno else str(error)
