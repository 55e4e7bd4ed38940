"""A faulty PyAV: first on PYTHONPATH, it hangs, crashes or runs out of memory, depending on the file name.

``*hangs*`` blocks in native code and holds the interpreter lock; ``*segfaults*`` reads address 0; ``*aborts*`` aborts
like a failed assertion in C; ``*eats*`` runs out of memory; ``*killed*`` is killed by a signal. With ``once`` in the
name, the fault occurs the first time only. All other calls use the real PyAV. With ``ECMF_SLOW_DISK`` in the
environment, ``*slow*`` cannot be hashed in time.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any


def _hang() -> None:
    ctypes.PyDLL(None).pause()  # PyDLL, unlike CDLL, holds the interpreter lock


def _segfault() -> None:
    ctypes.string_at(0)


def _eat() -> None:
    raise MemoryError


def _be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_FAULTS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {"hangs": _hang, "segfaults": _segfault, "aborts": os.abort, "eats": _eat, "killed": _be_killed}
)


def _real_av() -> ModuleType:
    own = Path(__file__).parents[1].resolve()
    spec = PathFinder.find_spec("av", [path for path in sys.path if Path(path).resolve() != own])
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("No module named 'av'", name="av")
    module = importlib.util.module_from_spec(spec)
    sys.modules["av"] = module  # `import av` returns it from now on
    spec.loader.exec_module(module)
    return module


def _trigger_fault(path: Path) -> None:
    with Path(os.environ["ECMF_OPENED"]).open("a") as opened:
        opened.write(f"{path.name}\n")
    for name, fault in _FAULTS.items():
        if name not in path.stem:
            continue
        tried = Path(os.environ["ECMF_OPENED"]).with_name(f"{path.name}.tried")
        if "once" in path.stem and tried.exists():
            return
        tried.touch()
        fault()


_av = _real_av()
_open = _av.open


def _faulty_open(file: Any, *arguments: Any, **options: Any) -> Any:
    _trigger_fault(Path(str(file).removeprefix("file:")))
    return _open(file, *arguments, **options)


_av.open = _faulty_open

if "ECMF_SLOW_DISK" in os.environ:
    _digest = hashlib.file_digest

    def _slow_digest(file: Any, *arguments: Any) -> Any:
        if "slow" in Path(file.name).stem:
            _trigger_fault(Path("read slow.mp4"))
            time.sleep(100)
        return _digest(file, *arguments)

    hashlib.file_digest = _slow_digest
