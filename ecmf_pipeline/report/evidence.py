"""Report what supports the refined labels: votes and reliability of the sources, methods, calibration, controls."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ecmf_pipeline.labels.refine import Decision, Decisions
from ecmf_pipeline.report.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Collapsible,
    Heading,
    Notice,
    Paragraph,
    Table,
    count,
    label_column,
    name_text,
    percent,
    shorten,
)
from ecmf_pipeline.report.inputs import ReportInput, column

_HIGH_CORRELATION = 0.3
"""Error correlations above this value are counted in the text."""


def votes_by_source(report: ReportInput) -> list[Block]:
    """Show votes and abstentions of each source, and how often it agrees with given, refined and gold labels."""
    tallies: dict[str, Counter[str]] = defaultdict(Counter)
    gold = dict(zip(column(report.clips, "clip_id"), column(report.clips, "gold_label"), strict=True))
    others = {
        "given": column(report.refined, "given_label"),
        "refined": column(report.refined, "refined_label"),
        "gold": [gold.get(clip_id, "") for clip_id in column(report.refined, "clip_id")],
    }
    for source, votes in _votes_of_sources(report.refined).items():
        counts = tallies[source]
        counts["voted"] = sum(map(bool, votes))
        counts["abstained"] = len(votes) - counts["voted"]
        for name, labels in others.items():
            pairs = [(vote, label) for vote, label in zip(votes, labels, strict=True) if vote and label]
            counts[name] = len(pairs)
            counts[f"{name} same"] = sum(vote == label for vote, label in pairs)
    if not tallies:
        return [Notice("The votes of the sources are not available.")]
    rows = [
        [
            name_text(source, 60),
            count(counts["voted"]),
            count(counts["abstained"]),
            *(
                percent(counts[f"{name} same"] / counts[name]) if counts[name] else UNKNOWN
                for name in ("given", "refined", "gold")
            ),
        ]
        for source, counts in tallies.items()
    ]
    columns = [
        "Source", "#Votes", "#Abstentions", "#Agrees with given", "#Agrees with refined", "#Accuracy on gold labels",
    ]  # fmt: skip
    caption = "Votes and abstentions of each source, and agreement with given, refined and gold labels"
    return [Heading("Votes by source"), Table(caption, columns, rows)]


def _votes_of_sources(decisions: Sequence[Decision]) -> dict[str, list[str]]:
    """Return the label that each source votes for on each clip, "" for abstentions, by source."""
    if isinstance(decisions, Decisions):
        columns = {source: decisions.table.column(f"{source}_vote").to_pylist() for source in decisions.sources}
        return {source: [label or "" for label in labels] for source, labels in columns.items()}
    sources = dict.fromkeys(vote.source for decision in decisions for vote in decision.votes)
    by_clip = [{vote.source: vote.label for vote in decision.votes} for decision in decisions]
    return {source: [votes.get(source, "") for votes in by_clip] for source in sources}


def evidence_blocks(evaluate: Mapping[str, Any] | None) -> list[Block]:
    """Show what `evaluate` measured about the refinement; empty without these metrics."""
    metrics = evaluate or {}
    return [
        *_controls(metrics.get("controls")),
        *_calibration(metrics.get("label_model")),
        *_methods(metrics.get("label_methods")),
    ]


def _controls(controls: Mapping[str, Any] | None) -> list[Block]:
    if not controls:
        return []
    blocks: list[Block] = [Heading("Effect of refined labels on training")]
    fusion = controls.get("fusion")
    if fusion:
        blocks += _compare_sets(fusion, "Fusion model", "For the fusion model, ")
    elif reason := controls.get("no_fusion"):
        blocks.append(Notice(f"{reason[:1].upper()}{reason[1:]}."))
    return [*blocks, *_compare_sets(controls, "Linear classifier", "For a linear classifier, ")]


def _compare_sets(controls: Mapping[str, Any], model: str, prefix: str) -> list[Block]:
    rows = [
        [
            name_text(name, 60),
            f"{scores['weighted_f1']:.4f}",
            _format_difference(scores["over_given"]),
            _format_difference(scores["over_rebalanced"]),
        ]
        for name, scores in sorted(controls["sets"].items(), key=lambda item: -item[1]["weighted_f1"])
    ]
    columns = [
        "Training set", "#Weighted F1", "#Difference to given labels (95% interval)",
        "#Difference to rebalanced given labels (95% interval)",
    ]  # fmt: skip
    caption = f"{model} on each training set: out-of-fold predictions, evaluated on {controls['judged_by']} labels"
    return [Paragraph(f"{prefix}{controls['sentence']}."), Table(caption, columns, rows)]


def _methods(metrics: Mapping[str, Any] | None) -> list[Block]:
    if not metrics or not metrics["clips"]:
        return []
    rows = [
        [
            name_text(name, 60),
            "yes" if scores["learns"] else "no",
            percent(scores["accuracy"], 1),
            f"{scores['weighted_f1']:.4f}",
            f"{scores['ece']:.3f}",
            _format_difference(scores["label_model_over"]),
        ]
        for name, scores in sorted(metrics["methods"].items(), key=lambda item: -item[1]["accuracy"])
    ]
    columns = ["Method", "Learns from known labels", "#Accuracy", "#Weighted F1", "#Calibration error"]
    columns.append("#Label model minus this method (weighted F1, 95% interval)")
    best = max(metrics["methods"], key=lambda name: metrics["methods"][name]["accuracy"])
    sentence = (
        "All methods combine the same votes and are evaluated on "
        f"{count(metrics['clips'], 'label')} known to be right. Methods that learn from such labels are evaluated out "
        f"of fold. Highest accuracy: {best}."
    )
    caption = "Label model compared with simpler and published methods"
    blocks: list[Block] = [Heading("Methods of combining votes"), Paragraph(sentence)]
    blocks.append(Table(caption, columns, rows))
    if metrics["left_out"]:
        why = "; ".join(f"{name} ({reason})" for name, reason in metrics["left_out"].items())
        blocks.append(Paragraph(f"Not compared: {why}."))
    return blocks


def _calibration(metrics: Mapping[str, Any] | None) -> list[Block]:
    if not metrics or not metrics["clips"]:
        return []
    sentence = (
        f"Over {count(metrics['clips'], 'clip')} with a gold label, the accuracy of the label model is "
        f"{percent(metrics['accuracy'], 1)} and its expected calibration error {metrics['ece']:.3f}."
    )
    curve = [[f"{p['confidence']:.2f}", percent(p["accuracy"], 1), count(p["clips"])] for p in metrics["curve"]]
    most_confident = [[percent(point["share"]), percent(point["accuracy"], 1)] for point in metrics["coverage"]]
    without = [
        [name_text(name, 60), percent(scores["accuracy"], 1), f"{scores['ece']:.3f}"]
        for name, scores in metrics["without"].items()
    ]
    blocks: list[Block] = [
        Heading("Calibration of the label model"),
        Paragraph(sentence),
        Table("Accuracy by predicted probability", ["#Probability", "#Accuracy", "#Clips"], curve),
        Table("Accuracy of the most confident clips", ["#Share of clips", "#Accuracy"], most_confident),
    ]
    if without:
        columns = ["Family left out", "#Accuracy", "#Calibration error"]
        blocks.append(Table("Label model without one family of sources", columns, without))
    return blocks


def _format_difference(difference: Mapping[str, float]) -> str:
    return f"{difference['difference']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"


def vote_source_blocks(metrics: Mapping[str, Any] | None) -> list[Block]:
    """Show what `evaluate` measured about the sources; empty without these metrics."""
    if not metrics or not metrics["sources"]:
        return []
    sources: Mapping[str, Mapping[str, Any]] = metrics["sources"]
    truth = (
        "labels known to be right"
        if metrics["judged_by"] == "gold"
        else f"the combined votes, because only {metrics['known']} of {metrics['needed']} needed labels are known to "
        "be right; this overestimates sources with correlated errors"
    )
    rows = [
        [
            name_text(name, 60),
            percent(source["coverage"], 1),
            count(source["votes"]),
            _format_reliability(source),
            *_most_frequent_error(source, metrics),
        ]
        for name, source in sorted(sources.items(), key=lambda item: -(item[1]["reliability"] or 0.0))
    ]
    columns = [
        "Source", "#Coverage", "#Votes compared", "#Accuracy (95% interval)", "Most frequent error",
        "#Rate of this error (95% interval)",
    ]  # fmt: skip
    return [
        Heading("Reliability of the sources"),
        Paragraph(f"Evaluated on {truth}. {_correlation_summary(sources)}"),
        Table("Coverage, accuracy and most frequent error of each source", columns, rows),
        _correlations(sources),
        Collapsible(
            "Confusion matrix of each source",
            [_confusion(name, source, metrics["labels"]) for name, source in sources.items() if source["votes"]],
        ),
    ]


def _format_reliability(source: Mapping[str, Any]) -> str:
    if source["reliability"] is None:
        return UNKNOWN
    return f"{percent(source['reliability'], 1)} ({percent(source['low'])} to {percent(source['high'])})"


def _most_frequent_error(source: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Format the most frequent error of a source and its rate."""
    labels: Sequence[str] = metrics["labels"]
    pairs = [(t, v) for t in range(len(labels)) for v in range(len(labels)) if t != v]
    if not source["votes"] or not pairs:
        return UNKNOWN, UNKNOWN
    true, voted = max(pairs, key=lambda pair: source["confusion"][pair[0]][pair[1]])
    names = Markup("{} voted as {}").format(name_text(labels[true], 30), name_text(labels[voted], 30))
    return names, _format_share(source, true, voted)


def _format_share(source: Mapping[str, Any], true: int, voted: int) -> str:
    share, low, high = (source[key][true][voted] for key in ("confusion", "confusion_low", "confusion_high"))
    return f"{percent(share)} ({percent(low)} to {percent(high)})"


def _confusion(name: str, source: Mapping[str, Any], labels: Sequence[str]) -> Table:
    rows: list[list[str | Cell]] = [
        [
            name_text(true),
            *(
                Cell(_format_share(source, t, v), source["confusion"][t][v], "count" if t == v else "change")
                for v in range(len(labels))
            ),
        ]
        for t, true in enumerate(labels)
    ]
    columns = ["True label", *(label_column(label) for label in labels)]
    caption = (
        f"{shorten(name, 60)}: share of votes by true label with 95% intervals, shrunk towards equal shares by one "
        "vote per row"
    )
    return Table(caption, columns, rows, spread="Voted label", spread_over=len(labels))


def _correlations(sources: Mapping[str, Mapping[str, Any]]) -> Table:
    names = [name for name, source in sources.items() if source["votes"]]
    rows: list[list[str | Cell]] = [
        [
            name_text(f"{number}. {name}", 60),
            *("" if other == name else _correlation(sources[name]["error_correlation"].get(other)) for other in names),
        ]
        for number, name in enumerate(names, start=1)
    ]
    columns = ["Source", *(f"#{number}." for number in range(1, len(names) + 1))]
    caption = "Correlation of the sources' errors: 1 for errors on the same clips, 0 for independent errors"
    return Table(caption, columns, rows, spread="Correlation with source", spread_over=len(names))


def _correlation(value: float | None) -> str | Cell:
    if value is None:
        return UNKNOWN
    return Cell(f"{value:.2f}".replace("-", "\N{MINUS SIGN}"), min(max(value, 0.0), 1.0), "change")


def _correlation_summary(sources: Mapping[str, Mapping[str, Any]]) -> str:
    pairs = {
        (min(name, other), max(name, other)): value
        for name, source in sources.items()
        for other, value in source["error_correlation"].items()
        if value is not None
    }
    if not pairs:
        return "The correlations of their errors are unknown."
    (first, second), most = max(pairs.items(), key=lambda item: item[1])
    n_above = sum(value > _HIGH_CORRELATION for value in pairs.values())
    return (
        f"The errors of {shorten(first, 60)} and {shorten(second, 60)} have the highest correlation ({most:.2f}). "
        f"{count(n_above)} of {count(len(pairs), 'pair')} of sources correlate above {_HIGH_CORRELATION}; such sources "
        "are worth less than independent ones."
    )
