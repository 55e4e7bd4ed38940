"""A real local server, `transformers serve`, with a tiny model trained on six answers.

It ignores `response_format` and returns no log-probabilities: only the prompt constrains answers, and scores are shares
of samples.
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
from tests.llm.fault_server import LABELS, answer_files, score, server_config
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
UNANSWERABLE = "Wow, is it you?"
"""The answer of the model to this text is invalid."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmConfig]:
    folder = tmp_path_factory.mktemp("served")
    answers: Mapping[str, str] = {text: json.dumps({"label": word}) for text, word in TRUTH.items()}
    train(folder / "model", PROMPT, {**answers, UNANSWERABLE: "Surprised, I think."}, LABELS)
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
        drain_thread = threading.Thread(target=_drain, args=(server.stderr,))
        try:
            output = _wait_until_running(server.stderr)
            assert server.poll() is None, output
            drain_thread.start()
            config = server_config(f"http://127.0.0.1:{port}/v1", structured="none", scoring="samples", samples=2)
            yield config.model_copy(update={"model": str(folder / "model")})
        finally:
            server.kill()
    if drain_thread.is_alive():
        drain_thread.join()


def _wait_until_running(stderr: IO[str]) -> str:
    """Return the output of the server until it runs or ends."""
    lines = []
    for line in stderr:
        lines.append(line)
        if "Uvicorn running" in line:
            break
    return "".join(lines)


def _drain(stderr: IO[str]) -> None:
    """Read the output, so the server never blocks on a full pipe."""
    for _ in stderr:
        pass


def test_scores_from_samples_are_cached(served: LlmConfig, tmp_path: Path) -> None:
    texts = [*TRUTH, UNANSWERABLE]
    result = score(tmp_path, texts, served)
    assert [WORDS[row] for row in result.values[:-1].argmax(axis=1)] == list(TRUTH.values())
    assert np.isnan(result.values[-1]).all(), "the model abstains after invalid answers"
    assert (result.answered, result.invalid, result.quarantined) == (6, 1, 0)
    again = score(tmp_path, texts, served.model_copy(update={"budget": BudgetConfig(max_requests=0)}))
    np.testing.assert_array_equal(again.values, result.values)
    assert (again.answered, again.cached) == (0, 6)


def test_the_server_fills_in_forms(served: LlmConfig, tmp_path: Path) -> None:
    chats = {text: PROMPT.chat_messages(text, LABELS) for text in [*TRUTH, UNANSWERABLE]}
    form = Schema.of(label=OneOf(tuple(WORDS)))
    result = fill_in_forms(served, chats, form, prompt={"version": 1}, answer_files=answer_files(tmp_path))
    assert result.values == {**{text: {"label": word} for text, word in TRUTH.items()}, UNANSWERABLE: None}
    assert (result.answered, result.invalid) == (6, 1)


def test_unsupported_requests_raise_model_error(served: LlmConfig, tmp_path: Path) -> None:
    server = served.server.model_copy(update={"scoring": "logprobs"})
    with pytest.raises(ModelError) as no_logprobs:
        score(tmp_path, list(TRUTH), served.model_copy(update={"server": server}))
    assert "llm.server.scoring: samples" in str(no_logprobs.value.hint)
    with pytest.raises(ModelError) as unknown_model:
        score(tmp_path, list(TRUTH), served.model_copy(update={"model": "another"}))
    assert "400" in unknown_model.value.message
