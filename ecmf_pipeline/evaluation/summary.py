"""The results of `evaluate` in short: ten numbers for DVC, the data of DVC plots, and a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecmf_pipeline.core.console import format_share
from ecmf_pipeline.core.files import write_csv
from ecmf_pipeline.core.predictions import Basis, PredictionTable
from ecmf_pipeline.evaluation.plain import BEST
from ecmf_pipeline.evaluation.scoring import Evaluator, reliability


def summary_metrics(
    results: Mapping[str, Any], interval: tuple[float, float], quarantined: int
) -> dict[str, float | str]:
    """Select the numbers that `dvc metrics` and `dvc exp show` print; a number that is unknown is left out.

    The names are short and the shares rounded to four digits, so that DVC's table of one row fits 120 columns.

    Args:
        results: The results of `evaluate`.
        interval: The 95% interval of their weighted F1.
        quarantined: Number of clips that some stage has quarantined.

    Returns:
        The content of ``data/metrics/summary.json``.
    """
    modalities = [scores["weighted_f1"] for scores in results["modalities"].values()]
    over_best, labels = results["fusion_over_best_modality"] or {}, results["labels"] or {}
    shares = {
        "f1": results["weighted_f1"],
        "f1_lo": interval[0],
        "f1_hi": interval[1],
        "acc": results["accuracy"],
        "single": max(modalities, default=None),
        "gain": over_best.get("difference"),
        "given": labels.get("given", {}).get("accuracy"),
        "refined": labels.get("refined", {}).get("accuracy"),
    }
    known = {name: round(share, 4) for name, share in shares.items() if share is not None}
    # Only an unusual basis is named: a column more would be wider than a terminal.
    of_verdicts = results["judged_by"] != "gold" and results["basis"] == Basis.VERDICTS
    basis = {"basis": Basis.VERDICTS.value} if of_verdicts else {}
    return {**basis, **known, "clips": results["clips"], "quarantined": quarantined}


def write_plots(folder: Path, evaluator: Evaluator, predictions: PredictionTable, results: Mapping[str, Any]) -> None:
    """Write the data of DVC plots.

    ``confusion.csv`` has one row per evaluated clip, ``models.csv`` the weighted F1 of each model, ``reliability.csv``
    one row per occupied bin of confidence, in tenths. DVC copies the cells into a script of an HTML page: angle
    brackets are replaced, since a label could end the script.
    """
    names = [_plot_text(label) for label in evaluator.labels]
    # Predictions may be of all clips of the corpus, or of the evaluated ones only.
    row_of = {clip_id: row for row, clip_id in enumerate(predictions.clip_ids)}
    rows = np.array([row_of[clip_id] for clip_id in evaluator.clips.ids], np.int64)
    pairs = zip(evaluator.truths.tolist(), predictions.classes[rows].tolist(), strict=True)
    write_csv(folder / "confusion.csv", ["actual", "predicted"], ([names[a], names[b]] for a, b in pairs))
    models = {name: scores["weighted_f1"] for name, scores in results["modalities"].items()}
    models |= {name: scores["weighted_f1"] for name, scores in results.get("plain", {}).get("models", {}).items()}
    models |= {f"fusion ({name} labels)": scores["weighted_f1"] for name, scores in results["fusion"].items()}
    scored = ([_plot_text(name), f1] for name, f1 in models.items())
    write_csv(folder / "models.csv", ["model", "weighted_f1"], scored)
    truth = np.full(len(predictions.clip_ids), -1)
    truth[rows] = evaluator.truths
    curve = reliability(predictions.probs.astype(np.float64), truth)["curve"]
    # DVC draws columns only: the diagonal of perfect calibration is a column too.
    bins = ([bin_["confidence"], bin_["accuracy"], bin_["confidence"], bin_["clips"]] for bin_ in curve)
    write_csv(folder / "reliability.csv", ["confidence", "accuracy", "ideal", "clips"], bins)


def _plot_text(text: str) -> str:
    return text.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}").replace(
        ">", "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
    )


def summary(results: Mapping[str, Any]) -> str:
    """Format the results of `evaluate` in a few lines."""
    on = (
        "verdicts"
        if (results["judged_by"], results["basis"]) == ("given", "verdicts")
        else f"{results['judged_by']} labels"
    )
    lines = [
        f"evaluate: weighted F1 {results['weighted_f1']:.4f}, accuracy {results['accuracy']:.4f} over "
        f"{results['clips']} clips, evaluated on {on} (fusion trained on {results['model']} "
        "labels)"
    ]
    if over := results["fusion_over_best_modality"]:
        lines.append(f"  fusion minus best single modality ({over['best']}): {format_difference(over)}")
    if plain := results.get("plain", {}).get("models"):
        best = plain[BEST]
        lines.append(f"  fusion minus {BEST} ({best['weighted_f1']:.4f}): {format_difference(best['fusion_over'])}")
    if over := results["refined_over_given"]:
        caveat = "" if results["judged_by"] == "gold" else "; not a valid comparison: the refinement used these labels"
        lines.append(f"  refined minus given labels: {format_difference(over)}{caveat}")
    if (labels := results["labels"]) and labels["given"]["clips"]:  # all gold labels may be those of candidates
        lines.append(
            f"  accuracy of training labels: {labels['given']['accuracy']} given, {labels['refined']['accuracy']} "
            f"refined ({_format_outcome(labels, 'fixed')}; {_format_outcome(labels, 'broken')}; "
            f"{labels['dropped_wrong']} wrong and {labels['dropped_right']} right ones dropped)"
        )
    lines.append(f"  {results['controls']['sentence']}")
    if fusion := results["controls"].get("fusion"):
        lines.append(f"  trained with the fusion model, {fusion['sentence']}")
    if reason := results["controls"].get("no_fusion"):
        lines.append(f"  {reason}")
    if label_model := results["label_model"]:
        lines.append(
            f"  label model: accuracy {label_model['accuracy']} over {label_model['clips']} clips, calibration error "
            f"{label_model['ece']}"
        )
    if methods := results["label_methods"]["methods"]:
        best = max(methods, key=lambda name: methods[name]["accuracy"])
        lines.append(
            f"  best of {len(methods)} methods of combining votes: {best} (accuracy {methods[best]['accuracy']})"
        )
    return "\n".join(lines)


def _format_outcome(labels: Mapping[str, Any], outcome: str) -> str:
    """Format how many labels were fixed or broken, and how many of these by human labels."""
    share = format_share(labels[f"{outcome}_by_verdicts"], labels[outcome], "by human labels")
    return f"{labels[outcome]} {outcome}" + (f", {share}" if share else "")


def format_difference(over: Mapping[str, float]) -> str:
    """Format a difference with its interval."""
    return f"{over['difference']:+.4f} weighted F1 (95% interval {over['low']:+.4f} to {over['high']:+.4f})"
