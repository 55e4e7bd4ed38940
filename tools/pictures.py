"""Make the pictures of the README: ``python -m tools.pictures``.

`docs/images/data-flow.svg` is drawn from the table below; its stages are checked against dvc.yaml by a test.
`docs/images/report.png` is a screenshot of data/report/index.html by a headless Chromium, which must be on PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
REPORT = ROOT / "data" / "report" / "index.html"


class Box(NamedTuple):
    """A box of the drawing: its column and row, the stage's name or a title, and a line of explanation."""

    column: float
    row: float
    title: str
    text: str
    kind: str = "stage"


BOXES = {
    "clips": Box(0, 1, "clips", "video, audio, text", "data"),
    "index": Box(1, 1, "index", "manifest, findings"),
    "media": Box(2, 0, "extract", "frames, faces, audio"),
    "rewrite": Box(2, 2, "rewrite", "cues by an LLM"),
    "text": Box(3, 2, "extract", "text"),
    "stores": Box(3, 0, "Zarr stores", "features, cached", "data"),
    "train": Box(4, 1, "train, predict", "self-attention fusion"),
    "vote": Box(5, 0, "vote", "LightGBM, linear, LLM"),
    "refine": Box(5, 2, "refine", "labels with evidence"),
    "report": Box(6, 1, "evaluate, report", "metrics, one page", "data"),
}
ARROWS = [
    ("clips", "index"),
    ("index", "media"),
    ("index", "rewrite"),
    ("rewrite", "text"),
    ("text", "stores"),
    ("media", "stores"),
    ("stores", "train"),
    ("train", "vote"),
    ("vote", "refine"),
    ("refine", "train"),
    ("train", "report"),
    ("refine", "report"),
]
WIDTH, HEIGHT, STEP_X, STEP_Y, MARGIN = 140, 52, 170, 70, 12
FILL = {"stage": "#dbe9f6", "data": "#f1ece0"}


def data_flow() -> str:
    """Draw the data flow as an SVG document."""
    width = MARGIN * 2 + STEP_X * 6 + WIDTH
    height = MARGIN * 2 + STEP_Y * 2 + HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<title>Data flow: clips, features in Zarr stores, fusion, label refinement, report</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *(_arrow(BOXES[start], BOXES[end]) for start, end in ARROWS),
        *(_box(box) for box in BOXES.values()),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _corner(box: Box) -> tuple[float, float]:
    return MARGIN + box.column * STEP_X, MARGIN + box.row * STEP_Y


def _box(box: Box) -> str:
    x, y = _corner(box)
    middle = x + WIDTH / 2
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{FILL[box.kind]}" stroke="#567"/>'
        f'<text x="{middle:g}" y="{y + 22:g}" text-anchor="middle" font-size="14" font-weight="bold">'
        f"{escape(box.title)}</text>"
        f'<text x="{middle:g}" y="{y + 40:g}" text-anchor="middle" font-size="11">{escape(box.text)}</text>'
    )


def _arrow(start: Box, end: Box) -> str:
    """Connect two boxes: side to side if they are in different columns, else top to bottom."""
    (x1, y1), (x2, y2) = _corner(start), _corner(end)
    if start.column == end.column:
        x1 = x2 = x1 + WIDTH / 2
        y1, y2 = (y1 + HEIGHT, y2) if end.row > start.row else (y1, y2 + HEIGHT)
    else:
        x1, x2 = (x1 + WIDTH, x2) if end.column > start.column else (x1, x2 + WIDTH)
        y1, y2 = y1 + HEIGHT / 2, y2 + HEIGHT / 2
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#555" marker-end="url(#head)"/>'


def screenshot(page: Path, picture: Path, *, width: int = 1100, height: int = 890) -> None:
    """Save the top of an HTML page as a PNG picture."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("error: no Chromium on PATH\nhint: install the package chromium of your distribution")
    if not page.is_file():
        sys.exit(f"error: {page} does not exist\nhint: run the pipeline first\n  make run")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}"]
        size = f"--window-size={width},{height}"
        subprocess.run([browser, *options, size, f"--screenshot={picture}", page.as_uri()], check=True)


def main() -> None:
    """Write both pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    (IMAGES / "data-flow.svg").write_text(data_flow(), encoding="utf-8")
    screenshot(REPORT, IMAGES / "report.png")


if __name__ == "__main__":
    main()
