"""What a page is made of. The template knows how to show each block; sections only say what stands in it.

Plain strings are escaped by the template. Text that comes from a corpus goes through `foreign` besides, which keeps it
from disturbing the text around it.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup

UNKNOWN = "\N{EN DASH}"
"""Stands in a table's cell where a value is not known."""
State = Literal["better", "worse", "same", "unknown"]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A few sentences."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that must not be overlooked: why a section has nothing to show, or how not to read it."""

    kind: ClassVar[str] = "notice"
    text: str


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell with more than text.

    Attributes:
        text: What stands in it.
        shade: How strongly it is tinted, 0 to 1.
        tint: ``count`` for agreement, ``change`` for what deserves a look.
    """

    text: str
    shade: float = 0.0
    tint: Literal["count", "change"] = "count"


@dataclass(frozen=True, slots=True)
class Table:
    """A table, possibly cut short.

    Attributes:
        caption: What it shows.
        columns: Headings; one that starts with ``#`` (which is not shown) heads numbers.
        rows: Cells; the first of each row is its heading.
        hidden: How many rows more there are.
        spread: What the columns after the first have in common, shown above them.
        spread_over: How many columns that is.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    hidden: int = 0
    spread: str = ""
    spread_over: int = 0


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its caption and, folded away, its numbers.

    Attributes:
        drawing: An SVG element, see `plots`.
        caption: What it shows.
        numbers: The same as a table, for those who cannot see it.
    """

    kind: ClassVar[str] = "figure"
    drawing: Markup
    caption: str
    numbers: Table | None = None


@dataclass(frozen=True, slots=True)
class Photograph:
    """A picture with its caption.

    Attributes:
        address: A data URI: the page loads nothing.
        alt: What it shows, for those who cannot see it.
        caption: The line below it.
        width: In pixels.
        height: In pixels.
    """

    kind: ClassVar[str] = "photograph"
    address: str
    alt: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks that open on a click."""

    kind: ClassVar[str] = "folded"
    summary: str
    blocks: Sequence[Block]
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Text whose line ends and spaces matter."""

    kind: ClassVar[str] = "verbatim"
    text: str


Block = Paragraph | Notice | Heading | Table | Figure | Photograph | Folded | Verbatim


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a page.

    Attributes:
        anchor: Its name in the page's address.
        title: Its heading, and its line in the table of contents.
        blocks: What stands in it.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the headline strip.

    Attributes:
        name: What it is.
        value: The figure or the verdict, in a few words.
        detail: What it rests on.
        state: How a verdict turned out; None for what is no verdict.
    """

    name: str
    value: str
    detail: str
    state: State | None = None


def foreign(text: str, length: int = 160) -> Markup:
    """Text from a corpus: cut to ``length`` characters, control characters replaced, its direction kept to itself."""
    return Markup("<bdi>{}</bdi>").format(shortened(text, length))


def shortened(text: str, length: int) -> str:
    """Text on one line, at most ``length`` characters long, without control characters and lone surrogates."""
    shown = clean(" ".join(text.split()) if text.isprintable() else " ".join(clean(text).split()))
    return shown if len(shown) <= length else shown[: length - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def clean(text: str) -> str:
    """Text with control characters, direction overrides and lone surrogates replaced; tabs and line ends stay."""
    if text.isprintable():
        return text
    hidden = {"Cc", "Cs", "Cf"}
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(letter) in hidden and letter not in "\t\n\r\u200d"
        else letter
        for letter in text
    )


def percent(share: float | None, digits: int = 0) -> str:
    """A share as a percentage; neither nearly all nor nearly none is rounded to 100% or 0%."""
    if share is None or math.isnan(share):
        return UNKNOWN
    least = 10.0**-digits
    if 0 < share < least / 200:
        return f"<{least:.{digits}f}%"
    if 1 - least / 200 <= share < 1:
        return f">{100 - least:.{digits}f}%"
    return f"{100 * share:.{digits}f}%"


def score(value: float | None) -> str:
    """A score between 0 and 1, with three digits."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A difference of scores, with its sign."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def count(number: int, noun: str = "", plural: str = "") -> str:
    """A number with its thousands set apart and, if wanted, its noun: ``1 clip``, ``1,200 clips``."""
    if not noun:
        return f"{number:,}"
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listing(items: Sequence[str]) -> str:
    """Items as in a sentence: ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def in_order(labels: Iterable[str], seen: Iterable[str]) -> list[str]:
    """The corpus's labels in their order, then, sorted, those that occur besides."""
    known = list(dict.fromkeys(labels))
    return known + sorted(set(seen) - set(known))
