"""What `ablate` writes: JSON for DVC's metrics, csv for tables, npz for every answer."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_pipeline.evaluation.ablation import Ablation
from ecmf_pipeline.files import write_atomic, write_json

VARIANT_COLUMNS = ("table", "name", "clips", "weighted_f1", "accuracy", "difference", "low", "high")
ROBUSTNESS_COLUMNS = (
    "modality", "damage", "clips", "weighted_f1", "accuracy", "difference", "low", "high", "trained_without",
)  # fmt: skip


def write_ablation(folder: Path, metrics: Path, clip_ids: Sequence[str], judged_by: str, found: Ablation) -> None:
    """Write the tables and answers into ``folder`` and the metrics beside the others.

    Args:
        folder: For ``variants.csv``, ``robustness.csv`` and ``answers.npz`` (``clip_ids``, (j,), ``variants``, (V,),
            and ``labels``, (V, S, j)).
        metrics: The JSON file.
        clip_ids: The judged clips, (j,).
        judged_by: ``gold`` or ``given``.
        found: What is written.
    """
    results = found.results
    write_json(metrics, {"judged_by": judged_by, **results})
    reference = {"table": "reference", "name": "fusion", **results["reference"]}
    _write_table(folder / "variants.csv", VARIANT_COLUMNS, [reference, *results["variants"]])
    _write_table(folder / "robustness.csv", ROBUSTNESS_COLUMNS, results["robustness"])
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        clip_ids=np.array(clip_ids, dtype=np.str_),
        variants=np.array(list(found.answers), dtype=np.str_),
        labels=np.stack(list(found.answers.values())),
    )
    write_atomic(folder / "answers.npz", packed.getvalue())


def summary(results: Mapping[str, Any], judged_by: str) -> str:
    """A line for each variant and each kind of damage, and the warnings."""
    base = results["reference"]
    lines = [
        f"ablate: fusion weighted F1 {base['weighted_f1']:.4f} over {base['clips']} clips, judged by {judged_by} labels"
    ]
    lines += [f"  {row['name']}: {_against(row)}" for row in results["variants"]]
    lines += [f"  {row['modality']} {row['damage']}: {_against(row)}" for row in results["robustness"]]
    if "mertools_protocol" in results:
        lines.append(f"  by the baseline's protocol: {results['mertools_protocol']['weighted_f1']:.4f} (optimistic)")
    lines += [f"  {row['name']} was left out: {row['why']}" for row in results["skipped"]]
    lines += [f"  warning: {text}" for text in results["weights"]["warnings"]]
    return "\n".join(lines)


def _against(row: Mapping[str, Any]) -> str:
    return f"{row['weighted_f1']:.4f} ({row['difference']:+.4f}, {row['low']:+.4f} to {row['high']:+.4f})"


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
