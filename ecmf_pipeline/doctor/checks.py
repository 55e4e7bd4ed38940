"""What a check of `doctor` tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ecmf_pipeline.core.errors import EcmfError, InputError


class State(StrEnum):
    """How a check turned out."""

    OK = "ok"
    WARNING = "warning"
    """A run goes on past it, but loses something."""
    FAILURE = "failure"
    """A run would stop here."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        message: What was found, in one line.
        hint: How to mend it; empty where there is nothing to mend.
        figures: The same for programs, as plain JSON values.
    """

    name: str
    state: State
    message: str
    hint: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def failed(cls, name: str, error: EcmfError) -> Check:
        """What stopped a check would stop a run."""
        if isinstance(error, InputError):
            return cls(name, State.FAILURE, error.message, error.hint or "")
        return cls(name, State.FAILURE, str(error))

    def line(self) -> str:
        """For people; the hint on lines of its own."""
        hints = "".join(f"\n{'':<26}{line}" for line in self.hint.splitlines())
        return f"{self.state.value:<9}{self.name:<17}{self.message}{hints}"


def exit_code(checks: Iterable[Check]) -> int:
    """0: all is well; 1: a run would go through, with losses; 2: it would stop."""
    states = {check.state for check in checks}
    return 2 if State.FAILURE in states else 1 if State.WARNING in states else 0


def duration(seconds: float) -> str:
    """A time in words, such as ``2 h 5 min``, ``3 min``, ``12 s``, ``0.4 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"
