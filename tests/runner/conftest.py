"""Makes `counting` importable, here and in the workers: they find modules where their parent does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Bounded = Callable[[list[str]], "subprocess.CompletedProcess[str]"]
_MEGABYTES = 192


@pytest.fixture
def little_memory() -> Iterator[Bounded]:
    """Runs a command that the kernel gives little memory, and kills processes of where it takes more."""
    if scope := _scope():
        yield lambda command: _run([*scope, *command])
        return
    group = _own_memory_group() / f"ecmf-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no limit can be set on memory here: {error}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(_MEGABYTES * 2**20))
        join = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
        yield lambda command: _run(["sh", "-c", join, "sh", *command])
    finally:
        group.rmdir()


def _scope() -> list[str]:
    """The words that have systemd run a command with little memory; none where it does not."""
    for user in ([], ["--user"]):
        words = ["systemd-run", "--quiet", "--scope", *user, "-p", f"MemoryMax={_MEGABYTES}M", "-p", "MemorySwapMax=0"]
        try:
            able = subprocess.run([*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except FileNotFoundError:
            break
        if able.returncode == 0:
            return words
    return []


def _own_memory_group() -> Path:
    """Where control groups of version 1 below our own are made, so that what holds for us holds for them."""
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
