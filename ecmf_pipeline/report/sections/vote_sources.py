"""How each source of votes fares: reliability, what it takes for what, and with whom it errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Folded,
    Heading,
    Paragraph,
    Table,
    count,
    foreign,
    percent,
    shortened,
)

_ERR_TOGETHER = 0.3
"""Sources whose errors correlate more than this are named."""


def vote_source_blocks(found: Mapping[str, Any] | None) -> list[Block]:
    """What `evaluate` found out about the sources; nothing where it did not look."""
    if not found or not found["sources"]:
        return []
    accounts: Mapping[str, Mapping[str, Any]] = found["sources"]
    truth = (
        "labels that are known to be right"
        if found["judged_by"] == "gold"
        else "what all sources together say, since too few labels are known to be right; "
        "that flatters those that err together"
    )
    rows = [
        [foreign(name, 60), percent(one["coverage"], 1), count(one["votes"]), _with_interval(one), *_worst(one, found)]
        for name, one in sorted(accounts.items(), key=lambda item: -(item[1]["reliability"] or 0.0))
    ]
    columns = ["Source", "#Votes on", "#Judged", "#Right (95%)", "Most frequent mistake", "#So often (95%)"]
    return [
        Heading("How far each source can be trusted"),
        Paragraph(f"Judged by {truth}. {_together(accounts)}"),
        Table("Reliability of the sources", columns, rows),
        _correlations(accounts),
        Folded(
            "What each source takes for what",
            [_confusion(name, one, found["labels"]) for name, one in accounts.items() if one["votes"]],
        ),
    ]


def _with_interval(one: Mapping[str, Any]) -> str:
    if one["reliability"] is None:
        return UNKNOWN
    return f"{percent(one['reliability'], 1)} ({percent(one['low'])} to {percent(one['high'])})"


def _worst(one: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, str]:
    """The label that is most often taken for a certain other one, and how often that happens."""
    labels: Sequence[str] = found["labels"]
    pairs = [(t, v) for t in range(len(labels)) for v in range(len(labels)) if t != v]
    if not one["votes"] or not pairs:
        return UNKNOWN, UNKNOWN
    true, voted = max(pairs, key=lambda pair: one["confusion"][pair[0]][pair[1]])
    return f"{shortened(labels[true], 30)} taken for {shortened(labels[voted], 30)}", _cell(one, true, voted)


def _cell(one: Mapping[str, Any], true: int, voted: int) -> str:
    share, low, high = (one[key][true][voted] for key in ("confusion", "confusion_low", "confusion_high"))
    return f"{percent(share)} ({percent(low)} to {percent(high)})"


def _confusion(name: str, one: Mapping[str, Any], labels: Sequence[str]) -> Table:
    rows: list[list[str | Cell]] = [
        [
            foreign(true, 40),
            *(
                Cell(_cell(one, t, v), one["confusion"][t][v], "count" if t == v else "change")
                for v in range(len(labels))
            ),
        ]
        for t, true in enumerate(labels)
    ]
    columns = ["True label", *(f"#{shortened(label, 40)}" for label in labels)]
    caption = (
        f"{shortened(name, 60)}: share of its votes by true label, shrunk towards equal shares by one vote a row (95%)"
    )
    return Table(caption, columns, rows, spread="What it votes for", spread_over=len(labels))


def _correlations(accounts: Mapping[str, Mapping[str, Any]]) -> Table:
    names = [name for name, one in accounts.items() if one["votes"]]
    rows: list[list[str | Cell]] = [
        [
            foreign(f"{number}. {name}", 60),
            *("" if other == name else _correlation(accounts[name]["error_correlation"].get(other)) for other in names),
        ]
        for number, name in enumerate(names, start=1)
    ]
    columns = ["Source", *(f"#{number}." for number in range(1, len(names) + 1))]
    caption = "Correlation of the sources' errors: 1 they err on the same clips, 0 independently"
    return Table(caption, columns, rows, spread="Errors together with", spread_over=len(names))


def _correlation(value: float | None) -> str | Cell:
    if value is None:
        return UNKNOWN
    return Cell(f"{value:.2f}".replace("-", "\N{MINUS SIGN}"), min(max(value, 0.0), 1.0), "change")


def _together(accounts: Mapping[str, Mapping[str, Any]]) -> str:
    pairs = {
        (min(name, other), max(name, other)): value
        for name, one in accounts.items()
        for other, value in one["error_correlation"].items()
        if value is not None
    }
    if not pairs:
        return "Which of them err together cannot be known."
    (first, second), most = max(pairs.items(), key=lambda item: item[1])
    many = sum(value > _ERR_TOGETHER for value in pairs.values())
    return (
        f"{shortened(first, 60)} and {shortened(second, 60)} err together most (correlation {most:.2f}); "
        f"{count(many)} of {count(len(pairs), 'pair')} of sources correlate above {_ERR_TOGETHER}: they count for less "
        "than their number."
    )
