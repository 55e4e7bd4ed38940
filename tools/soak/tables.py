"""Damage the files between the stages: ``python -m tools.soak.tables --mutations 1000 --seed 7``.

Each file of `stage_files` is damaged at random and read as its stage reads it. The outcome must be an error that names
the file, or the same result; caches may also drop the file and compute its content again. Another exception, an error
without the file, and another result are faults; the exit code is 1 if there is any. Another valid value in a table that
people edit is counted, but is no fault.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.console import echo
from tools.soak.damage import mutations_of
from tools.soak.stage_files import StageFile, outcome, write_stage_files

_MAX_FAULTS_SHOWN = 5


@dataclass
class Tally:
    """Outcomes of the mutations of one file.

    Attributes:
        mutations: Number of mutations that changed the bytes.
        refused: Number of errors that name the file.
        with_row: Number of those that also name a row.
        same: Number of equal results.
        other_value: Number of other results of a file in which they cannot be detected.
        faults: Descriptions of all other outcomes.
    """

    mutations: int = 0
    refused: int = 0
    with_row: int = 0
    same: int = 0
    other_value: int = 0
    faults: list[str] = field(default_factory=list)


def damage_file(file: StageFile, mutations: int, seed: int) -> Tally:
    """Read a file after each of some mutations; the file is restored afterwards."""
    original = file.path.read_bytes()
    error, expected = outcome(file)
    if error is not None:
        raise error
    kinds = mutations_of(file.path)
    tally = Tally()
    for number in range(mutations):
        kind = kinds[number % len(kinds)]
        damaged = kind(original, random.Random(f"{seed} {file.path} {number}"))
        if damaged == original:
            continue
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_bytes(damaged)
        tally.mutations += 1
        _count(tally, file, expected, f"{file.path}, mutation {number} ({kind.__name__})")
    file.path.parent.mkdir(parents=True, exist_ok=True)
    file.path.write_bytes(original)
    return tally


def _count(tally: Tally, file: StageFile, expected: Any, name: str) -> None:
    try:
        error, result = outcome(file)
    except Exception as exception:  # noqa: BLE001 - any of them is a fault
        tally.faults.append(f"{name}: {type(exception).__name__}: {exception}")
        return
    if error is not None:
        if file.path.name in error.message or str(file.path.parent) in error.message:
            tally.refused += 1
            tally.with_row += "row " in error.message
        else:
            tally.faults.append(f"{name}: the error does not name the file: {error.message}")
    elif result == expected:
        tally.same += 1
    elif file.is_editable:
        tally.other_value += 1
    else:
        tally.faults.append(f"{name}: another result: {result} instead of {expected}"[:400])


def damage_all(mutations: int, seed: int) -> list[tuple[StageFile, Tally]]:
    """Damage each file of a new project in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [(file, damage_file(file, mutations, seed)) for file in write_stage_files()]


def main(words: Sequence[str] | None = None) -> int:
    """Run the test; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak.tables", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=1000, help="number of mutations of each file")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(words)
    with contextlib.redirect_stderr(io.StringIO()):  # warnings about dropped batches
        results = damage_all(options.mutations, options.seed)
    echo(f"{'file':60} mutations  refused  with row     same  other value  faults")
    for file, tally in results:
        echo(
            f"{_short(file.path):60} {tally.mutations:9}  {tally.refused:7}  {tally.with_row:8}  {tally.same:7}  "
            f"{tally.other_value:11}  {len(tally.faults):6}"
        )
    for _, tally in results:
        for fault in tally.faults[:_MAX_FAULTS_SHOWN]:
            echo(f"  {fault}")
    return 1 if any(tally.faults for _, tally in results) else 0


def _short(path: Path) -> str:
    return str(path) if len(str(path)) <= 60 else f"...{str(path)[-57:]}"


if __name__ == "__main__":
    sys.exit(main())
