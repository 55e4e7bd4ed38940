"""Record how long the commands of a project ran, and their processor time and memory, on this machine.

The record is for people (the report shows it). It differs between runs and machines, so DVC does not track it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.files import read_local_cache, write_local_cache

STAGES = (
    "models", "sample", "segment", "index", "settings", "transcribe", "cues", "rewrite", "extract", "train", "predict",
    "vote", "refine", "evaluate", "ablate", "report",
)  # fmt: skip
"""Commands that are recorded: the stages of the pipeline."""
_OTHER_USES = {"--video", "--text", "--transfer", "--dry-run", "--list", "--help"}
"""Options with which a command does not run its stage."""

_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one unit of ``ru_maxrss``."""


@contextmanager
def recorded(arguments: Sequence[str], path: Path = paths.RESOURCES) -> Iterator[None]:
    """Record the resources of one command, if it is a stage and succeeds.

    Two runs of each stage are kept: the last one, and the one with the most processor time, because a later run often
    has nothing to do. ``seconds``, ``cpu_seconds`` (of all processes), ``memory`` (most bytes of the main process),
    ``worker_memory`` (most bytes of one worker process) and ``clips`` (of the corpus; 0 before `index`) are stored
    under ``last`` and ``longest``.

    Args:
        arguments: Arguments of the command line; they name the stage and its variant.
        path: The file of the record.
    """
    started, cpu = time.monotonic(), _cpu_seconds()
    yield
    is_stage = bool(arguments) and arguments[0] in STAGES and not _OTHER_USES & set(arguments)
    if not is_stage or not path.parent.is_dir():
        return
    run = {
        "seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(_cpu_seconds() - cpu, 2),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT,
        "worker_memory": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _UNIT,
        "clips": _clips(),
    }
    record = read_resources(path)
    name = " ".join(arguments)
    longest = record.get(name, {}).get("longest", run)
    record[name] = {"last": run, "longest": max(longest, run, key=lambda one: one["cpu_seconds"])}
    write_local_cache(path, record)


def read_resources(path: Path = paths.RESOURCES) -> dict[str, Any]:
    """Return the recorded runs by command; empty if there are none."""
    return read_local_cache(path)


def runs_of_stage(record: Mapping[str, Any], stage: str) -> list[dict[str, Any]]:
    """Return the longest recorded run of a stage for each kind of labels, without those of shards.

    Args:
        record: The recorded runs; see `read_resources`.
        stage: Name of the stage.
    """
    longest: dict[str, dict[str, Any]] = {}
    for name, runs in record.items():
        words = name.replace("=", " ").split()
        if words[0] == stage and "--shard" not in words:
            labels = words[words.index("--labels") + 1] if "--labels" in words[:-1] else "given"
            longest[labels] = max(longest.get(labels, runs["longest"]), runs["longest"], key=lambda r: r["cpu_seconds"])
    return list(longest.values())


def _clips() -> int:
    """Return the number of clips that `index` found."""
    try:
        return int(json.loads(paths.INDEX_METRICS.read_bytes())["clips"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
