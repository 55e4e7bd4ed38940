"""What `ecmf-pipe llm` does: looks at the caches of `rewrite` and `vote`, and counts what they lack."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ecmf_pipeline import layout
from ecmf_pipeline.clips import read_manifest
from ecmf_pipeline.errors import InputError
from ecmf_pipeline.files import fingerprint, sha256_text, write_atomic
from ecmf_pipeline.llm.cache import AnswerWriter, ScoreCache
from ecmf_pipeline.llm.loop import ScoreBooks
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.server_calibration import calibration_of_server
from ecmf_pipeline.llm.tokens import about_tokens
from ecmf_pipeline.params import load_params
from ecmf_pipeline.progress import say
from ecmf_pipeline.stage_llm import REWRITE_BOOKS, VOTE_BOOKS, labels_to_ask
from ecmf_pipeline.words import counted

_BOOKS = (REWRITE_BOOKS, VOTE_BOOKS)


def ls() -> None:
    """Say what each cache holds."""
    in_use = _in_use()
    for books in _BOOKS:
        for name in _fingerprints(books):
            rows = list(ScoreCache(books.cache, name).rows())
            invalid = sum(not row.scores for row in rows)
            mark = "in use" if name == in_use else "other settings"
            say(f"{books.stage} {name}: {counted(len(rows), 'text')}, {invalid} without a valid answer, {mark}")


def prune(*, yes: bool) -> None:
    """Remove, or name, what other settings left; with examples drawn from the corpus, their answers count as such."""
    in_use = _in_use()
    for books in _BOOKS:
        for name in _fingerprints(books):
            if name == in_use:
                continue
            if yes:
                with AnswerWriter(ScoreCache(books.cache, name), books.waiting):  # holds the lock
                    shutil.rmtree(books.cache / name, ignore_errors=True)
                    (books.cache / f"{name}.jsonl").unlink(missing_ok=True)
            say(f"{books.stage} {name}: {'removed' if yes else 'would go (--yes removes it)'}")


def export(out: Path) -> None:
    """Write what is known of the manifest's texts under the settings in use.

    Raises:
        InputError: When the file is there already.
    """
    if out.exists():
        raise InputError(f"{out} is already there", "choose a new file")
    cache, labels = _cache(), labels_to_ask()
    lines = []
    for text in _texts():
        if (key := sha256_text(text)) in cache:
            row = cache[key]
            entry = {"text": text, "scores": dict(zip(labels, row.scores, strict=False)), "raw": list(row.raw)}
            lines.append(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(out, "".join(lines))
    say(f"{out}: {counted(len(lines), 'text')}")


def plan() -> None:
    """Say what the next run would ask, with the packaged examples."""
    config, labels, cache = load_params().llm, labels_to_ask(), _cache()
    prompt = load_prompt(config.prompt)
    texts = [text for text in (*_texts(), *calibration_of_server(config, prompt)) if sha256_text(text) not in cache]
    if config.backend != "openai":
        say(f"{counted(len(texts), 'text')} to ask, of a model on this machine: no requests, no cost")
        return
    samples = config.server.samples if config.server.scoring == "samples" else 1
    asked = samples * sum(about_tokens(prompt.chat_messages(text, labels)) for text in texts)
    answers = samples * len(texts) * config.server.answer_tokens
    cost = (asked * config.prices.prompt + answers * config.prices.answer) / 1e6
    say(
        f"{counted(samples * len(texts), 'request')} about {counted(len(texts), 'text')}: about {asked} tokens of "
        f"prompts and at most {answers} of answers" + (f", at most about {cost:.2f}" if cost else "")
    )


def _texts() -> Sequence[str]:
    """The manifest's texts, each once."""
    clips = read_manifest(layout.MANIFEST)
    return list(dict.fromkeys(clip.transcript for clip in clips if clip.transcript.strip()))


def _in_use() -> str:
    return fingerprint(load_params().llm.settings(labels_to_ask()))


def _cache() -> ScoreCache:
    return ScoreCache(VOTE_BOOKS.cache, _in_use(), also=[REWRITE_BOOKS.cache])


def _fingerprints(books: ScoreBooks) -> list[str]:
    found = [path for path in books.cache.glob("*") if path.is_dir() or path.suffix == ".jsonl"]
    return sorted({path.stem for path in found})
