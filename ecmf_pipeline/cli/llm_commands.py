"""What `ecmf-pipe llm` does: looks at the caches of `rewrite` and `vote`, and counts what they lack."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.clips import Clip
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import fingerprint, sha256_text, write_atomic
from ecmf_pipeline.core.formatting import counted
from ecmf_pipeline.core.locks import exclusive
from ecmf_pipeline.core.progress import say
from ecmf_pipeline.llm.budget import about_tokens
from ecmf_pipeline.llm.cache import AnswerCache, AnswerWriter, TextScores, Written
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.drafts import FILE, Drafts
from ecmf_pipeline.llm.frames import frame_keys, frame_settings, picture_messages
from ecmf_pipeline.llm.generation import generation_settings, written_under
from ecmf_pipeline.llm.prompt import Chat, Prompt, load_prompt, question_key
from ecmf_pipeline.llm.rewrite_prompt import load_rewrite_prompt
from ecmf_pipeline.llm.rewriting import shortened_context
from ecmf_pipeline.llm.run import ScoreBooks, drafts_of
from ecmf_pipeline.llm.scoring import calibration_of_server
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.inputs import folds_of, read_labelled_corpus, read_spoken_manifest, with_words
from ecmf_pipeline.stages.shared.llm import (
    ANSWER_BOOKS,
    REWRITE_BOOKS,
    VOTE_BOOKS,
    asked_about_cues,
    contexts_of,
    cue_texts,
    fold_prompts,
    labels_to_ask,
)

_BOOKS: tuple[tuple[ScoreBooks, Callable[[bytes], TextScores | Written]], ...] = (
    (REWRITE_BOOKS, TextScores.parse),
    (ANSWER_BOOKS, Written.parse),
    (VOTE_BOOKS, TextScores.parse),
)

_WENT, _WOULD_GO = "removed", "would go (--yes removes it)"


def ls() -> None:
    """Say what each cache holds."""
    in_use = set(_in_use(load_params()).values())
    for books, parse in _BOOKS:
        for name in _fingerprints(books):
            rows = list(AnswerCache(books.cache, name, parse).rows())
            invalid = sum(_is_invalid(row) for row in rows)
            mark = "in use" if name in in_use else "other settings"
            say(f"{books.stage} {name}: {counted(len(rows), 'answer')}, {invalid} without a valid one, {mark}")
    for books, name in _unfinished():
        paid, mark = len(drafts_of(books, name)), "in use" if name in in_use else "other settings"
        say(f"{books.stage} {name}: {counted(paid, 'paid answer')} of unfinished questions, {mark}")


def prune(*, yes: bool) -> None:
    """Remove, or name, what other settings left."""
    in_use = set(_in_use(load_params()).values())
    for books, parse in _BOOKS:
        for name in _fingerprints(books):
            if name in in_use:
                continue
            if yes:
                with AnswerWriter(AnswerCache(books.cache, name, parse), books.waiting):  # holds the lock
                    shutil.rmtree(books.cache / name, ignore_errors=True)
                    (books.cache / f"{name}.jsonl").unlink(missing_ok=True)
            say(f"{books.stage} {name}: {_WENT if yes else _WOULD_GO}")
    for books, name in _unfinished():
        if name not in in_use:
            if yes:
                with exclusive(books.waiting / "lock", f"the answers in {books.cache}"):
                    drafts_of(books, name).remove()
            say(f"{books.stage} {name}, unfinished questions: {_WENT if yes else _WOULD_GO}")


def export(out: Path) -> None:
    """Write what is known of the manifest's texts under the settings in use.

    Args:
        out: A new file; ``-`` is standard output.

    Raises:
        InputError: When the file is there already.
    """
    if str(out) != "-" and out.exists():
        raise InputError(f"{out} is already there", "choose a new file")
    labels, entries = labels_to_ask(), []
    for asked in _questions(load_params()):
        for text, key in asked.keys.items():
            if key not in asked.cache:
                continue
            row, entry = asked.cache[key], {"source": asked.source, "text": text}
            if isinstance(row, Written):
                values = row.answer.values
                entries.append(entry | {"values": dict(values) if values else None, "raw": list(row.answer.raw)})
            else:
                entries.append(entry | {"scores": dict(zip(labels, row.scores, strict=False)), "raw": list(row.raw)})
    written = [json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in entries]
    if str(out) == "-":
        for line in written:
            say(line)
        return
    write_atomic(out, "".join(f"{line}\n" for line in written))
    say(f"{out}: {counted(len(entries), 'answer')}")


def plan() -> None:
    """Say what the next run would ask."""
    params = load_params()
    config, on_server = params.llm, params.llm.backend == "openai"
    prompts = answers = requests = 0
    for asked in _questions(params):
        missing = {key: text for text, key in asked.keys.items() if key not in asked.cache}
        say(f"{asked.source}: {counted(len(missing), 'question')} to ask, {len(asked.keys) - len(missing)} known")
        if on_server:
            left = {key: asked.samples - asked.drafts.settled(key, asked.samples) for key in missing}
            requests += sum(left.values())
            prompts += sum(left[key] * asked.tokens(text) for key, text in missing.items())
            answers += sum(left.values()) * asked.answer_tokens
    if not on_server:
        say("of a model on this machine: no requests, no cost")
        return
    cost = (prompts * config.prices.prompt + answers * config.prices.answer) / 1e6
    say(
        f"{counted(requests, 'request')}: about {prompts} tokens of prompts and at most {answers} of answers"
        + (f", at most about {cost:.2f}" if cost else "")
    )


@dataclass(frozen=True, slots=True)
class _Questions:
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
    keys: dict[str, str]
    cache: AnswerCache[Any]
    drafts: Drafts
    tokens: Callable[[str], int]
    answer_tokens: int
    samples: int = 1


def _questions(params: Params) -> Iterator[_Questions]:
    clips, in_use = read_spoken_manifest(params), _in_use(params)
    if "rewrite" in in_use:
        yield _rewrites(params, clips, in_use["rewrite"])
    if "llm" in in_use:
        yield _scores("llm", params.llm, _words(clips), in_use["llm"])
    for source, (prompt, some) in _of_folds(params).items():
        yield _scores(source, params.llm, _words(some), in_use[source], prompt)
    if "llm/cues" in in_use:
        cues = [text for text in cue_texts(params, clips).values() if text.strip()]
        yield _scores("llm/cues", asked_about_cues(params.llm), cues, in_use["llm/cues"])
    if "llm/frames" in in_use:
        yield _frames(params, clips, in_use["llm/frames"])


def _words(clips: Sequence[Clip]) -> list[str]:
    return [clip.transcript for clip in clips if clip.transcript.strip()]


def _of_folds(params: Params) -> dict[str, tuple[Prompt, list[Clip]]]:
    """By source, the prompt and the clips of each fold that is asked with examples of the others."""
    if "text" not in params.vote.inputs or params.llm.votes.examples == "packaged":
        return {}
    corpus = with_words(params, read_labelled_corpus())
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    return {
        f"llm, fold {fold}": (prompt, [clip for clip, own in zip(corpus.clips, folds, strict=True) if own == fold])
        for fold, prompt in fold_prompts(params, corpus, folds).items()
    }


def _scores(source: str, config: LlmConfig, texts: Sequence[str], name: str, own: Prompt | None = None) -> _Questions:
    prompt, labels = own or load_prompt(config.prompt), labels_to_ask()
    return _Questions(
        source,
        {text: sha256_text(text) for text in (*texts, *calibration_of_server(config, prompt))},
        AnswerCache(VOTE_BOOKS.cache, name, TextScores.parse, also=[REWRITE_BOOKS.cache]),
        drafts_of(VOTE_BOOKS, name),
        lambda text: about_tokens(prompt.chat_messages(text, labels)),
        config.server.answer_tokens,
        config.server.samples if config.server.scoring == "samples" else 1,
    )


def _rewrites(params: Params, clips: Sequence[Clip], name: str) -> _Questions:
    prompt = load_rewrite_prompt(params.rewrite.prompt)
    chats: dict[str, Chat] = {}
    for context in contexts_of(params, clips).values():
        chat = prompt.messages(shortened_context(context, params.llm.max_tokens))
        chats[str(chat[-1]["content"])] = chat
    return _Questions(
        "rewrite",
        {text: question_key(chat) for text, chat in chats.items()},
        AnswerCache(ANSWER_BOOKS.cache, name, written_under(prompt.schema_of_answers())),
        drafts_of(ANSWER_BOOKS, name),
        lambda text: about_tokens(chats[text]),
        max(params.llm.server.answer_tokens, prompt.schema_of_answers().most_tokens()),
    )


def _frames(params: Params, clips: Sequence[Clip], name: str) -> _Questions:
    config, prompt = params.llm, load_prompt(params.llm.prompt)
    shown = picture_messages(prompt, [b""] * config.votes.frames.count, labels_to_ask())
    return _Questions(
        "llm/frames",
        {key: key for key in frame_keys(clips, config.votes.frames, params.faces).values()},
        AnswerCache(VOTE_BOOKS.cache, name, TextScores.parse),
        drafts_of(VOTE_BOOKS, name),
        lambda _: about_tokens(shown),
        config.server.answer_tokens,
        config.server.samples if config.server.scoring == "samples" else 1,
    )


def _in_use(params: Params) -> dict[str, str]:
    """Fingerprint of what each source asks, by source; scored rewrites and votes by words ask the same."""
    labels, config, inputs = labels_to_ask(), params.llm, params.vote.inputs
    found: dict[str, str] = {}
    if params.rewrite.how == "written":
        prompt = load_rewrite_prompt(params.rewrite.prompt)
        found["rewrite"] = fingerprint(generation_settings(config, prompt.schema_of_answers(), prompt.settings()))
    if params.rewrite.how == "scored" or ("text" in inputs and config.votes.examples == "packaged"):
        found["llm"] = fingerprint(config.settings(labels))
    for source, (own, _) in _of_folds(params).items():
        found[source] = fingerprint(config.settings(labels, own))
    if "cues" in inputs:
        found["llm/cues"] = fingerprint(asked_about_cues(config).settings(labels))
    if "frames" in inputs:
        found["llm/frames"] = fingerprint(frame_settings(config, labels, params.media, params.faces))
    return found


def _is_invalid(row: TextScores | Written) -> bool:
    return row.answer.values is None if isinstance(row, Written) else not row.scores


def _unfinished() -> list[tuple[ScoreBooks, str]]:
    """Where paid answers of unfinished questions wait, and under which settings; two caches may share such a place."""
    places = {books.waiting: books for books, _ in _BOOKS}
    return [(places[at], path.parent.name) for at in places for path in sorted(at.glob(f"*/{FILE}"))]


def _fingerprints(books: ScoreBooks) -> list[str]:
    found = [path for path in books.cache.glob("*") if path.is_dir() or path.suffix == ".jsonl"]
    return sorted({path.stem for path in found})
