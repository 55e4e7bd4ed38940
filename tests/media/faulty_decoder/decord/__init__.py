"""A faulty decord for tests: first on PYTHONPATH, it hangs, crashes or runs out of memory on files of certain names.

``*hangs*`` blocks in native code and never releases the GIL; ``*segfaults*`` reads address 0; ``*aborts*`` aborts like
a failed assertion in C++; ``*eats*`` runs out of memory. With ``once`` in the name, only the first read fails. All
other files are read by the real decord.
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
    ctypes.PyDLL(None).pause()  # PyDLL, unlike CDLL, keeps the GIL


def _segfault() -> None:
    ctypes.string_at(0)


def _exhaust_memory() -> None:
    raise MemoryError


_FAULTS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {"hangs": _hang, "segfaults": _segfault, "aborts": os.abort, "eats": _exhaust_memory}
)


def _real_decord() -> ModuleType:
    this_folder = Path(__file__).parents[1].resolve()
    spec = PathFinder.find_spec("decord", [path for path in sys.path if Path(path).resolve() != this_folder])
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("No module named 'decord'", name="decord")
    module = importlib.util.module_from_spec(spec)
    sys.modules["decord"] = module  # the result of later `import decord`
    spec.loader.exec_module(module)
    return module


def _inject_fault(path: Path) -> None:
    for name, fault in _FAULTS.items():
        if name not in path.stem:
            continue
        marker = path.with_name(f".{path.name}.tried")
        if "once" in path.stem and marker.exists():
            return
        marker.touch()
        fault()


_decord = _real_decord()


class VideoReader(_decord.VideoReader):
    def __new__(cls, uri: str, *_: object, **__: object) -> VideoReader:
        _inject_fault(Path(uri))  # before the object exists, because decord could not free it
        reader: VideoReader = super().__new__(cls)
        return reader


_decord.VideoReader = VideoReader
