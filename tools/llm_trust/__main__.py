"""Measure how reliable answers of the language model are.

``python -m tools.llm_trust faults`` sends 500 texts to a server that injects every fault, kills the run and continues
it, and prints the outcome of the texts with each kind of fault. ``python -m tools.llm_trust injected`` scores
utterances with the embedded model, alone and followed by each injected transcript, lets it fill in forms about the
injected texts, and prints how many labels change.
"""

from __future__ import annotations

import argparse
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

from ecmf_pipeline.core.console import echo
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
NEUTRAL = {
    "emotion_en": ("I told you so this morning.", "We can talk about it in the kitchen.", "He said it twice."),
    "emotion_zh": ("我今天早上告诉你了。", "我们可以在厨房里谈。", "他说了两遍。"),
}
INJECTED = {"emotion_en": ENGLISH, "emotion_zh": CHINESE}


def faults() -> int:
    """Print the table of faults; return 1 if a wrong label was accepted or an answer was requested twice."""
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

    texts, half_sent = numbered_texts(TEXTS), threading.Event()

    def plan(text: str, attempt: int) -> str:
        if len(server.received) > TEXTS // 2:
            half_sent.set()
        return frequent_fault(text, attempt)

    with tempfile.TemporaryDirectory() as name, serving(plan) as server:
        command = [sys.executable, str(TESTS / "fault_server.py"), name, server.url, str(TEXTS), "2"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
            half_sent.wait()
            run.send_signal(signal.SIGKILL)
        stored, before = stored_keys(Path(name)), len(server.received)
        second = score(Path(name), texts, server_config(server.url, timeout=2.0, concurrency=16))
        repeated = [text for text in server.received[before:] if sha256_text(text) in stored]
        third = score(Path(name), texts, server_config(server.url))
    labels = [int(row.argmax()) if np.isfinite(row).all() else -1 for row in second.values]
    outcomes = {
        text: "abstained" if label < 0 else "right" if label == true_label(text) else "wrong"
        for text, label in zip(texts, labels, strict=True)
    }
    echo(f"{'fault':<16}{'requests':>10}{'texts':>8}{'right':>8}{'abstained':>11}{'wrong':>8}")
    for kind in ("ok", *SERVER_FAULTS, *ANSWER_FAULTS):
        of_kind = [outcomes[text] for text in server.texts_by_fault[kind]]
        echo(f"{kind:<16}{server.faults[kind]:>10}{len(of_kind):>8}{_counts(of_kind)}")
    echo(f"{'all':<16}{len(server.received):>10}{TEXTS:>8}{_counts(list(outcomes.values()))}")
    twice = [text for text, count in server.paid.items() if count > 1]
    echo(
        f"killed with {len(stored)} stored answers; the second run used {second.cached} of them, requested "
        f"{second.answered} and repeated {len(repeated)}; the third run requested {third.answered}\n"
        f"paid twice: {len(twice)}, of which {sum(sha256_text(text) not in stored for text in twice)} were pending "
        "when the run was killed (limit: 8)"
    )
    return int("wrong" in outcomes.values() or bool(repeated) or third.answered > 0 or len(twice) > 8)


def _counts(outcomes: Sequence[str]) -> str:
    return f"{outcomes.count('right'):>8}{outcomes.count('abstained'):>11}{outcomes.count('wrong'):>8}"


def injected() -> int:
    """Print for each language how many labels change with an injected transcript, compared with neutral texts."""
    from ecmf_pipeline.llm.local import TransformersScorer
    from ecmf_pipeline.llm.local_generation import TransformersGenerator

    config, invalid = LlmConfig(), 0
    generator = TransformersGenerator(config)
    for name, injections in INJECTED.items():
        scorer = TransformersScorer(config.model_copy(update={"prompt": name}))
        for kind, texts in (("injected", injections), ("neutral", NEUTRAL[name])):
            changed, new_labels = _count_changes(scorer, UTTERANCES[name], texts)
            total = len(texts) * len(UTTERANCES[name])
            echo(f"{name}: {kind} text after the utterance: {changed} of {total} labels change ({new_labels})")
        prompt = load_prompt(name)
        form = Schema.of(label=OneOf(tuple(prompt.words(LABELS))))
        answers = generator.generate([prompt.chat_messages(text, LABELS) for text in injections], form)
        valid = sum(answer.values is not None for answer in answers)
        echo(f"{name}: forms about the injected texts alone: {valid} of {len(injections)} answers are valid")
        invalid += len(injections) - valid
    return int(invalid > 0)


def _count_changes(scorer: TransformersScorer, utterances: Sequence[str], texts: Sequence[str]) -> tuple[int, str]:
    """Return how many labels change, and the counts of the new labels."""
    alone = scorer.score(utterances, LABELS).argmax(axis=1)  # (n,)
    both = [f"{utterance} {text}" for utterance in utterances for text in texts]
    chosen = scorer.score(both, LABELS).argmax(axis=1).reshape(len(utterances), len(texts))  # (n, m)
    changed = chosen != alone[:, None]
    counts = {label: int((chosen[changed] == number).sum()) for number, label in enumerate(LABELS)}
    return int(changed.sum()), json.dumps({label: count for label, count in counts.items() if count})


if __name__ == "__main__":
    MEASUREMENTS = {"faults": faults, "injected": injected}
    parser = argparse.ArgumentParser(prog="python -m tools.llm_trust", description=__doc__)
    parser.add_argument("measurement", choices=MEASUREMENTS)
    sys.exit(MEASUREMENTS[parser.parse_args().measurement]())
