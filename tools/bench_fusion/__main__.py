"""`python -m tools.bench_fusion [generated|ravdess ...]`: prints each figure beside what it must reach."""

from __future__ import annotations

import sys

from tools.bench_fusion.figures import generated_figures, missing_figures, ravdess_figures

FIGURES = {"generated": generated_figures, "ravdess": ravdess_figures, "missing": missing_figures}


def main(names: list[str]) -> None:
    """Run the figures named, or all."""
    for name in names or list(FIGURES):
        for line in FIGURES[name]():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
