"""Start the real `extract` command and kill it in several ways."""

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

_RUN_VARIABLE = "ECMF_SOAK_RUN"
_POLL_SECONDS = 0.0005
_TIMEOUT_SECONDS = 300.0


class Victim(StrEnum):
    """Which processes are killed."""

    MAIN = "main"
    """The main process alone: its workers must exit too."""
    FAMILY = "family"
    """The main process and all of its workers, in random order."""
    WORKER = "worker"
    """One worker: the run must still complete."""
    SEALING = "sealing"
    """The main process while it writes a part."""


@dataclass(frozen=True)
class Project:
    """A project folder with a corpus elsewhere.

    Attributes:
        folder: The folder.
        modalities: The modalities to extract.
    """

    folder: Path
    modalities: Sequence[Modality]

    @classmethod
    def make(cls, folder: Path, corpus: Path, settings: Mapping[str, object], models: Path) -> Project:
        """Create the project and index its corpus.

        Args:
            folder: The project folder; it is created.
            corpus: Folder of the clips.
            settings: The ``extract`` section of its params.
            models: Folder of the embedded weights.
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
        """Return the command line."""
        return [sys.executable, "-m", "ecmf_pipeline", *words]

    def environment(self) -> dict[str, str]:
        """Return environment variables with which the command imports the same package as this process."""
        return os.environ | {"PYTHONPATH": str(Path(ecmf_pipeline.__file__).parents[1])}

    def root(self, modality: Modality) -> Path:
        """Return the store of a modality."""
        return self.folder / paths.features(modality)

    def quarantine(self, modality: Modality) -> Path:
        """Return the quarantine table of a modality."""
        return self.folder / paths.quarantine("extract", modality)

    def unfinished(self) -> set[Path]:
        """Return the parts that are being written, or were when their writer was killed."""
        return set((self.folder / paths.DATA / "features").glob(".*.spool/*/part-*"))

    def remove_features(self) -> None:
        """Remove all features and quarantine tables."""
        shutil.rmtree(self.folder / paths.DATA / "features", ignore_errors=True)
        for modality in self.modalities:
            self.quarantine(modality).unlink(missing_ok=True)


class ExtractRun:
    """A running `extract` command and its child processes, which are found by an environment variable.

    Args:
        project: The project in which it runs.
        arguments: Further arguments of the command.
    """

    def __init__(self, project: Project, *arguments: str) -> None:
        self._project = project
        self._run_id = f"{_RUN_VARIABLE}={uuid.uuid4().hex}"
        options = [word for modality in project.modalities for word in ("--modality", modality.value)]
        name, _, value = self._run_id.partition("=")
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `wait`
        self._main = subprocess.Popen(
            project.command("extract", *options, *arguments),
            cwd=project.folder,
            env=project.environment() | {name: value},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    def ended(self) -> bool:
        """Return whether the command has ended."""
        return self._main.poll() is not None

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds; return False if the run ends first."""
        while not self.ended():
            if condition():
                return not self.ended()
            time.sleep(_POLL_SECONDS)
        return False

    def wait(self) -> tuple[int, str]:
        """Wait for its end; return its exit status (minus the signal number if killed) and its output."""
        try:
            status = self._main.wait(_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._send([self._main.pid, *self.workers()], signal.SIGKILL)
            self._main.wait()
            status = -1
        with self._output as file:
            file.seek(0)
            return status, file.read().decode(errors="replace")

    def workers(self) -> list[int]:
        """Return the ids of the processes started by the command that are alive."""
        run_id = self._run_id.encode()
        processes = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) != self._main.pid:
                with suppress(OSError):  # the process ended meanwhile, or belongs to another user
                    if run_id in (folder / "environ").read_bytes().split(b"\0"):
                        processes.append(int(folder.name))
        return sorted(processes)

    def orphans(self, seconds: float) -> list[int]:
        """Return the workers that are still alive after ``seconds``."""
        deadline = time.monotonic() + seconds
        while (alive := self.workers()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return alive

    def kill(self, victim: Victim, delay: float, rng: np.random.Generator, *, parts: int) -> bool:
        """Kill processes of the run, unless it ends before.

        Args:
            victim: Which processes to kill.
            delay: Seconds to wait; ignored for `Victim.SEALING`, which waits for a part.
            rng: Random generator of all other choices.
            parts: Number of parts that this run is expected to write.

        Returns:
            Whether a process was killed.
        """
        if victim is Victim.SEALING:
            if not self.wait_until(self._has_started_parts(int(rng.integers(1, max(1, parts) + 1)))):
                return False
            time.sleep(rng.uniform(0, 0.02))
            return self._send([self._main.pid], signal.SIGKILL)
        if not self._is_alive_after(delay):
            return False
        if victim is Victim.WORKER:
            if not self.wait_until(lambda: bool(self.workers())):
                return False
            return self._send([int(rng.choice(self.workers() or [0]))], signal.SIGKILL)
        family = [self._main.pid, *(self.workers() if victim is Victim.FAMILY else [])]
        return self._send([int(process) for process in rng.permutation(family)], signal.SIGKILL)

    def interrupt(self, delay: float) -> bool:
        """Send Ctrl-C to the process group, as a terminal does; return whether the run was still alive.

        The delay starts once the run has locked its stores: before that, no extraction is in progress.
        """
        if not self.wait_until(self._has_locked_stores) or not self._is_alive_after(delay):
            return False
        os.killpg(self._main.pid, signal.SIGINT)
        return True

    def _has_locked_stores(self) -> bool:
        locks = [lock_path(self._project.root(modality)) for modality in self._project.modalities]
        return all(lock.is_file() and f"process {self._main.pid} " in lock.read_text() for lock in locks)

    def _is_alive_after(self, seconds: float) -> bool:
        try:
            self._main.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _has_started_parts(self, number: int) -> Callable[[], bool]:
        """Return a condition that holds once so many parts have been started."""
        seen: set[Path] = set()

        def condition() -> bool:
            seen.update(self._project.unfinished() - before)
            return len(seen) >= number

        before = self._project.unfinished()
        return condition

    def _send(self, processes: Sequence[int], number: signal.Signals) -> bool:
        sent = 0
        for process in processes:
            with suppress(ProcessLookupError):
                if process and not (process == self._main.pid and self.ended()):
                    os.kill(process, number)
                    sent += 1
        return sent > 0
