"""The report in headless Chromium: filter, sort, from a confusion to a clip, without scripts, accessibility, speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.report.checks import ClipMap
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import ReportInput
from ecmf_pipeline.report.page import render
from ecmf_pipeline.report.thumbnails import Thumbnail
from tests.report.test_page import LABELS, evaluation, make_report_input
from tools.browser import serious_violations

pytestmark = pytest.mark.slow

PIXEL = (
    "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"  # a picture that browsers decode
)


def make_run(clips: int = 60) -> ReportInput:
    run = make_report_input(LABELS, clips=clips)
    wrong = replace(run.predictions[4], label=LABELS[2])  # its true label is LABELS[1]
    counts = [[19, 1, 0], [0, 19, 1], [0, 0, 20]]
    points = np.random.default_rng(0).random((clips, 2))
    return replace(
        run,
        predictions=[*run.predictions[:4], wrong, *run.predictions[5:]],
        evaluate=evaluation(LABELS) | {"confusion": {"labels": LABELS, "counts": counts}},
        clip_map=ClipMap(tuple(str(clip.clip_id) for clip in run.clips), points, "t-SNE"),
        thumbnails={str(clip.clip_id): Thumbnail(PIXEL, 96, 54) for clip in run.clips},
        label_issues=[],
    )


@pytest.fixture
def open_report(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the page of a run; console errors and requests for other files fail the test."""
    errors: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_page(run: ReportInput, **options: Any) -> Any:
        path = tmp_path / "index.html"
        path.write_text(render(run, ReportConfig()), encoding="utf-8")
        context = chromium.new_context(viewport=options.pop("viewport", {"width": 1200, "height": 900}), **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url.partition(":")[0]))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert set(requests) <= {"file", "data"}
    assert errors == []


def shown_clips(page: Any) -> list[str]:
    return [str(text) for text in page.locator("#decisions tbody tr:not([hidden]) th").all_text_contents()]


def test_the_table_is_filtered_and_searched(open_report: Callable[..., Any]) -> None:
    run = make_run()
    page = open_report(run)
    relabelled = {str(row.clip_id) for row in run.refined if row.decision == "relabel"}
    page.locator(".controls label", has_text="Decision").locator("select").select_option("relabelled")
    assert set(shown_clips(page)) == relabelled
    page.locator(".controls input[type=search]").fill("clip01")
    assert set(shown_clips(page)) == {name for name in relabelled if "clip01" in name}
    assert f"{len(shown_clips(page))} of 60 clips" in page.locator(".controls output").inner_text()
    page.locator(".controls button[type=reset]").click()
    page.wait_for_function("() => !document.querySelector('#decisions tbody tr[hidden]')")
    assert len(shown_clips(page)) == 60


def test_the_table_is_sorted_by_mouse_and_keyboard(open_report: Callable[..., Any]) -> None:
    page = open_report(make_run())
    page.locator("#decisions thead button", has_text="Clip").click()
    assert shown_clips(page) == sorted(shown_clips(page))
    page.locator("#decisions thead button", has_text="Probability").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.locator("#decisions th[aria-sort]").get_attribute("aria-sort") == "descending"
    column = page.locator("#decisions thead th").all_text_contents().index("Probability") + 1
    cells = page.locator(f"#decisions tbody tr > :nth-child({column})").all_text_contents()
    values = [float(text) for text in cells]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("width", [390, 1200])
def test_long_names_cross_no_other_column_and_captions_fit(open_report: Callable[..., Any], width: int) -> None:
    labels = ["W" * 60, "angry", "happy"]
    run = make_report_input(labels, clips=24, mark="L" * 200)
    clips = [replace(clip, transcript=f"{number} words {'and ' * 20}") for number, clip in enumerate(run.clips)]
    counts = [[3, 1, 0], [0, 4, 0], [0, 0, 4]]
    run = replace(run, clips=clips, evaluate=evaluation(labels) | {"confusion": {"labels": labels, "counts": counts}})
    page = open_report(run, viewport={"width": width, "height": 900})
    wide = """() => [...document.querySelectorAll("main th, main td")].filter((cell) => {
        const text = document.createRange();
        text.selectNodeContents(cell);
        const right = Math.max(...[...text.getClientRects()].map((box) => box.right));
        return right > cell.getBoundingClientRect().right + 1;
    }).map((cell) => cell.textContent)"""
    assert page.evaluate(wide) == []
    names = page.locator(".controls label").all_text_contents()
    assert not any(name.startswith("Words") for name in names)  # texts are searched, not chosen from a list
    cut = """() => [...document.querySelectorAll("#confusion caption span")].filter(
        (caption) => caption.getBoundingClientRect().right > innerWidth)"""
    assert page.evaluate(cut) == []


@pytest.mark.parametrize("scripts", [True, False])
def test_a_confusion_leads_to_a_clip(open_report: Callable[..., Any], scripts: bool) -> None:
    page = open_report(make_run(), java_script_enabled=scripts)
    page.locator("#confusion table a[href='#k-1-2']").click()
    link = page.locator("#k-1-2 a", has_text="clip004")
    link.wait_for(state="visible")
    link.click()
    card = page.locator(".card:target")
    card.wait_for(state="visible")
    assert card.locator("h3").inner_text() == "clip004"
    assert "happy" in card.locator("dd", has_text="(wrong)").inner_text()
    if scripts:
        place = page.evaluate("scrollY")
        page.keyboard.press("Escape")
        page.wait_for_function("() => !document.querySelector('.card:target')")
        assert page.evaluate("scrollY") == place
        assert page.evaluate("document.activeElement.textContent") == "clip004"
    else:
        card.locator(".close").click()
        card.wait_for(state="hidden")


def test_a_point_of_the_map_shows_a_preview_and_opens_its_card(open_report: Callable[..., Any]) -> None:
    page = open_report(make_run())
    point = page.locator(".map a[aria-label='clip007']")
    point.hover()
    preview = page.locator(".preview")
    preview.wait_for(state="visible")
    assert "clip007" in preview.inner_text()
    assert preview.locator("img").count() == 1
    colours = []
    for name in ("Label", "Split"):
        page.locator(".map label", has_text=name).click()
        colours.append(point.locator("circle").evaluate("circle => getComputedStyle(circle).fill"))
    assert colours[0] != colours[1]
    point.click()
    assert page.locator(".card:target h3").inner_text() == "clip007"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('.card:target h3').textContent !== 'clip007'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_axe_finds_nothing_serious_and_nothing_is_too_wide(
    open_report: Callable[..., Any], width: int, scheme: str
) -> None:
    page = open_report(make_run(), viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious_violations(page) == []
    page.locator("#decisions tbody a").first.click()
    page.locator(".card:target").wait_for(state="visible")
    assert serious_violations(page) == []


def test_a_full_page_opens_in_two_seconds(open_report: Callable[..., Any]) -> None:
    run = make_run(4000)
    picture = Thumbnail(PIXEL + "A" * 1800, 96, 54)
    run = replace(run, thumbnails={str(clip.clip_id): picture for clip in run.clips})
    page = open_report(run)
    started = time.monotonic()
    page.reload()
    assert len(shown_clips(page)) == 2000
    assert page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd") < 2000
    assert time.monotonic() - started < 30
