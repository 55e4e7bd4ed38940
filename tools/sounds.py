"""Check the audio of all cases of the matrix of sounds: ``python -m tools.sounds``.

Each case is a file in one codec, container, sample format, layout and sampling rate. The audio that the pipeline reads
is compared with the mean of the channels in a decode of the whole file. The exit code is 1 if any case is wrong.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.media import sounds


def main() -> int:
    """Print the faults and their number."""
    cases = sounds.all_cases()
    with tempfile.TemporaryDirectory() as folder:
        faults = [fault for case in cases if (fault := _check(case, Path(folder)))]
    sys.stdout.write("".join(f"{fault}\n" for fault in faults) + f"{len(cases)} sounds, {len(faults)} wrong\n")
    return int(bool(faults))


def _check(case: sounds.SoundCase, folder: Path) -> str | None:
    try:
        return sounds.check(case, folder)
    except Exception as error:  # noqa: BLE001 - an unexpected error is a fault of this case, the others are checked too
        return f"{case.name}: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
