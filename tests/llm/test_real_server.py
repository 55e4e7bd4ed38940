"""A real OpenAI-compatible server on loopback, `transformers serve`, with a tiny model that has learned six answers.

It disregards `response_format` and gives no log-probabilities: the prompt alone binds it, and samples are counted.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.llm.config import BudgetConfig, LlmConfig
from ecmf_pipeline.llm.generation import fill_in_forms
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.schema import OneOf, Schema
from tests.llm.fault_server import LABELS, ask, books, settings
from tests.llm.trained_model import train

pytestmark = pytest.mark.slow

PROMPT = load_prompt("emotion_en")
WORDS = PROMPT.words(LABELS)
TRUTH = {
    "I miss my mother.": "sad",
    "We won the match!": "happy",
    "Get out of my house!": "angry",
    "The shop opens at nine.": "neutral",
    "She has not called, I am nervous.": "worried",
}
OUTSIDE = "Wow, is it you?"
"""What the model says of it is no answer."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmConfig]:
    folder = tmp_path_factory.mktemp("served")
    answers: Mapping[str, str] = {text: json.dumps({"label": word}) for text, word in TRUTH.items()}
    train(folder / "model", PROMPT, {**answers, OUTSIDE: "Surprised, I think."}, LABELS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder / "model")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        listener = threading.Thread(target=_drain, args=(server.stderr,))
        try:
            said = _until_it_runs(server.stderr)
            assert server.poll() is None, said
            listener.start()
            config = settings(f"http://127.0.0.1:{port}/v1", structured="none", scoring="samples", samples=2)
            yield config.model_copy(update={"model": str(folder / "model")})
        finally:
            server.kill()
    if listener.is_alive():
        listener.join()


def _until_it_runs(said: IO[str]) -> str:
    """What the server says until it runs, or ends."""
    lines = []
    for line in said:
        lines.append(line)
        if "Uvicorn running" in line:
            break
    return "".join(lines)


def _drain(said: IO[str]) -> None:
    """So that the server never waits for somebody to read what it says."""
    for _ in said:
        pass


def test_its_samples_become_scores_and_are_not_asked_for_again(served: LlmConfig, tmp_path: Path) -> None:
    texts = [*TRUTH, OUTSIDE]
    found = ask(tmp_path, texts, served)
    assert [WORDS[row] for row in found.values[:-1].argmax(axis=1)] == list(TRUTH.values())
    assert np.isnan(found.values[-1]).all(), "what is no answer is an abstention"
    assert (found.asked, found.invalid, found.quarantined) == (6, 1, 0)
    again = ask(tmp_path, texts, served.model_copy(update={"budget": BudgetConfig(max_requests=0)}))
    np.testing.assert_array_equal(again.values, found.values)
    assert (again.asked, again.cached) == (0, 6)


def test_it_fills_in_a_form(served: LlmConfig, tmp_path: Path) -> None:
    chats = {text: PROMPT.chat_messages(text, LABELS) for text in [*TRUTH, OUTSIDE]}
    form = Schema.of(label=OneOf(tuple(WORDS)))
    found = fill_in_forms(served, chats, form, prompt={"version": 1}, books=books(tmp_path))
    assert found.values == {**{text: {"label": word} for text, word in TRUTH.items()}, OUTSIDE: None}
    assert (found.asked, found.invalid) == (6, 1)


def test_what_it_cannot_do_is_said_clearly(served: LlmConfig, tmp_path: Path) -> None:
    server = served.server.model_copy(update={"scoring": "logprobs"})
    with pytest.raises(ModelError, match=r"no log-probabilities(.|\n)*scoring: samples"):
        ask(tmp_path, list(TRUTH), served.model_copy(update={"server": server}))
    with pytest.raises(ModelError, match="400"):
        ask(tmp_path, list(TRUTH), served.model_copy(update={"model": "another"}))
