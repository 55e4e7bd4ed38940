"""Benchmark the fusion model: ``python -m tools.bench.fusion [NAME ...]``, with the names of `FIGURES` and `LONGER`."""

from __future__ import annotations

import argparse
import sys

from tools.bench.fusion.generated_figures import generated_figures
from tools.bench.fusion.missing import missing_figures
from tools.bench.fusion.noise import noise_figures
from tools.bench.fusion.parts import parts_figures
from tools.bench.fusion.plain import plain_figures, small_figures
from tools.bench.fusion.ravdess import ravdess_figures
from tools.bench.fusion.searched import search_figures
from tools.bench.fusion.stages import stages_figures, wide_figures

FIGURES = {
    "stages": stages_figures,
    "generated": generated_figures,
    "ravdess": ravdess_figures,
    "missing": missing_figures,
    "plain": plain_figures,
    "noise": noise_figures,
}
LONGER = {"small": small_figures, "parts": parts_figures, "search": search_figures, "wide": wide_figures}
"""Run only if named: they train dozens of ensembles."""


def main() -> None:
    """Run the named measurements, by default all of `FIGURES`."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.fusion", description="Benchmark the fusion model.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(FIGURES | LONGER)}")
    names = parser.parse_args().names
    if unknown := set(names) - set(FIGURES | LONGER):
        parser.error(f"unknown measurement: {', '.join(sorted(unknown))}")
    for name in names or list(FIGURES):
        for line in (FIGURES | LONGER)[name]():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
