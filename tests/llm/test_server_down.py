"""A server that is down, dies or never completes an answer: the run stops soon and loses no answers."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import ModelError, TryAgain
from ecmf_pipeline.llm.config import BudgetConfig, ServerConfig
from ecmf_pipeline.llm.server import ChatServer
from ecmf_pipeline.llm.server_protocol import retry_after
from ecmf_pipeline.llm.server_run import Budget
from tests.llm.fault_server import numbered_texts, score, server_config, serving, stored_keys


def ok(_text: str, _attempt: int) -> str:
    return "ok"


def test_failed_questions_are_retried_by_the_next_run(tmp_path: Path) -> None:
    with serving(lambda text, _: "500" if text == "line 7" else "ok") as server:
        config = server_config(server.url, max_retries=2)
        with pytest.raises(TryAgain) as caught:
            score(tmp_path, numbered_texts(20), config)
        assert "1 question without" in caught.value.message
        assert server.received.count("line 7") == 3
        server.plan = ok
        result = score(tmp_path, numbered_texts(20), config)
    assert (result.cached, result.answered, result.quarantined) == (19, 1, 0)
    with serving(lambda _, __: "500") as server, pytest.raises(TryAgain) as caught:
        score(tmp_path / "down", numbered_texts(400), server_config(server.url, max_retries=1))
    assert server.url in caught.value.message
    assert len(server.received) < 400, "the run stops early"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "drop", "hang", "slow body"])
def test_a_server_that_dies_stops_the_run_soon(tmp_path: Path, fault: str) -> None:
    with serving(lambda text, _: "ok" if text == "line 0" else fault) as server:
        config = server_config(server.url, max_retries=1, concurrency=3, timeout=0.3)
        with pytest.raises(TryAgain) as caught:
            score(tmp_path, numbered_texts(2000), config)
        assert re.search(rf"{server.url} failed on \d consecutive questions, last: ", caught.value.message)
        assert "quarantine.csv" in str(caught.value.hint)
        assert len(set(server.received)) <= 1 + 2 + 6 + 2, "the first ones, six consecutive ones, and pending ones"
        assert len(stored_keys(tmp_path)) == 1
        server.plan = ok
        assert score(tmp_path, numbered_texts(12), server_config(server.url)).cached == 1


def test_an_answer_between_failures_keeps_the_run_going(tmp_path: Path) -> None:
    with serving(lambda text, _: "ok" if int(text.split()[1]) % 4 == 3 else "500") as server:
        config = server_config(server.url, max_retries=0, concurrency=1).model_copy(update={"max_quarantined": 1.0})
        with pytest.raises(TryAgain) as caught:
            score(tmp_path, numbered_texts(20), config)
        assert "15 questions without" in caught.value.message
        assert len(server.received) == 20


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["slow body", "slow head"])
def test_an_incomplete_answer_times_out(tmp_path: Path, fault: str) -> None:
    with serving(lambda text, attempt: fault if text == "line 3" or attempt == 0 else "ok") as server:
        config = server_config(server.url, max_retries=1, timeout=1.5)
        with pytest.raises(TryAgain) as caught:
            score(tmp_path, numbered_texts(8), config)
    assert "1 question without" in caught.value.message
    assert len(stored_keys(tmp_path)) == 7
    assert "1.5 seconds" in (tmp_path / "quarantine.csv").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_the_run_at_once(tmp_path: Path, number: signal.Signals) -> None:
    def plan(text: str, _attempt: int) -> str:
        return "ok" if text == "line 0" else "slow body"

    with serving(plan) as server:
        command = [sys.executable, str(Path(__file__).with_name("fault_server.py")), str(tmp_path), server.url]
        with subprocess.Popen([*command, "400", "3600"], stderr=subprocess.PIPE, text=True) as run:
            while server.faults["slow body"] < 8:  # all threads wait
                assert run.poll() is None, run.communicate()[1]
                server.closing.wait(0.01)
            for _ in range(200):  # the first signal may arrive before the run waits for its threads
                run.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    run.wait(0.2)
                    break
            else:
                run.kill()
            assert "Interrupted" in run.communicate()[1]
        assert len(stored_keys(tmp_path)) == 1
        assert len(server.received) == 9, "no further request is sent"


def test_an_unreachable_server_raises_model_error_soon(tmp_path: Path) -> None:
    with serving(ok) as server:
        config = server_config(server.url, max_retries=100)
    with pytest.raises(ModelError) as caught:
        score(tmp_path, numbered_texts(3), config)
    assert server.url in caught.value.message
    assert "refused" in caught.value.message
    assert "llm.server.base_url" in str(caught.value.hint)


def test_waits_double_with_jitter_unless_the_server_requests_one() -> None:
    config = ServerConfig(key_env=None, first_wait=1.0, longest_wait=30.0)
    server = ChatServer("m", config, Budget(BudgetConfig()), rng=random.Random(7))
    for attempt, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (9, 30.0)):
        waits = {server._wait(attempt, None) for _ in range(20)}
        assert len(waits) == (20 if longest < 30 else 1)
        assert all(longest / 2 <= wait <= longest for wait in waits)
    assert all(7 <= server._wait(1, 7.0) <= 7.7 for _ in range(20))
    assert server._wait(1, 9999.0) == 30
    server.close()


def test_retry_after_accepts_seconds_and_dates() -> None:
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert 50 < (retry_after({"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=60))}) or 0) <= 60
    assert retry_after({"retry-after": format_datetime(datetime.now(UTC) - timedelta(seconds=60))}) == 0
    assert [retry_after({"retry-after": value}) for value in ("soon", "", "inf", "nan")] == [None] * 4
    beyond = ("Mon, 01 Jan 99999999999 00:00:00 GMT", "Mon, 01 Jan 10000 00:00:00 GMT", "9" * 400)
    assert [retry_after({"retry-after": value}) for value in beyond] == [None] * 3
    assert retry_after({}) is None
