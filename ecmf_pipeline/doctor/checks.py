"""Results of the checks of `doctor`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ecmf_pipeline.core.errors import EcmfError, format_message


class State(StrEnum):
    """Outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    """A run would continue, but lose something."""
    FAILURE = "failure"
    """A run would stop."""


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check.

    Attributes:
        name: Name of the check.
        state: Outcome.
        message: Finding, in one line.
        hint: How to fix the problem; empty if there is none.
        command: Shell command that fixes the problem; empty if there is none.
        figures: Figures of the finding for programs, as plain JSON values.
    """

    name: str
    state: State
    message: str
    hint: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    @classmethod
    def failed(cls, name: str, error: EcmfError) -> Check:
        """Return the failed check for an error that would also stop a run."""
        return cls(name, State.FAILURE, error.message, error.hint or "", command=error.command or "")

    def line(self) -> str:
        """Format the result for the terminal, with the hint and the command on separate lines."""
        first, *further = format_message(self.message, self.hint, self.command).splitlines()
        return f"{self.state.value:<9}{self.name:<16} {first}" + "".join(f"\n{'':<26}{line}" for line in further)


def exit_code(checks: Iterable[Check]) -> int:
    """Return 0 if all checks pass, 1 if a run would lose something, 2 if a run would stop."""
    states = {check.state for check in checks}
    return 2 if State.FAILURE in states else 1 if State.WARNING in states else 0


def duration(seconds: float) -> str:
    """Format a time, such as ``2 h 5 min``, ``3 min``, ``12 s`` or ``0.4 s``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"
