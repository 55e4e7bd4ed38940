"""Implement the command `compare`: what differs between two versions of a project."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.files import write_atomic
from ecmf_pipeline.evaluation.comparison import COMPARED_FILES, compare_runs, read_run
from ecmf_pipeline.sharing.revisions import open_version

_SHOWN = 10
"""Lines of a list that are printed."""

_MODEL_ROW = "    {:<26}{:>9}{:>9}{:>12}  {}"


def show_comparison(first: str, second: str, *, html: Path | None, as_json: bool) -> None:
    """Print what differs between two versions, each a folder, a git revision or a DVC experiment.

    Raises:
        InputError: If a version does not exist, a file of it cannot be read, they share no clip, or the page cannot be
            written.
    """
    with open_version(first, COMPARED_FILES) as version:
        before = read_run(version)
    with open_version(second, COMPARED_FILES) as version:
        after = read_run(version)
    comparison = compare_runs(before, after)
    if html:
        from ecmf_pipeline.report.comparison import render_comparison

        try:
            write_atomic(html, render_comparison(comparison).encode())
        except OSError as error:
            raise InputError(f"{html} cannot be written: {error.strerror}", "give another file to --html") from error
    if as_json:
        echo(json.dumps(comparison, ensure_ascii=False))
        return
    for line in [*comparison_lines(comparison), *([f"  page: {html}"] if html else [])]:
        echo(line)


def comparison_lines(comparison: Mapping[str, Any]) -> list[str]:
    """Return the lines that `compare` prints."""
    first, second = (comparison[side]["title"] for side in ("first", "second"))
    lines = [f"compare: {first}, then {second}"]
    lines += ["  both are the same commit"] if comparison["same_commit"] else []
    params = comparison["params"]
    lines += [f"  params: {len(params)} differ"]
    lines += _listed([f"{row['key']}: {_value(row['first'])}, then {_value(row['second'])}" for row in params])
    clips = comparison["clips"]
    changed = [f"{part} {len(clip_ids)}" for part, clip_ids in clips["changed"].items() if clip_ids]
    n_changed = len(set().union(*clips["changed"].values()))
    lines += [
        f"  clips: {clips['shared']} shared, {len(clips['added'])} added, {len(clips['removed'])} removed, "
        f"{n_changed} changed" + (f" ({', '.join(changed)})" if changed else "")
    ]
    for name, rows in comparison["labels"].items():
        if rows is not None:
            lines += [f"  {name} labels: {len(rows)} differ"]
            lines += _listed(
                [f"{row['clip_id']}: {_label(row['first'])}, then {_label(row['second'])}" for row in rows]
            )
    lines += _score_lines(comparison)
    return lines + [f"  not compared: {sentence}" for sentence in comparison["not_compared"]]


def _score_lines(comparison: Mapping[str, Any]) -> list[str]:
    scores, changes = comparison["scores"], comparison["changes"]
    lines = []
    if scores["models"]:
        drawn = "groups" if scores["grouped"] else "clips"
        lines += [
            f"  weighted F1 over {format_count(scores['clips'], 'clip')} that both have, by {scores['judged_by']} "
            f"labels (95% intervals of the paired difference, over {drawn})",
            _MODEL_ROW.format("model", "first", "second", "difference", "interval").rstrip(),
        ]
    for row in scores["models"]:
        cells = (f"{row['first']['weighted_f1']:.4f}", f"{row['second']['weighted_f1']:.4f}")
        interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
        lines.append(_MODEL_ROW.format(row["title"], *cells, f"{row['difference']:+.4f}", interval))
    if changes:
        lines.append(
            f"  {changes['title']}: {format_count(len(changes['won']), 'clip')} won, {len(changes['lost'])} lost"
        )
        for outcome in ("won", "lost"):
            lines += _listed(
                [
                    f"{outcome} {row['clip_id']} ({row['truth']}): {row['first']}, then {row['second']}"
                    for row in changes[outcome]
                ]
            )
    return lines


def _listed(lines: Sequence[str]) -> list[str]:
    more = [f"    ... and {len(lines) - _SHOWN} more; --json lists all"] if len(lines) > _SHOWN else []
    return [f"    {line}" for line in lines[:_SHOWN]] + more


def _value(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _label(label: str) -> str:
    return label or "none"
