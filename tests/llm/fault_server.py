"""A local OpenAI-compatible server that knows the right answers and injects faults.

Its response depends on the utterance and the number of requests about it, never on the clock, so a test has the same
faults on every machine. It logs all requests. A right answer that was sent completely counts as paid.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ecmf_pipeline.llm.answers import AnswerFiles, ScoreCache, open_drafts, part_files
from ecmf_pipeline.llm.config import BudgetConfig, LlmConfig, ServerConfig
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.scoring import ScoringResult, score_texts, scoring_steps

WORDS = ("neutral", "angry", "happy", "sad", "worried", "surprised")
LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
KEY = "sk-test-7f3a9c"
SERVER_FAULTS = ("hang", "drop", "429", "500", "garbage", "html", "half envelope", "no choices")
ANSWER_FAULTS = ("wrong label", "half JSON", "prose", "more keys")

_NO_CONTENT: dict[str, Any] = {"role": "assistant", "content": None}
WITHOUT_LOGPROBS: dict[str, dict[str, Any]] = {
    "filtered": {"logprobs": None, "finish_reason": "content_filter", "message": _NO_CONTENT},
    "empty": {"logprobs": None, "message": _NO_CONTENT},
    "refusal": {"logprobs": None, "message": _NO_CONTENT | {"refusal": "I cannot help with that."}},
    "no logprobs": {"logprobs": None},
}
"""Answers without log-probabilities. Only the last one shows, if it comes first, that the server returns none."""

_UTTERANCE = re.compile(r"<utterance>(.*)</utterance>")


def true_label(text: str) -> int:
    """Return the index of the right label of ``line N``; other texts are neutral."""
    number = re.fullmatch(r"line (\d+)", text)
    return int(number[1]) % len(WORDS) if number else 0


def frequent_fault(text: str, attempt: int) -> str:
    """Return one of all faults for two of five requests, "ok" for the others."""
    draw = int.from_bytes(hashlib.sha256(f"{text}/{attempt}".encode()).digest()[:4], "big")
    kinds = (*SERVER_FAULTS, *ANSWER_FAULTS)
    return kinds[draw // 5 % len(kinds)] if draw % 5 < 2 else "ok"


class FaultServer:
    """The server and its log.

    Args:
        plan: Function that returns the fault of a request from the utterance and the number of earlier requests about
            it.

    Attributes:
        received: Texts of all requests, in order of arrival.
        paid: Number of complete right answers, by text.
        faults: Number of requests with each fault.
        texts_by_fault: Texts of the requests with each fault.
        requests: Bodies of all requests.
    """

    def __init__(self, plan: Callable[[str, int], str]) -> None:
        self.plan = plan
        self.received: list[str] = []
        self.paid: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.texts_by_fault: dict[str, set[str]] = defaultdict(set)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Message] = []
        self.closing = threading.Event()
        self._attempts: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        self.url = ""

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer, or fail as planned."""
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        text = _content_of_question(body["messages"][-1]["content"])
        with self._lock:
            attempt = self._attempts[text]
            self._attempts[text] += 1
            self.received.append(text)
            self.requests.append(body)
            self.headers.append(handler.headers)
            fault = self.plan(text, attempt)
            self.faults[fault] += 1
            self.texts_by_fault[fault].add(text)
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
        elif fault.startswith("redirect "):
            _send(handler, b"", 307, {"Location": fault.removeprefix("redirect ")})
        elif fault == "gzip bomb":
            _send(handler, gzip_bomb(), headers={"Content-Encoding": "gzip"})
        elif message := _option_error(fault, body):
            _send(handler, json.dumps({"error": {"message": message, "code": "unsupported"}}).encode(), 400)
        elif fault in SERVER_FAULTS:
            _send(handler, _broken(fault))
        else:
            content = _content(fault, text, str(handler.headers["Authorization"]))
            completion = _completion(content, logprobs=bool(body.get("logprobs")))
            completion["choices"][0] |= WITHOUT_LOGPROBS.get(fault, {})
            _send(handler, json.dumps(completion).encode())
            if fault == "ok":
                with self._lock:
                    self.paid[text] += 1


BOMB_BYTES = 96 * 2**20


def gzip_bomb() -> bytes:
    """Return a valid reply in gzip whose answer has `BOMB_BYTES` characters."""
    before, after = json.dumps(_completion("CUT", logprobs=False)).encode().split(b"CUT")
    compressor = zlib.compressobj(wbits=31)
    blocks = [before, *[b" " * 2**20] * (BOMB_BYTES // 2**20), after]
    return b"".join([*map(compressor.compress, blocks), compressor.flush()])


OPTION_ERRORS = {
    "requires max_completion_tokens": {
        "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.",
        "temperature": "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) "
        "value is supported.",
    },
    "rejects max_tokens": {"max_tokens": "max_tokens is unsupported"},
}
"""Error messages for unsupported options."""


def _option_error(fault: str, body: dict[str, Any]) -> str:
    return next((message for option, message in OPTION_ERRORS.get(fault, {}).items() if option in body), "")


def _send(
    handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    # A client that reused a closed connection would count a request that never arrives here.
    for name, value in {"Content-Type": "application/json", "Connection": "close", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _trickle(handler: BaseHTTPRequestHandler, closing: threading.Event, *, head: bool) -> None:
    """Send one byte at a time without end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: " if head else b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
    while not closing.wait(0.05):
        handler.wfile.write(b" ")


def _broken(fault: str) -> bytes:
    completion = json.dumps(_completion('{"label": "happy"}', logprobs=True)).encode()
    return {
        "garbage": bytes(range(128, 228)),
        "html": b"<html><body>502 Bad Gateway</body></html>",
        "half envelope": completion[: len(completion) // 2],
        "no choices": b'{"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}',
    }[fault]


def _content_of_question(content: str | list[dict[str, Any]]) -> str:
    """Return the utterance; for pictures, their number and hash."""
    if isinstance(content, str):
        return _UTTERANCE.findall(content)[0] if "<utterance>" in content else content
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return f"{len(urls)} pictures {hashlib.sha256(json.dumps(urls).encode()).hexdigest()[:8]}"


def _content(fault: str, text: str, authorization: str) -> str:
    if fault.startswith("content: "):
        return fault.removeprefix("content: ")
    right = WORDS[true_label(text)]
    if fault in WITHOUT_LOGPROBS or fault in OPTION_ERRORS:
        fault = "ok"
    return {
        "ok": json.dumps({"label": right}),
        "wrong label": json.dumps({"label": "jubilant"}),
        "half JSON": '{"label": "' + right[:2],
        "prose": f"I think that the speaker is happy. You sent {authorization}.",
        "more keys": json.dumps({"label": right, "confidence": 1}),
    }[fault]


def _completion(content: str, *, logprobs: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    if logprobs:
        answer["logprobs"] = {"content": list(_tokens(content))}
    usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [answer], "usage": usage}


def _tokens(content: str) -> Iterator[dict[str, Any]]:
    """Split an answer like a tokenizer: the first piece of the label has its quotation mark, and alternatives."""
    match = re.fullmatch(r'(\{"label": )("[a-z]{2})(.*)', content, re.DOTALL)
    for position, piece in enumerate(match.groups() if match else [content]):
        others = [(f'"{word[:2]}', -3.0 - n) for n, word in enumerate(WORDS) if f'"{word[:2]}' != piece]
        top = [(piece, -0.1), *(others if position == 1 else [])]
        alternatives = [{"token": token, "logprob": value, "bytes": None} for token, value in top]
        yield {"token": piece, "logprob": -0.1, "bytes": None, "top_logprobs": alternatives}


@contextmanager
def serving(plan: Callable[[str, int], str] = frequent_fault) -> Iterator[FaultServer]:
    """Run a server during the block."""
    fault_server = FaultServer(plan)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Handle a request."""
            try:
                fault_server.respond(self)
            except OSError:  # the client closed the connection
                self.close_connection = True
            self.close_connection = True

        def log_message(self, format: str, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        fault_server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield fault_server
        finally:
            fault_server.closing.set()
            server.shutdown()
            thread.join()


def server_config(url: str, budget: BudgetConfig | None = None, **server: Any) -> LlmConfig:
    """Return the settings for a server at ``url``, with short waits."""
    config = {"base_url": url, "key_env": None, "timeout": 30.0, "first_wait": 0.001, "max_retries": 12} | server
    return LlmConfig(
        backend="openai",
        model="served",
        calibration="none",
        server=ServerConfig.model_validate(config),
        budget=budget or BudgetConfig(),
    )


def answer_files(folder: Path) -> AnswerFiles:
    """Return the files of the answers."""
    return AnswerFiles("vote", folder / "cache", folder / ".spool", folder / "quarantine.csv")


def score(folder: Path, texts: list[str], config: LlmConfig) -> ScoringResult:
    """Score texts with the server; text n is the transcript of clip ``cn``."""
    return score_texts(
        {f"c{number}": text for number, text in enumerate(texts)},
        LABELS,
        fingerprint="f",
        answer_files=answer_files(folder),
        steps=scoring_steps(
            config, load_prompt("emotion_en"), LABELS, drafts=partial(open_drafts, answer_files(folder), "f")
        ),
        config=config,
    )


def stored_keys(folder: Path) -> set[str]:
    """Return the keys of all stored answers, sealed or not."""
    files = [*part_files(folder / "cache" / "f"), *(folder / ".spool").rglob("*.batch")]
    cache = ScoreCache(folder / "none", "f")
    return {row.key for path in files for row in cache.parse(path.read_bytes())}


def numbered_texts(count: int) -> list[str]:
    """Return texts with a right label; see `true_label`."""
    return [f"line {number}" for number in range(count)]


if __name__ == "__main__":
    SCORING = {"scoring": sys.argv[5]} if len(sys.argv) > 5 else {}
    CONFIG = server_config(sys.argv[2], timeout=float(sys.argv[4]), **SCORING)
    score(Path(sys.argv[1]), numbered_texts(int(sys.argv[3])), CONFIG)
