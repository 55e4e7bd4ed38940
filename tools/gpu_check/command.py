"""Run all checks and print a table."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import transformers

from ecmf_pipeline.core.clips import Modality
from ecmf_pipeline.runner.machine import usable_cores
from tools import gpu_check
from tools.gpu_check.bench import FULL, SMALL, Bench, Row
from tools.gpu_check.fusion import check_fusion
from tools.gpu_check.memory import check_halving, release_memory
from tools.gpu_check.models import set_up
from tools.gpu_check.parity import check_parity
from tools.gpu_check.throughput import check_throughput


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks and print a table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check", description=gpu_check.__doc__)
    parser.add_argument("--device", default="cuda:0", help="a torch device (default: cuda:0)")
    parser.add_argument("--small", action="store_true", help="use tiny models, to test the checks themselves")
    options = parser.parse_args(arguments)
    # A device without a number would let each worker choose a GPU of its own.
    device = "cuda:0" if options.device == "cuda" else options.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        sys.stderr.write("error: no CUDA device is available\nhint: run it on a machine with an NVIDIA GPU\n")
        return 2
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        bench = set_up(Path(name), device, SMALL if options.small else FULL)
        _write(describe(bench, time.perf_counter() - started))
        rows = [row for check in CHECKS for row in run_check(check, bench)]
    failed = [row.check for row in rows if not row.passed]
    seconds = time.perf_counter() - started
    _write(f"\n{len(rows) - len(failed)} of {len(rows)} checks passed in {seconds:.0f} s\n")
    return 1 if failed else 0


def run_check(check: Callable[[Bench], Row], bench: Bench) -> Iterator[Row]:
    """Run one check, print its line and yield it; an exception is a failure."""
    started = time.perf_counter()
    try:
        row = check(bench)
    except Exception as error:  # noqa: BLE001 - the other checks still run
        row = Row(check.__name__.replace("_", " "), False, f"{type(error).__name__}: {str(error).strip()}")
    finally:
        release_memory(bench.device)
    _write(_LINE.format(row.check, "pass" if row.passed else "FAIL", time.perf_counter() - started, row.figures))
    yield row


_LINE = "{:<40}{:<6}{:>5.0f} s  {}\n"


def describe(bench: Bench, seconds: float) -> str:
    """Return the lines above the table."""
    device = torch.device(bench.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    source = "clips decoded by PyAV" if bench.decodes else "synthetic arrays: PyAV is not installed"
    return (
        f"{name}, {usable_cores()} cores, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"transformers {transformers.__version__}\n"
        f"input: {source}; face crops: synthetic arrays; set up in {seconds:.0f} s\n\n"
    )


def parity_of_frames(bench: Bench) -> Row:
    """Check the parity of the model of frames."""
    return check_parity(bench, Modality.GLOBAL)


def parity_of_audio(bench: Bench) -> Row:
    """Check the parity of the model of audio."""
    return check_parity(bench, Modality.AUDIO)


def parity_of_faces(bench: Bench) -> Row:
    """Check the parity of the model of face crops."""
    return check_parity(bench, Modality.FACE)


def throughput_of_frames(bench: Bench) -> Row:
    """Measure the model of frames."""
    return check_throughput(bench, Modality.GLOBAL)


def throughput_of_audio(bench: Bench) -> Row:
    """Measure the model of audio."""
    return check_throughput(bench, Modality.AUDIO)


def throughput_of_faces(bench: Bench) -> Row:
    """Measure the model of face crops."""
    return check_throughput(bench, Modality.FACE)


def two_workers(bench: Bench) -> Row:
    """Measure two workers on one GPU."""
    return check_throughput(bench, Modality.GLOBAL, workers=2)


CHECKS: tuple[Callable[[Bench], Row], ...] = (
    parity_of_frames,
    parity_of_audio,
    parity_of_faces,
    check_halving,
    check_fusion,
    throughput_of_frames,
    throughput_of_audio,
    throughput_of_faces,
    two_workers,
)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
