"""Blocks of a report page: texts, tables, and figures with a chart of `charts`.

Sections return blocks and the template renders them. The template escapes plain strings. Text from a corpus also goes
through `corpus_text`, which isolates its direction and replaces control characters.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup

UNKNOWN = "\N{EN DASH}"
"""Content of a table cell whose value is unknown."""
_COLUMN = 20
"""Characters of a label that names a column."""
_WHOLE = 500
"""Characters of a name in a tooltip."""
MANY_LABELS = 15
"""Number of labels above which tables by label are collapsed."""
State = Literal["better", "worse", "same", "unknown"]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of text."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A highlighted note: why a section is empty, or a caveat."""

    kind: ClassVar[str] = "notice"
    text: str


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell with a background tint.

    Attributes:
        shade: Strength of the tint, 0 to 1.
        tint: ``count`` for agreement, ``change`` for values that need attention.
    """

    text: str
    shade: float = 0.0
    tint: Literal["count", "change"] = "count"


@dataclass(frozen=True, slots=True)
class Table:
    """A table, which may be truncated.

    Attributes:
        columns: Headings; a leading ``#`` (not displayed) marks a numeric column.
        rows: Cells; the first cell of each row is its heading.
        hidden: Number of rows that are not displayed.
        spread: Common heading above the columns after the first.
        spread_over: Number of columns that it spans.
        anchor: Id of a table that can be sorted, filtered and searched; empty for others.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    hidden: int = 0
    spread: str = ""
    spread_over: int = 0
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its caption and, collapsed, its numbers.

    Attributes:
        drawing: SVG element from `bars`, `stacked`, `intervals` or `strips`.
        numbers: The same data as a table, for screen readers.
    """

    kind: ClassVar[str] = "figure"
    drawing: Markup
    caption: str
    numbers: Table | None = None


@dataclass(frozen=True, slots=True)
class Photograph:
    """A picture with its caption.

    Attributes:
        address: Data URI, since the page loads no files.
        width: Width in pixels.
        height: Height in pixels.
    """

    kind: ClassVar[str] = "photograph"
    address: str
    alt: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Collapsible:
    """Collapsed blocks that open on a click, or on a link to ``anchor``."""

    kind: ClassVar[str] = "collapsible"
    summary: str
    blocks: Sequence[Block]
    opened: bool = False
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Preformatted text."""

    kind: ClassVar[str] = "verbatim"
    text: str


Block = Paragraph | Notice | Heading | Table | Figure | Photograph | Collapsible | Verbatim


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page; ``anchor`` is its id in links."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline figure with an explanation; ``state`` is None if the figure is not a comparison."""

    name: str
    value: str
    detail: str
    state: State | None = None


def fold_long(blocks: Sequence[Block], rows: int, summary: str) -> list[Block]:
    """Return blocks with a table or chart of ``rows`` labels, collapsed if they are many."""
    return [Collapsible(summary, blocks)] if rows > MANY_LABELS else list(blocks)


def corpus_text(text: str, length: int = 160) -> Markup:
    """Return text from a corpus, cut to ``length`` characters, in isolation from the text around it.

    Control characters are replaced and the text direction is isolated.
    """
    return Markup("<bdi>{}</bdi>").format(shorten(text, length))


def name_text(name: str, length: int = 40) -> Markup:
    """Return a name from a corpus, such as a label, as `corpus_text` does; a tooltip shows a cut name in full."""
    text, whole = shorten(name, length), shorten(name, _WHOLE)
    return Markup('<bdi title="{}">{}</bdi>').format(whole, text) if text != whole else corpus_text(name, length)


def label_column(name: str) -> Markup:
    """Return the heading of a numeric column that is named by a label."""
    return Markup("#{}").format(name_text(name, _COLUMN))


def shorten(text: str, length: int) -> str:
    """Return text on one line of at most ``length`` characters, without control characters and lone surrogates."""
    shown = clean_text(" ".join(text.split()) if text.isprintable() else " ".join(clean_text(text).split()))
    return shown if len(shown) <= length else shown[: length - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def clean_text(text: str) -> str:
    """Replace control characters, direction overrides and lone surrogates; tabs and line ends are kept."""
    if text.isprintable():
        return text
    replaced_categories = {"Cc", "Cs", "Cf"}
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(character) in replaced_categories and character not in "\t\n\r\u200d"
        else character
        for character in text
    )


def percent(share: float | None, digits: int = 0) -> str:
    """Format a share as a percentage; only exactly 0 and 1 become 0% and 100%."""
    if share is None or math.isnan(share):
        return UNKNOWN
    resolution = 10.0**-digits
    if 0 < share < resolution / 200:
        return f"<{resolution:.{digits}f}%"
    if 1 - resolution / 200 <= share < 1:
        return f">{100 - resolution:.{digits}f}%"
    return f"{100 * share:.{digits}f}%"


def score(value: float | None) -> str:
    """Format a score between 0 and 1 with three digits."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Format a difference of scores with its sign."""
    if value is None or math.isnan(value):
        return UNKNOWN
    text = f"{value:+.3f}"
    return "0.000" if text[1:] == "0.000" else text.replace("-", "\N{MINUS SIGN}")


def count(number: int, noun: str = "", plural: str = "") -> str:
    """Format a number with thousands separators and an optional noun: ``1 clip``, ``1,200 clips``."""
    if not noun:
        return f"{number:,}"
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def join_items(items: Sequence[str]) -> str:
    """Join items as in a sentence: ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def ordered_labels(labels: Iterable[str], seen: Iterable[str]) -> list[str]:
    """Return the labels of the corpus in their order, then other labels that occur, sorted."""
    known = list(dict.fromkeys(labels))
    return known + sorted(set(seen) - set(known))
