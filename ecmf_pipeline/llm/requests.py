"""The runner's step and engine that ask a server: many requests at once, each answer durable when it is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ClipError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm.cache import TextScores
from ecmf_pipeline.llm.client import Budget
from ecmf_pipeline.llm.config import LlmConfig, ServerConfig
from ecmf_pipeline.llm.drafts import TRIES, Draft, Drafts
from ecmf_pipeline.llm.prompt import Message, PictureMessage, Prompt
from ecmf_pipeline.llm.schema import InvalidAnswer, label_schema, read_label, read_scores, share_scores
from ecmf_pipeline.llm.step import LocalScorers, ScoringSteps, Utterance
from ecmf_pipeline.runner import Done, Outcome, Step, StepFactory, Task
from ecmf_pipeline.runner.run import hurried
from ecmf_pipeline.runner.spool import Spool
from ecmf_pipeline.runner.step import perform, unwatched


@dataclass(frozen=True, slots=True)
class AskingSteps:
    """Makes the step that all threads share. The client library is loaded only then.

    Attributes:
        config: The server, and what may be spent.
        prompt: What is asked.
        labels: Labels to choose from, (K,).
        budget: What may still be sent, where several loops share it; None: one of its own, as ``config`` says.
        drafts: What has been paid for of texts that are not finished; None: nothing.
    """

    config: LlmConfig
    prompt: Prompt
    labels: tuple[str, ...]
    budget: Budget | None = None
    drafts: Drafts | None = None

    def keeping(self, drafts: Drafts) -> AskingSteps:
        """See `drafts.DraftingSteps`."""
        return replace(self, drafts=drafts)

    def __call__(self, worker: int) -> AskingStep:  # noqa: ARG002 - there is one for all threads
        """Open the client."""
        from ecmf_pipeline.llm.server import ChatServer

        server = ChatServer(self.config.model, self.config.server, self.budget or Budget(self.config.budget))
        return AskingStep(server, self.config, self.prompt, self.labels, self.drafts)


class AskingStep(Step[Utterance, str, TextScores]):
    """Asks a server which label fits each text; safe to use from several threads.

    Args:
        server: Who is asked (a `server.ChatServer`).
        config: How labels are scored.
        prompt: What is asked.
        labels: Labels to choose from, (K,).
        drafts: What has been paid for of texts that are not finished; None: nothing.
    """

    def __init__(
        self, server: Any, config: LlmConfig, prompt: Prompt, labels: Sequence[str], drafts: Drafts | None = None
    ) -> None:
        self._server = server
        self._config = config
        self._prompt = prompt
        self._labels = labels
        self._asker = LabelAsker(server, config.server, prompt.words(labels), drafts)

    def open(self, item: Utterance) -> str:
        """The words."""
        return item.text

    def work(self, batch: Sequence[tuple[Utterance, str]]) -> list[Outcome[TextScores]]:
        """Ask about each text; the clips that say it share the answer."""
        outcomes: list[Outcome[TextScores]] = []
        for item, text in batch:
            result: TextScores | ClipError
            try:
                result = self._ask(text)
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

    def _ask(self, text: str) -> TextScores:
        short, cut = shortened(text, self._config.max_tokens)
        scores, raw = self._asker.scores(sha256_text(text), self._prompt.chat_messages(short, self._labels))
        return TextScores.abstained(text, raw, cut=cut) if scores is None else TextScores.of(text, scores, cut=cut)


class LabelAsker:
    """Has a server score labels: by the log-probabilities of one answer, or by the share of several.

    Args:
        server: Who is asked (a `server.ChatServer`).
        config: How.
        words: The words that stand for the labels, (K,).
        drafts: What has been paid for of questions that are not finished; None: nothing.
    """

    def __init__(self, server: Any, config: ServerConfig, words: Sequence[str], drafts: Drafts | None = None) -> None:
        self._server = server
        self._config = config
        self._words = words
        self._drafts = Drafts(None) if drafts is None else drafts
        self._schema = label_schema(words)

    def scores(
        self, key: str, messages: Sequence[Message | PictureMessage]
    ) -> tuple[NDArray[np.float64] | None, list[str]]:
        """Log-scores of the labels, (K,), None where it abstains, and the answers that were not valid.

        Args:
            key: Of the question: what has been paid for under it is not asked for again.
            messages: The turns of the chat.

        Raises:
            ClipError: When the server cannot answer about this.
        """
        raw: list[str] = []
        if self._config.scoring == "logprobs":
            for attempt in range(TRIES):
                if draft := self._drafts.get(key, attempt):
                    raw.append(draft.raw)
                    continue
                answer = self._server.ask(messages, self._schema, logprobs=True)
                try:
                    return read_scores(answer, self._words), raw
                except InvalidAnswer as error:
                    raw.append(self._drafts.keep(key, attempt, Draft(None, f"{error}: {answer.content}")).raw)
            return None, raw
        samples = range(self._config.samples)
        chosen = [label for number in samples for label in self._sample(key, number, messages, raw)]
        if 2 * len(chosen) <= self._config.samples:
            return None, raw
        return share_scores(chosen, len(self._words)), raw

    def _sample(self, key: str, number: int, messages: Sequence[Message | PictureMessage], raw: list[str]) -> list[int]:
        """The label of one sample; none where it is invalid twice."""
        for attempt in range(TRIES):
            place = number + attempt * self._config.samples
            draft = self._drafts.get(key, place) or self._drafts.keep(key, place, self._drawn(place, messages))
            if draft.label is not None:
                return [draft.label]
            raw.append(draft.raw)
        return []

    def _drawn(self, place: int, messages: Sequence[Message | PictureMessage]) -> Draft:
        """One answer of the server, drawn with a seed of its own."""
        config = self._config
        seed = config.seed + place
        answer = self._server.ask(messages, self._schema, temperature=config.sample_temperature, seed=seed)
        try:
            return Draft(read_label(answer.content, self._words))
        except InvalidAnswer as error:
            return Draft(None, f"{error}: {answer.content}")


class Threads:
    """An engine of threads that share one step: right for work that consists of waiting.

    Args:
        count: Items under way at once.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def run(
        self, tasks: Iterable[Task[Any]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[Any]]:
        """Work on the tasks; see `runner.Engine`. Where one fails, those under way are finished first.

        So they are on a first Ctrl-C or SIGTERM; a second one leaves at once.
        """
        step: Any = factory(0)
        source = iter(tasks)
        first: BaseException | None = None
        with ThreadPoolExecutor(self._count, thread_name_prefix="ask") as pool:
            pending: set[Future[Done[Any]]] = set()
            try:
                while True:
                    if first is None:
                        for task in islice(source, self._count - len(pending)):
                            pending.add(pool.submit(perform, step, spools, task, unwatched))
                    if not pending:
                        break
                    finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in finished:
                        if error := future.exception():
                            first = first or error
                            step.stop()
                        else:
                            yield future.result()
            finally:
                step.stop()
                for future in pending:
                    future.cancel()
                try:
                    with hurried(step.abandon):  # what is under way is paid for; yet nobody has to wait for it
                        pool.shutdown(wait=True)
                finally:
                    step.close()
        if first is not None:
            raise first


def shortened(text: str, tokens: int) -> tuple[str, bool]:
    """The beginning of a text that takes about so many tokens, and whether anything was cut."""
    room = 4.0 * tokens
    for position, character in enumerate(text):
        room -= 1 if character.isascii() else 4
        if room < 0:
            return text[:position], True
    return text, False


def steps_of(config: LlmConfig, prompt: Prompt, labels: Sequence[str], budget: Budget | None = None) -> StepFactory:
    """The factory of the steps that score labels; it loads neither a model nor a client library.

    Args:
        config: The model and what it is asked.
        prompt: The prompt, packaged or with examples of the corpus.
        labels: Labels to choose from, (K,).
        budget: What may still be sent to a server; None: as ``config`` says.
    """
    if config.backend == "openai":
        return AskingSteps(config, prompt, tuple(labels), budget)
    return ScoringSteps(LocalScorers(config, prompt), tuple(labels))
