"""Chat requests to an OpenAI-compatible server with the client library of OpenAI.

The library runs on an event loop in a separate thread, where a whole request can be cancelled. Retries, waits and
budgets are implemented here, so the budget counts each request that is sent. The key is removed from all responses
before any other code reads them.
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
from httpx2 import ConnectError
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice
from pydantic import ValidationError

from ecmf_pipeline.core.errors import EcmfError, ModelError, RequestRefused, ServerUnavailable, TryAgain
from ecmf_pipeline.llm.config import ServerConfig
from ecmf_pipeline.llm.prompt import Turn
from ecmf_pipeline.llm.server_client import open_client
from ecmf_pipeline.llm.server_protocol import Answer, RequestOptions, ServerKey, Token, response_format, retry_after
from ecmf_pipeline.llm.server_run import Budget, estimate_tokens

_RETRYABLE = {408, 409, 425, 429}
_REQUEST_ERRORS = {400, 413, 422}
_MAX_CONNECTION_TRIES = 3
"""Number of tries if the server never responded before: mostly its address is wrong."""

_MIN_FAILED_QUESTIONS = 4
"""Minimum number of consecutive failed questions until a server counts as down."""


class Stopped(EcmfError):
    """The run is ending: no more requests are sent."""


class _TransientFailure(Exception):
    """The server failed in a way that may pass.

    Args:
        message: The failure.
        wait: Seconds until the retry that the server requested; None if it requested none.
        unreachable: Whether no connection was made.
    """

    def __init__(self, message: str, wait: float | None = None, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.unreachable = unreachable


class ChatServer:
    """Client of a server; threads can share it.

    Args:
        model: Name of the model on the server.
        config: Address and request options.
        budget: Limits of the requests.
        rng: Random generator of the jitter.

    Raises:
        ModelError: If the environment variable of the key is not set or cannot be a key.
    """

    def __init__(self, model: str, config: ServerConfig, budget: Budget, *, rng: random.Random | None = None) -> None:
        self.model = model
        self.config = config
        self.budget = budget
        self._rng = rng or random.Random()
        self._stopped = threading.Event()
        self._answered = False
        self._returned_logprobs = False
        self._options = RequestOptions()
        self._lock = threading.Lock()
        self._failed = 0  # consecutive failed questions
        self._key = ServerKey.of(config)
        self._client = open_client(config.base_url, self._key.text, config.timeout)
        self._abandoned = False
        self._event_loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._event_loop.run_forever, name="requests", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more requests; pending requests continue until their timeout."""
        self._stopped.set()

    def abandon(self) -> None:
        """Send no more requests and cancel the pending ones."""
        self._stopped.set()
        self._abandoned = True
        self._event_loop.call_soon_threadsafe(self._cancel_all)

    def close(self) -> None:
        """Close the connections."""
        asyncio.run_coroutine_threadsafe(self._client.close(), self._event_loop).result()
        self._event_loop.call_soon_threadsafe(self._event_loop.stop)
        self._thread.join()
        self._event_loop.close()

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
        """Request an answer, with retries.

        Args:
            messages: The turns of the chat.
            schema: JSON schema of the answer; the caller must validate the answer.
            temperature: Temperature of the sampling; 0 selects the most probable answer.
            seed: Seed of the sampling.
            logprobs: Whether to request the tokens of the answer with their alternatives.
            answer_tokens: Maximum number of tokens of the answer; None: that of the config.

        Raises:
            ServerUnavailable: If the server fails in all tries.
            TryAgain: If it failed on so many consecutive questions that it counts as down.
            RequestRefused: If it rejects this request, or its reply is too large.
            ModelError: If no server responds, or it rejects all requests (key, model, permissions), redirects them
                or lacks a feature.
            BudgetSpent: If the request exceeds the budget.
            Stopped: If the run is ending.
        """
        max_tokens = answer_tokens or self.config.answer_tokens
        options: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        options |= {"seed": seed} if seed is not None else {}
        options |= {"logprobs": True, "top_logprobs": 20} if logprobs else {}
        options |= response_format(self.config, schema)
        reserved = estimate_tokens(messages) + max_tokens
        failure = _TransientFailure("no request was sent")
        for attempt in range(self.config.max_retries + 1):
            if attempt and self._stopped.wait(self._wait(attempt, failure.wait)):
                raise Stopped
            try:
                answer = self._ask_once(messages, options, reserved, logprobs=logprobs)
            except _TransientFailure as error:
                failure = error
                if failure.unreachable and attempt >= _MAX_CONNECTION_TRIES - 1 and not self._answered:
                    raise ModelError(
                        f"the server at {self.config.base_url} cannot be reached: {failure}",
                        "start the server or correct llm.server.base_url, then run the same command again",
                    ) from None
            else:
                with self._lock:
                    self._failed = 0
                return answer
        raise self._exhausted(failure)

    def _exhausted(self, failure: _TransientFailure) -> Exception:
        """Return the error of a question that failed in all tries: of this question, or of a server that is down."""
        with self._lock:
            self._failed += 1
            failed = self._failed
        last = self._key.redact(f"last: {failure}")
        if failed < max(_MIN_FAILED_QUESTIONS, 2 * self.config.concurrency):
            return ServerUnavailable(f"the server failed {self.config.max_retries + 1} times, {last}")
        return TryAgain(f"the server at {self.config.base_url} failed on {failed} consecutive questions, {last}")

    def _ask_once(self, messages: Sequence[Turn], options: dict[str, Any], reserved: int, *, logprobs: bool) -> Answer:
        if self._stopped.is_set():
            raise Stopped
        while (completion := self._send_within_budget(messages, options, reserved)) is None:
            pass
        return self._read(completion.choices[0], logprobs=logprobs)

    def _send_within_budget(
        self, messages: Sequence[Turn], options: dict[str, Any], reserved: int
    ) -> ChatCompletion | None:
        """Send one request; None if the server rejects its options, which are adapted for further requests."""
        sent = self._options.adapt(options)
        self.budget.reserve(reserved)
        used = 0
        try:
            completion = self._complete(messages, sent)
            counted = completion.usage.total_tokens if completion and completion.usage else 0
            used = counted if counted > 0 else reserved if completion else 0  # ignores impossible counts
        finally:
            self.budget.settle(reserved, used)
        return completion

    def _read(self, choice: Choice, *, logprobs: bool) -> Answer:
        """Convert a response to an answer.

        Raises:
            RequestRefused: If the content filter of the server blocked the answer.
            ModelError: If log-probabilities were requested and the server seems to return none.
        """
        message = choice.message
        if choice.finish_reason == "content_filter":
            raise RequestRefused("the server's content filter blocked the answer")
        content = self._key.redact(message.content or message.refusal or "")
        if not logprobs:
            return Answer(content)
        if scored_tokens := choice.logprobs and choice.logprobs.content:
            self._returned_logprobs = True
            tokens = tuple(
                Token(
                    self._key.redact(token.token),
                    tuple((self._key.redact(other.token), other.logprob) for other in token.top_logprobs),
                )
                for token in scored_tokens
            )
            return Answer(content, tokens)
        # Empty answers and refusals have no log-probabilities on any server.
        if (message.content or "").strip() and not message.refusal and not self._returned_logprobs:
            raise ModelError(
                f"the server at {self.config.base_url} returns no log-probabilities of {self.model}",
                "set llm.server.scoring: samples",
            )
        return Answer(content)

    def _complete(self, messages: Sequence[Turn], sent: dict[str, Any]) -> ChatCompletion | None:
        if self._stopped.is_set():  # the run may have ended during the wait for the budget
            raise Stopped
        try:
            content = asyncio.run_coroutine_threadsafe(self._send(messages, sent), self._event_loop).result()
        except CancelledError:
            raise Stopped from None
        except TimeoutError:
            raise _TransientFailure(f"no complete answer in {self.config.timeout:g} seconds") from None
        except openai.APIStatusError as error:
            if self._options.update(error.status_code, str(error.message), sent):
                return None
            raise self._status_error(error) from None  # the chain contains the request, and therefore the key
        except openai.APIConnectionError as error:
            unreachable = isinstance(error.__cause__, ConnectError)  # refused, unknown host
            reason = _root_cause(error) if unreachable else type(error).__name__
            raise _TransientFailure(self._key.redact(reason), unreachable=unreachable) from None
        try:
            completion = ChatCompletion.model_validate_json(content)
        except ValidationError:
            raise _TransientFailure("the response is not a chat completion") from None
        if not completion.choices:
            raise _TransientFailure("the response has no choices")
        self._answered = True
        return completion

    async def _send(self, messages: Sequence[Turn], sent: dict[str, Any]) -> bytes:
        """Return the body of a response within the timeout; the timeout of the client library restarts with every byte.

        Raises:
            TimeoutError: If the response is not complete in time.
            CancelledError: If the run was abandoned.
        """
        if self._abandoned:
            raise CancelledError
        create: Any = self._client.chat.completions.with_raw_response.create
        async with asyncio.timeout(self.config.timeout):
            raw = await create(model=self.model, messages=list(messages), **sent)
        body: bytes = raw.http_response.content
        return body

    def _cancel_all(self) -> None:
        for task in asyncio.all_tasks(self._event_loop):
            task.cancel()

    def _status_error(self, error: openai.APIStatusError) -> Exception:
        detail = self._key.redact(" ".join(str(error.message).split()))[:300]
        reason = f"HTTP {error.status_code}: {detail}"
        if error.code != "insufficient_quota" and (error.status_code in _RETRYABLE or error.status_code >= 500):
            return _TransientFailure(f"HTTP {error.status_code}", retry_after(error.response.headers))
        if error.status_code in _REQUEST_ERRORS and self._answered:
            return RequestRefused(reason)
        return ModelError(
            f"the server at {self.config.base_url} rejects requests for the model {self.model}: {reason}",
            "check llm.model, llm.server (base_url, key_env, structured, scoring) and the account",
        )

    def _wait(self, attempt: int, requested: float | None) -> float:
        """Return the seconds before a retry: as the server requested, or twice the last wait, both with jitter."""
        jitter = self._rng.random()
        if requested is not None:
            return min(requested * (1 + 0.1 * jitter), self.config.longest_wait)
        upper = self.config.first_wait * 2.0 ** (attempt - 1)
        return min(upper * (0.5 + 0.5 * jitter), self.config.longest_wait)


def _root_cause(error: BaseException) -> str:
    """Return the reason of the operating system why a connection failed; the libraries hide it in the cause."""
    while cause := error.exceptions[0] if isinstance(error, ExceptionGroup) else error.__cause__ or error.__context__:
        error = cause
    return os.strerror(error.errno) if isinstance(error, ConnectionError) and error.errno else str(error)
