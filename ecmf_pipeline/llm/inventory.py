"""Contents of the caches of answers, and the questions that a run would send."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.files import exclusive_lock, sha256_text
from ecmf_pipeline.faces.config import FaceConfig
from ecmf_pipeline.llm.answers import AnswerCache, AnswerFiles, AnswerWriter, FormAnswer, TextScores, open_drafts
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.frames import frame_keys, picture_messages
from ecmf_pipeline.llm.generation import form_parser
from ecmf_pipeline.llm.prompt import Chat, Context, Prompt, RewritePrompt, load_prompt, question_key
from ecmf_pipeline.llm.rewriting import truncate_context
from ecmf_pipeline.llm.scoring import server_calibration_texts
from ecmf_pipeline.llm.server_run import DRAFTS_FILE, Drafts, estimate_tokens
from ecmf_pipeline.store.kept import KeptParts

Caches = Sequence[tuple[AnswerFiles, Callable[[bytes], TextScores | FormAnswer]]]
"""Files of each cache, with the parser of its lines."""


def cached_answer_counts(caches: Caches) -> Iterator[tuple[AnswerFiles, str, int, int]]:
    """Yield for each cache and fingerprint: files, fingerprint, number of answers, number of abstentions."""
    for answer_files, parse in caches:
        for name in cached_fingerprints(answer_files.cache):
            rows = list(AnswerCache(answer_files.cache, name, parse).rows())
            yield answer_files, name, len(rows), sum(_is_abstention(row) for row in rows)


def unfinished(caches: Caches) -> list[tuple[AnswerFiles, str, int]]:
    """Return files, fingerprint and number of paid answers of unfinished questions; two caches may share a spool."""
    by_spool = {answer_files.spool_folder: answer_files for answer_files, _ in caches}
    return [
        (answer_files, path.parent.name, len(open_drafts(answer_files, path.parent.name)))
        for spool, answer_files in by_spool.items()
        for path in sorted(spool.glob(f"*/{DRAFTS_FILE}"))
    ]


def prune(caches: Caches, in_use: set[str], *, remove: bool) -> Iterator[str]:
    """Remove the answers of fingerprints that are not in use.

    Args:
        caches: The caches.
        in_use: Fingerprints to keep.
        remove: Whether to remove the answers; otherwise they are only listed.

    Yields:
        A description of each group of answers, after its removal.
    """
    for answer_files, parse in caches:
        for name in cached_fingerprints(answer_files.cache):
            if name not in in_use:
                if remove:
                    with AnswerWriter(
                        AnswerCache(answer_files.cache, name, parse), answer_files.spool_folder
                    ):  # for its lock
                        KeptParts(answer_files.cache / name).drop()
                        shutil.rmtree(answer_files.cache / name, ignore_errors=True)
                yield f"{answer_files.stage} {name}"
    for answer_files, name, _ in unfinished(caches):
        if name not in in_use:
            if remove:
                with exclusive_lock(answer_files.spool_folder / "lock", f"the answers in {answer_files.cache}"):
                    open_drafts(answer_files, name).remove()
            yield f"{answer_files.stage} {name}, unfinished questions"


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """All questions of a source about the corpus.

    Attributes:
        source: Source of the votes, or ``rewrite``.
        keys: Key by content of the question: a text, the last turn of a rewrite, the digest of a file.
        cache: The cached answers.
        drafts: Paid answers of unfinished questions.
        tokens: Function that estimates the tokens of a question.
        answer_tokens: Maximum number of tokens of an answer.
        samples: Number of answers for each question.
    """

    source: str
    keys: Mapping[str, str]
    cache: AnswerCache[Any]
    drafts: Drafts
    tokens: Callable[[str], int]
    answer_tokens: int
    samples: int = 1

    def missing(self) -> dict[str, str]:
        """Return the contents of the questions without an answer, by key."""
        return {key: text for text, key in self.keys.items() if key not in self.cache}

    def estimate(self) -> Counter[str]:
        """Estimate the cost of the missing answers: requests, tokens of prompts, maximum tokens of answers.

        Paid answers of unfinished questions are not counted.
        """
        total: Counter[str] = Counter()
        for key, text in self.missing().items():
            requests = self.samples - self.drafts.count_settled(key, self.samples)
            total.update(requests=requests, prompts=requests * self.tokens(text), answers=requests * self.answer_tokens)
        return total

    def entries(self, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the cached answers with the content of their question, as JSON values.

        Args:
            labels: The labels of the scores, (K,).
        """
        for text, key in self.keys.items():
            row: TextScores | FormAnswer | None = self.cache.get(key)
            if isinstance(row, FormAnswer):
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
    answer_files: AnswerFiles,
    prompt: Prompt | None = None,
) -> QuestionSet:
    """Return the questions that score texts; see `scoring.label_scores`."""
    used_prompt = prompt or load_prompt(config.prompt)
    return QuestionSet(
        source,
        {text: sha256_text(text) for text in (*texts, *server_calibration_texts(config, used_prompt))},
        AnswerCache(
            answer_files.cache, fingerprint, TextScores.parse, also=[other.cache for other in answer_files.earlier]
        ),
        open_drafts(answer_files, fingerprint),
        lambda text: estimate_tokens(used_prompt.chat_messages(text, labels)),
        config.server.answer_tokens,
        _samples(config),
    )


def rewrite_questions(
    config: LlmConfig,
    contexts: Mapping[str, Context],
    prompt: RewritePrompt,
    fingerprint: str,
    answer_files: AnswerFiles,
) -> QuestionSet:
    """Return the questions of written rewrites; see `rewriting.generate_rewrites`."""
    chats: dict[str, Chat] = {}
    for context in contexts.values():
        chat = prompt.messages(truncate_context(context, config.max_tokens))
        chats[str(chat[-1]["content"])] = chat
    schema = prompt.answer_schema()
    return QuestionSet(
        "rewrite",
        {text: question_key(chat) for text, chat in chats.items()},
        AnswerCache(answer_files.cache, fingerprint, form_parser(schema)),
        open_drafts(answer_files, fingerprint),
        lambda text: estimate_tokens(chats[text]),
        max(config.server.answer_tokens, schema.max_answer_tokens()),
    )


def frame_questions(
    source: str,
    config: LlmConfig,
    clips: Sequence[Clip],
    labels: Sequence[str],
    faces: FaceConfig,
    fingerprint: str,
    answer_files: AnswerFiles,
) -> QuestionSet:
    """Return the questions about pictures of clips; see `frames.frame_scores`."""
    messages = picture_messages(load_prompt(config.prompt), [b""] * config.votes.frames.count, labels)
    return QuestionSet(
        source,
        {key: key for key in frame_keys(clips, config.votes.frames, faces).values()},
        AnswerCache(answer_files.cache, fingerprint, TextScores.parse),
        open_drafts(answer_files, fingerprint),
        lambda _: estimate_tokens(messages),
        config.server.answer_tokens,
        _samples(config),
    )


def _samples(config: LlmConfig) -> int:
    return config.server.samples if config.server.scoring == "samples" else 1


def _is_abstention(row: TextScores | FormAnswer) -> bool:
    return row.values is None if isinstance(row, FormAnswer) else not row.scores


def cached_fingerprints(cache: Path) -> list[str]:
    """Return the fingerprints with answers in a cache or among its kept parts, sorted."""
    kept = KeptParts(cache).folder
    folders = (cache, kept) if kept else (cache,)
    return sorted({path.name for folder in folders for path in folder.glob("*") if path.is_dir()})
