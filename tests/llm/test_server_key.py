"""The key of the server: sent to the server only, and not stored in any spelling."""

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

ESCAPED = "".join(f"\\u{ord(character):04X}" for character in KEY)
ESCAPED_TWICE = "".join(f"\\\\u{ord(character):04x}" for character in KEY)


def ok(_text: str, _attempt: int) -> str:
    return "ok"


def test_the_key_is_sent_to_the_server_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    outputs = []
    # An answer and errors that contain the key, as from some servers.
    for plan in ("prose", "401", "400", "500"):
        with serving(lambda text, _, plan=plan: plan if text == "line 1" else "ok") as server:  # type: ignore[misc]
            config = server_config(server.url, key_env="MY_KEY", max_retries=1, concurrency=1)
            config = config.model_copy(update={"max_quarantined": 1.0})
            try:
                score(tmp_path / plan, numbered_texts(3), config)
            except (ModelError, TryAgain) as error:
                outputs.append("".join(traceback.format_exception(error)))
            assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        outputs += [repr(config), str(config.settings(LABELS)), config.model_dump_json()]
    outputs += [caplog.text, *capfd.readouterr()]
    outputs += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("You sent Bearer ***" in text for text in outputs), "the raw answer is stored"
    assert not any(KEY in text for text in outputs)


@pytest.mark.parametrize(
    "content",
    [
        f'{{"label": "{ESCAPED}"}}',
        f'{{"label": "happy", "{ESCAPED}": "{ESCAPED_TWICE}"}}',
        f'{{"label": "{KEY[:4]}{ESCAPED[24:]}"}}',
        f"```json\n{{'label': '{KEY}'}}```",
    ],
)
def test_an_escaped_key_in_an_answer_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(lambda text, _: f"content: {content}" if text == "line 1" else "ok") as server:
        result = score(tmp_path, numbered_texts(3), server_config(server.url, key_env="MY_KEY"))
    assert (result.invalid, result.quarantined) == (1, 0)
    raw = ScoreCache(tmp_path / "cache", "f")[sha256_text("line 1")].raw
    for text in raw:
        assert "***" in text
        assert KEY not in text
        assert KEY not in unescaped(unescaped(text))


def unescaped(text: str) -> str:
    """Return the text with its JSON escapes replaced by their characters."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text).replace("\\\\", "\\")


def test_a_key_is_redacted_with_any_escapes() -> None:
    key = ServerKey('a"b\\c/d')
    for text in (key.text, json.dumps(key.text), json.dumps(json.dumps(key.text)), r"a\"b\\c\/d", repr([key.text])):
        assert key.redact(f"<{text}>").count("***") == 1, text
    assert key.redact("without the key: a, b") == "without the key: a, b"


@pytest.mark.parametrize("key", ["sk-schlüssel", "sk-\nsecond", "sk-one two", "sk-\u200babc"])
def test_an_invalid_key_raises_model_error_without_the_key(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ModelError) as caught:
        ChatServer("m", ServerConfig(key_env="MY_KEY"), Budget(BudgetConfig()))
    assert "MY_KEY is not a key" in caught.value.message
    assert not any(part in "".join(traceback.format_exception(caught.value)) for part in (key, "schl", "second", "two"))


@pytest.mark.parametrize(
    "settings",
    [
        {"key_env": KEY},
        {"base_url": f"http://user:{KEY}@host/v1"},
        {"base_url": f"https://host/v1?key={KEY}"},
        {"base_url": KEY},
    ],
)
def test_a_key_in_params_raises_params_error_without_the_key(settings: dict[str, str]) -> None:
    with pytest.raises(ParamsError) as caught:
        ServerConfig.model_validate(settings)
    assert caught.value.keys == tuple(f"llm.server.{key}" for key in settings)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_missing_key_raises_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ModelError) as caught:
        ChatServer("m", ServerConfig(key_env="MY_KEY"), Budget(BudgetConfig()))
    assert "MY_KEY is not set" in caught.value.message
