"""Charts: lengths are right, nothing leaves the canvas, and text is cut and escaped."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecmf_pipeline.report.blocks import percent
from ecmf_pipeline.report.charts import (
    NAME_COLUMNS,
    NARROW,
    WIDTH,
    Bar,
    Interval,
    Mark,
    bars,
    display_width,
    intervals,
    stacked,
)

share_values = st.floats(0, 1, allow_nan=False)


def wide(drawings: str) -> str:
    """Return the drawing for wide screens."""
    return drawings[: drawings.index("</svg>") + 6]


def widths(svg: str) -> list[float]:
    return [float(width) for width in re.findall(r'<rect[^>]* width="([^"]+)"', svg)]


def right_ends(svg: str) -> list[float]:
    return [float(x) + float(width) for x, width in re.findall(r'<rect[^>]* x="([^"]+)"[^>]* width="([^"]+)"', svg)]


def test_bar_length_is_proportional_to_value() -> None:
    svg = wide(
        bars([("a", [Bar(1.0, "1")]), ("b", [Bar(0.25, "0.25"), Bar(None, "none")])], alt="a chart", maximum=1.0)
    )
    whole, quarter, absent = widths(svg)
    assert quarter == pytest.approx(whole / 4, abs=0.1)
    assert absent == 0


def test_the_mark_is_at_its_value() -> None:
    svg = wide(bars([("a", [Bar(0.5, "0.5")])], alt="a chart", maximum=1.0, mark=Mark(0.5, "here")))
    mark = re.search(r'<line class="mark" x1="([^"]+)"', svg)
    assert mark is not None
    assert float(mark[1]) == pytest.approx(right_ends(svg)[0], abs=0.15)


@given(st.lists(st.tuples(share_values, share_values, share_values), min_size=1, max_size=5))
def test_stacked_bars_fill_the_same_length(amounts: list[tuple[float, float, float]]) -> None:
    layers = [(name, "blue", [row[index] for row in amounts]) for index, name in enumerate("abc")]
    svg = wide(stacked([f"bar {number}" for number in range(len(amounts))], layers, alt="a chart"))  # type: ignore[arg-type]
    lengths = [sum(widths(svg)[start : start + 3]) for start in range(0, 3 * len(amounts), 3)]
    filled = [length for length, row in zip(lengths, amounts, strict=True) if sum(row) > 0]
    assert filled == pytest.approx([filled[0]] * len(filled), abs=0.4) if filled else not any(lengths)


def test_parts_of_a_stacked_bar_are_adjacent() -> None:
    svg = wide(stacked(["a"], [("x", "blue", [1.0]), ("y", "green", [3.0]), ("z", "grey", [4.0])], alt="a chart"))
    starts = [float(x) for x in re.findall(r'<rect[^>]* x="([^"]+)"', svg)]
    assert starts[1:] == pytest.approx(right_ends(svg)[:-1], abs=0.15)
    assert [width / sum(widths(svg)) for width in widths(svg)] == pytest.approx([1 / 8, 3 / 8, 1 / 2], abs=1e-3)


@given(st.tuples(*[st.floats(-1, 1, allow_nan=False)] * 3).map(sorted))
def test_intervals_are_inside_the_canvas_and_on_the_right_side_of_zero(values: list[float]) -> None:
    low, middle, high = values
    svg = wide(intervals([Interval("a", middle, low, high, "")], alt="a chart"))
    zero = float(re.search(r'class="axis" x1="([^"]+)"', svg)[1])  # type: ignore[index]
    dot = float(re.search(r'cx="([^"]+)"', svg)[1])  # type: ignore[index]
    start, end = (float(x) for x in re.findall(r'class="whisker" x1="([^"]+)"', svg)[1:])
    assert 0 < start <= dot <= end < WIDTH
    assert (dot - zero) * middle >= 0


def test_an_unknown_interval_has_no_whisker() -> None:
    assert "whisker" not in intervals([Interval("a", 0.1, None, None, "")], alt="a chart")


@given(st.text(max_size=80))
def test_names_are_cut_and_escaped(name: str) -> None:
    svg = wide(bars([(name, [Bar(1.0, "1")])], alt=name))
    displayed = re.search(r'<text class="name"[^>]*>([^<]*)', svg)
    assert displayed is not None
    assert display_width(re.sub(r"&[#\w]+;", "x", displayed[1])) <= NAME_COLUMNS
    assert len(re.findall("<svg|<text|</svg>", svg)) == 4


def test_a_cut_name_has_the_full_name_as_tooltip() -> None:
    long = "惊讶而且不知所措的样子真的非常长的标签"
    svg = wide(bars([(long, [Bar(1.0, "1")])], alt="a chart"))
    assert f"<title>{long}</title>" in svg


def test_chinese_letters_take_two_columns() -> None:
    assert display_width("悲伤ab") == 6


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0, "0%"),
        (0.0001, "<1%"),
        (0.004, "<1%"),
        (0.006, "1%"),
        (0.5, "50%"),
        (0.994, "99%"),
        (0.995, ">99%"),
        (1.0, "100%"),
        (None, "\N{EN DASH}"),
    ],
)
def test_only_exact_shares_become_0_or_100_percent(share: float | None, shown: str) -> None:
    assert percent(share) == shown


def test_a_narrow_drawing_has_all_texts_inside_its_width() -> None:
    rows = [Interval("without the modality of the face", -0.1, -0.2, 0.05, "-0.100 (-0.200 to +0.050)")]
    drawings = [
        bars(
            [("fusion, refined labels", [Bar(0.9, "0.900, 49 of 49 clips", low=0.8, high=1.0)])], alt="a", maximum=1.0
        ),
        intervals(rows, alt="a"),
        stacked(["all labels"], [("x", "blue", [1.0])], alt="a", texts=["1,234 clips"]),
    ]
    for drawing in drawings:
        narrow = drawing[drawing.index("</svg>") + 6 :]
        assert f'viewBox="0 0 {NARROW:g} ' in narrow
        for style, x, text in re.findall(r'<text class="([^"]+)" x="([^"]+)"[^>]*>([^<]*)', narrow):
            width = (
                7.2 * display_width(text) * ("end" not in style) / (2 if "middle" in style or "tick" in style else 1)
            )
            assert float(x) + width <= NARROW + 8


def test_the_mark_crosses_no_name_of_a_narrow_chart() -> None:
    groups = [("face alone", [Bar(0.5, "0.5")]), ("fusion", [Bar(0.7, "0.7")])]
    chart = str(bars(groups, alt="", mark=Mark(0.1, "chance")))
    narrow = chart[chart.index("narrow") :]
    names = [float(y) for y in re.findall(r'class="name start"[^>]* y="([^"]+)"', narrow)]
    marks = re.findall(r'class="mark"[^>]* y1="([^"]+)"[^>]* y2="([^"]+)"', narrow)
    assert len(names) == len(marks) == 2
    assert not any(float(low) <= y <= float(high) for low, high in marks for y in names)
