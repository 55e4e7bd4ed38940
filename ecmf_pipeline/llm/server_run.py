"""A run that asks a server: its threads, the limits of what it may send, and the drafts of what it has paid for.

Tokens are estimated before they are sent, and texts cut to size. Questions that take several answers have `Drafts`
until they are finished: what a server said before a run was cut short is not asked for again.
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
from ecmf_pipeline.core.files import flush_folder, write_atomic
from ecmf_pipeline.llm.config import BudgetConfig
from ecmf_pipeline.llm.prompt import Turn
from ecmf_pipeline.runner import Done, StepFactory, Task
from ecmf_pipeline.runner.run import hurried
from ecmf_pipeline.runner.step import Spool, perform, unwatched

RAW = 2000
"""Characters that are kept of an answer that was not valid."""
DRAFTS_FILE = "drafts.jsonl"
"""Name of the drafts in the folder of a fingerprint's spool."""
TRIES = 2
"""An answer that the schema forbids is asked for once more; then the model abstains."""
_TURN = 4
"""Tokens that frame a turn."""
_PICTURE = 800
"""Tokens of a picture of up to 512 pixels a side: models and servers differ, this is on the high side."""


class Budget:
    """Counts requests and tokens of one run, over all its threads.

    Attributes:
        requests: Requests sent.
        tokens: Tokens paid for.
    """

    def __init__(self, config: BudgetConfig) -> None:
        self._config = config
        self._settled = threading.Condition()
        self._reserved = 0
        self.requests = 0
        self.tokens = 0

    def reserve(self, tokens: int) -> None:
        """Make room for a request of at most so many tokens; waits where only those under way leave no room for it.

        Raises:
            BudgetSpent: When it would go beyond a limit. It is not sent then.
        """
        config = self._config
        with self._settled:
            while True:
                if config.max_requests is not None and self.requests >= config.max_requests:
                    raise BudgetSpent(f"llm.budget.max_requests is spent: {self.requests} requests were sent")
                room = None if config.max_tokens is None else config.max_tokens - self.tokens
                if room is None or self._reserved + tokens <= room:
                    break
                if tokens > room or not self._reserved:
                    raise BudgetSpent(
                        f"llm.budget.max_tokens is spent: {self.tokens} of {config.max_tokens} tokens, and the next "
                        f"request may take {tokens}"
                    )
                self._settled.wait()  # those under way mostly take less than they may
            self.requests += 1
            self._reserved += tokens

    def settle(self, reserved: int, used: int) -> None:
        """Replace what was reserved by what was used; 0 for a request that failed."""
        with self._settled:
            self._reserved -= reserved
            self.tokens += used
            self._settled.notify_all()


def about_tokens(messages: Sequence[Turn]) -> int:
    """An estimate on the high side: four ASCII characters a token, one of any other script."""
    count = 0
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        count += _TURN + sum(_of_text(part["text"]) if part["type"] == "text" else _PICTURE for part in parts)
    return count


def _of_text(text: str) -> int:
    plain = sum(character.isascii() for character in text)
    return math.ceil(plain / 4) + len(text) - plain


def shortened(text: str, tokens: int) -> tuple[str, bool]:
    """The beginning of a text that takes about so many tokens, and whether anything was cut."""
    room = 4.0 * tokens
    for position, character in enumerate(text):
        room -= 1 if character.isascii() else 4
        if room < 0:
            return text[:position], True
    return text, False


@dataclass(frozen=True, slots=True)
class Draft:
    """One paid answer.

    Attributes:
        label: Index of the label that it names; None where it is not valid.
        raw: What was said instead, with the reason before it.
    """

    label: int | None
    raw: str = ""


class Drafts:
    """The drafts of one fingerprint; safe to use from several threads of the run that holds the cache's lock.

    Args:
        path: Where they stand; need not exist yet.
        also: Files of other stages that ask the same; they are read only.
    """

    def __init__(self, path: Path, *, also: Sequence[Path] = ()) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._own = _read_drafts(path)
        self._others = {place: draft for other in also for place, draft in _read_drafts(other).items()}

    def __len__(self) -> int:
        """How many there are, without those of other stages."""
        return len(self._own)

    def get(self, key: str, number: int) -> Draft | None:
        """The answer to a question's ``number``-th request, where it has been paid for."""
        with self._lock:
            return self._own.get((key, number)) or self._others.get((key, number))

    def keep(self, key: str, number: int, draft: Draft) -> Draft:
        """Make an answer durable before the next is asked for; ``raw`` is cut to what a cache keeps of it."""
        draft = Draft(draft.label, draft.raw[:RAW])
        with self._lock:
            self._own[key, number] = draft
            _append_line(self._path, _draft_line(key, number, draft))
        return draft

    def settled(self, key: str, samples: int) -> int:
        """How many of a question's samples need no request any more: they are valid, or were not in all tries."""
        tries = ([self.get(key, number + attempt * samples) for attempt in range(TRIES)] for number in range(samples))
        return sum(all(drafts) or any(draft and draft.label is not None for draft in drafts) for drafts in tries)

    def tidy(self, finished: Container[str]) -> None:
        """Drop what belongs to finished questions, which the cache has; without any left, the file goes."""
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
        """Drop all of them, and the folder where nothing else waits in it."""
        self._own = {}
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self._path.parent.rmdir()


def _draft_line(key: str, number: int, draft: Draft) -> str:
    said = {"raw": draft.raw} if draft.label is None else {"label": draft.label}
    return json.dumps({"key": key, "number": number, **said}, separators=(",", ":")) + "\n"


def _append_line(path: Path, line: str) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(f"\n{line}".encode())  # a line that a crash cut short before must not take this one with it
        file.flush()
        os.fsync(file.fileno())
    if new:
        flush_folder(path.parent)


def _read_drafts(path: Path) -> dict[tuple[str, int], Draft]:
    found: dict[tuple[str, int], Draft] = {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return found
    for line in content.split(b"\n"):
        try:
            if line:
                entry = json.loads(line)
                label = int(entry["label"]) if "label" in entry else None
                raw = "" if "label" in entry else str(entry["raw"])
                found[str(entry["key"]), int(entry["number"])] = Draft(label, raw)
        except (ValueError, TypeError, KeyError):
            continue  # torn by a crash: it is asked for again
    return found


class Threads:
    """An engine of so many threads that share one step: right for work that consists of waiting."""

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
