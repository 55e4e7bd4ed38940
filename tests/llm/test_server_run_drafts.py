"""Questions that take several answers: each answer is paid for once, however a run ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ecmf_pipeline.core.errors import BudgetSpent, TryAgain
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm.answers import ScoreCache
from ecmf_pipeline.llm.config import BudgetConfig
from ecmf_pipeline.llm.server_run import DRAFTS_FILE, Draft, Drafts
from tests.llm.fault_server import FaultServer, numbered_texts, score, server_config, serving


def ok(_text: str, _attempt: int) -> str:
    return "ok"


def repeated_requests(server: FaultServer) -> int:
    """Return the number of requests with the text and seed of an earlier request."""
    requests = [(text, body["seed"]) for text, body in zip(server.received, server.requests, strict=True)]
    return len(requests) - len(set(requests))


def drafts(folder: Path) -> Drafts:
    return Drafts(folder / ".spool" / "f" / DRAFTS_FILE)


def test_runs_with_a_small_budget_pay_for_no_answer_twice(tmp_path: Path) -> None:
    texts = numbered_texts(24)
    with serving(ok) as server:
        config = server_config(server.url, BudgetConfig(max_requests=30), scoring="samples", samples=5, concurrency=8)
        for run in range(1, 4):
            with pytest.raises(BudgetSpent):
                score(tmp_path, texts, config)
            assert len(server.received) == 30 * run
            finished = ScoreCache(tmp_path / "cache", "f")
            assert 5 * len(finished) + len(drafts(tmp_path)) == 30 * run
        result = score(tmp_path, texts, config)
        assert len(server.received) == 120
        assert repeated_requests(server) == 0
    assert np.isfinite(result.values).all()
    assert (result.values.argmax(axis=1) == np.arange(24) % 6).all()
    assert not list((tmp_path / ".spool").rglob(DRAFTS_FILE))


def test_after_a_failure_only_the_missing_samples_are_requested(tmp_path: Path) -> None:
    with serving(lambda _, attempt: "ok" if attempt < 3 else "500") as server:
        config = server_config(server.url, scoring="samples", samples=5, concurrency=2, max_retries=0)
        config = config.model_copy(update={"max_quarantined": 1.0})
        with pytest.raises(TryAgain):
            score(tmp_path, numbered_texts(3), config)
        assert len(drafts(tmp_path)) == 9
        server.plan = ok
        before = len(server.received)
        result = score(tmp_path, numbered_texts(3), config)
        rest = zip(server.received[before:], server.requests[before:], strict=True)
        assert Counter((text, body["seed"]) for text, body in rest) == Counter(
            (text, config.server.seed + number) for text in numbered_texts(3) for number in (3, 4)
        )
    np.testing.assert_allclose(np.exp(result.values).max(axis=1), 5.5 / 8, atol=1e-5)


def test_invalid_answers_are_paid_for_once(tmp_path: Path) -> None:
    with serving(lambda _, attempt: "prose" if attempt < 2 else "ok") as server:
        for scoring in ("samples", "logprobs"):
            server.received.clear()
            server._attempts.clear()
            config = server_config(server.url, BudgetConfig(max_requests=1), scoring=scoring, samples=2, concurrency=1)
            received = []
            for _ in range({"samples": 3, "logprobs": 2}[scoring] - 1):
                with pytest.raises(BudgetSpent):
                    score(tmp_path / scoring, numbered_texts(1), config)
                received.append(len(server.received))
            result = score(tmp_path / scoring, numbered_texts(1), config)
            assert received == list(range(1, len(server.received)))
            assert result.invalid == 1, "at most half of the samples are valid"
            raw = ScoreCache(tmp_path / scoring / "cache", "f")[sha256_text("line 0")].raw
            assert [answer.split(":")[0] for answer in raw] == ["not JSON"] * 2


def test_a_killed_run_loses_only_pending_requests(tmp_path: Path) -> None:
    reached = threading.Event()

    def plan(_text: str, _attempt: int) -> str:
        if len(server.received) >= 72:
            reached.set()
        return "ok"

    with serving(plan) as server:
        command = [sys.executable, str(Path(__file__).with_name("fault_server.py")), str(tmp_path), server.url]
        with subprocess.Popen([*command, "60", "30", "samples"], stderr=subprocess.DEVNULL) as run:
            assert reached.wait(120)
            run.send_signal(signal.SIGKILL)
        result = score(tmp_path, numbered_texts(60), server_config(server.url, scoring="samples"))
        assert repeated_requests(server) <= 8
        assert len(server.received) - repeated_requests(server) == 300
    assert np.isfinite(result.values).all()


def test_a_damaged_line_loses_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "deep" / DRAFTS_FILE
    first = Drafts(path)
    first.add("a", 0, Draft(3))
    with path.open("a") as file:
        file.write('\n{"key":"a","num')  # truncated by a crash
    second = Drafts(path)
    second.add("a", 1, Draft(None, "x" * 5000))
    third = Drafts(path)
    assert third.get("a", 0) == Draft(3)
    assert third.get("a", 1) == Draft(None, "x" * 2000)
    assert third.get("a", 2) is None
    assert Drafts(tmp_path / "own", also=[path]).get("a", 0) == Draft(3)
    third.remove_finished({"b"})
    assert len(Drafts(path)) == 2
    third.remove_finished({"a"})
    assert not path.exists()


def test_settled_samples_are_valid_or_invalid_in_all_tries(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path / DRAFTS_FILE)
    # Four samples, with second tries from number 4: valid; invalid twice; invalid, then valid; invalid once.
    for number, label in {0: 2, 1: None, 5: None, 2: None, 6: 1, 3: None}.items():
        drafts.add("a", number, Draft(label))
    assert drafts.count_settled("a", 4) == 3
    assert drafts.count_settled("b", 4) == 0
