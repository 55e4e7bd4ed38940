"""`python -m tools.soak --kills 200 --seed 7`: a small extraction killed again and again, and nothing may be lost.

An uninterrupted run of the real command is the reference. In a second project the same command is started, killed with
SIGKILL at a random moment (the main process alone, it and its workers, one worker, or the main process while it makes
a part), looked at, and started again, until it ends by itself; what it made is compared with the reference and removed,
and all begins anew. Exit code 1 when anything was wrong.
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
from tools.soak.corpus import write_corpus
from tools.soak.inspection import Fault, Faults, Key, Reference, count, read_contents
from tools.soak.openings import Openings
from tools.soak.runs import ExtractRun, Project, Victim

ENCODERS = {"audio": "egemaps", "global": "efficientnet_lite0"}
WORKERS, BATCH_SIZE, PART_SIZE = 2, 2, 4
_INTERRUPTED = 130
_RESUME = "run the same command again to go on"
_SECONDS_TO_DIE = 2.0
_AT_LEISURE = 0.7


@dataclass
class Tally:
    """What has been counted.

    Attributes:
        kills: Runs that were struck.
        runs: Runs.
        opened: Clips opened, those opened again included, of those that have features.
        victims: How often each was struck.
        traces: What the kills left behind for the next run to clear up.
        faults: What was wrong.
    """

    kills: int = 0
    runs: int = 0
    opened: int = 0
    victims: Counter[str] = field(default_factory=Counter)
    traces: Counter[str] = field(default_factory=Counter)
    faults: Faults = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add what another has counted."""
        self.kills += other.kills
        self.runs += other.runs
        self.opened += other.opened
        self.victims += other.victims
        self.traces += other.traces
        self.faults += other.faults


class Soak:
    """The two projects, and what was learnt from the uninterrupted run.

    Args:
        folder: Where everything stands.
        modalities: What is extracted.
        clips: How many healthy clips.
        models: The embedded weights.
        interrupt: Whether runs are struck by Ctrl-C instead of SIGKILL.
        rng: Draws everything.

    Attributes:
        seconds: What the uninterrupted run took.
        seconds_to_start: Of these, until it opened the first clip.
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
        self._struck_down = _INTERRUPTED if interrupt else -signal.SIGKILL
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
        self._project = Project.make(folder / "struck", corpus, settings, models)
        self._openings = Openings(corpus)
        self._openings.take()
        start = time.monotonic()
        run = ExtractRun(reference)
        run.wait_until(self._openings.any)
        self.seconds_to_start = time.monotonic() - start
        status, said = run.wait()
        self.seconds = time.monotonic() - start
        if status:
            raise RuntimeError(f"the uninterrupted run ended with {status}:\n{said}")
        self._references = {
            modality: Reference.read(reference.root(modality), reference.quarantine(modality))
            for modality in modalities
        }
        self._healthy = {clip_id for modality in modalities for clip_id, _ in self._references[modality].rows}
        self._openings_of_a_clip = self._openings.take()

    def cycle(self, most: int) -> Tally:
        """Strike an extraction until it ends by itself or was struck often enough; then compare."""
        self._project.forget()
        tally = Tally()
        durable: Mapping[Modality, set[Key]] = {modality: set() for modality in self._references}
        previous: ExtractRun | None = None
        finished = False
        while not finished and not tally.faults:
            run = ExtractRun(self._project)
            if previous is not None:
                self._bury(tally, previous)
            finished = self._watch(run, tally, self._parts_left(durable), strikes=tally.kills < most)
            previous = run
            # Now and then the next run begins at once, while the workers of this one may still be dying.
            if finished or self._rng.random() < _AT_LEISURE:
                self._bury(tally, run)
                previous = None
                durable = self._look(tally, durable)
        if finished:
            for modality, reference in self._references.items():
                root, quarantine = self._project.root(modality), self._project.quarantine(modality)
                tally.faults += reference.compare_finished(root, quarantine)
        bound = len(self._healthy) + tally.kills * WORKERS * BATCH_SIZE
        if tally.opened > bound:
            tally.faults.append((Fault.WASTED, f"{tally.opened} clips were opened, at most {bound} should have been"))
        return tally

    def _parts_left(self, durable: Mapping[Modality, set[Key]]) -> int:
        """About how many parts are still to be made."""
        missing = [len(reference.rows) - len(durable[name]) for name, reference in self._references.items()]
        return sum(-(-rows // PART_SIZE) for rows in missing)

    def _watch(self, run: ExtractRun, tally: Tally, parts: int, *, strikes: bool) -> bool:
        """Strike a run, perhaps, and wait for its end; returns whether it ended by itself, all done."""
        victim = Victim.MAIN if self._interrupt else Victim(self._rng.choice(list(Victim)))
        # Half of the moments are drawn from all of a run, half from what comes after its first clip was opened.
        started = strikes and self._rng.random() < 0.5 and run.wait_until(self._openings.any)
        delay = self._rng.uniform(0, 1.2 * (self.seconds - started * self.seconds_to_start))
        if not strikes:
            struck = False
        elif self._interrupt:
            struck = run.interrupt(delay)
        else:
            struck = run.strike(victim, delay, self._rng, parts=parts)
        status, said = run.wait()
        tally.runs += 1
        if struck and (victim is Victim.WORKER or status == self._struck_down):  # it may just have ended
            tally.kills += 1
            tally.victims[victim.value] += 1
        tally.opened += self._count_opened()
        self._judge_end(tally, status, said, victim if struck else None)
        return status == 0

    def _bury(self, tally: Tally, run: ExtractRun) -> None:
        if orphans := run.orphans(_SECONDS_TO_DIE):
            tally.faults.append((Fault.ORPHANED, f"{len(orphans)} workers outlived their run"))

    def _judge_end(self, tally: Tally, status: int, said: str, struck: Victim | None) -> None:
        if struck is None or struck is Victim.WORKER:
            as_expected = status == 0
        elif self._interrupt:
            # It may have said all and be on its way out, where nobody answers any more.
            over = all(f"extract {modality.value}: " in said for modality in self._references)
            as_expected = over or (status == self._struck_down and _RESUME in said)
        else:
            as_expected = status in {0, self._struck_down}
        if not as_expected:
            tally.faults.append((Fault.ENDED_BADLY, f"exit status {status} ({struck or 'not struck'}):\n{said}"))

    def _look(self, tally: Tally, before: Mapping[Modality, set[Key]]) -> Mapping[Modality, set[Key]]:
        """Look at what stands there now; returns what is durable."""
        durable = {}
        for modality, reference in self._references.items():
            contents = read_contents(self._project.root(modality), reference.fingerprint)
            tally.faults += reference.compare(contents, self._project.quarantine(modality))
            durable[modality] = contents.durable
            tally.faults += [(Fault.LOST, f"{key} was durable") for key in before[modality] - durable[modality]]
            tally.traces["rows to take up"] += len(contents.durable - contents.rows.keys())
        tally.traces["unfinished parts"] += len(self._project.unfinished())
        return durable

    def _count_opened(self) -> int:
        """How many healthy clips were opened since last asked; one that is opened again counts again."""
        return sum(
            -(-times // self._openings_of_a_clip[clip_id])
            for clip_id, times in self._openings.take().items()
            if clip_id in self._healthy
        )


def main(words: list[str] | None = None) -> int:
    """Run the soak; returns the exit code."""
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
        say(f"the uninterrupted run took {soak.seconds:.1f} s, {soak.seconds_to_start:.1f} to the first clip")
        total, cycles = Tally(), 0
        while total.kills < options.kills and not total.faults:
            tally = soak.cycle(options.kills - total.kills)
            total.add(tally)
            cycles += 1
            say(f"cycle {cycles}: {_line(tally)}")
        for fault, message in total.faults:
            say(f"  {fault}: {message}")
        say(f"{total.kills} kills in {cycles} cycles, {time.monotonic() - start:.0f} s: {_line(total)}")
    return 1 if total.faults else 0


def say(line: str) -> None:
    """Tell whoever waits."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _line(tally: Tally) -> str:
    faults = count(tally.faults)
    found = ", ".join(f"{faults[fault]} {fault.value}" for fault in Fault)
    left = ", ".join(f"{number} {what}" for what, number in tally.traces.items())
    victims = ", ".join(f"{victim} {times}" for victim, times in tally.victims.most_common())
    return f"{tally.runs} runs, {tally.opened} clips opened; struck: {victims or 'none'}; left: {left}; wrong: {found}"


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="how many runs are struck")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--clips", type=int, default=45, help="healthy clips of the corpus")
    parser.add_argument(
        "--modality",
        type=Modality,
        action="append",
        choices=[Modality(name) for name in ENCODERS],
        help="default: both",
    )
    parser.add_argument("--signal", choices=["KILL", "INT"], default="KILL", help="INT: Ctrl-C to the process group")
    parser.add_argument("--models", type=Path, default=paths.MODELS, help="the embedded weights")
    parser.add_argument("--folder", type=Path, help="where it works; default: where temporary files go")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
