"""Take screenshots of a report, and check it with axe: ``python -m tools.report_pages data/report/index.html``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from tools.browser import browser, missing_browser, serious_violations

WIDTHS = (1400, 800, 390)


def main() -> None:
    """Write the screenshots; print how long the page takes to open and what axe finds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path("report-pages"))
    arguments = parser.parse_args()
    if not arguments.page.is_file():
        parser.error(f"{arguments.page} does not exist")
    if problem := missing_browser():
        parser.error(problem)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with browser() as chromium:
        for scheme in ("light", "dark"):
            for width in WIDTHS:
                _take(chromium, arguments.page, arguments.out, scheme, width)


def _take(chromium: Any, path: Path, out: Path, scheme: str, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda message: print(f"console: {message.text}") if message.type == "error" else None)  # noqa: T201
    started = time.monotonic()
    page.goto(path.absolute().as_uri())
    opened = time.monotonic() - started
    name = f"{width}-{scheme}.png"
    page.screenshot(path=out / f"first-{name}")
    page.screenshot(path=out / f"page-{name}", full_page=True)
    violations = serious_violations(page)
    card = page.locator("#decisions tbody a").first
    if card.count():
        card.click()
        page.wait_for_selector(".card:target")
        page.screenshot(path=out / f"card-{name}")
        violations += serious_violations(page)
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    print(  # noqa: T201
        f"{width} px, {scheme}: opened in {opened:.2f} s; {max(wide, 0)} px too wide; "
        f"{'; '.join(violations) or 'axe finds nothing serious'}"
    )
    context.close()


if __name__ == "__main__":
    main()
