"""Write the generated reference pages, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.reference.cli import cli_page
from tools.reference.files import files_page
from tools.reference.params import params_page

ROOT = Path(__file__).resolve().parents[2]


def pages() -> dict[Path, str]:
    """Return the text of each generated page by its path."""
    folder = ROOT / "docs" / "reference"
    return {
        folder / "params.md": params_page(ROOT),
        folder / "cli.md": cli_page(),
        folder / "files.md": files_page(),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with code 1 if a page is stale")
    check = parser.parse_args().check
    stale = []
    for path, text in pages().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.relative_to(ROOT).as_posix())
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.stderr.write(
            f"error: stale pages: {', '.join(stale)}\nhint: write them again\n  python -m tools.reference\n"
        )
        sys.exit(1)
    sys.stdout.write(f"{', '.join(stale) if stale else 'all pages'} {'written' if stale else 'up to date'}\n")


if __name__ == "__main__":
    main()
