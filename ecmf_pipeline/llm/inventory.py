"""What the caches of answers hold, and what a run would still ask."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.files import exclusive, sha256_text
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.llm.answers import AnswerCache, AnswerWriter, ScoreBooks, TextScores, Written, drafts_of
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.frames import frame_keys, picture_messages
from ecmf_pipeline.llm.generation import written_under
from ecmf_pipeline.llm.prompt import Chat, Context, Prompt, RewritePrompt, load_prompt, question_key
from ecmf_pipeline.llm.rewriting import shortened_context
from ecmf_pipeline.llm.scoring import calibration_of_server
from ecmf_pipeline.llm.server_run import DRAFTS_FILE, Drafts, about_tokens

Caches = Sequence[tuple[ScoreBooks, Callable[[bytes], TextScores | Written]]]
"""Where answers are kept, and how a line of them is read."""


def kept_answers(caches: Caches) -> Iterator[tuple[ScoreBooks, str, int, int]]:
    """What each cache holds: its place and settings, how many answers, and on how many the model abstains."""
    for books, parse in caches:
        for name in _fingerprints(books):
            rows = list(AnswerCache(books.cache, name, parse).rows())
            yield books, name, len(rows), sum(_is_invalid(row) for row in rows)


def unfinished(caches: Caches) -> list[tuple[ScoreBooks, str, int]]:
    """How many paid answers of unfinished questions wait, by place and settings; two caches may share a place."""
    places = {books.waiting: books for books, _ in caches}
    found = [(places[at], path.parent.name) for at in places for path in sorted(at.glob(f"*/{DRAFTS_FILE}"))]
    return [(books, name, len(drafts_of(books, name))) for books, name in found]


def prune(caches: Caches, in_use: set[str], *, remove: bool) -> Iterator[str]:
    """Remove what was answered under settings that are not in use.

    Args:
        caches: The caches.
        in_use: Fingerprints that stay.
        remove: Whether it is removed; else it is only named.

    Yields:
        What it is, once it is gone.
    """
    for books, parse in caches:
        for name in _fingerprints(books):
            if name not in in_use:
                if remove:
                    with AnswerWriter(AnswerCache(books.cache, name, parse), books.waiting):  # holds the lock
                        shutil.rmtree(books.cache / name, ignore_errors=True)
                yield f"{books.stage} {name}"
    for books, name, _ in unfinished(caches):
        if name not in in_use:
            if remove:
                with exclusive(books.waiting / "lock", f"the answers in {books.cache}"):
                    drafts_of(books, name).remove()
            yield f"{books.stage} {name}, unfinished questions"


@dataclass(frozen=True, slots=True)
class Questions:
    """All that a source asks about the corpus.

    Attributes:
        source: What the answers are for.
        keys: Key by what is asked about: a text, the question of a rewrite, a file's digest.
        cache: What is known.
        drafts: What has been paid for of questions that are not finished.
        tokens: About how many tokens a question takes.
        answer_tokens: How many an answer takes at most.
        samples: How many answers are asked for.
    """

    source: str
    keys: Mapping[str, str]
    cache: AnswerCache[Any]
    drafts: Drafts
    tokens: Callable[[str], int]
    answer_tokens: int
    samples: int = 1

    def missing(self) -> dict[str, str]:
        """What no answer is known about, by key."""
        return {key: text for text, key in self.keys.items() if key not in self.cache}

    def estimate(self) -> Counter[str]:
        """What it takes to ask a server about what is missing: requests, tokens of prompts, at most those of answers.

        What has been paid for is not asked again.
        """
        found: Counter[str] = Counter()
        for key, text in self.missing().items():
            left = self.samples - self.drafts.settled(key, self.samples)
            found.update(requests=left, prompts=left * self.tokens(text), answers=left * self.answer_tokens)
        return found

    def entries(self, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
        """What is known, with what it is about, as plain JSON values.

        Args:
            labels: The labels of the scores, (K,).
        """
        for text, key in self.keys.items():
            row: TextScores | Written | None = self.cache.get(key)
            if isinstance(row, Written):
                values = dict(row.values) if row.values else None
                yield {"source": self.source, "text": text, "values": values, "raw": list(row.raw)}
            elif row is not None:
                scores = dict(zip(labels, row.scores, strict=False))
                yield {"source": self.source, "text": text, "scores": scores, "raw": list(row.raw)}


def score_questions(
    source: str,
    config: LlmConfig,
    texts: Sequence[str],
    labels: Sequence[str],
    fingerprint: str,
    books: ScoreBooks,
    prompt: Prompt | None = None,
) -> Questions:
    """What is asked to score texts; see `scoring.label_scores`."""
    asked = prompt or load_prompt(config.prompt)
    return Questions(
        source,
        {text: sha256_text(text) for text in (*texts, *calibration_of_server(config, asked))},
        AnswerCache(books.cache, fingerprint, TextScores.parse, also=[other.cache for other in books.earlier]),
        drafts_of(books, fingerprint),
        lambda text: about_tokens(asked.chat_messages(text, labels)),
        config.server.answer_tokens,
        _samples(config),
    )


def rewrite_questions(
    config: LlmConfig, contexts: Mapping[str, Context], prompt: RewritePrompt, fingerprint: str, books: ScoreBooks
) -> Questions:
    """What is asked to write rewrites; see `rewriting.write_rewrites`."""
    chats: dict[str, Chat] = {}
    for context in contexts.values():
        chat = prompt.messages(shortened_context(context, config.max_tokens))
        chats[str(chat[-1]["content"])] = chat
    schema = prompt.schema_of_answers()
    return Questions(
        "rewrite",
        {text: question_key(chat) for text, chat in chats.items()},
        AnswerCache(books.cache, fingerprint, written_under(schema)),
        drafts_of(books, fingerprint),
        lambda text: about_tokens(chats[text]),
        max(config.server.answer_tokens, schema.most_tokens()),
    )


def frame_questions(
    source: str,
    config: LlmConfig,
    clips: Sequence[Clip],
    labels: Sequence[str],
    faces: FaceConfig,
    fingerprint: str,
    books: ScoreBooks,
) -> Questions:
    """What is asked about pictures of clips; see `frames.frame_scores`."""
    shown = picture_messages(load_prompt(config.prompt), [b""] * config.votes.frames.count, labels)
    return Questions(
        source,
        {key: key for key in frame_keys(clips, config.votes.frames, faces).values()},
        AnswerCache(books.cache, fingerprint, TextScores.parse),
        drafts_of(books, fingerprint),
        lambda _: about_tokens(shown),
        config.server.answer_tokens,
        _samples(config),
    )


def _samples(config: LlmConfig) -> int:
    return config.server.samples if config.server.scoring == "samples" else 1


def _is_invalid(row: TextScores | Written) -> bool:
    return row.values is None if isinstance(row, Written) else not row.scores


def _fingerprints(books: ScoreBooks) -> list[str]:
    return sorted(path.name for path in books.cache.glob("*") if path.is_dir())
