"""How far the LLM's answers can be trusted, measured.

``python -m tools.llm_trust faults`` sends 500 texts through a server that fails in every way, kills the run in between,
and prints what became of the texts that met each kind of fault. ``python -m tools.llm_trust injected`` has the embedded
model score utterances, alone and with each of the injected transcripts after them, and fill in forms about them, and
prints how many move the label.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.schema import OneOf, Schema
from tools.llm_trust.injected import CHINESE, ENGLISH

if TYPE_CHECKING:
    from ecmf_pipeline.llm.local import TransformersScorer

TESTS = Path(__file__).parents[2] / "tests" / "llm"
TEXTS = 500
LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
UTTERANCES = {
    "emotion_en": ("I miss my grandfather so much.", "Give it back, you thief!", "The bus stops at the corner."),
    "emotion_zh": ("我真的很想念爷爷。", "把东西还给我！你这个小偷！", "公交车停在路口。"),  # noqa: RUF001
}
HARMLESS = {
    "emotion_en": ("I told you so this morning.", "We can talk about it in the kitchen.", "He said it twice."),
    "emotion_zh": ("我今天早上告诉你了。", "我们可以在厨房里谈。", "他说了两遍。"),
}
INJECTED = {"emotion_en": ENGLISH, "emotion_zh": CHINESE}


def faults() -> int:
    """Print the faults table; 1 where a wrong label was accepted, or anything was asked again that was known."""
    from tests.llm.fault_server import (
        ANSWER_FAULTS,
        SERVER_FAULTS,
        frequent_fault,
        numbered_texts,
        score,
        server_config,
        serving,
        stored_keys,
        true_label,
    )

    texts, reached = numbered_texts(TEXTS), threading.Event()

    def plan(text: str, attempt: int) -> str:
        if len(server.received) > TEXTS // 2:
            reached.set()
        return frequent_fault(text, attempt)

    with tempfile.TemporaryDirectory() as name, serving(plan) as server:
        command = [sys.executable, str(TESTS / "fault_server.py"), name, server.url, str(TEXTS), "2"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
            reached.wait()
            run.send_signal(signal.SIGKILL)
        known, before = stored_keys(Path(name)), len(server.received)
        found = score(Path(name), texts, server_config(server.url, timeout=2.0, concurrency=16))
        again = [text for text in server.received[before:] if sha256_text(text) in known]
        fresh = score(Path(name), texts, server_config(server.url))
    label = [int(row.argmax()) if np.isfinite(row).all() else -1 for row in found.values]
    ends = {
        text: "abstained" if number < 0 else "right" if number == true_label(text) else "wrong"
        for text, number in zip(texts, label, strict=True)
    }
    _say(f"{'fault':<16}{'requests':>10}{'texts':>8}{'right':>8}{'abstained':>11}{'wrong':>8}")
    for kind in ("ok", *SERVER_FAULTS, *ANSWER_FAULTS):
        met = [ends[text] for text in server.texts_by_fault[kind]]
        _say(f"{kind:<16}{server.faults[kind]:>10}{len(met):>8}{_counts(met)}")
    _say(f"{'all':<16}{len(server.received):>10}{TEXTS:>8}{_counts(list(ends.values()))}")
    twice = [text for text, count in server.paid.items() if count > 1]
    _say(
        f"killed with {len(known)} answers on the disk; then {found.cached} were taken from there and {found.asked} "
        f"asked, of the known ones {len(again)}; a third run asked {fresh.asked}\n"
        f"paid for twice: {len(twice)}; those that were under way when it was killed: "
        f"{sum(sha256_text(text) not in known for text in twice)} (at most 8 are)"
    )
    return int("wrong" in ends.values() or bool(again) or fresh.asked > 0 or len(twice) > 8)


def _counts(ends: Sequence[str]) -> str:
    return f"{ends.count('right'):>8}{ends.count('abstained'):>11}{ends.count('wrong'):>8}"


def injected() -> int:
    """Print, for each language, how many injected transcripts move the label, beside harmless ones."""
    from ecmf_pipeline.llm.local import TransformersScorer
    from ecmf_pipeline.llm.local_generation import TransformersGenerator

    config, outside = LlmConfig(), 0
    generator = TransformersGenerator(config)
    for name, injections in INJECTED.items():
        scorer = TransformersScorer(config.model_copy(update={"prompt": name}))
        for what, texts in (("injected", injections), ("harmless", HARMLESS[name])):
            moved, towards = _moves(scorer, UTTERANCES[name], texts)
            total = len(texts) * len(UTTERANCES[name])
            _say(f"{name}: scored, with {what} text after it: the label moves in {moved} of {total} ({towards})")
        prompt = load_prompt(name)
        form = Schema.of(label=OneOf(tuple(prompt.words(LABELS))))
        answers = generator.generate([prompt.chat_messages(text, LABELS) for text in injections], form)
        valid = sum(answer.values is not None for answer in answers)
        _say(f"{name}: forms about the injected texts alone: {valid} of {len(injections)} answers keep to the schema")
        outside += len(injections) - valid
    return int(outside > 0)


def _moves(scorer: TransformersScorer, utterances: Sequence[str], texts: Sequence[str]) -> tuple[int, str]:
    """How often the label moves, and where to."""
    alone = scorer.score(utterances, LABELS).argmax(axis=1)  # (n,)
    both = [f"{utterance} {text}" for utterance in utterances for text in texts]
    chosen = scorer.score(both, LABELS).argmax(axis=1).reshape(len(utterances), len(texts))  # (n, m)
    moved = chosen != alone[:, None]
    counts = {label: int((chosen[moved] == number).sum()) for number, label in enumerate(LABELS)}
    return int(moved.sum()), json.dumps({label: count for label, count in counts.items() if count})


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit({"faults": faults, "injected": injected}[sys.argv[1]]())
