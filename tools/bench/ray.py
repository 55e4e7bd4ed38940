"""Measure the overhead of the engine ray on one machine over the local engine, without the start of either.

::

    python -m tools.bench.ray                # about two minutes of work for each engine and each number of openers
    python -m tools.bench.ray --clips 60     # a short version
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.encoders.config import EfficientNetConfig, EgemapsConfig
from ecmf_pipeline.extraction.config import ExtractConfig
from ecmf_pipeline.media.config import MediaConfig
from ecmf_pipeline.runner import Engine, LocalProcesses
from ecmf_pipeline.runner.config import EngineConfig
from ecmf_pipeline.runner.machine import usable_cores
from ecmf_pipeline.runner.ray_engine import RayEngine
from ecmf_pipeline.runner.step import Done, ItemT, Spool, StepFactory, Task
from tools.bench.clips import Cost, make_clips, run_extraction

CLIPS = 480
"""About two minutes on two cores."""
BATCH = 4
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class MeteredEngine:
    """An engine that measures from its first batch to its last: wall time, and CPU time of all its processes.

    Attributes:
        engine: Runs the tasks.
        cost: Cost of all batches but the first.
        clips: Number of clips in them.
    """

    engine: Engine
    cost: Cost = field(default_factory=lambda: Cost(0.0, 0.0))
    clips: int = 0

    def run(
        self, tasks: Iterable[Task[ItemT]], factory: StepFactory, spools: Mapping[str, Spool[Any]]
    ) -> Iterator[Done[ItemT]]:
        """See `runner.Engine`."""
        first: Cost | None = None
        results = cast("Iterator[Done[ItemT]]", self.engine.run(tasks, factory, spools))
        with closing(results) as finished:  # type: ignore[type-var]
            for done in finished:
                now = Cost(cpu_of_descendants(), time.perf_counter())
                if first is None:
                    first = now
                else:
                    self.cost = now - first
                    self.clips += len(done.task.items)
                yield done


def cpu_of_descendants() -> float:
    """Return the CPU seconds of this process and all its descendants, with those of their children that have ended."""
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        process = int(path.parent.name)
        children.setdefault(int(fields[1]), []).append(process)
        used[process] = sum(map(int, fields[11:15])) / _TICKS
    total, pending = 0.0, [os.getpid()]
    while pending:
        process = pending.pop()
        total += used.get(process, 0.0)
        pending += children.get(process, [])
    return total


def main() -> None:
    """Print a line for each number of openers."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.ray", description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=CLIPS, help="number of clips; the default takes about two minutes")
    options = parser.parse_args()
    cores = usable_cores()
    sys.stdout.write(f"{'seconds per clip, wall (CPU)':<34}{'local':>18}{'ray':>18}{'ray / local':>18}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = make_clips(folder / "corpus", "480p", options.clips)

        def measure(title: str, engine: Engine) -> Cost:
            metered = MeteredEngine(engine)
            run_extraction(
                {Modality.GLOBAL: EfficientNetConfig(), Modality.AUDIO: EgemapsConfig()},
                clips,
                corpus=folder / "corpus",
                stores=folder / title,
                media=MediaConfig(),
                config=ExtractConfig(batch_size=BATCH, device="cpu"),
                engine=metered,
            )
            return metered.cost.each(metered.clips)

        for workers, openers in ((cores, 0), (max(1, cores // 2), max(1, cores // 2))):
            config = EngineConfig(kind="ray", workers=workers, openers=openers, cpus=0.5, opener_cpus=0.5)
            local = measure(f"local-{openers}", LocalProcesses(workers, openers=openers))
            remote = measure(f"ray-{openers}", RayEngine(config, can_open=True))
            sys.stdout.write(
                f"{f'{workers} workers, {openers} openers':<34}"
                f"{f'{local.wall:.4f} ({local.cpu:.4f})':>18}{f'{remote.wall:.4f} ({remote.cpu:.4f})':>18}"
                f"{f'{remote.wall / local.wall:.3f} ({remote.cpu / local.cpu:.3f})':>18}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
