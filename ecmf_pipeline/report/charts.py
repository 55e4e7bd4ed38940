"""Charts of a report page as inline SVG.

Charts need no image files or fonts and use the colours of the page in light mode, dark mode and print: those of Okabe
and Ito (2008, "Color universal design"), which are distinguishable with any colour vision. Text in charts stays text,
so labels in any script are displayed. Each chart is drawn twice: `WIDTH` units wide with names beside the bars, and for
phones `NARROW` units wide with names above them. The style sheet shows one of the two.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from ecmf_pipeline.report.blocks import name_text, percent, shorten

Colour = Literal["blue", "vermillion", "green", "purple", "sky", "yellow", "grey"]
PALETTE: tuple[Colour, ...] = ("blue", "vermillion", "green", "purple", "sky", "yellow", "grey")

WIDTH = 720.0
NARROW = 350.0
NAME_LINE = 19.0
"""Height of a name above its bars in a narrow chart."""
LETTER = 7.2
"""Width of a Latin letter in the charts' 13 px font; a CJK letter takes twice that."""
NAME_COLUMNS = 26
"""Maximum width of a name next to a bar, in columns: one per Latin letter, two per CJK letter."""
BAR, BAR_GAP, GROUP_GAP = 16.0, 2.0, 13.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with text at its end, and an interval if it is known; a value of None draws no bar."""

    value: float | None
    text: str
    colour: Colour = "blue"
    low: float | None = None
    high: float | None = None


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
    longest = max((bar.value or 0.0 for _, group in groups for bar in group), default=0.0)
    text_space = 24 + LETTER * max((display_width(bar.text) for _, group in groups for bar in group), default=0)

    def draw(layout: _Layout) -> tuple[float, list[Markup]]:
        left = layout.left
        scale = max(layout.width - left - text_space, 60.0) / (maximum or longest or 1.0)
        top = 24.0 if mark else 6.0
        height_of_names = layout.name_line * len(groups)
        bars_height = sum(len(group) * (BAR + BAR_GAP) + GROUP_GAP - BAR_GAP for _, group in groups)
        bottom = top + height_of_names + bars_height - GROUP_GAP + 5
        parts = _grid(left, scale, top - 4, bottom, maximum) if maximum else []
        drawn: list[tuple[float, float]] = []
        y = top
        for name, group in groups:
            height = len(group) * (BAR + BAR_GAP) - BAR_GAP
            parts.append(layout.name(name, y, height))
            y += layout.name_line
            drawn.append((y, y + height))
            for bar in group:
                length = max(bar.value or 0.0, 0.0) * scale
                parts.append(_rectangle(left, y, length, BAR, bar.colour))
                if bar.low is not None and bar.high is not None:
                    parts += _whisker(left + bar.low * scale, left + bar.high * scale, y + BAR / 2)
                end = left + max(length, (bar.high or 0.0) * scale)
                parts.append(_text(end + 6, y + BAR / 2, bar.text, "value"))
                y += BAR + BAR_GAP
            y += GROUP_GAP - BAR_GAP
        if not layout.name_line:  # it would cross the names
            parts.append(_line(left, top - 4, left, bottom, "axis"))
        if mark:
            x = left + mark.value * scale
            spans = [(start - 3, end + 3) for start, end in drawn] if layout.name_line else [(top - 6, bottom)]
            parts += [_line(x, start, x, end, "mark") for start, end in spans]
            is_central = left + 120 < x < layout.width - 120
            parts.append(_text(x, 9, mark.text, "value middle" if is_central else "value"))
        return bottom + (22 if maximum else 4), parts

    return _legend(legend or {}) + _twice(draw, [name for name, _ in groups], alt)


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
    text_space = 16 + LETTER * max(map(display_width, texts), default=0)

    def draw(layout: _Layout) -> tuple[float, list[Markup]]:
        left, row_height = layout.left, layout.name_line + BAR + 10
        full_width = layout.width - left - text_space
        parts = []
        for position, name in enumerate(names):
            y = 4 + position * row_height
            parts.append(layout.name(name, y, BAR))
            y += layout.name_line
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
        return 4 + len(names) * row_height, parts

    return _legend({name: colour for name, colour, _ in layers}) + _twice(draw, names, alt)


def intervals(rows: Sequence[Interval], *, alt: str) -> Markup:
    """Draw differences as dots and their intervals as whiskers, around a line at zero."""
    ends = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    axis_end = _round_up(max(map(abs, ends), default=0.0) * 1.08)
    text_space = 16 + LETTER * max((display_width(row.text) for row in rows), default=0)

    def draw(layout: _Layout) -> tuple[float, list[Markup]]:
        left = layout.left + (16 if layout.name_line else 0)
        right = layout.width - (16 if layout.name_line else text_space)
        row_height = 30.0 + layout.name_line
        centre, scale = (left + right) / 2, (right - left) / (2 * axis_end)
        bottom = 8 + row_height * len(rows)
        parts = []
        for tick in (-axis_end, -axis_end / 2, 0.0, axis_end / 2, axis_end):
            x = centre + tick * scale
            parts.append(_line(x, 4, x, bottom, "grid" if tick else "axis"))
            shown = f"{tick:+.3g}".replace("-", "\N{MINUS SIGN}") if tick else "0"
            parts.append(_text(x, bottom + 12, shown, "tick"))
        for position, row in enumerate(rows):
            top = 8 + row_height * position
            parts.append(layout.name(row.name, top, 28.0, note=row.text))
            y = top + layout.name_line + 14
            if row.low is not None and row.high is not None:
                parts += _whisker(centre + row.low * scale, centre + row.high * scale, y)
            parts.append(
                Markup('<circle class="dot" cx="{}" cy="{}" r="5"/>').format(
                    _number(centre + row.value * scale), _number(y)
                )
            )
            if not layout.name_line:
                parts.append(_text(right + 14, y, row.text, "value"))
        return bottom + 24, parts

    return _twice(draw, [row.name for row in rows], alt)


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

    def draw(layout: _Layout) -> tuple[float, list[Markup]]:
        left, row_height = layout.left, layout.name_line + BAR + 10
        scale = (layout.width - left - 10) / length
        parts = []
        for position, (name, stretches) in enumerate(rows):
            y = 4 + position * row_height
            parts.append(layout.name(name, y, BAR))
            y += layout.name_line
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
        return 4 + len(rows) * row_height, parts

    return _legend(legend) + _twice(draw, [name for name, _ in rows], alt)


def display_width(text: str) -> int:
    """Return the display width of a text: one per letter, two per CJK letter, none per combining mark."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """One of the two drawings of a chart.

    Attributes:
        width: Width of the drawing.
        left: Start of the bars.
        name_line: Height of a name above its bars; 0 if names are beside the bars.
    """

    width: float
    left: float
    name_line: float

    def name(self, name: str, top: float, height: float, note: str = "") -> Markup:
        """Draw a name, cut to fit; the full name is shown as a tooltip. A note follows if the name has its own line."""
        length = NAME_COLUMNS if not self.name_line or note else NAME_COLUMNS + 16
        shown = _cut_name(name, length)
        whole = Markup("<title>{}</title>").format(shorten(name, 500)) if shown != name else Markup("")
        x, y = (self.left, top + self.name_line / 2) if self.name_line else (self.left - 10, top + height / 2)
        text = Markup('<text class="{}" x="{}" y="{}">{}{}</text>').format(
            "name start" if self.name_line else "name", _number(x), _number(y), shown, whole
        )
        if self.name_line and note:
            text += _text(self.width, y, note, "value end")
        return text


def _twice(draw: Callable[[_Layout], tuple[float, list[Markup]]], names: Sequence[str], alt: str) -> Markup:
    """Draw a chart in both layouts."""
    layouts = {"wide": _Layout(WIDTH, _label_width(names), 0.0), "narrow": _Layout(NARROW, 6.0, NAME_LINE)}
    drawings = []
    for name, layout in layouts.items():
        height, parts = draw(layout)
        drawings.append(
            Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
                name, _number(layout.width), _number(height), alt, Markup("").join(parts)
            )
        )
    return Markup("").join(drawings)


def _whisker(low: float, high: float, y: float) -> list[Markup]:
    return [_line(low, y, high, y, "whisker"), *(_line(x, y - 5, x, y + 5, "whisker") for x in (low, high))]


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


def _cut_name(name: str, columns: int = NAME_COLUMNS) -> str:
    shown = shorten(name, columns)
    while display_width(shown) > columns:
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


def _legend(meanings: Mapping[str, Colour]) -> Markup:
    if not meanings:
        return Markup("")
    items = Markup("").join(
        Markup('<li><span class="swatch {}"></span>{}</li>').format(colour, name_text(name, 60))
        for name, colour in meanings.items()
    )
    return Markup('<ul class="legend">{}</ul>').format(items)
