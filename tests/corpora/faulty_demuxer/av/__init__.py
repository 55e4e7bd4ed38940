"""PyAV with faults: put first on PYTHONPATH, it hangs, crashes and runs out of memory on files of certain names.

``*hangs*`` blocks in native code and never gives Python another turn; ``*segfaults*`` reads address 0; ``*aborts*`` is
what a failed assertion in C does; ``*eats*`` asks for more memory than there is; ``*killed*`` is killed from outside.
With ``once`` in the name they do so the first time only. Everything else goes to the real PyAV.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any


def _hang() -> None:
    ctypes.PyDLL(None).pause()  # PyDLL, unlike CDLL, keeps the interpreter's lock


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
    sys.modules["av"] = module  # which is what `import av` then gives
    spec.loader.exec_module(module)
    return module


def _strike(path: Path) -> None:
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
    _strike(Path(str(file).removeprefix("file:")))
    return _open(file, *arguments, **options)


_av.open = _faulty_open
