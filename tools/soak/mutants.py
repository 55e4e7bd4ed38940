"""Fuzz test of the media readers: ``python -m tools.soak.mutants --mutants 1000 --seed 7``.

Valid files of each container are damaged at random. A worker process reads each of them with `probe_media`,
`read_frames` and `read_audio`. The result must be correct in type, shape and range, or a `ClipError`. Another
exception, a crash, a timeout, too much memory and a wrong result are faults. The exit code is 1 if there is any; with
``--keep`` the files that cause faults are stored.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.soak.media_sources import SOURCES, write_sources
from tools.soak.mutations import mutate

REQUIRED = ("mp4", "mkv", "avi", "webm", "flv", "wav")
FRAMES = 16
SECONDS = 10.0
"""Timeout of one reader, with one file of at most some 100 kB."""

MAX_BYTES = 1_500 * 10**6
"""Maximum resident memory of a worker process."""

_ADDRESS_SPACE = 6 * 2**30  # bytes; protects the machine from a worker before its memory is measured
_MAX_AUDIO_SECONDS = 600
_MAX_TIME = 1e6  # seconds, 11 days: times of pictures beyond this are damage


@dataclass(frozen=True)
class Mutant:
    """A damaged file.

    Attributes:
        container: File extension.
        seed: Seed of all mutants.
        number: Number of the mutant; with the seed it determines the damage.
    """

    container: str
    seed: int
    number: int

    def content(self, sources: Sequence[bytes]) -> bytes:
        """Return its bytes, from those of the valid files of its container."""
        rng = np.random.default_rng([self.seed, list(SOURCES).index(self.container), self.number])
        return mutate(sources[self.number % len(sources)], rng)

    def __str__(self) -> str:
        return f"{self.container} {self.number} (seed {self.seed})"


@dataclass(frozen=True)
class Outcome:
    """Result of reading a mutant.

    Attributes:
        refusals: Class of the `ClipError` of each reader that refused it, by reader.
        faults: The faults, each with its traceback if there is one.
        peak_bytes: Peak of the resident memory of the worker; 0 if it crashed.
        bytes_after: Resident memory of the worker after reading.
        seconds: Duration.
    """

    refusals: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    bytes_after: int = 0
    seconds: float = 0.0


def read_mutant(path: Path) -> Outcome:
    """Read a file with all readers in this process."""
    from ecmf_pipeline.core.errors import ClipError, OutOfMemory
    from ecmf_pipeline.media.audio import read_audio
    from ecmf_pipeline.media.config import MediaConfig
    from ecmf_pipeline.media.containers import probe_media
    from ecmf_pipeline.media.sampling import read_frames

    def probe() -> list[str]:
        result = probe_media(path)
        is_right = 0 <= result.readable <= result.duration < np.inf
        return [] if is_right else [f"{result}"]

    config = MediaConfig(frames=FRAMES)
    outcome = Outcome()
    start = time.monotonic()
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    readers = {
        "probe": probe,
        "pictures": lambda: _picture_faults(*read_frames(path, config)),
        "audio": lambda: _audio_faults(read_audio(path, config)),
    }
    for name, read in readers.items():
        try:
            with warnings.catch_warnings(action="error"):  # they would be printed in the middle of a run
                outcome.faults.extend(f"{name}: {fault}" for fault in read())
        except ClipError as error:
            outcome.refusals[name] = error.reason
        except (
            MemoryError
        ):  # FFmpeg refuses to allocate what a damaged header declares; the runner quarantines the clip
            outcome.refusals[name] = OutOfMemory.__name__
        except Exception:  # noqa: BLE001 - any of them is a fault
            outcome.faults.append(f"{name}: {traceback.format_exc()}")
    peak, after = _resident_bytes()
    if peak > MAX_BYTES:
        outcome.faults.append(f"memory: {peak / 1e6:.0f} MB")
    return Outcome(outcome.refusals, outcome.faults, peak, after, time.monotonic() - start)


def _picture_faults(frames: NDArray[Any], times: NDArray[Any]) -> list[str]:
    faults = []
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not 1 <= len(frames) <= FRAMES:
        faults.append(f"frames are {frames.dtype} {frames.shape}")
    if times.dtype != np.float32 or times.shape != frames.shape[:1]:
        faults.append(f"times are {times.dtype} {times.shape}")
    if not (np.abs(times) < _MAX_TIME).all() or not (np.diff(times) > 0).all():
        faults.append(f"times are {times.tolist()}")
    return faults


def _audio_faults(samples: NDArray[Any]) -> list[str]:
    if samples.dtype != np.float32 or samples.ndim != 1 or not 0 < len(samples) <= 16_000 * _MAX_AUDIO_SECONDS:
        return [f"samples are {samples.dtype} {samples.shape}"]
    largest = np.abs(samples).max()
    return [] if largest <= 1 else [f"the largest sample is {largest}"]


def _resident_bytes() -> tuple[int, int]:
    """Return the peak and the present resident memory of this process (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak, present = (int(lines[key].split()[0]) * 1024 for key in ("VmHWM", "VmRSS"))
    return peak, present


def _serve(connection: Connection) -> None:
    """Read the files whose paths arrive until the connection is closed."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    with contextlib.suppress(EOFError):
        while True:
            connection.send(read_mutant(connection.recv()))


class Reader:
    """A worker process that reads files; it is replaced if it crashes or takes too long."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()

    @property
    def pid(self) -> int | None:
        """Id of the process."""
        return self._process.pid

    def read(self, path: Path) -> Outcome:
        """Read a file."""
        start = time.monotonic()
        try:
            self._connection.send(path)
            if self._connection.poll(3 * SECONDS):
                outcome: Outcome = self._connection.recv()
                return outcome
            fault = "timeout"
        except (EOFError, ConnectionError):
            self._process.join()
            fault = f"the process exited with {self._process.exitcode}"
        self.close()
        self._start()
        return Outcome(faults=[fault], seconds=time.monotonic() - start)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


@dataclass
class Tally:
    """Counts of the mutants of one container.

    Attributes:
        mutants: Number of mutants.
        read: Number of mutants that all readers read.
        refusals: Number of refusals by class of error; a mutant counts once for each class.
        faults: The faults with their mutants.
        peak: Largest peak of the memory of the worker in bytes, and its mutant.
        slowest: Seconds, and their mutant.
        memory: Memory of the worker after each mutant in bytes, 0 after a crash.
    """

    mutants: int = 0
    read: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[Mutant, str]] = field(default_factory=list)
    peak: tuple[int, str] = (0, "")
    slowest: tuple[float, str] = (0.0, "")
    memory: list[int] = field(default_factory=list)

    def add(self, mutant: Mutant, outcome: Outcome) -> None:
        """Count a mutant. That a file of audio has no pictures is no refusal."""
        expected = {"NoVideoStream"} if all(source.video is None for source in SOURCES[mutant.container]) else set()
        refusals = set(outcome.refusals.values()) - expected
        self.mutants += 1
        self.read += not refusals and not outcome.faults
        self.refusals.update(refusals)
        self.faults += [(mutant, fault) for fault in outcome.faults]
        self.peak = max(self.peak, (outcome.peak_bytes, str(mutant)))
        self.slowest = max(self.slowest, (outcome.seconds, str(mutant)))
        self.memory.append(outcome.bytes_after)

    def row(self, container: str) -> str:
        """Return its row of the table, in Markdown."""
        refusals = ", ".join(f"{reason} {count}" for reason, count in self.refusals.most_common())
        parts = [np.mean(part) / 1e6 for part in (self.memory[: self.mutants // 5], self.memory[-self.mutants // 5 :])]
        memory = f"{parts[0]:.0f} -> {parts[1]:.0f}"
        slowest, peak = f"{self.slowest[0]:.1f} ({self.slowest[1]})", f"{self.peak[0] / 1e6:.0f} ({self.peak[1]})"
        cells = (container, self.mutants, self.read, refusals, len(self.faults), peak, memory, slowest)
        return f"| {' | '.join(map(str, cells))} |"


HEADER = (
    "| container | mutants | read | refused | faults | peak MB | MB, first -> last fifth | slowest, s |\n"
    "|---|---|---|---|---|---|---|---|"
)


def fuzz(containers: Sequence[str], numbers: range, seed: int, keep: Path | None = None) -> Iterator[tuple[str, Tally]]:
    """Read mutants; yield the counts of each container.

    Args:
        containers: File extensions.
        numbers: Numbers of the mutants of each container.
        seed: Seed of the damage.
        keep: Folder for the files that cause faults.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Reader()) as reader:
        for container in containers:
            tally, sources = Tally(), write_sources(Path(folder), container)
            for number in numbers:
                mutant = Mutant(container, seed, number)
                path = Path(folder) / f"mutant.{container}"
                path.write_bytes(mutant.content(sources))
                outcome = reader.read(path)
                tally.add(mutant, outcome)
                if outcome.faults and keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{number}.{container}").write_bytes(path.read_bytes())
            yield container, tally


def main(words: list[str] | None = None) -> int:
    """Print the table and the faults."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak.mutants", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--mutants", type=int, default=1000, help="number of mutants of each container")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--container", action="append", choices=list(SOURCES), help=f"default: {', '.join(REQUIRED)}")
    parser.add_argument("--keep", type=Path, help="folder for files that cause faults")
    options = parser.parse_args(words)
    numbers = range(options.first, options.first + options.mutants)
    faults: list[tuple[Mutant, str]] = []
    print(HEADER, flush=True)  # noqa: T201
    for container, tally in fuzz(options.container or REQUIRED, numbers, options.seed, options.keep):
        print(tally.row(container), flush=True)  # noqa: T201
        faults += tally.faults
    for mutant, fault in faults:
        print(f"\n{mutant}: {fault}")  # noqa: T201
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
