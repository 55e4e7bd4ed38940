"""Soak test of shards: ``python -m tools.soak.shards --kills 100 --seed 7``.

An uninterrupted run of `extract` is the reference. A second project runs all shards of one number at once. Some are
killed with SIGKILL at random moments, with all their workers. Then all shards of another number run, until so many runs
were killed and one round was complete. The run without a shard merges them. Its store must hold the rows of the
reference, byte for byte, `store verify` must find nothing, and the next run must have nothing to do.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.shards import SHARDS
from tools.soak.corpus import write_corpus
from tools.soak.inspection import Fault, Faults, Reference
from tools.soak.runs import ExtractRun, Project, Victim

ENCODER = {"audio": "egemaps"}
FIRST_COUNT, COUNTS = 8, (2, 3, 5, 8)
"""Number of shards of the first round, and those of later rounds."""
_KILLED_SHARE = 0.5
_KILLED_STATUS = -9


class ShardSoak:
    """The two projects of a soak test of shards.

    Args:
        folder: Working folder.
        clips: Number of valid clips.
        models: Folder of the embedded weights.
        rng: Random generator.

    Attributes:
        kills: Number of runs that were killed.
        runs: Number of runs.
        faults: Failed checks.
    """

    def __init__(self, folder: Path, clips: int, models: Path, rng: np.random.Generator) -> None:
        self._rng = rng
        write_corpus(folder / "corpus", clips, rng)
        settings = {"encoders": ENCODER, "workers": 1, "batch_size": 1, "part_size": 4, "max_quarantined": 1.0}
        reference = Project.make(folder / "reference", folder / "corpus", settings, models)
        self._project = Project.make(folder / "sharded", folder / "corpus", settings, models)
        start = time.monotonic()
        if (result := ExtractRun(reference).wait())[0]:
            raise RuntimeError(result[1])
        self._seconds = time.monotonic() - start
        self._reference = Reference.read(reference.root(Modality.AUDIO), reference.quarantine(Modality.AUDIO))
        self.kills = self.runs = 0
        self.faults: Faults = []

    def cycle(self, max_kills: int) -> None:
        """Run rounds of shards until ``max_kills`` were killed and a round was complete; merge and compare."""
        self._project.remove_features()
        shutil.rmtree(self._project.folder / paths.DATA / "features", ignore_errors=True)
        count, left = FIRST_COUNT, max_kills
        while not self.faults:
            killed = self._round(count, left)
            left -= killed
            if not killed:
                break
            count = int(self._rng.choice([other for other in COUNTS if other != count]))
        self._merge()

    def _round(self, count: int, max_kills: int) -> int:
        """Run all shards of one number at once, kill some, and return how many were killed."""
        runs = [ExtractRun(self._project, "--shard", f"{number}/{count}") for number in range(1, count + 1)]
        self.runs += count
        chosen = [run for run in runs if self._rng.random() < _KILLED_SHARE][:max_kills]
        start = time.monotonic()
        delays = np.sort(self._rng.uniform(0.2, 1.0, len(chosen))) * self._seconds * np.sqrt(count)
        for run, delay in zip(chosen, delays, strict=True):
            run.kill(Victim.FAMILY, max(0.0, start + delay - time.monotonic()), self._rng, parts=1)
        killed = 0
        for number, run in enumerate(runs, 1):
            status, output = run.wait()
            killed += status == _KILLED_STATUS
            if status not in ({0, _KILLED_STATUS} if run in chosen else {0}):
                self.faults.append((Fault.ENDED_BADLY, f"shard {number}/{count}: exit status {status}:\n{output}"))
        self.kills += killed
        return killed

    def _merge(self) -> None:
        """Run without a shard, and compare its result to the reference."""
        first, second = (ExtractRun(self._project).wait() for _ in range(2))
        for status, output in (first, second):
            if status or ", 0 absent" in output or "audio: 0 done" not in output:
                self.faults.append((Fault.ENDED_BADLY, f"run without a shard: exit status {status}:\n{output}"))
        root = self._project.root(Modality.AUDIO)
        self.faults += self._reference.compare_finished(root, self._project.quarantine(Modality.AUDIO))
        verify = subprocess.run(
            self._project.command("store", "verify"),
            cwd=self._project.folder,
            env=self._project.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if verify.returncode:
            self.faults.append((Fault.TORN, verify.stdout + verify.stderr))
        if (root.parent / SHARDS).exists():
            self.faults.append((Fault.FOREIGN, f"{root.parent / SHARDS} was not removed"))


def main(words: list[str] | None = None) -> int:
    """Run the soak test; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak.shards", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="number of runs to kill")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--clips", type=int, default=45, help="number of valid clips in the corpus")
    parser.add_argument("--models", type=Path, default=paths.MODELS, help="folder of the embedded weights")
    parser.add_argument("--folder", type=Path, help="parent of the working folder; default: temporary folder")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        start = time.monotonic()
        soak = ShardSoak(Path(name), options.clips, options.models, np.random.default_rng(options.seed))
        while soak.kills < options.kills and not soak.faults:
            soak.cycle(min(20, options.kills - soak.kills))
        for fault, message in soak.faults:
            echo(f"  {fault}: {message}")
        seconds = time.monotonic() - start
        echo(f"{soak.kills} of {soak.runs} runs killed, {seconds:.0f} s: {len(soak.faults)} faults")
    return 1 if soak.faults else 0


if __name__ == "__main__":
    sys.exit(main())
