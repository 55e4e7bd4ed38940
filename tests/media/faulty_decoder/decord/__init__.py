"""decord with faults: put first on PYTHONPATH, it hangs, crashes and runs out of memory on files of certain names.

``*hangs*`` blocks in native code and never gives Python another turn; ``*segfaults*`` reads address 0; ``*aborts*`` is
what a failed assertion in C++ does; ``*eats*`` asks for more memory than there is. With ``once`` in the name they do so
the first time only. Everything else goes to the real decord.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import MappingProxyType, ModuleType


def _hang() -> None:
    ctypes.PyDLL(None).pause()  # PyDLL, unlike CDLL, keeps the interpreter's lock


def _segfault() -> None:
    ctypes.string_at(0)


def _eat() -> None:
    raise MemoryError


_FAULTS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {"hangs": _hang, "segfaults": _segfault, "aborts": os.abort, "eats": _eat}
)


def _real_decord() -> ModuleType:
    own = Path(__file__).parents[1].resolve()
    spec = PathFinder.find_spec("decord", [path for path in sys.path if Path(path).resolve() != own])
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("No module named 'decord'", name="decord")
    module = importlib.util.module_from_spec(spec)
    sys.modules["decord"] = module  # which is what `import decord` then gives
    spec.loader.exec_module(module)
    return module


def _strike(path: Path) -> None:
    for name, fault in _FAULTS.items():
        if name not in path.stem:
            continue
        tried = path.with_name(f".{path.name}.tried")
        if "once" in path.stem and tried.exists():
            return
        tried.touch()
        fault()


_decord = _real_decord()


class VideoReader(_decord.VideoReader):
    def __new__(cls, uri: str, *_: object, **__: object) -> VideoReader:
        _strike(Path(uri))  # before there is an object, which decord could not free
        made: VideoReader = super().__new__(cls)
        return made


_decord.VideoReader = VideoReader
