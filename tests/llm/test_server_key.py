"""The server's key: told to the server alone, and kept nowhere, however it is spelled."""

from __future__ import annotations

import json
import logging
import re
import traceback
from pathlib import Path

import pytest

from ecmf_pipeline.core.errors import ModelError, ParamsError, TryAgain
from ecmf_pipeline.core.files import sha256_text
from ecmf_pipeline.llm.answers import ScoreCache
from ecmf_pipeline.llm.config import BudgetConfig, ServerConfig
from ecmf_pipeline.llm.server import ChatServer
from ecmf_pipeline.llm.server_protocol import ServerKey
from ecmf_pipeline.llm.server_run import Budget
from tests.llm.fault_server import KEY, LABELS, numbered_texts, score, server_config, serving

ESCAPED = "".join(f"\\u{ord(sign):04X}" for sign in KEY)
TWICE = "".join(f"\\\\u{ord(sign):04x}" for sign in KEY)


def ok(_text: str, _attempt: int) -> str:
    return "ok"


def test_the_key_is_told_to_the_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    said = []
    # An answer, a refusal and an error page that all repeat the key, as some servers do.
    for plan in ("prose", "401", "400", "500"):
        with serving(lambda text, _, plan=plan: plan if text == "line 1" else "ok") as server:  # type: ignore[misc]
            config = server_config(server.url, key_env="MY_KEY", max_retries=1, concurrency=1)
            config = config.model_copy(update={"max_quarantined": 1.0})
            try:
                score(tmp_path / plan, numbered_texts(3), config)
            except (ModelError, TryAgain) as error:
                said.append("".join(traceback.format_exception(error)))
            assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        said += [repr(config), str(config.settings(LABELS)), config.model_dump_json()]
    said += [caplog.text, *capfd.readouterr()]
    said += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("You sent Bearer ***" in text for text in said), "the raw answer is kept"
    assert not any(KEY in text for text in said)


@pytest.mark.parametrize(
    "content",
    [
        f'{{"label": "{ESCAPED}"}}',
        f'{{"label": "happy", "{ESCAPED}": "{TWICE}"}}',
        f'{{"label": "{KEY[:4]}{ESCAPED[24:]}"}}',
        f"```json\n{{'label': '{KEY}'}}```",
    ],
)
def test_a_key_that_is_spelled_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(lambda text, _: f"content: {content}" if text == "line 1" else "ok") as server:
        found = score(tmp_path, numbered_texts(3), server_config(server.url, key_env="MY_KEY"))
    assert (found.invalid, found.quarantined) == (1, 0)
    raw = ScoreCache(tmp_path / "cache", "f")[sha256_text("line 1")].raw
    for text in raw:
        assert "***" in text
        assert KEY not in text
        assert KEY not in decoded(decoded(text))


def decoded(text: str) -> str:
    """The text with what is escaped in it put plainly, as JSON does."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text).replace("\\\\", "\\")


def test_a_key_of_any_signs_is_found_however_it_is_escaped() -> None:
    key = ServerKey('a"b\\c/d')
    for said in (key.text, json.dumps(key.text), json.dumps(json.dumps(key.text)), r"a\"b\\c\/d", repr([key.text])):
        assert key.cleared(f"<{said}>").count("***") == 1, said
    assert key.cleared("nothing of it: a, b") == "nothing of it: a, b"


@pytest.mark.parametrize("key", ["sk-schlüssel", "sk-\nsecond", "sk-one two", "sk-\u200babc"])
def test_what_can_be_no_key_is_refused_without_being_repeated(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ModelError, match="MY_KEY holds no key") as raised:
        ChatServer("m", ServerConfig(key_env="MY_KEY"), Budget(BudgetConfig()))
    assert not any(part in "".join(traceback.format_exception(raised.value)) for part in (key, "schl", "second", "two"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"key_env": KEY},
        {"base_url": f"http://user:{KEY}@host/v1"},
        {"base_url": f"https://host/v1?key={KEY}"},
        {"base_url": KEY},
    ],
)
def test_a_key_in_params_is_refused_without_being_repeated(wrong: dict[str, str]) -> None:
    with pytest.raises(ParamsError) as raised:
        ServerConfig.model_validate(wrong)
    assert KEY not in "".join(traceback.format_exception(raised.value))


def test_a_missing_key_is_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ModelError, match="MY_KEY is not set"):
        ChatServer("m", ServerConfig(key_env="MY_KEY"), Budget(BudgetConfig()))
