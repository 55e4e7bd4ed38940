"""The whole page: what it says, what it must not do, and that it copes with what is absent."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from ecmf_pipeline.core.clips import Clip, ClipId, Split
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.labels.refine import Decision, Verdict, Vote
from ecmf_pipeline.report.config import ReportConfig
from ecmf_pipeline.report.inputs import PredictedClip, ReportInput
from ecmf_pipeline.report.page import render
from ecmf_pipeline.runner.quarantine import QuarantineEntry

SECTIONS = [
    "corpus", "features", "scores", "confusion", "weights", "ablation", "refinement", "quarantine", "provenance",
]  # fmt: skip
VOID = {"meta", "rect", "line", "circle", "img"}


class Page(HTMLParser):
    """The page's elements, its visible text, and whether its tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.unclosed: list[str] = []
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
    def against(weighted_f1: float, difference: float, low: float, high: float) -> dict[str, float]:
        return {"weighted_f1": weighted_f1, "difference": difference, "low": low, "high": high}

    def spread(mean: float, heaviest: float) -> dict[str, float]:
        return {"mean": mean, "std": 0.1, "q05": 0.1, "median": mean, "q95": 0.9, "heaviest": heaviest}

    return {
        "judged_by": "gold",
        "reference": {"kind": "ecmf", "modalities": ["face", "text"], "clips": 12, "weighted_f1": 0.7},
        "variants": [
            {"table": "alone", "name": f"face alone{mark}", "without": "", **against(0.61, -0.09, -0.15, -0.03)},
            {"table": "left out", "name": "without face", "without": "face", **against(0.62, -0.08, -0.14, -0.02)},
            {"table": "left out", "name": "without text", "without": "text", **against(0.69, -0.01, -0.05, 0.04)},
            {"table": "fusion", "name": "concat", "without": "", **against(0.72, 0.02, 0.01, 0.03)},
        ],
        "robustness": [
            {"modality": "face", "damage": "missing", **against(0.63, -0.07, -0.1, -0.01), "trained_without": 0.62},
            {"modality": "text", "damage": "noisy", **against(0.68, -0.02, -0.06, 0.02)},
        ],
        "skipped": [{"name": "gated", "why": "too few clips"}],
        "weights": {
            "modalities": {"face": spread(0.25, 0.0), "text": spread(0.75, 1.0)},
            "effective_modalities": 1.7,
            "warnings": [],
        },
    }


def a_run(labels: list[str], *, clips: int = 12, mark: str = "") -> ReportInput:
    """A made-up run; ``mark`` is put into every text that comes from a corpus."""
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
            Decision(ClipId(clip_id), split, given, after, Verdict(decision), 0.5, confidence, 0.5, reason, votes)
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


def page_of(report: ReportInput, **config: int) -> Page:
    return Page(render(report, ReportConfig(**config)))


def test_every_section_stands_in_the_page_and_in_its_contents() -> None:
    page = page_of(a_run(LABELS))
    assert [section["id"] for section in page.all("section")] == ["summary", *SECTIONS]
    assert [link["href"] for link in page.all("a")][1:] == ["#summary", *(f"#{name}" for name in SECTIONS)]
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
def test_copes_without_any_one_result(name: str, empty: Any) -> None:
    page = page_of(replace(a_run(LABELS), **{name: empty}))
    assert [section["id"] for section in page.all("section")] == ["summary", *SECTIONS]
    assert "None" not in page.text
    assert "nan" not in page.text.split()


def section_of(page: str, anchor: str) -> str:
    """The visible text of one section."""
    inside = page.split(f'<section id="{anchor}"')[1].split("</section>")[0].partition(">")[2]
    return Page(inside.replace("<td", " <td")).text


def test_what_earns_its_place_stands_there_with_its_intervals() -> None:
    page = render(a_run(LABELS), ReportConfig())
    text = section_of(page, "ablation").replace("\N{MINUS SIGN}", "-")
    assert "The reference is the fusion (ecmf) of face and text" in text
    assert "Without face the fusion is worse, beyond the interval; leaving out text is not shown to matter." in text
    assert "Not shown to be worse: concat." in text
    assert "face alone 0.610 -0.090 -0.150 to -0.030 worse" in text
    assert "concat 0.720 +0.020 +0.010 to +0.030 better" in text
    assert "face missing 0.630 -0.070 -0.100 to -0.010 0.620" in text
    assert "text noisy 0.680 -0.020 -0.060 to +0.020 \N{EN DASH}" in text
    assert "gated too few clips" in text
    weights = section_of(page, "weights")
    assert "as if 1.7 of 2 modalities weighed the same" in weights
    assert "text 0.750 0.100 0.100 0.750 0.900 100%" in weights


def test_a_collapse_is_named_where_weights_stand_and_at_the_top() -> None:
    warning = "the fusion has collapsed onto text: its mean weight is 0.97"
    collapsed = ablation()
    collapsed["weights"]["warnings"] = [warning]
    page = render(replace(a_run(LABELS), ablate=collapsed), ReportConfig())
    for anchor in ("summary", "weights"):
        assert f"T{warning[1:]}." in section_of(page, anchor)
    assert "collapsed" not in render(a_run(LABELS), ReportConfig())


def test_the_baselines_figure_is_called_what_it_is_and_a_wrong_value_is_named() -> None:
    page = render(
        replace(a_run(LABELS), ablate=ablation() | {"mertools_protocol": {"weighted_f1": 0.81}}), ReportConfig()
    )
    assert "chooses epochs on what it reports, it would be 0.810" in section_of(page, "ablation")
    with pytest.raises(InputError, match=r"variants\.0\.weighted_f1"):
        render(replace(a_run(LABELS), ablate={"variants": [{"table": "a", "name": "b"}]}), ReportConfig())


@pytest.mark.parametrize("key", list(evaluation(LABELS)))
def test_copes_without_any_one_metric(key: str) -> None:
    metrics = evaluation(LABELS)
    for value in ({}, {key: None}):
        rest = {name: kept for name, kept in metrics.items() if name != key}
        page = page_of(replace(a_run(LABELS), evaluate={**rest, **value}))
        assert "None" not in page.text
        assert not page.unclosed


def test_says_of_each_absent_result_that_it_is_absent() -> None:
    page = page_of(ReportInput(corpus={"kind": "folder", "labels": [], "synthetic": False, "root": "x"}))
    for sentence in (
        "The manifest lists no clips.",
        "there is no label distribution to show",
        "No features were extracted",
        "Nothing was evaluated",
        "There is no confusion matrix",
        "There are no predictions with modality weights",
        "No refinement was run",
        "Nothing was quarantined",
        "How good the predictions are cannot be known",
        "Whether fusion beat the best single modality cannot be known",
    ):
        assert sentence in page.text


def test_says_when_the_corpus_is_synthetic_and_only_then() -> None:
    run = a_run(LABELS)
    said = "The figures show that the machinery works, not accuracy on people."
    assert said in page_of(run).text
    assert said not in page_of(replace(run, corpus={**run.corpus, "synthetic": False})).text


def test_says_when_scores_are_judged_by_given_labels() -> None:
    run = a_run(LABELS)
    page = page_of(replace(run, evaluate={**evaluation(LABELS), "judged_by": "given", "labels": None}))
    assert "judged by the given labels, because no gold labels are known" in page.text
    assert "True label" not in page.text
    assert "Whether refinement raised the training labels' accuracy cannot be known" in page.text
    assert "judged by the given labels, because" not in page_of(run).text


ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"


def test_foreign_text_is_escaped_wherever_it_comes_from() -> None:
    clean, attacked = a_run(LABELS), a_run([label + ATTACK for label in LABELS], mark=ATTACK)
    plain, page = page_of(clean), page_of(attacked)
    assert not page.all("script")
    assert not page.all("img")
    assert [tag for tag, _ in page.elements] == [
        tag for tag, _ in plain.elements if tag != "title"
    ] or not page.unclosed
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count("<script>alert(1)</script>") > 40


@pytest.mark.parametrize("place", ["transcript", "label", "clip_id", "reason", "message", "source", "params"])
def test_each_foreign_text_reaches_the_page_escaped(place: str) -> None:
    run = a_run(LABELS)
    mark = f"<script>{place}</script>"
    first, rest = run.refined[1], [run.refined[0], *run.refined[2:]]
    changes: dict[str, dict[str, Any]] = {
        "transcript": {"clips": [replace(clip, transcript=mark) for clip in run.clips]},
        "label": {"refined": [replace(first, refined_label=mark), *rest]},
        "clip_id": {"refined": [replace(first, clip_id=mark), *rest]},
        "reason": {"refined": [replace(first, reason=mark), *rest]},
        "message": {"quarantine": [replace(run.quarantine[0], message=mark)]},
        "source": {"refined": [replace(first, votes=[Vote(mark, "angry", 0.5)]), *rest]},
        "params": {"params": {"corpus": mark}},
    }
    html = render(replace(run, **changes[place]), ReportConfig())
    assert mark not in html
    assert f"&lt;script&gt;{place}&lt;/script&gt;" in html


def test_control_characters_and_direction_overrides_do_not_reach_the_page() -> None:
    run = a_run(LABELS)
    clips = [replace(clip, transcript="a\x00b\x1b[31m\u202egnp.exe\ud800") for clip in run.clips]
    html = render(replace(run, clips=clips), ReportConfig())
    html.encode("utf-8")
    assert not set("\x00\x1b\u202e\ud800") & set(html)
    assert "gnp.exe" in html


def test_is_self_contained() -> None:
    html = render(a_run(LABELS), ReportConfig())
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in page.elements}
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))
    assert not re.search(r"https?://|url\(|@import|src=", html)
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert str(policy).startswith("default-src 'none'")


def test_links_lead_somewhere_and_names_are_unique() -> None:
    page = page_of(a_run(LABELS))
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert {str(link["href"])[1:] for link in page.all("a")} <= set(names)


def test_same_input_gives_the_same_bytes() -> None:
    assert render(a_run(LABELS), ReportConfig()) == render(a_run(LABELS), ReportConfig())


def test_a_later_run_that_quarantines_the_same_gives_the_same_bytes() -> None:
    run = a_run(LABELS)
    later = replace(run, quarantine=[replace(run.quarantine[0], time="2031-01-01T00:00:00+00:00")])
    assert render(run, ReportConfig()) == render(later, ReportConfig())


def test_figures_have_a_description_and_a_caption() -> None:
    page = page_of(a_run(LABELS))
    drawings = page.all("svg")
    assert len(drawings) == len(page.all("figcaption")) == 8
    assert all(drawing["role"] == "img" and len(str(drawing["aria-label"])) > 20 for drawing in drawings)
    assert len(page.all("caption")) == len(page.all("table"))


def test_chinese_labels_stand_whole_in_the_figures() -> None:
    labels = ["中性", "愤怒", "高兴"]
    html = render(a_run(labels), ReportConfig())
    drawings = " ".join(re.findall(r"<svg.*?</svg>", html))
    assert all(f">{label}</text>" in drawings for label in labels)


def test_tables_are_capped_and_say_how_many_more() -> None:
    run = a_run(LABELS, clips=60)
    entries = [replace(run.quarantine[0], clip_id=f"bad{number:03d}") for number in range(30)]
    findings = [{"kind": "no_media", "clip_id": f"lost{number:03d}", "message": "no file"} for number in range(9)]
    page = page_of(
        replace(run, quarantine=entries, findings=findings), quarantine_rows=20, change_rows=3, finding_rows=4
    )
    relabelled = sum(row.decision == "relabel" for row in run.refined)
    assert "bad019" in page.text
    assert "bad020" not in page.text
    assert "lost004" not in page.text
    for hidden in (10, relabelled - 3, 5):
        assert f"… and {hidden} more, not shown." in page.text
    assert "30 entries" in page.text


def test_changes_come_with_the_most_confident_first_and_their_votes() -> None:
    run = a_run(LABELS)
    changed = [row for row in run.refined if row.decision == "relabel"]
    least, most = changed[0], changed[-1]
    assert most.confidence > least.confidence
    html = render(run, ReportConfig())
    table = html[html.index("Clips relabelled, the most") : html.index("Clips dropped, the most")]
    assert table.index(most.clip_id) < table.index(least.clip_id)
    row = Page("<table>" + table[table.index(most.clip_id) :].split("</tr>")[0].split("</th>")[1] + "</table>").text
    other = most.votes[0].label
    assert f"{most.given_label} → {most.refined_label}" in row
    assert f"{other}: text/linear 0.80" in row
    assert "abstain: text/llm" in row
    assert "because" in row
    assert "(broken)" in row


def test_service_keys_in_params_are_not_shown() -> None:
    html = render(a_run(LABELS), ReportConfig())
    assert "sk-secret" not in html
    assert "max_tokens: 64" in html


def test_weights_skip_clips_without_a_modality_and_count_them() -> None:
    page = page_of(a_run(LABELS))
    assert (
        "Over 11 predicted clips, the model draws most on text (75% of the weight) and least on face (25%)" in page.text
    )
    assert "1 clip could not be judged by any modality" in page.text


def test_a_modality_without_a_weight_counts_as_none() -> None:
    run = a_run(LABELS)
    lone = [replace(row, modality_weights={"face": float("nan"), "text": 1.0}) for row in run.predictions]
    assert (
        "draws most on text (100% of the weight) and least on face (0%)" in page_of(replace(run, predictions=lone)).text
    )


def test_clip_ids_stand_whole() -> None:
    run = a_run(LABELS, mark="x" * 225)
    text = page_of(run).text
    assert run.quarantine[0].clip_id in text
    assert all(row.clip_id in text for row in run.refined if row.decision == "relabel")


def test_a_large_corpus_stays_small_on_the_page() -> None:
    many = a_run(LABELS, clips=3000, mark="很长的名字" * 12)
    assert len(render(many, ReportConfig()).encode()) < 1_500_000


def test_a_damaged_evaluation_names_its_key() -> None:
    metrics = {**evaluation(LABELS), "fusion": {"given": {"weighted_f1": "high"}}}
    with pytest.raises(InputError, match=r"fusion\.given\.weighted_f1"):
        render(replace(a_run(LABELS), evaluate=metrics), ReportConfig())
