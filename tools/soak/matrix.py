"""Make and check all films and sounds of the tests: ``python -m tools.soak.matrix``.

The films are those of tests/media/film_cases.py, read by each reader; the sounds are those of tests/media/sounds.py.
Two tables in Markdown give the results by codec and container, and a list follows of all that is not right. The exit
code is 1 if a picture or sound is wrong, or refused although the file holds it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import ClipError
from tests.media import films, sounds


@dataclass(frozen=True)
class Result:
    """The result of one file.

    Attributes:
        codec: Name of the encoder.
        container: File extension.
        outcome: ``right``, ``wrong``, or ``refused`` with the reason of the error.
        message: The fault, with the name of the case; empty if there is none.
    """

    codec: str
    container: str
    outcome: str
    message: str = ""


def main() -> int:
    """Check all files and print the tables."""
    exit_code = 0
    for title, check in (("films", film_results), ("sounds", sound_results)):
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            results = list(check(Path(folder)))
        totals = Counter(result.outcome for result in results)
        counts = ", ".join(f"{number} {outcome}" for outcome, number in totals.most_common())
        echo(f"{len(results)} {title}: {counts}; {time.monotonic() - start:.0f} s\n")
        echo("\n".join(table(results)) + "\n")
        for result in results:
            if result.message:
                echo(f"- {result.message}")
        exit_code |= int(totals["right"] != len(results))
    return exit_code


def film_results(folder: Path) -> Iterator[Result]:
    """Make each film of the matrix and yield the result of all readers."""
    for case in films.all_cases():
        path = films.make(case, folder)
        faults = {"film": films.check_film(case, path)}
        faults |= {reader: films.check(case, path, reader) for reader in films.READERS}
        path.unlink()
        found = {reader: fault for reader, fault in faults.items() if fault}
        outcomes = {_outcome(fault) for fault in found.values()}
        outcome = "wrong" if "wrong" in outcomes else next(iter(sorted(outcomes)), "right")
        message = f"{case.id}: {'; '.join(f'{reader}: {fault}' for reader, fault in found.items())}" if found else ""
        yield Result(case.codec, case.container, outcome, message)


def sound_results(folder: Path) -> Iterator[Result]:
    """Make each sound and yield the result."""
    for case in sounds.all_cases():
        try:
            fault = sounds.check(case, folder)
        except ClipError as error:
            fault = f"{case.name}: {films.REFUSED}{error.reason}: {error}"
        outcome = _outcome(fault.partition(": ")[2]) if fault else "right"
        yield Result(case.coding.codec, case.coding.container, outcome, fault or "")


def table(results: Iterable[Result]) -> list[str]:
    """Return the lines of a Markdown table: codecs by containers, with the number of files of each outcome."""
    cells: dict[str, dict[str, Counter[str]]] = {}
    containers: Counter[str] = Counter()
    for result in results:
        cells.setdefault(result.codec, {}).setdefault(result.container, Counter())[result.outcome] += 1
        containers[result.container] += 1
    columns = [container for container, _ in containers.most_common()]
    lines = [f"| codec | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for codec, row in cells.items():
        lines.append(f"| {codec} | {' | '.join(_cell(row.get(column, Counter())) for column in columns)} |")
    return lines


def _cell(outcomes: Counter[str]) -> str:
    """Return the number of right files, then those of other outcomes with their names."""
    others = [f"{number} {outcome}" for outcome, number in sorted(outcomes.items()) if outcome != "right"]
    return ", ".join([str(outcomes["right"]), *others]) if outcomes else ""


def _outcome(fault: str) -> str:
    """Return the outcome of a fault that a check found."""
    return f"refused ({fault.split(': ')[1]})" if fault.startswith(films.REFUSED) else "wrong"


if __name__ == "__main__":
    sys.exit(main())
