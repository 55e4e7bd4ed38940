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
    Notice,
    Paragraph,
    Table,
    count,
    foreign,
    percent,
    shortened,
)


def proof_blocks(evaluate: Mapping[str, Any] | None) -> list[Block]:
    """What `evaluate` found out about the refinement; nothing where it did not look."""
    metrics = evaluate or {}
    return [
        *_controls(metrics.get("controls")),
        *_belief(metrics.get("label_model")),
        *_methods(metrics.get("label_methods")),
    ]


def _controls(controls: Mapping[str, Any] | None) -> list[Block]:
    if not controls:
        return []
    blocks: list[Block] = [Heading("Does it help?")]
    fusion = controls.get("fusion")
    if fusion:
        blocks += _compared(fusion, "The fusion model", "Trained with the fusion model, ")
    elif reason := controls.get("no_fusion"):
        blocks.append(Notice(f"{reason[:1].upper()}{reason[1:]}."))
    return [*blocks, *_compared(controls, "One linear classifier", "Trained with a linear classifier, ")]


def _compared(found: Mapping[str, Any], who: str, begin: str) -> list[Block]:
    rows = [
        [foreign(name, 60), f"{one['weighted_f1']:.4f}", _over(one["over_given"]), _over(one["over_rebalanced"])]
        for name, one in sorted(found["sets"].items(), key=lambda item: -item[1]["weighted_f1"])
    ]
    columns = ["Trained on", "#Weighted F1", "#Over given labels (95%)", "#Over rebalanced ones (95%)"]
    caption = f"{who} on each training set, out of fold, judged by {found['judged_by']} labels"
    return [Paragraph(f"{begin}{found['sentence']}."), Table(caption, columns, rows)]


def _methods(found: Mapping[str, Any] | None) -> list[Block]:
    if not found or not found["clips"]:
        return []
    rows = [
        [
            foreign(name, 60),
            "yes" if one["learns"] else "no",
            percent(one["accuracy"], 1),
            f"{one['weighted_f1']:.4f}",
            f"{one['ece']:.3f}",
            _over(one["label_model_over"]),
        ]
        for name, one in sorted(found["methods"].items(), key=lambda item: -item[1]["accuracy"])
    ]
    columns = ["Method", "Learns from known labels", "#Right", "#Weighted F1", "#Calibration error"]
    columns.append("#The label model leads by (weighted F1, 95%)")
    best = max(found["methods"], key=lambda name: found["methods"][name]["accuracy"])
    sentence = (
        "The same votes, given labels among them, combined in other ways, judged by "
        f"{count(found['clips'], 'label')} known to be right; a method that learns from such labels has not seen those "
        f"it is judged by. Right most often: {best}."
    )
    caption = "The label model beside simpler and published methods"
    blocks: list[Block] = [Heading("Is there a better way to combine the votes?"), Paragraph(sentence)]
    blocks.append(Table(caption, columns, rows))
    if found["left_out"]:
        why = "; ".join(f"{name} ({reason})" for name, reason in found["left_out"].items())
        blocks.append(Paragraph(f"Not compared: {why}."))
    return blocks


def _belief(found: Mapping[str, Any] | None) -> list[Block]:
    if not found or not found["clips"]:
        return []
    sentence = (
        f"Over {count(found['clips'], 'clip')} whose gold label is known the label model's first choice is right "
        f"{percent(found['accuracy'], 1)} of the time; its probabilities are off by {found['ece']:.3f} on average "
        "(expected calibration error)."
    )
    curve = [[f"{p['confidence']:.2f}", percent(p["accuracy"], 1), count(p["clips"])] for p in found["curve"]]
    surest = [[percent(point["share"]), percent(point["accuracy"], 1)] for point in found["coverage"]]
    without = [
        [foreign(name, 60), percent(scores["accuracy"], 1), f"{scores['ece']:.3f}"]
        for name, scores in found["without"].items()
    ]
    blocks: list[Block] = [
        Heading("Can the label model be believed?"),
        Paragraph(sentence),
        Table("Reliability: how often labels of a probability are right", ["#Probability", "#Right", "#Clips"], curve),
        Table("The surest clips", ["#Share of clips", "#Right"], surest),
    ]
    if without:
        columns = ["Left out", "#Right without it", "#Calibration error"]
        blocks.append(Table("The label model without one family of sources", columns, without))
    return blocks


def _over(difference: Mapping[str, float]) -> str:
    return f"{difference['difference']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"


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
