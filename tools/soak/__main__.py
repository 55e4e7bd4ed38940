"""Soak test of extraction: ``python -m tools.soak --kills 200 --seed 7``.

An uninterrupted run of the real command is the reference. A second project runs the same command, which is killed with
SIGKILL at a random moment: the main process alone, the main process and its workers, one worker, or the main process
while it writes a part. The stores are checked after each kill, and the command is started again until it completes.
Then the result is compared to the reference and removed, and the next cycle starts. The exit code is 1 if any check
fails.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import Interrupted
from tools.soak.corpus import write_corpus
from tools.soak.inspection import Fault, Faults, Key, Reference, count, read_contents
from tools.soak.openings import Openings
from tools.soak.runs import ExtractRun, Project, Victim

ENCODERS = {"audio": "egemaps", "global": "efficientnet_lite0"}
WORKERS, BATCH_SIZE, PART_SIZE = 2, 2, 4
_INTERRUPTED = 130
_SECONDS_TO_EXIT = 2.0
_CHECK_SHARE = 0.7
"""Share of runs after which the stores are checked before the next run starts."""


@dataclass
class Tally:
    """Counts of one or several cycles.

    Attributes:
        kills: Number of runs that were killed.
        runs: Number of runs.
        opened: How often clips with features were opened, including repeated openings.
        victims: Number of kills by kind of victim.
        leftovers: Number of rows and parts that kills left for the next run, by kind.
        faults: Failed checks.
    """

    kills: int = 0
    runs: int = 0
    opened: int = 0
    victims: Counter[str] = field(default_factory=Counter)
    leftovers: Counter[str] = field(default_factory=Counter)
    faults: Faults = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        self.kills += other.kills
        self.runs += other.runs
        self.opened += other.opened
        self.victims += other.victims
        self.leftovers += other.leftovers
        self.faults += other.faults


class Soak:
    """The two projects of a soak test, and the reference of the uninterrupted run.

    Args:
        folder: Working folder.
        modalities: The modalities to extract.
        clips: Number of valid clips.
        models: Folder of the embedded weights.
        interrupt: Whether runs are interrupted by Ctrl-C instead of killed by SIGKILL.
        rng: Random generator.

    Attributes:
        seconds: Duration of the uninterrupted run.
        seconds_to_start: Time until it opened the first clip.
    """

    def __init__(
        self,
        folder: Path,
        modalities: list[Modality],
        clips: int,
        models: Path,
        rng: np.random.Generator,
        *,
        interrupt: bool,
    ) -> None:
        self._rng = rng
        self._interrupt = interrupt
        self._killed_status = _INTERRUPTED if interrupt else -signal.SIGKILL
        corpus = folder / "corpus"
        write_corpus(corpus, clips, rng)
        settings = {
            "encoders": {modality.value: ENCODERS[modality.value] for modality in modalities},
            "workers": WORKERS,
            "batch_size": BATCH_SIZE,
            "part_size": PART_SIZE,
            "clip_timeout": 60.0,
        }
        reference = Project.make(folder / "reference", corpus, settings, models)
        self._project = Project.make(folder / "killed", corpus, settings, models)
        self._openings = Openings(corpus)
        self._openings.take()
        start = time.monotonic()
        run = ExtractRun(reference)
        run.wait_until(self._openings.any)
        self.seconds_to_start = time.monotonic() - start
        status, output = run.wait()
        self.seconds = time.monotonic() - start
        if status:
            raise RuntimeError(f"the uninterrupted run exited with {status}:\n{output}")
        self._references = {
            modality: Reference.read(reference.root(modality), reference.quarantine(modality))
            for modality in modalities
        }
        self._valid_clips = {clip_id for modality in modalities for clip_id, _ in self._references[modality].rows}
        self._openings_per_clip = self._openings.take()

    def cycle(self, max_kills: int) -> Tally:
        """Kill an extraction up to ``max_kills`` times, restart it until it completes, and compare its result."""
        self._project.remove_features()
        tally = Tally()
        durable: Mapping[Modality, set[Key]] = {modality: set() for modality in self._references}
        previous: ExtractRun | None = None
        finished = False
        while not finished and not tally.faults:
            run = ExtractRun(self._project)
            if previous is not None:
                self._check_workers_exited(tally, previous)
            finished = self._run_and_kill(run, tally, self._missing_parts(durable), kill=tally.kills < max_kills)
            previous = run
            # Some runs start immediately, while workers of the previous run may still be exiting.
            if finished or self._rng.random() < _CHECK_SHARE:
                self._check_workers_exited(tally, run)
                previous = None
                durable = self._check_stores(tally, durable)
        if finished:
            for modality, reference in self._references.items():
                root, quarantine = self._project.root(modality), self._project.quarantine(modality)
                tally.faults += reference.compare_finished(root, quarantine)
        bound = len(self._valid_clips) + tally.kills * WORKERS * BATCH_SIZE
        if tally.opened > bound:
            tally.faults.append((Fault.WASTED, f"clips were opened {tally.opened} times, expected at most {bound}"))
        return tally

    def _missing_parts(self, durable: Mapping[Modality, set[Key]]) -> int:
        """Return roughly how many parts are still to be written."""
        missing = [len(reference.rows) - len(durable[name]) for name, reference in self._references.items()]
        return sum(-(-rows // PART_SIZE) for rows in missing)

    def _run_and_kill(self, run: ExtractRun, tally: Tally, parts: int, *, kill: bool) -> bool:
        """Kill a run if ``kill`` is set, and wait for its end; return whether it completed."""
        victim = Victim.MAIN if self._interrupt else Victim(self._rng.choice(list(Victim)))
        # Half of the kills are at any time of a run, the others after its first clip was opened.
        started = kill and self._rng.random() < 0.5 and run.wait_until(self._openings.any)
        delay = self._rng.uniform(0, 1.2 * (self.seconds - started * self.seconds_to_start))
        if not kill:
            killed = False
        elif self._interrupt:
            killed = run.interrupt(delay)
        else:
            killed = run.kill(victim, delay, self._rng, parts=parts)
        status, output = run.wait()
        tally.runs += 1
        if killed and (victim is Victim.WORKER or status == self._killed_status):  # else it ended just before
            tally.kills += 1
            tally.victims[victim.value] += 1
        tally.opened += self._count_opened()
        self._check_exit(tally, status, output, victim if killed else None)
        return status == 0

    def _check_workers_exited(self, tally: Tally, run: ExtractRun) -> None:
        if orphans := run.orphans(_SECONDS_TO_EXIT):
            tally.faults.append((Fault.ORPHANED, f"{len(orphans)} workers did not exit after their run"))

    def _check_exit(self, tally: Tally, status: int, output: str, victim: Victim | None) -> None:
        if victim is None or victim is Victim.WORKER:
            as_expected = status == 0
        elif self._interrupt:
            # A run that has printed all result lines is exiting and may no longer handle the signal.
            is_done = all(f"extract {modality.value}: " in output for modality in self._references)
            hint = str(Interrupted.default_hint)
            as_expected = is_done or (status == self._killed_status and hint in output)
        else:
            as_expected = status in {0, self._killed_status}
        if not as_expected:
            tally.faults.append((Fault.ENDED_BADLY, f"exit status {status} ({victim or 'not killed'}):\n{output}"))

    def _check_stores(self, tally: Tally, before: Mapping[Modality, set[Key]]) -> Mapping[Modality, set[Key]]:
        """Check the stores; return the durable rows of each modality."""
        durable = {}
        for modality, reference in self._references.items():
            contents = read_contents(self._project.root(modality), reference.fingerprint)
            tally.faults += reference.compare(contents, self._project.quarantine(modality))
            durable[modality] = contents.durable
            tally.faults += [(Fault.LOST, f"{key} was durable before") for key in before[modality] - durable[modality]]
            tally.leftovers["rows to adopt"] += len(contents.durable - contents.rows.keys())
        tally.leftovers["unfinished parts"] += len(self._project.unfinished())
        return durable

    def _count_opened(self) -> int:
        """Return how often valid clips were opened since the last call."""
        return sum(
            -(-times // self._openings_per_clip[clip_id])
            for clip_id, times in self._openings.take().items()
            if clip_id in self._valid_clips
        )


def main(words: list[str] | None = None) -> int:
    """Run the soak test; return the exit code."""
    options = _options(words)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        start = time.monotonic()
        soak = Soak(
            Path(name),
            options.modality or [Modality.AUDIO, Modality.GLOBAL],
            options.clips,
            options.models,
            np.random.default_rng(options.seed),
            interrupt=options.signal == "INT",
        )
        echo(f"uninterrupted run: {soak.seconds:.1f} s, {soak.seconds_to_start:.1f} s until the first clip")
        total, cycles = Tally(), 0
        while total.kills < options.kills and not total.faults:
            tally = soak.cycle(options.kills - total.kills)
            total.add(tally)
            cycles += 1
            echo(f"cycle {cycles}: {_line(tally)}")
        for fault, message in total.faults:
            echo(f"  {fault}: {message}")
        echo(f"{total.kills} kills in {cycles} cycles, {time.monotonic() - start:.0f} s: {_line(total)}")
    return 1 if total.faults else 0


def _line(tally: Tally) -> str:
    faults = count(tally.faults)
    fault_counts = ", ".join(f"{faults[fault]} {fault.value}" for fault in Fault)
    leftovers = ", ".join(f"{number} {kind}" for kind, number in tally.leftovers.items())
    victims = ", ".join(f"{victim} {times}" for victim, times in tally.victims.most_common())
    return (
        f"{tally.runs} runs, {tally.opened} clips opened; killed: {victims or 'none'}; left by kills: {leftovers}; "
        f"faults: {fault_counts}"
    )


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="number of runs to kill")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--clips", type=int, default=45, help="number of valid clips in the corpus")
    parser.add_argument(
        "--modality",
        type=Modality,
        action="append",
        choices=[Modality(name) for name in ENCODERS],
        help="modality to extract; default: both",
    )
    parser.add_argument("--signal", choices=["KILL", "INT"], default="KILL", help="INT: Ctrl-C to the process group")
    parser.add_argument("--models", type=Path, default=paths.MODELS, help="folder of the embedded weights")
    parser.add_argument("--folder", type=Path, help="parent of the working folder; default: temporary folder")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
