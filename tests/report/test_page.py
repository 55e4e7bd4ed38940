"""The whole page: content, escaping, self-containment, and absent results."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.labels.refine import Decision, LabelAction, Vote
from ecmf_pipeline.report.checks import ClipMap, LabelIssue
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import FaceSheet, PredictedClip, ReportInput
from ecmf_pipeline.report.metrics import read_evaluation
from ecmf_pipeline.report.neighbours import Neighbours
from ecmf_pipeline.report.overview import tiles
from ecmf_pipeline.report.page import SYNTHETIC_NOTICE, render
from ecmf_pipeline.report.thumbnails import Thumbnail
from ecmf_pipeline.runner.quarantine import QuarantineEntry

SECTIONS = [
    "scores", "confusion", "clips", "refinement", "weights", "ablation", "corpus", "quarantine", "features", "runtime",
]  # fmt: skip
VOID = {"meta", "rect", "line", "circle", "img", "input"}


class Page(HTMLParser):
    """Elements and visible text of a page; fails if tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.unclosed: list[str] = []
        self.names: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.unclosed[-1:] == ["bdi"]:
            self.names.append((data, self.elements[-1][1].get("title")))

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def scores(weighted_f1: float, labels: list[str]) -> dict[str, Any]:
    per_class = {label: {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 4} for label in labels}
    return {"clips": 4 * len(labels), "weighted_f1": weighted_f1, "accuracy": weighted_f1, "per_class": per_class}


def evaluation(labels: list[str]) -> dict[str, Any]:
    counts = [[3 if row == column else int(column == 0) for column in range(len(labels))] for row in range(len(labels))]
    both = {"given": scores(0.7, labels), "refined": scores(0.75, labels)}
    return {
        "weighted_f1": 0.75,
        "accuracy": 0.75,
        "clips": 4 * len(labels),
        "judged_by": "gold",
        "model": "refined",
        "fusion": both,
        "modalities": {"face": scores(0.5, labels), "text": scores(0.6, labels)},
        "by_split": {"train": both, "candidate": {"given": scores(0.68, labels), "refined": None}},
        "fusion_over_best_modality": {"best": "text", "difference": 0.1, "low": 0.02, "high": 0.2},
        "refined_over_given": {"difference": 0.05, "low": -0.01, "high": 0.09},
        "labels": {
            "given": {"clips": 8, "accuracy": 0.75},
            "refined": {"clips": 7, "accuracy": 0.9},
            "fixed": 2,
            "broken": 1,
            "dropped_wrong": 1,
            "dropped_right": 0,
            "pseudo": {"clips": 3, "accuracy": None},
        },
        "confusion": {"labels": labels, "counts": counts},
        "no_modality": 1,
    }


def ablation(mark: str = "") -> dict[str, Any]:
    def scored(weighted_f1: float, difference: float, low: float, high: float) -> dict[str, float]:
        return {"weighted_f1": weighted_f1, "difference": difference, "low": low, "high": high}

    def spread(mean: float, heaviest: float) -> dict[str, float]:
        return {"mean": mean, "std": 0.1, "q05": 0.1, "median": mean, "q95": 0.9, "heaviest": heaviest}

    return {
        "judged_by": "gold",
        "reference": {"kind": "ecmf", "modalities": ["face", "text"], "clips": 12, "weighted_f1": 0.7},
        "variants": [
            {"table": "alone", "name": f"face alone{mark}", "without": "", **scored(0.61, -0.09, -0.15, -0.03)},
            {"table": "left out", "name": "without face", "without": "face", **scored(0.62, -0.08, -0.14, -0.02)},
            {"table": "left out", "name": "without text", "without": "text", **scored(0.69, -0.01, -0.05, 0.04)},
            {"table": "fusion", "name": "concat", "without": "", **scored(0.72, 0.02, 0.01, 0.03)},
        ],
        "robustness": [
            {"modality": "face", "damage": "missing", **scored(0.63, -0.07, -0.1, -0.01), "trained_without": 0.62},
            {"modality": "text", "damage": "noisy", **scored(0.68, -0.02, -0.06, 0.02)},
        ],
        "skipped": [{"name": "gated", "why": "too few clips"}],
        "weights": {
            "modalities": {"face": spread(0.25, 0.0), "text": spread(0.75, 1.0)},
            "effective_modalities": 1.7,
            "warnings": [],
        },
    }


def make_report_input(labels: list[str], *, clips: int = 12, mark: str = "") -> ReportInput:
    """Return the inputs of a made-up run; ``mark`` is appended to each text that comes from a corpus."""
    manifest, predictions, refined = [], [], []
    decisions = ["keep", "relabel", "drop", "review"]
    for number in range(clips):
        clip_id, label = f"clip{number:03d}{mark}", labels[number % len(labels)]
        split = Split.CANDIDATE if number % 3 == 2 else Split.TRAIN
        given = label if split is Split.TRAIN else ""
        other = labels[(number + 1) % len(labels)]
        manifest.append(
            Clip(
                ClipId(clip_id),
                transcript=f"words {mark}",
                given_label=given,
                gold_label=label,
                split=split,
                duration=3,
            )
        )
        weights = {"face": 0.25, "text": 0.75} if number else {"face": float("nan"), "text": float("nan")}
        flag = "" if number else f"no usable modality{mark}"
        predictions.append(PredictedClip(clip_id, split.value, label, 0.9, weights, flag))
        decision = decisions[number % 4] if given else ("pseudo" if number % 2 else "leave")
        after = {"keep": given, "relabel": other, "drop": "", "review": given, "pseudo": label, "leave": ""}[decision]
        votes = (Vote(f"text/linear{mark}", other, 0.8), Vote("text/llm", ""))
        confidence = 0.5 + number / (2 * clips)
        reason = f"because{mark}"
        refined.append(
            Decision(
                ClipId(clip_id),
                split,
                given,
                after,
                LabelAction(decision),
                0.5,
                confidence,
                0.5,
                reason,
                label=after or label,
                rival=other,
                votes=votes,
            )
        )
    entry = QuarantineEntry(
        f"clip000{mark}", "extract", "face", f"NoFaceFound{mark}", f"0 of 16{mark}", "ab", "cd", "now"
    )
    return ReportInput(
        corpus={"kind": f"sample{mark}", "labels": labels, "synthetic": True, "root": f"data/sample{mark}"},
        clips=manifest,
        index={"clips": clips, "findings": {"no_media": 1}},
        findings=[{"kind": "no_media", "clip_id": f"clip001{mark}", "message": f"no file{mark}"}],
        quarantine=[entry],
        coverage={
            "face": {"done": clips - 2, "absent": 0, "quarantined": 1, "missing": 1},
            "text": {"done": clips, "absent": 0, "quarantined": 0, "missing": 0},
        },
        encoders={"face": {"type": "mini_xception", "weights": {"sha256": "59534287" * 8}, "note": mark}},
        dims={"face": 180},
        evaluate=evaluation(labels),
        ablate=ablation(mark),
        predictions=predictions,
        refined=refined,
        params={"corpus": {"kind": f"sample{mark}"}, "llm": {"api_key": "sk-secret", "max_tokens": 64}},
        versions={"torch": f"2.13.0{mark}"},
    )


LABELS = ["neutral", "angry", "happy"]


def render_page(report: ReportInput, **config: int) -> Page:
    return Page(render(report, ReportConfig(**config)))


def test_all_sections_are_on_the_page_and_in_the_contents() -> None:
    page = render_page(make_report_input(LABELS))
    assert [section["id"] for section in page.all("section")] == ["summary", *SECTIONS]
    contents = [link["href"] for link in page.all("a")][1 : len(SECTIONS) + 2]
    assert contents == ["#summary", *(f"#{name}" for name in SECTIONS)]
    assert not page.unclosed


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        ("clips", ()),
        ("index", {}),
        ("findings", ()),
        ("quarantine", ()),
        ("coverage", {}),
        ("encoders", {}),
        ("evaluate", None),
        ("evaluate", {}),
        ("ablate", None),
        ("ablate", {}),
        ("predictions", ()),
        ("refined", ()),
        ("params", {}),
        ("versions", {}),
    ],
)
def test_any_result_may_be_absent(name: str, empty: Any) -> None:
    page = render_page(replace(make_report_input(LABELS), **{name: empty}))
    assert [section["id"] for section in page.all("section")] == ["summary", *SECTIONS]
    assert "None" not in page.text
    assert "nan" not in page.text.split()


def section_text(page: str, anchor: str) -> str:
    """Return the visible text of one section."""
    inside = page.split(f'<section id="{anchor}"')[1].split("</section>")[0].partition(">")[2]
    return Page(inside.replace("<td", " <td")).text


def test_the_ablation_study_shows_variants_with_intervals() -> None:
    page = render(make_report_input(LABELS), ReportConfig())
    text = section_text(page, "ablation").replace("\N{MINUS SIGN}", "-")
    assert "The reference is the fusion (ecmf) of face and text" in text
    assert "Leaving out one modality: significantly worse without face; no significant loss without text." in text
    assert "Not significantly worse: concat." in text
    assert "face alone 0.610 -0.090 -0.150 to -0.030 worse" in text
    assert "concat 0.720 +0.020 +0.010 to +0.030 better" in text
    assert "face missing 0.630 -0.070 -0.100 to -0.010 0.620" in text
    assert "text noisy 0.680 -0.020 -0.060 to +0.020 \N{EN DASH}" in text
    assert "gated too few clips" in text
    weights = section_text(page, "weights")
    assert "Effective number of modalities: 1.7 of 2" in weights
    assert "text 0.750 0.100 0.100 0.750 0.900 100%" in weights


def test_a_collapse_is_shown_in_the_summary_and_with_the_weights() -> None:
    warning = "the fusion has collapsed onto text: its mean weight is 0.97"
    collapsed = ablation()
    collapsed["weights"]["warnings"] = [warning]
    page = render(replace(make_report_input(LABELS), ablate=collapsed), ReportConfig())
    for anchor in ("summary", "weights"):
        assert f"T{warning[1:]}." in section_text(page, anchor)
    assert "collapsed" not in render(make_report_input(LABELS), ReportConfig())


def test_the_baseline_protocol_is_marked_as_optimistic_and_wrong_metrics_are_named() -> None:
    page = render(
        replace(make_report_input(LABELS), ablate=ablation() | {"mertools_protocol": {"weighted_f1": 0.81}}),
        ReportConfig(),
    )
    assert "it would be 0.810 (optimistic)" in section_text(page, "ablation")
    with pytest.raises(InputError, match=r"variants\.0\.weighted_f1") as caught:
        render(replace(make_report_input(LABELS), ablate={"variants": [{"table": "a", "name": "b"}]}), ReportConfig())
    assert caught.value.command == "ecmf-pipe ablate"


@pytest.mark.parametrize("key", list(evaluation(LABELS)))
def test_any_metric_may_be_absent(key: str) -> None:
    metrics = evaluation(LABELS)
    for value in ({}, {key: None}):
        rest = {name: kept for name, kept in metrics.items() if name != key}
        page = render_page(replace(make_report_input(LABELS), evaluate={**rest, **value}))
        assert "None" not in page.text
        assert not page.unclosed


def test_absent_results_are_reported_as_absent() -> None:
    page = render_page(ReportInput(corpus={"kind": "folder", "labels": [], "synthetic": False, "root": "x"}))
    for sentence in (
        "The manifest lists no clips.",
        "No label distribution",
        "No features were extracted",
        "No scores",
        "No confusion matrix",
        "No prediction has modality weights",
        "Label refinement did not run",
        "No clip was quarantined",
        "The predictions cannot be evaluated",
        "Fusion cannot be compared with the best single modality",
    ):
        assert sentence in page.text


def test_a_notice_is_shown_only_for_synthetic_corpora() -> None:
    run = make_report_input(LABELS)
    assert SYNTHETIC_NOTICE in render_page(run).text
    assert SYNTHETIC_NOTICE not in render_page(replace(run, corpus={**run.corpus, "synthetic": False})).text


def test_a_notice_is_shown_if_scores_use_given_labels() -> None:
    run = make_report_input(LABELS)
    page = render_page(replace(run, evaluate={**evaluation(LABELS), "judged_by": "given", "labels": None}))
    notice = "use the given labels as truth"
    assert notice in page.text
    assert "True label" not in page.text
    assert "Whether this made the labels better is unknown" in page.text
    assert notice not in render_page(run).text


ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"


def test_all_external_text_is_escaped() -> None:
    run, attacked_run = make_report_input(LABELS), make_report_input([label + ATTACK for label in LABELS], mark=ATTACK)
    plain, page = render_page(run), render_page(attacked_run)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert [tag for tag, _ in page.elements] == [
        tag for tag, _ in plain.elements if tag != "title"
    ] or not page.unclosed
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count("<script>alert(1)</script>") > 40


@pytest.mark.parametrize("place", ["transcript", "label", "clip_id", "reason", "message", "source", "params"])
def test_each_external_text_is_on_the_page_and_escaped(place: str) -> None:
    run = make_report_input(LABELS)
    mark = f"<script>{place}</script>"
    first, rest = run.refined[1], [run.refined[0], *run.refined[2:]]
    changes: dict[str, dict[str, Any]] = {
        "transcript": {"clips": [replace(clip, transcript=mark) for clip in run.clips]},
        "label": {"refined": [replace(first, refined_label=mark), *rest]},
        "clip_id": {"clips": [replace(run.clips[0], clip_id=mark), *run.clips[1:]]},
        "reason": {"refined": [replace(first, reason=mark), *rest]},
        "message": {"quarantine": [replace(run.quarantine[0], message=mark)]},
        "source": {"refined": [replace(first, votes=[Vote(mark, "angry", 0.5)]), *rest]},
        "params": {"params": {"corpus": mark}},
    }
    html = render(replace(run, **changes[place]), ReportConfig())
    assert mark not in html
    assert f"&lt;script&gt;{place}&lt;/script&gt;" in html


def test_control_characters_and_direction_overrides_are_replaced() -> None:
    run = make_report_input(LABELS)
    clips = [replace(clip, transcript="a\x00b\x1b[31m\u202egnp.exe\ud800") for clip in run.clips]
    html = render(replace(run, clips=clips), ReportConfig())
    html.encode("utf-8")
    assert not set("\x00\x1b\u202e\ud800") & set(html)
    assert "gnp.exe" in html


def test_the_page_is_self_contained() -> None:
    html = render(make_report_input(LABELS), ReportConfig())
    page = Page(html)
    assert not {"link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in page.elements}
    links = [str(link["href"]) for link in page.all("a")]
    assert all(link.startswith(("#", "http://127.0.0.1:8350/?clip=clip")) for link in links)
    assert not re.search(r"url\(|@import|src=", html)
    policy = str(next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta))
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def test_links_have_targets_and_ids_are_unique() -> None:
    page = render_page(make_report_input(LABELS))
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert {str(link["href"])[1:] for link in page.all("a") if str(link["href"]).startswith("#")} <= set(names)


def test_identical_inputs_give_identical_bytes() -> None:
    assert render(make_report_input(LABELS), ReportConfig()) == render(make_report_input(LABELS), ReportConfig())


def test_possible_bugs_are_counted_apart_from_bad_clips() -> None:
    run = make_report_input(LABELS)
    bugs = [replace(run.quarantine[0], reason="UnexpectedError", clip_id=f"clip{number}") for number in range(2)]
    notice = "2 entries with UnexpectedError may show bugs of ecmf-pipeline"
    assert notice in render_page(replace(run, quarantine=[*run.quarantine, *bugs])).text
    assert "UnexpectedError" not in render_page(run).text


def test_quarantine_times_do_not_change_the_page() -> None:
    run = make_report_input(LABELS)
    later = replace(run, quarantine=[replace(run.quarantine[0], time="2031-01-01T00:00:00+00:00")])
    assert render(run, ReportConfig()) == render(later, ReportConfig())


def test_figures_have_descriptions_and_captions() -> None:
    page = render_page(make_report_input(LABELS))
    charts = page.all("svg")
    assert len(charts) == 2 * len(page.all("figcaption")) == 16  # for wide and for narrow screens
    assert all(chart["role"] == "img" and len(str(chart["aria-label"])) > 20 for chart in charts)
    assert len(page.all("caption")) == len(page.all("table"))


def test_chinese_labels_are_not_cut_in_figures() -> None:
    labels = ["中性", "愤怒", "高兴"]
    html = render(make_report_input(labels), ReportConfig())
    charts = " ".join(re.findall(r"<svg.*?</svg>", html))
    assert all(f">{label}</text>" in charts for label in labels)


def test_long_tables_are_cut_and_count_hidden_rows() -> None:
    run = make_report_input(LABELS, clips=60)
    entries = [replace(run.quarantine[0], clip_id=f"bad{number:03d}") for number in range(30)]
    findings = [{"kind": "no_media", "clip_id": f"lost{number:03d}", "message": "no file"} for number in range(9)]
    page = render_page(replace(run, quarantine=entries, findings=findings), quarantine_rows=20, finding_rows=4)
    assert "bad019" in page.text
    assert "bad020" not in page.text
    assert "lost004" not in page.text
    for hidden in (10, 5):
        assert f"… and {hidden} more, not shown." in page.text
    assert "30 entries" in page.text


def test_a_card_shows_the_decision_and_its_votes() -> None:
    run = make_report_input(LABELS)
    changed = next(row for row in run.refined if row.decision == "relabel")
    html = render(run, ReportConfig())
    card = next(
        part for part in html.split('<article class="card"')[1:] if f"<bdi>{changed.clip_id}</bdi></h3>" in part
    )
    text = Page("<article" + card.partition("</article>")[0] + "</article>").text
    other = changed.votes[0].label
    assert f"{changed.given_label} → {changed.refined_label}" in text
    assert f"{other}: text/linear 0.80" in text
    assert "abstain: text/llm" in text
    assert "because" in text
    assert "(broken)" in text
    assert "Relabelled: another label replaces the given one." in text


def test_the_first_level_has_at_most_twelve_tables() -> None:
    depth = tables = 0
    for tag, _ in iter_tags(render(make_report_input(LABELS, clips=60), ReportConfig())):
        depth += {"details": 1, "/details": -1}.get(tag, 0)
        tables += tag == "table" and not depth
    assert 3 <= tables <= 12


def iter_tags(html: str) -> list[tuple[str, str]]:
    return re.findall(r"<(/?(?:details|table))\b([^>]*)>", html)


def test_a_confusion_leads_to_its_clips() -> None:
    run = make_report_input(LABELS)
    wrong = replace(run.predictions[4], label=LABELS[2])  # its true label is LABELS[1]
    counts = [[4, 0, 0], [0, 3, 1], [0, 0, 4]]
    run = replace(
        run,
        predictions=[*run.predictions[:4], wrong, *run.predictions[5:]],
        evaluate=evaluation(LABELS) | {"confusion": {"labels": LABELS, "counts": counts}},
    )
    html = render(run, ReportConfig())
    assert '<a href="#k-1-2">1</a>' in html
    behind = html.split('<div id="k-1-2">')[1].partition("</details>")[0]
    anchor = re.search(r'<a href="#(c\d+)"><bdi>clip004</bdi>', behind)
    assert anchor is not None
    assert f'<article class="card" id="{anchor[1]}"' in html


def test_the_decisions_on_given_labels_add_up() -> None:
    run = make_report_input(LABELS)
    lowered = [
        replace(row, decision=LabelAction.DOWN_WEIGHT) if row.decision == "keep" and number else row
        for number, row in enumerate(run.refined)
    ]
    text = render_page(replace(run, refined=lowered)).text
    sentence = next(re.finditer(r"Of (\d+) given labels?, (.*?)\.", text))
    assert int(sentence[1]) == sum(map(int, re.findall(r"\d+", sentence[2]))) > 0
    assert any(row.decision == LabelAction.DOWN_WEIGHT for row in lowered)


def test_a_difference_of_another_model_than_that_of_the_headline_says_so() -> None:
    run = make_report_input(LABELS)
    over = {"best": "text", "difference": 0.1, "low": 0.02, "high": 0.2}
    details = {
        model: tiles(
            run, read_evaluation(evaluation(LABELS) | {"fusion_over_best_modality": {**over, "model": model}}), None
        )
        for model in ("given", "refined")
    }
    assert "trained on given labels" in details["given"][3].detail
    assert "trained on" not in details["refined"][3].detail


def test_labels_beside_numbers_are_isolated() -> None:
    labels = ["\u063a\u0627\u0636\u0628", "angry", "happy"]
    run = make_report_input(labels)
    counts = [[3, 1, 0], [0, 4, 0], [0, 0, 4]]
    run = replace(
        run,
        evaluate=evaluation(labels) | {"confusion": {"labels": labels, "counts": counts}},
        label_issues=[LabelIssue("clip000", labels[0], "angry", 0.01, 0.98)],
    )
    html = re.sub(r'aria-label="[^"]*"', "", render(run, ReportConfig()))
    found = re.findall(rf"(<bdi>)?{labels[0]}(?:</bdi>)? *(?:predicted|0\.01|to|\()", html)
    assert found
    assert set(found) == {"<bdi>"}


def test_a_plain_model_that_does_as_well_gives_a_warning() -> None:
    metrics = ablation()
    row = {"table": "fusion", "name": "mean_probs", "without": "", "weighted_f1": 0.7}
    as_good = metrics | {"variants": [row | {"difference": 0.0, "low": -0.02, "high": 0.03}]}
    worse = metrics | {"variants": [row | {"difference": -0.1, "low": -0.2, "high": -0.05}]}
    run = make_report_input(LABELS)
    assert "a plain model does as well" in section_text(render(replace(run, ablate=as_good), ReportConfig()), "summary")
    assert "Warning" not in section_text(render(replace(run, ablate=worse), ReportConfig()), "summary")


def test_plain_models_of_evaluate_come_before_those_of_ablate() -> None:
    models = {
        "logistic regression": {"weighted_f1": 0.7, "fusion_over": {"difference": 0.05, "low": 0.01, "high": 0.1}},
        "SVM": {"weighted_f1": 0.8, "fusion_over": {"difference": -0.05, "low": -0.1, "high": -0.01}},
    }
    run = replace(make_report_input(LABELS), evaluate=evaluation(LABELS) | {"plain": {"models": models}})
    text = section_text(render(run, ReportConfig()), "summary")
    assert "a plain model is better. The fusion is significantly worse than a plain model (SVM)" in text
    best = {"best plain model": models["SVM"]}
    run = replace(run, evaluate=evaluation(LABELS) | {"plain": {"models": best}})
    assert "significantly worse than the best plain model:" in section_text(render(run, ReportConfig()), "summary")


def test_unknown_speakers_are_named_beside_the_interval() -> None:
    run = make_report_input(LABELS)
    run = replace(run, evaluate=evaluation(LABELS) | {"interval": [0.7, 0.8]})
    assert "95% interval 0.700 to 0.800, over clips: speakers are unknown" in render_page(run).text
    known = replace(run, clips=[replace(clip, group=f"s{i % 3}") for i, clip in enumerate(run.clips)])
    assert "95% interval 0.700 to 0.800, over speakers or dialogues" in render_page(known).text


def test_bars_show_how_many_clips_have_the_input() -> None:
    metrics = evaluation(LABELS)
    metrics["modalities"]["face"]["answered"] = 9
    assert "0.500 (9 of 12)" in render(replace(make_report_input(LABELS), evaluate=metrics), ReportConfig())


def test_api_keys_in_params_are_not_shown() -> None:
    html = render(make_report_input(LABELS), ReportConfig())
    assert "sk-secret" not in html
    assert "max_tokens: 64" in html


def test_clips_without_a_modality_are_excluded_from_weights_and_counted() -> None:
    page = render_page(make_report_input(LABELS))
    assert "Over 11 predicted clips, text has the largest mean weight (75%) and face the smallest (25%)" in page.text
    assert "1 clip could not be predicted" in page.text


def test_a_missing_weight_counts_as_zero() -> None:
    run = make_report_input(LABELS)
    predictions = [replace(row, modality_weights={"face": float("nan"), "text": 1.0}) for row in run.predictions]
    assert (
        "text has the largest mean weight (100%) and face the smallest (0%)"
        in render_page(replace(run, predictions=predictions)).text
    )


def test_clip_ids_are_not_cut() -> None:
    run = make_report_input(LABELS, mark="x" * 225)
    text = render_page(run).text
    assert run.quarantine[0].clip_id in text
    assert all(row.clip_id in text for row in run.refined)


def test_the_page_of_a_large_corpus_is_small() -> None:
    run = make_report_input(LABELS, clips=5000, mark="很长的名字" * 12)
    picture = Thumbnail("data:image/jpeg;base64," + "A" * 1900, 96, 54)
    run = replace(run, thumbnails={str(clip.clip_id): picture for clip in run.clips})
    html = render(run, ReportConfig())
    assert 3_000_000 < len(html.encode()) < 10_000_000
    assert "of 5,000 clips: changed, dropped" in html


def test_an_invalid_metric_raises_input_error_with_its_key() -> None:
    metrics = {**evaluation(LABELS), "fusion": {"given": {"weighted_f1": "high"}}}
    with pytest.raises(InputError, match=r"fusion\.given\.weighted_f1") as caught:
        render(replace(make_report_input(LABELS), evaluate=metrics), ReportConfig())
    assert caught.value.command == "ecmf-pipe evaluate"


def test_cut_labels_have_the_whole_name_in_a_tooltip() -> None:
    labels = [f"{letter} label of many more than forty characters, {letter}" for letter in "abc"]
    run = make_report_input(labels)
    clip_map = ClipMap(tuple(str(clip.clip_id) for clip in run.clips), np.zeros((12, 2)), "t-SNE")
    page = Page(render(replace(run, clip_map=clip_map), ReportConfig()))
    cut = {text: title for text, title in page.names if any(text.startswith(label[:8]) for label in labels)}
    assert len(cut) >= 6  # in rows and, shorter, as headings of columns
    assert {title for text, title in cut.items() if text not in labels} == set(labels)


def test_many_labels_are_folded_and_few_are_not() -> None:
    few, many = (
        render(make_report_input([f"label {n:02d}" for n in range(n_labels)]), ReportConfig()) for n_labels in (6, 20)
    )
    assert "Scores of 20 labels" in many
    assert "Scores of 6 labels" not in few


def test_near_duplicates_without_a_card_have_labels_and_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_report_input(LABELS)
    found = Neighbours(12, (("clip000", "clip001", 0.99),), (("clip003", 4.0),))
    text = section_text(render(replace(run, neighbours=found), ReportConfig()), "clips")
    assert "clip000 clip001 0.990 neutral, angry train" in text
    assert "clip003 4.0" in text
    monkeypatch.setattr("ecmf_pipeline.report.cards.MAX_BYTES", 1)
    html = render(replace(run, neighbours=found, label_issues=[]), ReportConfig())
    assert 'class="card"' not in html


@pytest.mark.parametrize(("reasons", "shown"), [(["no face found"], False), (["no face found", "lowest"], True)])
def test_sheets_without_faces_are_not_explained_as_crops(reasons: list[str], shown: bool) -> None:
    sheets = [FaceSheet(f"clip00{number}", reason, "", b"JPEG", 8, 8) for number, reason in enumerate(reasons)]
    text = section_text(render(replace(make_report_input(LABELS), face_sheets=sheets), ReportConfig()), "faces")
    assert ("landmark quality" in text) == shown
    assert "1 clip in which no face was found" in text
