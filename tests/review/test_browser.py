"""The review page in headless Chromium: keys, reloads, reviewers, a killed server, encoded media, accessibility."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip
from tools.browser import serious_violations

pytestmark = pytest.mark.slow

WAIT = 20_000


class Server:
    """The command `ecmf-pipe review` in the current directory, on one port."""

    def __init__(self) -> None:
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> str:
        """Start the server; return the URL with the token."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ecmf_pipeline", "review", "--port", str(self.port), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        url = re.search(r"http://127.0.0.1:(\d+)\S+", self.process.stdout.readline())
        assert url is not None
        self.port = int(url[1])
        return url[0]

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture
def server(project: list[Clip]) -> Iterator[Server]:
    started = Server()
    yield started
    started.stop()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[[str], Any]]:
    """Return a function that opens a URL in a new browser profile.

    Console errors, and requests to anything but the server, fail the test.
    """
    errors: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_url(url: str) -> Any:
        context = chromium.new_context(viewport={"width": 1200, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        page.wait_for_selector("#labels button")
        return page

    yield open_url
    for context in contexts:
        context.close()
    assert {url.split(":")[1] for url in requests} == {"//127.0.0.1"}
    assert [error for error in errors if "ERR_CONNECTION" not in error and "Failed to load resource" not in error] == []


def rows() -> list[dict[str, str]]:
    if not paths.VERDICTS.is_file():
        return []
    with paths.VERDICTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shown(page: Any) -> str:
    return str(page.locator("#clip-name").inner_text())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT / 1000
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def press(page: Any, key: str) -> None:
    """Press a key and wait until another clip is shown."""
    before = shown(page)
    page.keyboard.press(key)
    page.wait_for_function("name => document.getElementById('clip-name').innerText !== name", arg=before)


def test_ten_clips_are_answered_by_one_key_each(server: Server, open_page: Callable[[str], Any]) -> None:
    page = open_page(server.start("--reviewer", "Anna"))
    assert "token" not in page.url
    page.wait_for_function("() => document.querySelector('video').readyState >= 2")
    asked = []
    for key in "1231u":
        asked.append(shown(page))
        press(page, key)
    wait_for(lambda: len(rows()) == 5)
    assert asked[:2] == ["clip11", "clip10"]
    page.reload()  # in the middle: nothing is asked again
    for key in "bn312":
        asked.append(shown(page))
        press(page, key)
    wait_for(lambda: len(rows()) == 10)
    assert len(set(asked)) == 10
    assert [row["name"] for row in rows()] == asked
    labels = ["neutral", "happy", "sad", "neutral", "unsure", "bad clip", "no emotion", "sad", "neutral", "happy"]
    assert [row["label"] for row in rows()] == labels
    assert {row["reviewer"] for row in rows()} == {"Anna"}
    press(page, " ")  # next without an answer
    assert len(rows()) == 10
    page.wait_for_function("() => document.getElementById('done').textContent.startsWith('10 of 12 clips answered')")


def test_undo_takes_the_answer_back_and_shows_the_clip(server: Server, open_page: Callable[[str], Any]) -> None:
    page = open_page(server.start())
    first = shown(page)
    press(page, "2")
    press(page, "3")
    wait_for(lambda: len(rows()) == 2)
    press(page, "z")
    wait_for(lambda: len(rows()) == 3)
    assert rows()[-1]["label"] == ""
    press(page, "z")
    assert shown(page) == first
    wait_for(lambda: len(rows()) == 4)
    page.locator(".labels button", has_text="happy").click()  # the mouse works, too
    wait_for(lambda: len(rows()) == 5)
    assert (rows()[-1]["name"], rows()[-1]["label"]) == (first, "happy")


def test_two_reviewers_work_at_once_and_agreement_is_shown(server: Server, open_page: Callable[[str], Any]) -> None:
    url = server.start("--reviewer", "Anna")
    anna, ben = open_page(url), open_page(url)
    ben.locator("#who").click()
    ben.locator("#who-input").fill("Ben")
    ben.keyboard.press("Enter")
    ben.wait_for_function("() => document.getElementById('who-name').textContent === 'Ben'")
    ben.wait_for_function("() => !document.getElementById('who-dialog').open")
    for page in (anna, ben):  # on a busy machine the first clip may still be loading
        page.wait_for_function("() => document.querySelector('video').readyState >= 2")
    for key_of_anna, key_of_ben in ("11", "22", "23"):
        assert shown(anna) == shown(ben)
        press(anna, key_of_anna)
        press(ben, key_of_ben)
    wait_for(lambda: len(rows()) == 6)
    assert {(row["reviewer"], row["label"]) for row in rows() if row["name"] == "clip09"} == {
        ("Anna", "happy"),
        ("Ben", "sad"),
    }
    ben.goto(ben.url.rstrip("/") + "/progress")
    assert "They differ on 1 of them" in " ".join(ben.locator("main").inner_text().split())
    assert "alpha is 0." in ben.locator("main").inner_text()


def test_no_answer_is_lost_if_the_server_is_killed(server: Server, open_page: Callable[[str], Any]) -> None:
    page = open_page(server.start("--reviewer", "Anna"))
    press(page, "1")
    wait_for(lambda: len(rows()) == 1)
    server.stop()
    asked = shown(page)
    page.keyboard.press("2")
    page.wait_for_selector("#problem:not([hidden])")
    assert "The server does not answer" in page.locator("#problem").inner_text()
    server.start("--reviewer", "Anna")
    wait_for(lambda: len(rows()) == 2)
    assert (rows()[1]["name"], rows()[1]["label"]) == (asked, "happy")
    page.wait_for_selector("#problem[hidden]", state="attached")
    press(page, "3")
    wait_for(lambda: len(rows()) == 3)
    assert len({row["name"] for row in rows()}) == 3
    server.stop(signal.SIGINT)
    assert server.process is not None
    assert server.process.returncode == 0


def test_answers_of_two_tabs_are_stored_once_under_the_name_that_each_shows(
    server: Server, open_page: Callable[[str], Any]
) -> None:
    first = open_page(server.start("--reviewer", "Anna"))
    second = first.context.new_page()
    second.goto(first.url)
    second.locator("#who").click()
    second.locator("#who-input").fill("Ben")
    second.keyboard.press("Enter")
    second.wait_for_function("() => document.getElementById('who-name').textContent === 'Ben'")
    second.wait_for_function("() => !document.getElementById('who-dialog').open")
    for page in (first, second):
        page.wait_for_function("() => ahead.length === 2")
    server.stop()
    for page, key in ((first, "1"), (second, "2"), (first, "3"), (second, "1")):
        press(page, key)
    for page in (first, second):
        page.wait_for_selector("#problem:not([hidden])")
    server.start("--reviewer", "Cem")  # the name of the server is not that of the page
    for page in (first, second):
        page.wait_for_selector("#problem[hidden]", state="attached")
    wait_for(lambda: len(rows()) >= 4)
    assert sorted((row["reviewer"], row["name"], row["label"]) for row in rows()) == [
        ("Anna", "clip10", "sad"),
        ("Anna", "clip11", "neutral"),
        ("Ben", "clip10", "neutral"),
        ("Ben", "clip11", "happy"),
    ]


def test_an_answer_that_cannot_be_stored_does_not_hold_up_others(
    server: Server, open_page: Callable[[str], Any]
) -> None:
    page = open_page(server.start())
    page.wait_for_function("() => ahead.length === 2")
    server.stop()
    text = paths.MANIFEST.read_text().splitlines(keepends=True)
    paths.MANIFEST.write_text("".join(line for line in text if not line.startswith("clip11,")))
    press(page, "1")
    press(page, "2")
    server.start()
    wait_for(lambda: len(rows()) == 1)
    assert rows()[0]["name"] == "clip10"
    assert "clip11 is not stored" in page.locator("#problem").inner_text()
    page.wait_for_function("() => unsent().length === 0")


def test_the_page_does_not_say_that_no_clip_is_left_if_the_server_is_gone(
    server: Server, open_page: Callable[[str], Any]
) -> None:
    page = open_page(server.start())
    page.wait_for_function("() => ahead.length === 2")
    server.stop()
    press(page, "1")
    press(page, "1")
    page.keyboard.press("1")
    page.wait_for_selector("#clip[hidden]", state="attached")
    assert "does not answer" in page.locator("#problem").inner_text()
    assert not page.locator("#empty").is_visible()
    server.start()
    page.wait_for_selector("#stage video")
    wait_for(lambda: len(rows()) == 3)


def test_one_press_is_one_answer(server: Server, open_page: Callable[[str], Any]) -> None:
    page = open_page(server.start())
    button = page.locator(".labels button", has_text="sad")
    button.dblclick()
    wait_for(lambda: len(rows()) == 1)
    press(page, " ")  # the next clip, although a button was clicked
    before = shown(page)
    button.focus()
    for _ in range(4):  # held down
        page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    page.wait_for_function("name => document.getElementById('clip-name').innerText !== name", arg=before)
    wait_for(lambda: len(rows()) == 2)
    time.sleep(0.3)
    assert [row["label"] for row in rows()] == ["sad", "sad"]


def test_undo_of_a_second_answer_restores_the_first_with_its_digest(
    server: Server, open_page: Callable[[str], Any]
) -> None:
    page = open_page(server.start())
    first = shown(page)
    press(page, "1")
    wait_for(lambda: len(rows()) == 1)
    press(page, "ArrowLeft")
    assert shown(page) == first
    press(page, "2")
    wait_for(lambda: len(rows()) == 2)
    press(page, "z")
    wait_for(lambda: len(rows()) == 3)
    assert (rows()[2]["label"], rows()[2]["digest"]) == ("neutral", rows()[0]["digest"])


def test_thousands_of_clips_are_left_out_in_one_session(server: Server, open_page: Callable[[str], Any]) -> None:
    page = open_page(server.start())
    page.evaluate("for (let i = 0; i < 3000; i += 1) skipped.add(`film of the first day/clip ${i}`)")
    for _ in range(4):
        press(page, " ")
    assert page.locator("#problem").is_hidden()


def test_the_url_opens_the_page_from_another_site(server: Server, chromium: Any) -> None:
    url = server.start()
    context = chromium.new_context()
    page = context.new_page()
    page.route(
        "http://terminal.example/",
        lambda route: route.fulfill(body=f'<a href="{url}">open</a>', content_type="text/html"),
    )
    page.goto("http://terminal.example/")
    page.locator("a").click()
    page.wait_for_selector("#clip-name", timeout=5000)
    assert "token" not in page.url
    page.go_back()
    assert page.url == "http://terminal.example/"
    context.close()


def test_a_clip_that_needs_encoding_plays(server: Server, open_page: Callable[[str], Any]) -> None:
    path = Path("corpus/11.mp4")
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25, width=64, height=48, pix_fmt="yuv420p")
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    text = re.sub(r"(clip11,11.mp4,\w+,)\d+", rf"\g<1>{path.stat().st_size}", paths.MANIFEST.read_text())
    paths.MANIFEST.write_text(text)
    page = open_page(server.start())
    assert shown(page) == "clip11"
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
    assert page.evaluate("document.querySelector('video').videoWidth") == 64


def test_a_clip_that_was_moved_away_is_explained(server: Server, open_page: Callable[[str], Any]) -> None:
    Path("corpus/11.mp4").unlink()
    page = open_page(server.start())
    page.wait_for_selector("#stage .notice")
    assert "does not exist" in page.locator("#stage").inner_text()
    press(page, "b")


def test_axe_finds_nothing_serious(server: Server, chromium: Any) -> None:
    url = server.start()
    for scheme in ("light", "dark"):
        context = chromium.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("#labels button")
        assert serious_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.goto(page.url.rstrip("/") + "/progress")
        assert serious_violations(page) == []
        context.close()
