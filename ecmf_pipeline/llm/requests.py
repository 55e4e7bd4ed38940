"""Questions to a server: scores of labels, and forms. Each answer is durable before the next request.

The threads of `server_run.ThreadEngine` share one `ServerStep`. An invalid answer is requested once more; then the
model abstains. Paid answers to unfinished questions are stored in `Drafts`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm.answers import FormAnswer, TextScores
from ecmf_pipeline.llm.config import LlmConfig, ServerConfig
from ecmf_pipeline.llm.prompt import Chat, Prompt, Turn, question_key
from ecmf_pipeline.llm.questions import Question
from ecmf_pipeline.llm.schema import InvalidAnswer, OneOf, Schema
from ecmf_pipeline.llm.server_protocol import read_label, read_scores, sample_scores
from ecmf_pipeline.llm.server_run import MAX_TRIES, Budget, Draft, Drafts, truncate_text
from ecmf_pipeline.runner import Item, Outcome, Step

if TYPE_CHECKING:
    from ecmf_pipeline.llm.server import ChatServer

ItemT = TypeVar("ItemT", bound=Item)
OpenedT = TypeVar("OpenedT")
RowT = TypeVar("RowT")


class ServerStep(Step[ItemT, OpenedT, RowT]):
    """A step that sends items to the configured server; threads can share it.

    Args:
        config: The server. Its client library is imported here.
        budget: Limits of the requests.
    """

    def __init__(self, config: LlmConfig, budget: Budget) -> None:
        from ecmf_pipeline.llm.server import ChatServer

        self._server = ChatServer(config.model, config.server, budget)

    @abstractmethod
    def ask(self, item: ItemT, opened: OpenedT) -> RowT:
        """Return the answer about one item.

        Raises:
            ClipError: If the server cannot answer.
        """

    def work(self, batch: Sequence[tuple[ItemT, OpenedT]]) -> list[Outcome[RowT]]:
        """Send each item; the clips of an item share the answer."""
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
        """Send no more requests."""
        self._server.stop()

    def abandon(self) -> None:
        """Send no more requests and cancel the pending ones."""
        self._server.abandon()

    def close(self) -> None:
        """Close the client."""
        self._server.close()


class TextScoringStep(ServerStep[Question[str], str, TextScores]):
    """Step that scores the labels of each text with a server.

    Args:
        config: The server.
        prompt: The prompt.
        labels: Labels to choose from, (K,).
        drafts: Paid answers of unfinished texts.
        budget: Limits of the requests.
    """

    def __init__(
        self, config: LlmConfig, prompt: Prompt, labels: Sequence[str], drafts: Drafts, budget: Budget
    ) -> None:
        super().__init__(config, budget)
        self._max_tokens = config.max_tokens
        self._prompt = prompt
        self._labels = labels
        self._scorer = LabelScorer(self._server, config.server, prompt.words(labels), drafts)

    def open(self, item: Question[str]) -> str:
        """Return the text."""
        return item.content

    def ask(self, item: Question[str], opened: str) -> TextScores:  # noqa: ARG002 - the text is the item
        """Return the scores of a text."""
        text, cut = truncate_text(opened, self._max_tokens)
        return self._scorer.scores(sha256_text(opened), self._prompt.chat_messages(text, self._labels), cut=cut)


class LabelScorer:
    """Label scores of a server: log-probabilities of one answer, or shares of several samples.

    Args:
        server: The client of the server.
        config: Settings of the scoring.
        words: The words of the labels in the prompt, (K,).
        drafts: Paid answers of unfinished questions.
    """

    def __init__(self, server: ChatServer, config: ServerConfig, words: Sequence[str], drafts: Drafts) -> None:
        self._server = server
        self._config = config
        self._words = words
        self._drafts = drafts
        self._schema = Schema.of(label=OneOf(tuple(words))).json_schema()

    def scores(self, key: str, messages: Sequence[Turn], *, cut: bool = False) -> TextScores:
        """Return log-scores of the labels; empty scores if the model abstains, with the invalid answers.

        Args:
            key: Key of the question; its paid answers are not requested again.
            messages: The turns of the chat.
            cut: Whether the text in the chat was truncated.

        Raises:
            ClipError: If the server cannot answer.
        """
        raw: list[str] = []
        by_samples = self._config.scoring == "samples"
        scores = self._by_samples(key, messages, raw) if by_samples else self._by_log_probs(key, messages, raw)
        return TextScores(key, (), cut, tuple(raw)) if scores is None else TextScores.of(key, scores, cut=cut)

    def _by_log_probs(self, key: str, messages: Sequence[Turn], raw: list[str]) -> NDArray[np.float64] | None:
        for attempt in range(MAX_TRIES):
            if draft := self._drafts.get(key, attempt):
                raw.append(draft.raw)
                continue
            answer = self._server.ask(messages, self._schema, logprobs=True)
            try:
                return read_scores(answer, self._words)
            except InvalidAnswer as error:
                raw.append(self._drafts.add(key, attempt, Draft(None, f"{error}: {answer.content}")).raw)
        return None

    def _by_samples(self, key: str, messages: Sequence[Turn], raw: list[str]) -> NDArray[np.float64] | None:
        samples = range(self._config.samples)
        chosen = [label for number in samples for label in self._sample(key, number, messages, raw)]
        return sample_scores(chosen, len(self._words)) if 2 * len(chosen) > self._config.samples else None

    def _sample(self, key: str, number: int, messages: Sequence[Turn], raw: list[str]) -> list[int]:
        """Return the label of one sample; empty if it is invalid in all tries."""
        for attempt in range(MAX_TRIES):
            request = number + attempt * self._config.samples
            draft = self._drafts.get(key, request) or self._drafts.add(key, request, self._draw(request, messages))
            if draft.label is not None:
                return [draft.label]
            raw.append(draft.raw)
        return []

    def _draw(self, request: int, messages: Sequence[Turn]) -> Draft:
        """Request one answer, with the seed of its number."""
        config = self._config
        seed = config.seed + request
        answer = self._server.ask(messages, self._schema, temperature=config.sample_temperature, seed=seed)
        try:
            return Draft(read_label(answer.content, self._words))
        except InvalidAnswer as error:
            return Draft(None, f"{error}: {answer.content}")


class ServerFormStep(ServerStep[Question[Chat], Chat, FormAnswer]):
    """Step that fills in forms with a server.

    Args:
        config: The server.
        schema: Schema of the answers.
        drafts: Paid answers of unfinished questions.
    """

    def __init__(self, config: LlmConfig, schema: Schema, drafts: Drafts) -> None:
        super().__init__(config, Budget(config.budget))
        self._config = config.server
        self._schema = schema
        self._drafts = drafts

    def open(self, item: Question[Chat]) -> Chat:
        """Return the turns of the chat."""
        return item.content

    def ask(self, item: Question[Chat], opened: Chat) -> FormAnswer:  # noqa: ARG002 - the chat is the item
        """Return the most probable answer; if it is invalid, a sampled one, since the same answer would come again."""
        raw: list[str] = []
        key, config, schema = question_key(opened), self._config, self._schema
        max_tokens = max(config.answer_tokens, schema.max_answer_tokens())
        for attempt in range(MAX_TRIES):
            if draft := self._drafts.get(key, attempt):
                raw.append(draft.raw)
                continue
            sampling = {"temperature": config.sample_temperature, "seed": config.seed} if attempt else {}
            options: dict[str, Any] = {"answer_tokens": max_tokens, **sampling}
            answer = self._server.ask(opened, schema.json_schema(), **options)
            try:
                return FormAnswer(key, schema.read(answer.content), tuple(raw))
            except InvalidAnswer as error:
                raw.append(self._drafts.add(key, attempt, Draft(None, f"{error}: {answer.content}")).raw)
        return FormAnswer(key, None, tuple(raw))
