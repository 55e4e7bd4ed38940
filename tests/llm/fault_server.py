"""An OpenAI-compatible server on loopback that knows the right answer, and often does something else.

What it does with a request follows from the utterance and how often it was asked about it, never from the clock, so
that a test sees the same faults on every machine. It keeps a diary: each right answer that was delivered whole is one
paid for.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ecmf_pipeline.llm.answers import ScoreBooks, ScoreCache, open_drafts, part_files
from ecmf_pipeline.llm.config import BudgetConfig, LlmConfig, ServerConfig
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.scoring import Scored, score_texts, scoring_steps

WORDS = ("neutral", "angry", "happy", "sad", "worried", "surprised")
LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
KEY = "sk-test-7f3a9c"
SERVER_FAULTS = ("hang", "drop", "429", "500", "garbage", "html", "half envelope", "no choices")
ANSWER_FAULTS = ("wrong label", "half JSON", "prose", "more keys")

_SILENT: dict[str, Any] = {"role": "assistant", "content": None}
WITHOUT_LOGPROBS: dict[str, dict[str, Any]] = {
    "filtered": {"logprobs": None, "finish_reason": "content_filter", "message": _SILENT},
    "empty": {"logprobs": None, "message": _SILENT},
    "refusal": {"logprobs": None, "message": _SILENT | {"refusal": "I cannot help with that."}},
    "no logprobs": {"logprobs": None},
}
"""Answers that say nothing of whether the server gives log-probabilities, and one that does if it comes first."""

_UTTERANCE = re.compile(r"<utterance>(.*)</utterance>")


def truth(text: str) -> int:
    """The right label of ``line N``; other texts are neutral."""
    number = re.fullmatch(r"line (\d+)", text)
    return int(number[1]) % len(WORDS) if number else 0


def often_faulty(text: str, attempt: int) -> str:
    """A fault in two of five requests, any of them."""
    draw = int.from_bytes(hashlib.sha256(f"{text}/{attempt}".encode()).digest()[:4], "big")
    kinds = (*SERVER_FAULTS, *ANSWER_FAULTS)
    return kinds[draw // 5 % len(kinds)] if draw % 5 < 2 else "ok"


class FaultServer:
    """The server and its diary.

    Args:
        plan: What it does with a request, by the utterance and how often it was asked about it.

    Attributes:
        asked: Texts of all requests, in order of their arrival.
        paid: How many right answers were delivered whole, by text.
        faults: How many requests met each fault.
        met: The texts that met each fault.
        requests: Bodies of all requests.
    """

    def __init__(self, plan: Callable[[str, int], str]) -> None:
        self.plan = plan
        self.asked: list[str] = []
        self.paid: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.met: dict[str, set[str]] = defaultdict(set)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Message] = []
        self.closing = threading.Event()
        self._times: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        self.url = ""

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer, or fail as planned."""
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        text = _asked_about(body["messages"][-1]["content"])
        with self._lock:
            attempt = self._times[text]
            self._times[text] += 1
            self.asked.append(text)
            self.requests.append(body)
            self.headers.append(handler.headers)
            fault = self.plan(text, attempt)
            self.faults[fault] += 1
            self.met[fault].add(text)
        if fault == "hang":
            self.closing.wait(30)
        elif fault.startswith("slow "):
            _trickle(handler, self.closing, head=fault == "slow head")
        elif fault == "drop":
            handler.connection.close()
        elif fault == "429":
            _send(handler, b'{"error": {"message": "slow down"}}', 429, {"Retry-After": "0"})
        elif fault.isdigit():
            echo = f"Incorrect API key: {handler.headers['Authorization']}"
            _send(handler, json.dumps({"error": {"message": echo, "code": "no"}}).encode(), int(fault))
        elif refused := _refused(fault, body):
            _send(handler, json.dumps({"error": {"message": refused, "code": "unsupported"}}).encode(), 400)
        elif fault in SERVER_FAULTS:
            _send(handler, _broken(fault))
        else:
            content = _content(fault, text, str(handler.headers["Authorization"]))
            whole = _completion(content, logprobs=bool(body.get("logprobs")))
            whole["choices"][0] |= WITHOUT_LOGPROBS.get(fault, {})
            _send(handler, json.dumps(whole).encode())
            if fault == "ok":
                with self._lock:
                    self.paid[text] += 1


REFUSALS = {
    "wants max_completion_tokens": {
        "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.",
        "temperature": "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) "
        "value is supported.",
    },
    "knows no max_tokens": {"max_tokens": "max_tokens is unsupported"},
}
"""What a server says of options that it does not take."""


def _refused(fault: str, body: dict[str, Any]) -> str:
    return next((said for option, said in REFUSALS.get(fault, {}).items() if option in body), "")


def _send(
    handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    # It says that it closes: a client that asked again over a closed connection would count a request never seen here.
    for name, value in {"Content-Type": "application/json", "Connection": "close", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _trickle(handler: BaseHTTPRequestHandler, closing: threading.Event, *, head: bool) -> None:
    """Never fall silent, and never come to an end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: " if head else b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
    while not closing.wait(0.05):
        handler.wfile.write(b" ")


def _broken(fault: str) -> bytes:
    whole = json.dumps(_completion('{"label": "happy"}', logprobs=True)).encode()
    return {
        "garbage": bytes(range(128, 228)),
        "html": b"<html><body>502 Bad Gateway</body></html>",
        "half envelope": whole[: len(whole) // 2],
        "no choices": b'{"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}',
    }[fault]


def _asked_about(content: str | list[dict[str, Any]]) -> str:
    """The utterance; of pictures, how many and which."""
    if isinstance(content, str):
        return _UTTERANCE.findall(content)[0] if "<utterance>" in content else content
    shown = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return f"{len(shown)} pictures {hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:8]}"


def _content(fault: str, text: str, authorization: str) -> str:
    if fault.startswith("say "):
        return fault.removeprefix("say ")
    right = WORDS[truth(text)]
    if fault in WITHOUT_LOGPROBS or fault in REFUSALS:
        fault = "ok"
    return {
        "ok": json.dumps({"label": right}),
        "wrong label": json.dumps({"label": "jubilant"}),
        "half JSON": '{"label": "' + right[:2],
        "prose": f"I would say the speaker is happy. You sent {authorization}.",
        "more keys": json.dumps({"label": right, "confidence": 1}),
    }[fault]


def _completion(content: str, *, logprobs: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    if logprobs:
        answer["logprobs"] = {"content": list(_tokens(content))}
    usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [answer], "usage": usage}


def _tokens(content: str) -> Iterator[dict[str, Any]]:
    """Pieces as a tokenizer might make them: the label's first one has its quotation mark, and alternatives."""
    found = re.fullmatch(r'(\{"label": )("[a-z]{2})(.*)', content, re.DOTALL)
    for position, piece in enumerate(found.groups() if found else [content]):
        others = [(f'"{word[:2]}', -3.0 - n) for n, word in enumerate(WORDS) if f'"{word[:2]}' != piece]
        top = [(piece, -0.1), *(others if position == 1 else [])]
        alternatives = [{"token": token, "logprob": value, "bytes": None} for token, value in top]
        yield {"token": piece, "logprob": -0.1, "bytes": None, "top_logprobs": alternatives}


@contextmanager
def serving(plan: Callable[[str, int], str] = often_faulty) -> Iterator[FaultServer]:
    """A server for the block."""
    diary = FaultServer(plan)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """A request."""
            try:
                diary.respond(self)
            except OSError:  # whoever asked is gone
                self.close_connection = True
            self.close_connection = True

        def log_message(self, format: str, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        diary.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield diary
        finally:
            diary.closing.set()
            server.shutdown()
            thread.join()


def settings(url: str, budget: BudgetConfig | None = None, **server: Any) -> LlmConfig:
    """Params that ask the server at ``url`` without waiting long."""
    config = {"base_url": url, "key_env": None, "timeout": 30.0, "first_wait": 0.001, "max_retries": 12} | server
    return LlmConfig(
        backend="openai",
        model="served",
        calibration="none",
        server=ServerConfig.model_validate(config),
        budget=budget or BudgetConfig(),
    )


def books(folder: Path) -> ScoreBooks:
    """Where the answers are kept."""
    return ScoreBooks("vote", folder / "cache", folder / ".spool", folder / "quarantine.csv")


def ask(folder: Path, texts: list[str], config: LlmConfig) -> Scored:
    """Have the server score texts; the n-th is what clip ``cn`` says."""
    return score_texts(
        {f"c{number}": text for number, text in enumerate(texts)},
        LABELS,
        fingerprint="f",
        books=books(folder),
        steps=scoring_steps(config, load_prompt("emotion_en"), LABELS, drafts=partial(open_drafts, books(folder), "f")),
        config=config,
    )


def kept(folder: Path) -> set[str]:
    """Digests of the texts whose answers are on the disk, sealed or not."""
    files = [*part_files(folder / "cache" / "f"), *(folder / ".spool").rglob("*.batch")]
    cache = ScoreCache(folder / "none", "f")
    return {row.key for path in files for row in cache.parse(path.read_bytes())}


def lines(count: int) -> list[str]:
    """Texts whose right label `truth` knows."""
    return [f"line {number}" for number in range(count)]


if __name__ == "__main__":
    SCORING = {"scoring": sys.argv[5]} if len(sys.argv) > 5 else {}
    ask(Path(sys.argv[1]), lines(int(sys.argv[3])), settings(sys.argv[2], timeout=float(sys.argv[4]), **SCORING))
