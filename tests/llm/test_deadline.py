"""Calls that are waited for no longer than they may take."""

from __future__ import annotations

import threading

import pytest

from ecmf_pipeline.llm.server_protocol import Abandoned, Calls, Late


def test_what_a_call_returns_or_raises() -> None:
    def wrong() -> None:
        raise TimeoutError("of its own")

    calls = Calls()
    assert calls.within(30, lambda: 3) == 3
    with pytest.raises(TimeoutError, match="of its own"):
        calls.within(30, wrong)
    assert calls.running == 0


def test_a_late_call_is_left_alone() -> None:
    calls, end, ended = Calls(), threading.Event(), threading.Event()

    def call() -> None:
        end.wait()
        ended.set()

    with pytest.raises(Late):
        calls.within(0.01, call)
    assert calls.running == 1
    end.set()
    assert ended.wait(30)
    assert calls.within(30, lambda: "another") == "another"


def test_those_who_wait_are_let_go() -> None:
    calls, begun, end = Calls(), threading.Event(), threading.Event()
    said: list[str] = []

    def call() -> None:
        begun.set()
        end.wait()

    def wait() -> None:
        try:
            calls.within(3600, call)
        except Abandoned:
            said.append("let go")

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(30)
    calls.abandon()
    waiting.join(30)
    assert said == ["let go"]
    with pytest.raises(Abandoned):
        calls.within(30, lambda: None)
    end.set()
