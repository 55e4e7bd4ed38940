"""The page of `ecmf-pipe compare`."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ecmf_pipeline.report.comparison import render_comparison
from tools.browser import serious_violations

TAG = "<img src=x onerror=alert(1)>"


def comparison(**others: Any) -> dict[str, Any]:
    """Return a result of `compare_runs` with a hostile label."""
    model = {"model": "refined/fusion", "title": "fusion, refined labels", "difference": 0.25, "low": 0.1, "high": 0.4}
    row = {"clip_id": "clip1", "first_probability": 0.5, "second_probability": 0.75}
    return {
        "first": {"name": "main", "commit": "0" * 40, "title": "main (0000000)"},
        "second": {"name": ".", "commit": "", "title": "the working tree"},
        "same_commit": False,
        "params": [{"key": "train.fusion.hidden", "first": 128, "second": None}],
        "clips": {
            "first": 3,
            "second": 3,
            "shared": 2,
            "added": ["clip3"],
            "removed": ["clip0"],
            "changed": {"content": ["clip1"], "transcript": [], "split": [], "group": []},
        },
        "labels": {"given": [{"clip_id": "clip1", "first": TAG, "second": ""}], "gold": [], "refined": None},
        "scores": {
            "judged_by": "gold",
            "clips": 2,
            "grouped": True,
            "models": [
                {
                    **model,
                    "first": {"weighted_f1": 0.5, "accuracy": 0.5},
                    "second": {"weighted_f1": 0.75, "accuracy": 0.75},
                }
            ],
        },
        "changes": {
            "model": "refined/fusion",
            "title": "fusion, refined labels",
            "won": [{**row, "truth": "sad", "first": TAG, "second": "sad"}],
            "lost": [{**row, "clip_id": "clip2", "truth": "happy", "first": "happy", "second": "sad"}],
        },
        "not_compared": [],
        **others,
    }


class Tables(HTMLParser):
    """The cells of each table, by the id of the table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.tags: set[str] = set()
        self._table = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "table":
            self._table = dict(attrs).get("id") or ""
            self.rows.setdefault(self._table, [])
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in {"td", "th"}:
            self.rows[self._table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        if self.rows.get(self._table) and self._table:
            self.rows[self._table][-1][-1] += data.strip()


def test_the_table_lists_clips_won_and_lost():
    rows = Tables(render_comparison(comparison())).rows
    assert rows["won-and-lost"][1:] == [
        ["clip1", "won", "sad", TAG, "sad", "0.500", "0.750"],
        ["clip2", "lost", "happy", "happy", "sad", "0.500", "0.750"],
    ]
    assert rows["labels-that-differ"][1:] == [["clip1", "given", TAG, "\N{EN DASH}"]]


def test_the_page_makes_no_request_and_escapes_text():
    page = render_comparison(comparison())
    assert not Tables(page).tags & {"img", "link", "iframe", "object"}
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=.?https?:", page)


@pytest.mark.parametrize(
    ("low", "high", "state"), [(0.1, 0.4, "better"), (-0.4, -0.1, "worse"), (-0.1, 0.4, "same"), (0.0, 0.4, "same")]
)
def test_a_difference_is_significant_if_its_interval_excludes_zero(low, high, state):
    base = comparison()
    base["scores"]["models"][0] |= {"low": low, "high": high}
    assert re.search(rf'class="tile[^"]* {state}"', render_comparison(base))


def test_parts_that_are_unknown_are_named():
    empty = {"judged_by": "given", "clips": 0, "grouped": False, "models": []}
    page = render_comparison(comparison(scores=empty, changes=None, not_compared=["main has no predictions"]))
    assert "Not compared: main has no predictions." in page


def test_long_lists_are_cut():
    changes = comparison()["changes"]
    many = {
        outcome: [changes[outcome][0] | {"clip_id": f"c{number}"} for number in range(3000)]
        for outcome in ("won", "lost")
    }
    page = render_comparison(comparison(changes=changes | many))
    outcomes = [row[1] for row in Tables(page).rows["won-and-lost"][1:]]
    assert [outcomes.count(outcome) for outcome in ("won", "lost")] == [1000, 1000]
    assert "4,000 more" in page
    assert len(page) < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_table_is_sorted_and_filtered_in_the_browser(chromium, tmp_path: Path, scheme):
    (tmp_path / "compare.html").write_text(render_comparison(comparison()), encoding="utf-8")
    page = chromium.new_page(color_scheme=scheme, viewport={"width": 390, "height": 844})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((tmp_path / "compare.html").as_uri())
    clips = "#won-and-lost tbody tr:not([hidden]) > :first-child"
    heading = page.locator("#won-and-lost thead button").first
    heading.click()
    heading.click()
    assert page.locator(clips).all_inner_texts() == ["clip2", "clip1"]
    page.get_by_label("Outcome").select_option("won")
    assert page.locator(clips).all_inner_texts() == ["clip1"]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert problems == []
    assert serious_violations(page) == []
    page.close()
