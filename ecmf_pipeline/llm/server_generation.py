"""Answers under a schema from an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ecmf_pipeline.llm.client import Chat, Generated, question_key
from ecmf_pipeline.llm.drafts import TRIES, Draft, Drafts
from ecmf_pipeline.llm.schema import InvalidAnswer, Schema
from ecmf_pipeline.llm.server_config import ServerConfig


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
