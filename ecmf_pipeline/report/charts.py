"""Charts of a report page as inline SVG.

Charts need no image files or fonts and use the colours of the page in light mode, dark mode and print: those of Okabe
and Ito (2008, "Color universal design"), which are distinguishable with any colour vision. Text in charts stays text,
so labels in any script are displayed. Charts are `NARROW` or `WIDTH` units wide and scale with the page.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from ecmf_pipeline.report.blocks import percent, shorten

Colour = Literal["blue", "vermillion", "green", "purple", "sky", "yellow", "grey"]
PALETTE: tuple[Colour, ...] = ("blue", "vermillion", "green", "purple", "sky", "yellow", "grey")

WIDTH = 720.0
LETTER = 7.2
"""Width of a Latin letter in the charts' 13 px font; a CJK letter takes twice that."""
NAME_COLUMNS = 26
"""Maximum width of a name next to a bar, in columns: one per Latin letter, two per CJK letter."""
BAR, BAR_GAP, GROUP_GAP = 16.0, 2.0, 13.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with text at its end; a value of None draws no bar."""

    value: float | None
    text: str
    colour: Colour = "blue"


@dataclass(frozen=True, slots=True)
class Mark:
    """A reference line across a bar chart."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """A coloured part of a strip, with the text of its tooltip."""

    start: float
    end: float
    colour: Colour
    text: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference with its interval, which may be unknown."""

    name: str
    value: float
    low: float | None
    high: float | None
    text: str


def bars(
    groups: Sequence[tuple[str, Sequence[Bar]]],
    *,
    alt: str,
    maximum: float | None = None,
    legend: Mapping[str, Colour] | None = None,
    mark: Mark | None = None,
) -> Markup:
    """Draw horizontal bars in named groups.

    Args:
        groups: Name and bars of each group.
        alt: Description of the chart in a sentence.
        maximum: End of the axis; None for the longest bar.
        legend: Meaning of the colours.
        mark: A reference line.
    """
    left = _label_width([name for name, _ in groups])
    longest = max((bar.value or 0.0 for _, group in groups for bar in group), default=0.0)
    scale = (WIDTH - left - 110) / (maximum or longest or 1.0)
    top = 24.0 if mark else 6.0
    bottom = top + sum(len(group) * (BAR + BAR_GAP) + GROUP_GAP - BAR_GAP for _, group in groups) - GROUP_GAP + 5
    parts = _grid(left, scale, top - 4, bottom, maximum) if maximum else []
    y = top
    for name, group in groups:
        height = len(group) * (BAR + BAR_GAP) - BAR_GAP
        parts.append(_name(name, left - 10, y + height / 2))
        for bar in group:
            length = max(bar.value or 0.0, 0.0) * scale
            parts.append(_rectangle(left, y, length, BAR, bar.colour))
            parts.append(_text(left + length + 6, y + BAR / 2, bar.text, "value"))
            y += BAR + BAR_GAP
        y += GROUP_GAP - BAR_GAP
    parts.append(_line(left, top - 4, left, bottom, "axis"))
    if mark:
        x = left + mark.value * scale
        parts.append(_line(x, top - 6, x, bottom, "mark"))
        parts.append(_text(x, 9, mark.text, "value middle" if x > left + 120 else "value"))
    return _legend(legend or {}) + _svg(bottom + (22 if maximum else 4), parts, alt)


def stacked(
    names: Sequence[str], layers: Sequence[tuple[str, Colour, Sequence[float]]], *, alt: str, texts: Sequence[str] = ()
) -> Markup:
    """Draw horizontal bars of equal length, split by share.

    Args:
        names: Name of each bar.
        layers: Name, colour and amount in each bar of each part; amounts need not sum to one.
        alt: Description of the chart in a sentence.
        texts: Text at the end of each bar.
    """
    left = _label_width(names)
    full_width = WIDTH - left - (100 if texts else 10)
    parts = []
    for position, name in enumerate(names):
        y = 4 + position * (BAR + 10)
        parts.append(_name(name, left - 10, y + BAR / 2))
        total = sum(amounts[position] for _, _, amounts in layers)
        x = left
        for _, colour, amounts in layers:
            share = amounts[position] / total if total else 0.0
            parts.append(_rectangle(x, y, share * full_width, BAR, colour))
            if share * full_width > 34:
                centre = x + share * full_width / 2
                parts.append(_text(centre, y + BAR / 2, percent(share), f"middle on {colour}"))
            x += share * full_width
        if texts:
            parts.append(_text(left + full_width + 8, y + BAR / 2, texts[position], "value"))
    height = 4 + len(names) * (BAR + 10)
    return _legend({name: colour for name, colour, _ in layers}) + _svg(height, parts, alt)


def intervals(rows: Sequence[Interval], *, alt: str) -> Markup:
    """Draw differences as dots and their intervals as whiskers, around a line at zero."""
    left = _label_width([row.name for row in rows])
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    axis_end = _round_up(max(map(abs, ends), default=0.0) * 1.08)
    right = WIDTH - 190
    centre, scale = (left + right) / 2, (right - left) / (2 * axis_end)
    bottom = 8 + 30.0 * len(rows)
    parts = []
    for tick in (-axis_end, -axis_end / 2, 0.0, axis_end / 2, axis_end):
        x = centre + tick * scale
        parts.append(_line(x, 4, x, bottom, "grid" if tick else "axis"))
        shown = f"{tick:+.3g}".replace("-", "\N{MINUS SIGN}") if tick else "0"
        parts.append(_text(x, bottom + 12, shown, "tick"))
    for position, row in enumerate(rows):
        y = 22 + 30.0 * position
        parts.append(_name(row.name, left - 10, y))
        if row.low is not None and row.high is not None:
            low, high = centre + row.low * scale, centre + row.high * scale
            parts.append(_line(low, y, high, y, "whisker"))
            parts += [_line(x, y - 5, x, y + 5, "whisker") for x in (low, high)]
        parts.append(
            Markup('<circle class="dot" cx="{}" cy="{}" r="5"/>').format(
                _number(centre + row.value * scale), _number(y)
            )
        )
        parts.append(_text(right + 14, y, row.text, "value"))
    return _svg(bottom + 24, parts, alt)


def strips(
    rows: Sequence[tuple[str, Sequence[Stretch]]], *, length: float, alt: str, legend: Mapping[str, Colour]
) -> Markup:
    """Draw named strips of the same length with coloured stretches, and a tooltip on each stretch.

    Args:
        rows: Name and stretches of each strip.
        length: Length of a strip, in the unit of the stretches.
        alt: Description of the chart in a sentence.
        legend: Meaning of the colours.
    """
    left = _label_width([name for name, _ in rows])
    scale = (WIDTH - left - 10) / length
    parts = []
    for position, (name, stretches) in enumerate(rows):
        y = 4 + position * (BAR + 10)
        parts.append(_name(name, left - 10, y + BAR / 2))
        parts.append(_line(left, y + BAR + 2, left + length * scale, y + BAR + 2, "grid"))
        parts += [
            Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                one.colour,
                _number(left + one.start * scale),
                _number(y),
                f"{max((one.end - one.start) * scale - 0.5, 0.5):.2f}",
                _number(BAR),
                shorten(one.text, 200),
            )
            for one in stretches
        ]
    return _legend(legend) + _svg(4 + len(rows) * (BAR + 10), parts, alt)


def display_width(text: str) -> int:
    """Return the display width of a text: one per letter, two per CJK letter, none per combining mark."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _grid(left: float, scale: float, top: float, bottom: float, maximum: float) -> list[Markup]:
    """Draw five labelled grid lines across the bars."""
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + share * maximum * scale
        parts.append(_line(x, top, x, bottom, "grid"))
        parts.append(_text(x, bottom + 10, f"{share * maximum:.4g}", "tick"))
    return parts


def _label_width(names: Sequence[str]) -> float:
    widest = max((display_width(_cut_name(name)) for name in names), default=0)
    return 22 + LETTER * max(widest, 6)


def _cut_name(name: str) -> str:
    shown = shorten(name, NAME_COLUMNS)
    while display_width(shown) > NAME_COLUMNS:
        shown = shown[:-2].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return shown


def _round_up(value: float) -> float:
    """Return the next round value for the end of an axis, at least 0.01."""
    value = max(value, 0.01)
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * step >= value * (1 - 1e-9))


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _rectangle(x: float, y: float, width: float, height: float, colour: Colour) -> Markup:
    return Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"/>').format(
        colour, _number(x), _number(y), _number(width), _number(height)
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        style, _number(x1), _number(y1), _number(x2), _number(y2)
    )


def _text(x: float, y: float, text: str, style: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(style, _number(x), _number(y), text)


def _name(name: str, x: float, y: float) -> Markup:
    """Draw a name, cut to fit; the full name is shown as a tooltip."""
    shown = _cut_name(name)
    whole = Markup("<title>{}</title>").format(shorten(name, 500)) if shown != name else Markup("")
    return Markup('<text class="name" x="{}" y="{}">{}{}</text>').format(_number(x), _number(y), shown, whole)


def _legend(meanings: Mapping[str, Colour]) -> Markup:
    if not meanings:
        return Markup("")
    items = Markup("").join(
        Markup('<li><span class="swatch {}"></span>{}</li>').format(colour, shorten(name, 60))
        for name, colour in meanings.items()
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def _svg(height: float, parts: Sequence[Markup], alt: str) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _number(WIDTH), _number(height), alt, Markup("").join(parts)
    )
