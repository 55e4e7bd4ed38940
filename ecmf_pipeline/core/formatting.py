"""Format numbers for messages."""

from __future__ import annotations


def format_bytes(count: float) -> str:
    """Format a number of bytes, such as ``405.6 MB``."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number of things, such as ``1 part``, ``2 parts``."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def part_of(part: int, whole: int, what: str) -> str:
    """How much of a number is so, such as "2 of them by verdicts"; empty for none of it."""
    if not part:
        return ""
    return f"{part} of them {what}" if part < whole else what if whole == 1 else f"all {what}"
