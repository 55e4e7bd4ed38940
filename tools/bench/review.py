"""Measure the review page at 132,000 clips, and count answers while its server is killed.

``python -m tools.bench.review`` prints the seconds from the command to the first picture in the browser, and the
milliseconds from a key to the next picture. ``--kills 50`` kills the server 50 times while answers are sent.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, Corpus, Split, write_corpus_tables
from ecmf_pipeline.core.tables import write_sealed
from ecmf_pipeline.labels.decision_files import NEXT_COLUMNS, REFINED_COLUMNS
from tools.browser import browser, missing_browser

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
SOURCES = 12
FILMS = 20
LISTED = 100
PRESSES = 40


def write_project(count: int) -> None:
    """Write a project of ``count`` clips, which share a few films, into the current directory."""
    corpus = Path("corpus")
    corpus.mkdir()
    for number in range(FILMS):
        _write_film(corpus / f"{number}.mp4", number)
    Path("params.yaml").write_text("corpus: {kind: folder, root: corpus}\n")
    sizes = [(corpus / f"{number}.mp4").stat().st_size for number in range(FILMS)]
    clips = [
        Clip(
            ClipId(f"clip_{number:06d}"),
            f"{number % FILMS}.mp4",
            f"{number:064x}",
            sizes[number % FILMS],
            2.0,
            has_video=True,
            has_audio=False,
            transcript="the quick brown fox jumps over a lazy dog and then runs away from here",
            given_label=LABELS[number % 6] if number < count // 20 else "",
            split=Split.TRAIN if number < count // 20 else Split.UNLABELED,
            group=f"speaker_{number % 500}",
            file_digest=f"{number:064x}",
        )
        for number in range(count)
    ]
    write_corpus_tables(Corpus(clips, list(LABELS), [], synthetic=True))
    posterior = np.random.default_rng(0).dirichlet(np.ones(len(LABELS)), count).round(6)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    votes = [f"source{number}_{part}" for number in range(SOURCES) for part in ("vote", "prob")]
    rows.writerow([*REFINED_COLUMNS, *(f"posterior_{label}" for label in LABELS), *votes])
    reason = "neutral 0.47, happy 0.45, mostly by the given label (log-odds +0.06: prior -0.29, sources -4.04)"
    for clip, probs in zip(clips, posterior.tolist(), strict=True):
        label = LABELS[int(np.argmax(probs))]
        row = {"clip_id": clip.clip_id, "split": clip.split.value, "given_label": clip.given_label, "label": label}
        row |= {"refined_label": "", "decision": "review", "confidence": max(probs), "agreement": 0.4, "basis": "given"}
        row["reason"] = reason
        rows.writerow([*(row.get(name, 0.5) for name in REFINED_COLUMNS), *probs, *[label, 0.47] * SOURCES])
    write_sealed(paths.REFINED, text.getvalue())
    listed = [clips[number * (count // LISTED)] for number in range(LISTED)]
    empty = "," * (len(NEXT_COLUMNS) - 1)
    lines = [",".join(NEXT_COLUMNS), *(f"{clip.clip_id}{empty}" for clip in listed)]
    paths.NEXT.write_text("\n".join(lines) + "\n")


def _write_film(path: Path, number: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=640, height=480, pix_fmt="yuv420p")
        noise = np.random.default_rng(number).integers(0, 255, (480, 640, 3), np.uint8)
        for shift in range(50):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(noise, shift, 0), format="rgb24")))
        container.mux(stream.encode())


def start_server(port: int = 0) -> tuple[subprocess.Popen[str], str]:
    """Start the page; return the process and the URL with the token."""
    command = [sys.executable, "-m", "ecmf_pipeline", "review", "--port", str(port), "--reviewer", "bench"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    url = re.search(r"http\S+", server.stdout.readline())
    if url is None:
        raise RuntimeError("the server did not start")
    return server, url.group()


def measure(chromium: Any) -> dict[str, float]:
    """Return the time to the first picture, and those to the next pictures."""
    page = chromium.new_page()
    started = time.perf_counter()
    server, url = start_server()
    listening = time.perf_counter()
    try:
        page.goto(url)
        page.wait_for_function("() => document.querySelector('video')?.readyState >= 2", polling=5)
        first = time.perf_counter()
        used = _cpu_seconds(server.pid)
        page.wait_for_function("() => document.getElementById('done').textContent.includes(' of ')", timeout=60_000)
        counted = time.perf_counter()
        waits = [float(page.evaluate(_PRESS)) for _ in range(PRESSES)]
    finally:
        server.kill()
        server.wait()
        page.close()
    return {
        "server listens (s)": listening - started,
        "first picture (s)": first - started,
        "CPU time of the server until then (s)": used,
        "all clips are known (s)": counted - started,
        "next picture, median (ms)": statistics.median(waits),
        "next picture, longest (ms)": max(waits),
    }


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_PRESS = """async () => {
  const name = document.getElementById('clip-name').innerText;
  await new Promise((resolve) => setTimeout(resolve, 400));  // a person looks at the clip first
  const start = performance.now();
  document.body.dispatchEvent(new KeyboardEvent('keydown', { key: '3', bubbles: true }));
  for (;;) {
    const video = document.querySelector('#stage video');
    if (document.getElementById('clip-name').innerText !== name && video?.readyState >= 2) break;
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return performance.now() - start;
}"""


def kill(count: int) -> dict[str, int]:
    """Send answers while the server is killed ``count`` times; like the page, repeat each until it is stored.

    Returns:
        The numbers of kills, of answers that were acknowledged, and of those that are lost and doubled in the file.
    """
    rng = random.Random(0)
    server, url = start_server()
    port = int(url.split(":")[2].split("/")[0])
    acknowledged: list[str] = []
    kills, number = 0, 0
    session = _sign_in(port, url)
    killed_at = time.monotonic() + rng.random()
    while kills < count:
        name = f"clip_{number:06d}"
        if time.monotonic() > killed_at:
            kills += 1
            killed_at = time.monotonic() + 60  # until it is started again
            _send(port, session, name, timeout=rng.random() * 0.01)  # it is killed while it answers
            server.kill()
            server.wait()
            server, url = start_server(port)
            session = _sign_in(port, url)
            killed_at = time.monotonic() + rng.random()
        if _send(port, session, name):
            acknowledged.append(name)
            number += 1
    server.kill()
    server.wait()
    with paths.VERDICTS.open(newline="") as file:
        stored = [row["name"] for row in csv.DictReader(file)]
    return {
        "kills": kills,
        "acknowledged": len(acknowledged),
        "stored": len(stored),
        "lost": len(set(acknowledged) - set(stored)),
        "doubled": len(stored) - len(set(stored)),
    }


def _sign_in(port: int, url: str) -> dict[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", f"/?{url.partition('?')[2]}")
    cookie = str(connection.getresponse().headers["set-cookie"]).partition(";")[0]
    connection.close()
    connection.request("GET", "/", headers={"cookie": cookie})
    page = connection.getresponse().read().decode()
    connection.close()
    token = re.search(r'name="csrf" content="(\w+)"', page)
    assert token is not None
    return {
        "cookie": cookie,
        "x-review-token": token[1],
        "origin": f"http://127.0.0.1:{port}",
        "content-type": "application/json",
    }


def _send(port: int, session: dict[str, str], name: str, timeout: float = 20) -> bool:
    """Send an answer; return whether the server acknowledged it."""
    body = json.dumps({"name": name, "label": "sad", "seconds": 1, "digest": f"{int(name[5:]):064x}"})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=max(timeout, 1e-4))
    try:
        connection.request("POST", "/api/verdict", body, session)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Write a project into a temporary folder, measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=132_000)
    parser.add_argument("--kills", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_project(arguments.clips)
        if arguments.kills:
            print(json.dumps(kill(arguments.kills)))  # noqa: T201
            return
        if problem := missing_browser():
            parser.error(problem)
        with browser() as chromium:
            for name, value in measure(chromium).items():
                print(f"{name}: {value:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
