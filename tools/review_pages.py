"""Take screenshots of the review page of a project, and check it with axe: ``python -m tools.review_pages PROJECT``.

The project needs refined labels. Two reviewers answer some clips; afterwards the file of verdicts is as before.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.browser import browser, missing_browser, serious_violations

WIDTHS = (1400, 800, 390)


@contextmanager
def review_server(project: Path, *options: str) -> Iterator[str]:
    """Start the review page of a project on a free port; yield its URL with the token."""
    command = [sys.executable, "-m", "ecmf_pipeline", "review", "--port", "0", *options]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            found = re.search(r"http\S+", line)
            if found is None:
                raise RuntimeError(f"the server did not start: {line}")
            yield found.group()
        finally:
            server.kill()


def main() -> None:
    """Write the screenshots and print what axe finds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--out", type=Path, default=Path("review-pages"))
    arguments = parser.parse_args()
    if problem := missing_browser():
        parser.error(problem)
    arguments.out.mkdir(parents=True, exist_ok=True)
    verdicts = arguments.project / "labels" / "verdicts.csv"
    kept = verdicts.with_suffix(".kept")
    if verdicts.is_file():
        shutil.copy(verdicts, kept)
    try:
        with browser() as chromium:
            _answer(chromium, arguments.project)
            with review_server(arguments.project, "--reviewer", "Anna") as url:
                for scheme in ("light", "dark"):
                    for width in WIDTHS:
                        _take(chromium, url, arguments.out, scheme, width)
    finally:
        if kept.is_file():
            kept.replace(verdicts)
        else:
            verdicts.unlink(missing_ok=True)


def _answer(chromium: Any, project: Path) -> None:
    for reviewer, keys in (("Anna", "1234u1"), ("Ben", "1324b2")):
        with review_server(project, "--reviewer", reviewer) as url:
            page = chromium.new_page()
            page.goto(url)
            for key in keys:
                page.wait_for_selector("#clip:not([hidden]) #clip-name bdi:not(:empty)")
                page.keyboard.press(key)
                page.wait_for_function("() => !document.getElementById('done').textContent.includes('not stored')")
            page.close()


def _take(chromium: Any, url: str, out: Path, scheme: str, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda message: print(f"console: {message.text}") if message.type == "error" else None)  # noqa: T201
    page.goto(url)
    page.wait_for_selector("#faces:not([hidden])", timeout=60_000)
    page.wait_for_timeout(500)
    page.screenshot(path=out / f"clip-{width}-{scheme}.png", full_page=True)
    violations = serious_violations(page)
    page.goto(url.partition("?")[0] + "progress")
    page.wait_for_selector("#effect table, #effect .notice, #effect p:nth-child(2)", timeout=60_000)
    page.screenshot(path=out / f"progress-{width}-{scheme}.png", full_page=True)
    violations += serious_violations(page)
    print(f"{width} px, {scheme}: {'; '.join(violations) or 'axe finds nothing serious'}")  # noqa: T201
    context.close()


if __name__ == "__main__":
    main()
