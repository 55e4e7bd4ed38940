"""A run that sends questions to a server: its threads, its budget, and the drafts of paid answers.

Tokens are estimated before a request, and texts are truncated. Questions that take several answers have `Drafts` until
they are finished, so an interrupted run does not pay for the same answer twice.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.errors import BudgetSpent
from ecmf_pipeline.core.files import flush_folder, parse_json, sha256_text, write_atomic
from ecmf_pipeline.llm.config import BudgetConfig
from ecmf_pipeline.llm.prompt import Turn
from ecmf_pipeline.runner import Done, StepFactory, Task
from ecmf_pipeline.runner.run import release_on_signal
from ecmf_pipeline.runner.step import Spool, ignore_phase, run_task

MAX_RAW_CHARACTERS = 2000
"""Number of characters of an invalid answer that are stored."""
DRAFTS_FILE = "drafts.jsonl"
"""File name of the drafts in the spool folder of a fingerprint."""
MAX_TRIES = 2
"""Number of requests until the model abstains: an invalid answer is requested once more."""
_TOKENS_PER_TURN = 4
"""Tokens that frame a turn."""
_TOKENS_PER_PICTURE = 800
"""Tokens of a picture with a longer side of up to 512 pixels. Models and servers differ; this is a high estimate."""


class Budget:
    """Counter of the requests and tokens of one run, shared by its threads.

    Attributes:
        requests: Number of sent requests.
        tokens: Number of paid tokens.
    """

    def __init__(self, config: BudgetConfig) -> None:
        self._config = config
        self._settled = threading.Condition()
        self._reserved = 0
        self.requests = 0
        self.tokens = 0

    def reserve(self, tokens: int) -> None:
        """Reserve a request of at most this many tokens; wait while pending requests reserve the remaining tokens.

        Raises:
            BudgetSpent: If the request would exceed a limit. It must not be sent then.
        """
        config = self._config
        with self._settled:
            while True:
                if config.max_requests is not None and self.requests >= config.max_requests:
                    raise BudgetSpent(f"llm.budget.max_requests is spent: {self.requests} requests sent")
                remaining = None if config.max_tokens is None else config.max_tokens - self.tokens
                if remaining is None or self._reserved + tokens <= remaining:
                    break
                if tokens > remaining or not self._reserved:
                    raise BudgetSpent(
                        f"llm.budget.max_tokens is spent: {self.tokens} of {config.max_tokens} tokens used, and the "
                        f"next request may take {tokens}"
                    )
                self._settled.wait()  # pending requests mostly use less than they reserve
            self.requests += 1
            self._reserved += tokens

    def settle(self, reserved: int, used: int) -> None:
        """Replace reserved tokens by the used ones; 0 for a failed request."""
        with self._settled:
            self._reserved -= reserved
            self.tokens += used
            self._settled.notify_all()


def estimate_tokens(messages: Sequence[Turn]) -> int:
    """Return a high estimate of the tokens of a chat: 4 ASCII characters for a token, 1 character of other scripts."""
    count = 0
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        count += _TOKENS_PER_TURN
        count += sum(_text_tokens(part["text"]) if part["type"] == "text" else _TOKENS_PER_PICTURE for part in parts)
    return count


def _text_tokens(text: str) -> int:
    ascii_count = sum(character.isascii() for character in text)
    return math.ceil(ascii_count / 4) + len(text) - ascii_count


def truncate_text(text: str, tokens: int) -> tuple[str, bool]:
    """Truncate a text to about this many tokens; return it and whether it was truncated."""
    remaining = 4.0 * tokens
    for position, character in enumerate(text):
        remaining -= 1 if character.isascii() else 4
        if remaining < 0:
            return text[:position], True
    return text, False


@dataclass(frozen=True, slots=True)
class Draft:
    """One paid answer.

    Attributes:
        label: Index of the label in the answer; None if the answer is invalid.
        raw: The invalid answer, with its reason in front.
    """

    label: int | None
    raw: str = ""


class Drafts:
    """The drafts of one fingerprint. The threads of the run that holds the lock of the cache can share it.

    Args:
        path: The file of the drafts; it may not exist yet.
        also: Files of other stages that send the same questions; they are only read.
    """

    def __init__(self, path: Path, *, also: Sequence[Path] = ()) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._own = _read_drafts(path)
        self._others = {place: draft for other in also for place, draft in _read_drafts(other).items()}

    def __len__(self) -> int:
        """Return the number of drafts, without those of other stages."""
        return len(self._own)

    def get(self, key: str, number: int) -> Draft | None:
        """Return the answer to the request with this number; None if it has not been paid for."""
        with self._lock:
            return self._own.get((key, number)) or self._others.get((key, number))

    def add(self, key: str, number: int, draft: Draft) -> Draft:
        """Store an answer durably; ``raw`` is truncated as in the cache."""
        draft = Draft(draft.label, draft.raw[:MAX_RAW_CHARACTERS])
        with self._lock:
            self._own[key, number] = draft
            _append_line(self._path, _draft_line(key, number, draft))
        return draft

    def count_settled(self, key: str, samples: int) -> int:
        """Count the samples of a question without a further request: valid ones, and those invalid in all tries."""
        tries = (
            [self.get(key, number + attempt * samples) for attempt in range(MAX_TRIES)] for number in range(samples)
        )
        return sum(all(drafts) or any(draft and draft.label is not None for draft in drafts) for drafts in tries)

    def remove_finished(self, finished: Container[str]) -> None:
        """Remove the drafts of finished questions, which are in the cache; delete the file if none remain."""
        if not self._path.is_file():
            return
        with self._lock:
            self._own = {place: draft for place, draft in self._own.items() if place[0] not in finished}
            if self._own:
                content = "".join(_draft_line(*place, draft) for place, draft in self._own.items())
                write_atomic(self._path, content, only_if_changed=True)
            else:
                self._path.unlink()

    def remove(self) -> None:
        """Remove all drafts, and their folder if it is empty."""
        self._own = {}
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self._path.parent.rmdir()


def _draft_line(key: str, number: int, draft: Draft) -> str:
    answer = {"raw": draft.raw} if draft.label is None else {"label": draft.label}
    entry: dict[str, object] = {"key": key, "number": number, **answer}
    return json.dumps({**entry, "digest": sha256_text(json.dumps(entry))}, separators=(",", ":")) + "\n"


def _append_line(path: Path, line: str) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(f"\n{line}".encode())  # ends a line that a crash truncated
        file.flush()
        os.fsync(file.fileno())
    if new:
        flush_folder(path.parent)


def _read_drafts(path: Path) -> dict[tuple[str, int], Draft]:
    drafts: dict[tuple[str, int], Draft] = {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return drafts
    for line in content.split(b"\n"):
        try:
            if line:
                entry = parse_json(line)
                if entry.pop("digest") != sha256_text(json.dumps(entry)):
                    continue
                label = int(entry["label"]) if "label" in entry else None
                raw = "" if "label" in entry else str(entry["raw"])
                drafts[str(entry["key"]), int(entry["number"])] = Draft(label, raw)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # truncated by a crash, or damaged: the answer is requested again
    return drafts


class ThreadEngine:
    """An engine of threads that share one step, for work that mostly waits."""

    def __init__(self, count: int) -> None:
        self._count = count

    def run(
        self, tasks: Iterable[Task[Any]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[Any]]:
        """Process the tasks; see `runner.Engine`. After a failure, pending tasks are finished first.

        A first Ctrl-C or SIGTERM does the same; a second one cancels pending requests.
        """
        step: Any = factory(0)
        source = iter(tasks)
        failure: BaseException | None = None
        with ThreadPoolExecutor(self._count, thread_name_prefix="ask") as pool:
            pending: set[Future[Done[Any]]] = set()
            try:
                while True:
                    if failure is None:
                        for task in islice(source, self._count - len(pending)):
                            pending.add(pool.submit(run_task, step, spools, task, ignore_phase))
                    if not pending:
                        break
                    finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in finished:
                        if error := future.exception():
                            failure = failure or error
                            step.stop()
                        else:
                            yield future.result()
            finally:
                step.stop()
                for future in pending:
                    future.cancel()
                try:
                    with release_on_signal(
                        step.abandon
                    ):  # pending requests are paid for, but a second signal cancels them
                        pool.shutdown(wait=True)
                finally:
                    step.close()
        if failure is not None:
            raise failure
