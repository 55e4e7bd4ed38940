"""A headless Chromium for the tests and pictures of the review page: Debian's `chromium`, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
INSTALL = "sh tools/system-libraries.sh --browser"
"""Command that installs the browser."""


def find_browser() -> str | None:
    """Return the path of a Chromium on PATH; None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def missing_browser() -> str:
    """Return the reason why no browser can be used; empty if one can."""
    if find_browser() is None:
        return f"no Chromium on PATH; install it: {INSTALL}"
    try:
        import axe_playwright_python  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return f'the package {error.name} is missing; install it: pip install -e ".[dev]"'
    return ""


@contextmanager
def browser() -> Iterator[Any]:
    """Yield a browser, which is closed at the end."""
    from playwright.sync_api import sync_playwright

    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has no sandbox for root
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=find_browser(), args=[*root, "--autoplay-policy=no-user-gesture-required"]
        )
        try:
            yield started
        finally:
            started.close()


def serious_violations(page: Any) -> list[str]:
    """Return the serious and critical accessibility violations that axe finds on a page: rule, help and elements."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {', '.join(str(node['target']) for node in one['nodes'][:5])}"
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]
