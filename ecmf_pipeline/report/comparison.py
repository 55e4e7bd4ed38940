"""The page of `ecmf-pipe compare`: what differs between two versions of a project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Collapsible,
    Figure,
    Notice,
    Paragraph,
    Section,
    State,
    Table,
    Tile,
    corpus_text,
    count,
    score,
    shorten,
    signed,
)
from ecmf_pipeline.report.charts import Interval, intervals
from ecmf_pipeline.report.page import render_page

_ROWS = 2000
"""Rows of a table: more would make the page large and slow."""


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """Render the result of `evaluation.comparison.compare_runs` as a self-contained HTML page."""
    first, second = (shorten(comparison[side]["title"], 80) for side in ("first", "second"))
    return render_page(
        title="Comparison of two versions",
        subtitle=f"{first}, then {second}",
        warnings=(["Both versions are the same commit."] if comparison["same_commit"] else [])
        + [f"Not compared: {sentence}." for sentence in comparison["not_compared"]],
        tiles=_tiles(comparison),
        sections=[
            _scores_section(comparison),
            _changes_section(comparison),
            _labels_section(comparison),
            _clips_section(comparison),
            _params_section(comparison),
        ],
    )


def _tiles(comparison: Mapping[str, Any]) -> list[Tile]:
    changes, clips = comparison["changes"], comparison["clips"]
    tiles = []
    if changes:
        row = next(row for row in comparison["scores"]["models"] if row["model"] == changes["model"])
        state: State = "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "same"
        figures = f"{score(row['first']['weighted_f1'])}, then {score(row['second']['weighted_f1'])}"
        tiles = [
            Tile(
                f"Weighted F1, {changes['title']}",
                signed(row["difference"]),
                f"{figures}; 95% interval {_bounds(row)}",
                state,
            ),
            Tile("Clips won and lost", f"{len(changes['won'])} won, {len(changes['lost'])} lost", changes["title"]),
        ]
    differing = {name: rows for name, rows in comparison["labels"].items() if rows is not None}
    n_changed = len(set().union(*clips["changed"].values()))
    return [
        *tiles,
        Tile(
            "Labels that differ",
            count(sum(map(len, differing.values()))),
            ", ".join(f"{len(rows)} {name}" for name, rows in differing.items()),
        ),
        Tile(
            "Clips of both",
            count(clips["shared"]),
            f"{len(clips['added'])} added, {len(clips['removed'])} removed, {n_changed} changed",
        ),
        Tile("Params that differ", count(len(comparison["params"])), "keys of params.yaml"),
    ]


def _scores_section(comparison: Mapping[str, Any]) -> Section:
    scores = comparison["scores"]
    if not scores["models"]:
        return Section("scores", "Scores", [Notice("No model has predictions of a labelled clip in both versions.")])
    rows = [
        [
            row["title"],
            score(row["first"]["weighted_f1"]),
            score(row["second"]["weighted_f1"]),
            signed(row["difference"]),
            _bounds(row),
            score(row["first"]["accuracy"]),
            score(row["second"]["accuracy"]),
        ]
        for row in scores["models"]
    ]
    columns = ["Model", "#F1, first", "#F1, second", "#Difference", "#95% interval"]
    table = Table("Weighted F1 and accuracy of each model", [*columns, "#Accuracy, first", "#Accuracy, second"], rows)
    drawing = intervals(
        [
            Interval(row["title"], row["difference"], row["low"], row["high"], signed(row["difference"]))
            for row in scores["models"]
        ],
        alt="Difference in weighted F1 of each model, the second version minus the first, with its 95% interval.",
    )
    drawn = "whole groups are drawn" if scores["grouped"] else "clips are drawn, since groups are not all known"
    basis = (
        f"Out-of-fold predictions of {count(scores['clips'], 'clip')} that both versions have, judged by "
        f"{scores['judged_by']} labels. Intervals are paired bootstrap intervals; {drawn}. A difference whose interval "
        "contains 0 may be noise."
    )
    caption = "Weighted F1 of the second version minus that of the first"
    return Section("scores", "Scores", [Paragraph(basis), Figure(drawing, caption), table])


def _changes_section(comparison: Mapping[str, Any]) -> Section:
    title, changes = "Clips won and lost", comparison["changes"]
    if not changes:
        return Section("changes", title, [Notice("No fusion model has predictions in both versions.")])
    listed = [(outcome, row) for outcome in ("won", "lost") for row in changes[outcome][: _ROWS // 2]]
    text = (
        "Clips of which only one version predicts the label: won by the second version, or lost. The model: "
        f"{changes['title']}."
    )
    if not listed:
        return Section("changes", title, [Paragraph(text), Notice("None.")])
    rows = [
        [
            corpus_text(row["clip_id"]),
            outcome,
            corpus_text(row["truth"]),
            corpus_text(row["first"]),
            corpus_text(row["second"]),
            score(row["first_probability"]),
            score(row["second_probability"]),
        ]
        for outcome, row in listed
    ]
    columns = ["Clip", "Outcome", "True label", "First", "Second", "#First prob.", "#Second prob."]
    hidden = len(changes["won"]) + len(changes["lost"]) - len(rows)
    return Section("changes", title, [Paragraph(text), Table(title, columns, rows, hidden, anchor="won-and-lost")])


def _labels_section(comparison: Mapping[str, Any]) -> Section:
    rows = [
        [corpus_text(row["clip_id"]), name, _label(row["first"]), _label(row["second"])]
        for name, differing in comparison["labels"].items()
        for row in differing or ()
    ]
    if not rows:
        return Section("labels", "Labels", [Notice("The clips of both versions have the same labels.")])
    text = "Labels of the clips of both versions. A clip without a refined label is not trained on."
    columns, hidden = ["Clip", "Kind", "First", "Second"], max(0, len(rows) - _ROWS)
    table = Table("Labels that differ", columns, rows[:_ROWS], hidden, anchor="labels-that-differ")
    return Section("labels", "Labels", [Paragraph(text), table])


def _clips_section(comparison: Mapping[str, Any]) -> Section:
    clips = comparison["clips"]
    lists = {"added": clips["added"], "removed": clips["removed"]}
    lists |= {f"with another {part}": clip_ids for part, clip_ids in clips["changed"].items()}
    numbers = [["in the first version", count(clips["first"])], ["in the second version", count(clips["second"])]]
    numbers += [[name, count(len(clip_ids))] for name, clip_ids in lists.items()]
    blocks: list[Block] = [Table("Number of clips", ["Clips", "#Number"], numbers)]
    for name, clip_ids in lists.items():
        if clip_ids:
            rows = [[corpus_text(clip_id)] for clip_id in clip_ids[:_ROWS]]
            table = Table(f"Clips {name}", ["Clip"], rows, hidden=len(clip_ids) - len(rows))
            blocks.append(Collapsible(f"{count(len(clip_ids), 'clip')} {name}", [table]))
    return Section("clips", "Clips", blocks)


def _params_section(comparison: Mapping[str, Any]) -> Section:
    params = comparison["params"]
    if not params:
        return Section("params", "Params", [Notice("Both versions have the same params.yaml.")])
    rows = [
        [corpus_text(row["key"]), *(corpus_text(_value(row[side])) for side in ("first", "second"))] for row in params
    ]
    return Section("params", "Params", [Table("Keys of params.yaml that differ", ["Key", "First", "Second"], rows)])


def _bounds(row: Mapping[str, float]) -> str:
    return f"{signed(row['low'])} to {signed(row['high'])}"


def _label(label: str) -> str:
    return corpus_text(label) if label else UNKNOWN


def _value(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False, default=str)
