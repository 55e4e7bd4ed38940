"""What a server is asked: to score labels, and to fill in a form. Each answer is durable before the next is asked for.

A `ServerStep` is shared by the threads of `server_run.Threads`. An answer that its schema forbids is asked for once
more; then the model abstains. What has been paid for of a question that is not finished stands in its `Drafts`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm.answers import Question, TextScores, Written
from ecmf_pipeline.llm.config import LlmConfig, ServerConfig
from ecmf_pipeline.llm.prompt import Chat, Prompt, Turn, question_key
from ecmf_pipeline.llm.schema import InvalidAnswer, OneOf, Schema
from ecmf_pipeline.llm.server_protocol import read_label, read_scores, share_scores
from ecmf_pipeline.llm.server_run import TRIES, Budget, Draft, Drafts, shortened
from ecmf_pipeline.runner import Item, Outcome, Step

if TYPE_CHECKING:
    from ecmf_pipeline.llm.server import ChatServer

ItemT = TypeVar("ItemT", bound=Item)
OpenedT = TypeVar("OpenedT")
RowT = TypeVar("RowT")


class ServerStep(Step[ItemT, OpenedT, RowT]):
    """Asks the server that params name about one item after the other; safe to use from several threads.

    Args:
        config: The server; its client library is loaded only now.
        budget: What may be sent.
    """

    def __init__(self, config: LlmConfig, budget: Budget) -> None:
        from ecmf_pipeline.llm.server import ChatServer

        self._server = ChatServer(config.model, config.server, budget)

    @abstractmethod
    def ask(self, item: ItemT, opened: OpenedT) -> RowT:
        """The answer about one item.

        Raises:
            ClipError: When the server cannot answer about it.
        """

    def work(self, batch: Sequence[tuple[ItemT, OpenedT]]) -> list[Outcome[RowT]]:
        """Ask about each item; the clips that share it share the answer."""
        outcomes: list[Outcome[RowT]] = []
        for item, opened in batch:
            result: RowT | ClipError
            try:
                result = self.ask(item, opened)
            except ClipError as error:
                result = error
            outcomes += [Outcome(target, result) for target in item.targets]
        return outcomes

    def stop(self) -> None:
        """Send nothing any more."""
        self._server.stop()

    def abandon(self) -> None:
        """Send nothing any more, and hear none of the requests under way."""
        self._server.abandon()

    def close(self) -> None:
        """Close the client."""
        self._server.close()


class AskingStep(ServerStep[Question[str], str, TextScores]):
    """Asks a server which label fits each text.

    Args:
        config: The server.
        prompt: What is asked.
        labels: Labels to choose from, (K,).
        drafts: What has been paid for of texts that are not finished.
        budget: What may still be sent.
    """

    def __init__(
        self, config: LlmConfig, prompt: Prompt, labels: Sequence[str], drafts: Drafts, budget: Budget
    ) -> None:
        super().__init__(config, budget)
        self._max_tokens = config.max_tokens
        self._prompt = prompt
        self._labels = labels
        self._asker = LabelAsker(self._server, config.server, prompt.words(labels), drafts)

    def open(self, item: Question[str]) -> str:
        """The words."""
        return item.about

    def ask(self, item: Question[str], opened: str) -> TextScores:  # noqa: ARG002 - the words are the item
        """The scores of a text."""
        short, cut = shortened(opened, self._max_tokens)
        return self._asker.scores(sha256_text(opened), self._prompt.chat_messages(short, self._labels), cut=cut)


class LabelAsker:
    """Has a server score labels: by the log-probabilities of one answer, or by the share of several.

    Args:
        server: Who is asked.
        config: How.
        words: The words that stand for the labels, (K,).
        drafts: What has been paid for of questions that are not finished.
    """

    def __init__(self, server: ChatServer, config: ServerConfig, words: Sequence[str], drafts: Drafts) -> None:
        self._server = server
        self._config = config
        self._words = words
        self._drafts = drafts
        self._schema = Schema.of(label=OneOf(tuple(words))).json_schema()

    def scores(self, key: str, messages: Sequence[Turn], *, cut: bool = False) -> TextScores:
        """Log-scores of the labels, or that the model abstains, with the answers that were not valid.

        Args:
            key: What has been paid for under it is not asked for again.
            messages: The turns of the chat.
            cut: Whether they hold the beginning of a text alone.

        Raises:
            ClipError: When the server cannot answer about this.
        """
        raw: list[str] = []
        by_samples = self._config.scoring == "samples"
        found = self._by_samples(key, messages, raw) if by_samples else self._by_log_probs(key, messages, raw)
        return TextScores(key, (), cut, tuple(raw)) if found is None else TextScores.of(key, found, cut=cut)

    def _by_log_probs(self, key: str, messages: Sequence[Turn], raw: list[str]) -> NDArray[np.float64] | None:
        for attempt in range(TRIES):
            if draft := self._drafts.get(key, attempt):
                raw.append(draft.raw)
                continue
            answer = self._server.ask(messages, self._schema, logprobs=True)
            try:
                return read_scores(answer, self._words)
            except InvalidAnswer as error:
                raw.append(self._drafts.keep(key, attempt, Draft(None, f"{error}: {answer.content}")).raw)
        return None

    def _by_samples(self, key: str, messages: Sequence[Turn], raw: list[str]) -> NDArray[np.float64] | None:
        samples = range(self._config.samples)
        chosen = [label for number in samples for label in self._sample(key, number, messages, raw)]
        return share_scores(chosen, len(self._words)) if 2 * len(chosen) > self._config.samples else None

    def _sample(self, key: str, number: int, messages: Sequence[Turn], raw: list[str]) -> list[int]:
        """The label of one sample; none where it is invalid twice."""
        for attempt in range(TRIES):
            place = number + attempt * self._config.samples
            draft = self._drafts.get(key, place) or self._drafts.keep(key, place, self._drawn(place, messages))
            if draft.label is not None:
                return [draft.label]
            raw.append(draft.raw)
        return []

    def _drawn(self, place: int, messages: Sequence[Turn]) -> Draft:
        """One answer of the server, drawn with a seed of its own."""
        config = self._config
        seed = config.seed + place
        answer = self._server.ask(messages, self._schema, temperature=config.sample_temperature, seed=seed)
        try:
            return Draft(read_label(answer.content, self._words))
        except InvalidAnswer as error:
            return Draft(None, f"{error}: {answer.content}")


class FormStep(ServerStep[Question[Chat], Chat, Written]):
    """Has a server fill in forms.

    Args:
        config: The server.
        schema: The form of the answers.
        drafts: What has been paid for of questions that are not finished.
    """

    def __init__(self, config: LlmConfig, schema: Schema, drafts: Drafts) -> None:
        super().__init__(config, Budget(config.budget))
        self._config = config.server
        self._schema = schema
        self._drafts = drafts

    def open(self, item: Question[Chat]) -> Chat:
        """The turns."""
        return item.about

    def ask(self, item: Question[Chat], opened: Chat) -> Written:  # noqa: ARG002 - the turns are the item
        """The likeliest answer; where that is invalid, one that is drawn, since the same would come again."""
        raw: list[str] = []
        key, config, schema = question_key(opened), self._config, self._schema
        room = max(config.answer_tokens, schema.most_tokens())
        for attempt in range(TRIES):
            if draft := self._drafts.get(key, attempt):
                raw.append(draft.raw)
                continue
            drawn: dict[str, Any] = {"temperature": config.sample_temperature, "seed": config.seed} if attempt else {}
            answer = self._server.ask(opened, schema.json_schema(), answer_tokens=room, **drawn)
            try:
                return Written(key, schema.read(answer.content), tuple(raw))
            except InvalidAnswer as error:
                raw.append(self._drafts.keep(key, attempt, Draft(None, f"{error}: {answer.content}")).raw)
        return Written(key, None, tuple(raw))
