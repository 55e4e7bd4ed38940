"""What is known of each source of votes, as plain values: reliability, confusion, and with whom it errs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ecmf_pipeline.labels.sources import SourceReport


def account_of(reports: Sequence[SourceReport], labels: Sequence[str]) -> dict[str, Any]:
    """The reports of all sources as they stand in data/metrics/sources.json.

    Args:
        reports: One a source.
        labels: The K label names.

    Returns:
        ``judged_by`` (``gold``, or ``votes`` where too few labels are known to be right), ``labels``, and by name each
        source's ``coverage``, ``votes``, ``reliability`` with ``low`` and ``high``, ``confusion`` (shares of its votes
        by true label, K x K, with 95% intervals ``confusion_low`` and ``confusion_high``), and ``error_correlation`` by
        the other's name. Null stands for what cannot be known.
    """
    return {
        "judged_by": reports[0].judged_by if reports else "votes",
        "labels": list(labels),
        "sources": {report.name: _account(report) for report in reports},
    }


def _account(report: SourceReport) -> dict[str, Any]:
    low, high = report.reliability_interval
    return {
        "coverage": round(report.coverage, 6),
        "votes": report.votes,
        "reliability": _known(report.reliability),
        "low": _known(low),
        "high": _known(high),
        "confusion": report.confusion.round(4).tolist(),
        "confusion_low": report.confusion_low.round(4).tolist(),
        "confusion_high": report.confusion_high.round(4).tolist(),
        "error_correlation": {
            name: _known(value) for name, value in report.error_correlation.items() if name != report.name
        },
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
