"""A server with every fault: no wrong answer is accepted and no answer is paid for twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.errors import BudgetSpent, ModelError
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm.answers import ScoreCache
from ecmf_pipeline.llm.config import BudgetConfig, LlmConfig
from ecmf_pipeline.llm.server_protocol import RequestOptions
from tests.llm import fault_server
from tests.llm.fault_server import (
    ANSWER_FAULTS,
    KEY,
    LABELS,
    SERVER_FAULTS,
    numbered_texts,
    score,
    server_config,
    serving,
    stored_keys,
    true_label,
)


def ok(_text: str, _attempt: int) -> str:
    return "ok"


@pytest.mark.slow
def test_no_fault_leads_to_a_wrong_label_or_a_second_payment(tmp_path: Path) -> None:
    texts = numbered_texts(500)
    with serving() as server:
        result = score(tmp_path, texts, server_config(server.url, timeout=5.0, concurrency=16))
        assert {*SERVER_FAULTS, *ANSWER_FAULTS} <= set(server.faults), "every fault occurred"
        answered = np.isfinite(result.values).all(axis=1)
        labels = np.array([true_label(text) for text in texts])
        assert (result.values[answered].argmax(axis=1) == labels[answered]).all(), "wrong labels accepted"
        assert max(server.paid.values()) == 1, "paid twice"
        assert (result.answered, result.quarantined) == (500, 0)
        assert 0 < result.invalid == (~answered).sum() < 50  # two invalid answers
        for row, text in enumerate(texts):
            if not answered[row]:
                assert len(ScoreCache(tmp_path / "cache", "f")[sha256_text(text)].raw) == 2
        before = len(server.received)
        again = score(tmp_path, texts, server_config(server.url))
        assert len(server.received) == before
    np.testing.assert_array_equal(result.values, again.values)
    assert (again.cached, again.invalid) == (500, result.invalid)


@pytest.mark.slow
def test_a_run_after_sigkill_requests_only_missing_answers(tmp_path: Path) -> None:
    reached = threading.Event()

    def plan(_text: str, _attempt: int) -> str:
        if len(server.received) >= 60:
            reached.set()
        return "ok"

    with serving(plan) as server:
        command = [sys.executable, str(Path(__file__).with_name("fault_server.py")), str(tmp_path), server.url]
        with subprocess.Popen([*command, "400", "30"], stderr=subprocess.DEVNULL) as run:
            assert reached.wait(120)
            run.send_signal(signal.SIGKILL)
        paid, before = stored_keys(tmp_path), len(server.received)
        assert 40 <= len(paid) < 400
        assert before - len(paid) <= 8, "only pending requests are lost"
        result = score(tmp_path, numbered_texts(400), server_config(server.url))
        resumed = server.received[before:]
    assert sorted(resumed) == sorted(text for text in numbered_texts(400) if sha256_text(text) not in paid)
    assert (result.cached, result.answered) == (len(paid), 400 - len(paid))


def test_scores_are_shares_of_samples(tmp_path: Path) -> None:
    with serving(lambda _, attempt: "wrong label" if attempt in {1, 2} else "ok") as server:
        result = score(
            tmp_path, numbered_texts(3), server_config(server.url, scoring="samples", samples=4, concurrency=1)
        )
    # The second sample is invalid in both tries: three of four samples are valid.
    assert (result.values.argmax(axis=1) == [0, 1, 2]).all()
    np.testing.assert_allclose(np.exp(result.values[0]), [3.5 / 6] + [0.5 / 6] * 5, atol=1e-5)
    assert len({body["seed"] for body in server.requests[:5]}) == 5
    assert all("logprobs" not in body for body in server.requests)


def test_a_server_without_log_probabilities_raises_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.llm.fault_server._tokens", lambda _: iter(()))
    with serving(ok) as server, pytest.raises(ModelError) as caught:
        score(tmp_path, numbered_texts(3), server_config(server.url))
    assert "llm.server.scoring: samples" in str(caught.value.hint)


@pytest.mark.parametrize("fault", ["filtered", "empty", "refusal", "no logprobs"])
def test_one_answer_without_log_probabilities_affects_only_its_text(tmp_path: Path, fault: str) -> None:
    # A complete answer without log-probabilities would raise an error if it came first.
    faulty_text = "line 5" if fault == "no logprobs" else "line 0"
    with serving(lambda text, _: fault if text == faulty_text else "ok") as server:
        config = server_config(server.url, concurrency=1).model_copy(update={"max_quarantined": 0.5})
        result = score(tmp_path, numbered_texts(6), config)
        before = len(server.received)
        again = score(tmp_path, numbered_texts(6), config)
        assert len(server.received) == before, "the next run does not request it again"
    lost = numbered_texts(6).index(faulty_text)
    assert np.isfinite(result.values).all(axis=1).tolist() == [number != lost for number in range(6)]
    assert (result.quarantined, result.invalid) == ((1, 0) if fault == "filtered" else (0, 1))
    assert (again.quarantined, again.invalid) == (result.quarantined, result.invalid)
    if fault == "refusal":
        assert any("cannot help" in raw for raw in ScoreCache(tmp_path / "cache", "f")[sha256_text("line 0")].raw)


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize(
    ("fault", "unsupported"),
    [("requires max_completion_tokens", {"max_tokens", "temperature"}), ("rejects max_tokens", {"max_tokens"})],
)
def test_options_are_adapted_to_the_errors_of_a_server(
    tmp_path: Path, fault: str, unsupported: set[str], concurrency: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda *_: fault) as server:
        result = score(tmp_path, numbered_texts(20), server_config(server.url, concurrency=concurrency, max_retries=0))
        answered = [body for body in server.requests if not unsupported & set(body)]
    assert (result.answered, result.invalid, result.quarantined) == (20, 0, 0)
    assert (result.values.argmax(axis=1) == [true_label(text) for text in numbered_texts(20)]).all()
    assert len(answered) == 20, "each text is answered once"
    assert len(server.requests) <= 20 + len(unsupported) * concurrency, "options are adapted once for all requests"
    assert all(body["max_completion_tokens"] == 64 for body in answered)
    assert ("temperature" in capsys.readouterr().err) is ("temperature" in unsupported)


def test_unrelated_errors_do_not_change_options() -> None:
    sent = {"max_tokens": 64, "temperature": 0.0, "seed": 1}
    for status, message in (
        (400, "max_tokens is too large"),
        (400, "the text is about temperature"),
        (500, "max_tokens unsupported"),
    ):
        options = RequestOptions()
        assert not options.update(status, message, sent)
        assert options.adapt(sent) == sent


@pytest.mark.parametrize(
    ("structured", "expected"), [("json_schema", "json_schema"), ("json_object", "json_object"), ("none", None)]
)
def test_requests_contain_the_schema(tmp_path: Path, structured: str, expected: str | None) -> None:
    with serving(ok) as server:
        score(tmp_path, numbered_texts(1), server_config(server.url, structured=structured))
    (body,) = server.requests
    assert body.get("response_format", {}).get("type") == expected
    if expected == "json_schema":
        assert "surprised" in body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]


@pytest.mark.parametrize(("budget", "least"), [(BudgetConfig(max_requests=20), 20), (BudgetConfig(max_tokens=4000), 8)])
def test_a_run_stops_at_the_budget_and_the_next_one_continues(tmp_path: Path, budget: BudgetConfig, least: int) -> None:
    with serving(ok) as server:
        with pytest.raises(BudgetSpent) as caught:
            score(tmp_path, numbered_texts(50), server_config(server.url, budget))
        limit = "llm.budget.max_requests" if budget.max_requests else "llm.budget.max_tokens"
        assert limit in caught.value.message
        first = len(server.received)
        assert least <= first <= 40
        assert len(stored_keys(tmp_path)) == first
        result = score(tmp_path, numbered_texts(50), server_config(server.url))
    assert len(server.received) == 50
    assert (result.cached, result.answered) == (first, 50 - first)


def test_reserved_tokens_of_pending_requests_do_not_spend_the_budget(tmp_path: Path) -> None:
    with serving(ok) as server:  # each request uses 100 tokens and reserves more than 300
        result = score(tmp_path, numbered_texts(20), server_config(server.url, BudgetConfig(max_tokens=2400)))
    assert (result.answered, len(server.received)) == (20, 20)


@pytest.mark.parametrize("counted", [-5000, 0])
def test_impossible_token_counts_do_not_extend_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    completion = fault_server._completion

    def miscounted(content: str, *, logprobs: bool) -> dict[str, Any]:
        return completion(content, logprobs=logprobs) | {
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": counted}
        }

    monkeypatch.setattr(fault_server, "_completion", miscounted)
    with serving(ok) as server, pytest.raises(BudgetSpent):
        score(tmp_path, numbered_texts(50), server_config(server.url, BudgetConfig(max_tokens=4000)))
    assert 8 <= len(server.received) < 16


def test_a_refused_text_is_quarantined_and_a_wrong_key_stops_the_run(tmp_path: Path) -> None:
    with serving(lambda text, _: "400" if text == "line 7" else "ok") as server:
        result = score(tmp_path, numbered_texts(20), server_config(server.url, concurrency=1))
        assert (result.answered, result.quarantined) == (19, 1)
        assert "RequestRefused" in (tmp_path / "quarantine.csv").read_text()
    with serving(lambda _, __: "401") as server, pytest.raises(ModelError) as caught:
        score(tmp_path / "key", numbered_texts(20), server_config(server.url, concurrency=2))
    assert "401" in caught.value.message
    assert len(server.received) <= 2


def test_an_oversized_reply_affects_only_its_text_and_is_not_kept_in_memory(tmp_path: Path) -> None:
    with serving(lambda text, _: "gzip bomb" if text == "line 2" else "ok") as server:
        config = server_config(server.url, concurrency=1).model_copy(update={"max_quarantined": 0.5})
        tracemalloc.start()
        try:
            result = score(tmp_path, numbered_texts(5), config)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (result.answered, result.quarantined) == (4, 1)
    assert "RequestRefused" in (tmp_path / "quarantine.csv").read_text()
    assert server.received.count("line 2") == 1, "it is not requested again"
    assert peak < fault_server.BOMB_BYTES / 3


@pytest.mark.parametrize("same_host", [True, False])
def test_redirects_are_refused_and_the_key_is_not_sent_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_host: bool
) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    with serving(ok) as other, serving(lambda *_: f"redirect {target}/chat/completions") as server:
        target = (server.url if same_host else other.url).replace("/v1", f"/{KEY}")
        with pytest.raises(ModelError) as caught:
            score(tmp_path, numbered_texts(3), server_config(server.url, key_env="A_KEY", concurrency=1))
    assert (len(server.received), len(other.received)) == (1, 0)
    assert (server.url if same_host else other.url).removesuffix("/v1") in caught.value.message.split("redirects to")[1]
    assert "llm.server.base_url" in str(caught.value.hint)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("number", [1e308, 5.0, float("nan")])
def test_impossible_log_probabilities_are_invalid_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    def invalid_tokens(content: str) -> Iterator[dict[str, Any]]:
        for token in tokens(content):
            others = [other | {"logprob": number} for other in token["top_logprobs"]]
            yield token | ({"top_logprobs": others} if "sa" in token["token"] else {})

    tokens = fault_server._tokens
    monkeypatch.setattr("tests.llm.fault_server._tokens", invalid_tokens)
    with serving(ok) as server:
        result = score(tmp_path, numbered_texts(6), server_config(server.url))
    assert (result.answered, result.invalid, result.quarantined) == (6, 1, 0)
    assert not np.isfinite(result.values[3]).any()


def test_settings_contain_only_what_changes_answers() -> None:
    base = server_config("http://here:1/v1")
    same = [server_config("http://there:2/v1"), server_config("http://here:1/v1", concurrency=3, max_retries=1)]
    assert all(config.settings(LABELS) == base.settings(LABELS) for config in same)
    others = [
        server_config("http://here:1/v1", scoring="samples"),
        server_config("http://here:1/v1", structured="none"),
        base.model_copy(update={"model": "another"}),
        base.model_copy(update={"revision": "2"}),
        base.model_copy(update={"prompt": "emotion_zh"}),
    ]
    assert len({str(config.settings(LABELS)) for config in [base, *others]}) == len(others) + 1
    assert LlmConfig().server.key_env == "OPENAI_API_KEY"
