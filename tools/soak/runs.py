"""The real command, started as a user starts it, and the ways in which it is struck down."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import yaml

import ecmf_pipeline
from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.store.format import lock_path

_MARK = "ECMF_SOAK_RUN"
_SECONDS_BETWEEN_LOOKS = 0.0005
_LONGEST_RUN = 300.0


class Victim(StrEnum):
    """Who is struck."""

    MAIN = "main"
    """The main process alone: its workers must not outlive it."""
    FAMILY = "family"
    """It and all its workers, in any order."""
    WORKER = "worker"
    """One worker: the run must end well by itself."""
    SEALING = "sealing"
    """The main process while it makes a part."""


@dataclass(frozen=True)
class Project:
    """A project folder whose corpus is not its own.

    Attributes:
        folder: The folder.
        modalities: What is extracted in it.
    """

    folder: Path
    modalities: Sequence[Modality]

    @classmethod
    def make(cls, folder: Path, corpus: Path, settings: Mapping[str, object], models: Path) -> Project:
        """Lay it out and index its corpus.

        Args:
            folder: Where; is made.
            corpus: Its clips.
            settings: The ``extract`` section of its params.
            models: The embedded weights.
        """
        (folder / paths.DATA).mkdir(parents=True)
        (folder / paths.MODELS).symlink_to(models.resolve(), target_is_directory=True)
        params = {
            "corpus": {"kind": "folder", "root": str(corpus.resolve())},
            "media": {"frames": 2},
            "extract": settings,
        }
        (folder / paths.PARAMS).write_text(yaml.safe_dump(params))
        encoders = settings["encoders"]
        assert isinstance(encoders, Mapping)
        project = cls(folder, [Modality(name) for name in encoders])
        subprocess.run(project.command("index"), cwd=folder, env=project.environment(), check=True, capture_output=True)
        return project

    def command(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "ecmf_pipeline", *words]

    def environment(self) -> dict[str, str]:
        """In which it finds the package that we were started from."""
        return os.environ | {"PYTHONPATH": str(Path(ecmf_pipeline.__file__).parents[1])}

    def root(self, modality: Modality) -> Path:
        """A modality's store."""
        return self.folder / paths.features(modality)

    def quarantine(self, modality: Modality) -> Path:
        """A modality's quarantine table."""
        return self.folder / paths.quarantine("extract", modality)

    def unfinished(self) -> set[Path]:
        """The parts that are being made just now, or were when their writer was killed."""
        return set((self.folder / paths.DATA / "features").glob(".*.spool/*/part-*"))

    def forget(self) -> None:
        """Remove all that was extracted."""
        shutil.rmtree(self.folder / paths.DATA / "features", ignore_errors=True)
        for modality in self.modalities:
            self.quarantine(modality).unlink(missing_ok=True)


class ExtractRun:
    """One `extract` and all that it starts, found by a mark in their environment.

    Args:
        project: Where it runs.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        options = [word for modality in project.modalities for word in ("--modality", modality.value)]
        name, _, value = self._mark.partition("=")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `wait`
        self._main = subprocess.Popen(
            project.command("extract", *options),
            cwd=project.folder,
            env=project.environment() | {name: value},
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    def ended(self) -> bool:
        """Whether the command has ended."""
        return self._main.poll() is not None

    def wait_until(self, told: Callable[[], bool]) -> bool:
        """Wait until something can be told; returns False when the run ends before."""
        while not self.ended():
            if told():
                return not self.ended()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return False

    def wait(self) -> tuple[int, str]:
        """Wait for its end; its exit status (minus the signal that ended it) and what it said."""
        try:
            status = self._main.wait(_LONGEST_RUN)
        except subprocess.TimeoutExpired:
            self._kill([self._main.pid, *self.workers()], signal.SIGKILL)
            self._main.wait()
            status = -1
        with self._said as file:
            file.seek(0)
            return status, file.read().decode(errors="replace")

    def workers(self) -> list[int]:
        """The processes it has started that are still alive."""
        mark = self._mark.encode()
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) != self._main.pid:
                with suppress(OSError):  # it ended meanwhile, or is another user's
                    if mark in (folder / "environ").read_bytes().split(b"\0"):
                        found.append(int(folder.name))
        return sorted(found)

    def orphans(self, seconds: float) -> list[int]:
        """The workers that are still alive so long after the end."""
        deadline = time.monotonic() + seconds
        while (alive := self.workers()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return alive

    def strike(self, victim: Victim, delay: float, rng: np.random.Generator, *, parts: int) -> bool:
        """Kill after a delay, or when the moment has come, unless it ends before.

        Args:
            victim: Whom.
            delay: Seconds to wait; for a victim that is sealing, only the moment counts.
            rng: Draws whatever else is left to chance.
            parts: How many this run is to make.

        Returns:
            Whether somebody was killed.
        """
        if victim is Victim.SEALING:
            if not self.wait_until(self._making_a_part(int(rng.integers(1, max(1, parts) + 1)))):
                return False
            time.sleep(rng.uniform(0, 0.02))
            return self._kill([self._main.pid], signal.SIGKILL)
        if not self._lives_for(delay):
            return False
        if victim is Victim.WORKER:
            if not self.wait_until(lambda: bool(self.workers())):
                return False
            return self._kill([int(rng.choice(self.workers() or [0]))], signal.SIGKILL)
        family = [self._main.pid, *(self.workers() if victim is Victim.FAMILY else [])]
        return self._kill([int(process) for process in rng.permutation(family)], signal.SIGKILL)

    def interrupt(self, delay: float) -> bool:
        """Send Ctrl-C to the process group, as a terminal does; returns whether it was still there.

        The delay counts from when it holds its stores: before that nothing has begun, and the command line answers.
        """
        if not self.wait_until(self._holds_its_stores) or not self._lives_for(delay):
            return False
        os.killpg(self._main.pid, signal.SIGINT)
        return True

    def _holds_its_stores(self) -> bool:
        locks = [lock_path(self._project.root(modality)) for modality in self._project.modalities]
        return all(lock.is_file() and f"process {self._main.pid} " in lock.read_text() for lock in locks)

    def _lives_for(self, seconds: float) -> bool:
        try:
            self._main.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _making_a_part(self, number: int) -> Callable[[], bool]:
        """Tells whether that many parts have been begun."""
        seen: set[Path] = set()

        def told() -> bool:
            seen.update(self._project.unfinished() - before)
            return len(seen) >= number

        before = self._project.unfinished()
        return told

    def _kill(self, processes: Sequence[int], number: signal.Signals) -> bool:
        struck = 0
        for process in processes:
            with suppress(ProcessLookupError):
                if process and not (process == self._main.pid and self.ended()):
                    os.kill(process, number)
                    struck += 1
        return struck > 0
