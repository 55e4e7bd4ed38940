"""Fixtures that limit the memory of a command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

RunCommand = Callable[[list[str]], "subprocess.CompletedProcess[str]"]
_MEGABYTES = 192


@pytest.fixture
def run_with_little_memory() -> Iterator[RunCommand]:
    """Return a function that runs a command under a memory limit; the kernel kills processes that exceed it."""
    if scope := _systemd_scope():
        yield lambda command: _run([*scope, *command])
        return
    group = _memory_group() / f"ecmf-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"this system cannot limit memory: {error}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(_MEGABYTES * 2**20))
        join = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
        yield lambda command: _run(["sh", "-c", join, "sh", *command])
    finally:
        group.rmdir()


def _systemd_scope() -> list[str]:
    """Return the command prefix that limits memory by systemd; empty if systemd cannot."""
    for user in ([], ["--user"]):
        prefix = ["systemd-run", "--quiet", "--scope", *user, "-p", f"MemoryMax={_MEGABYTES}M", "-p", "MemorySwapMax=0"]
        try:
            trial = subprocess.run([*prefix, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except FileNotFoundError:
            break
        if trial.returncode == 0:
            return prefix
    return []


def _memory_group() -> Path:
    """Return the folder for child control groups (version 1) of the current group, whose limits also apply to them."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "memory":
            return Path("/sys/fs/cgroup/memory") / path.lstrip("/")
    return Path("/sys/fs/cgroup/memory")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
