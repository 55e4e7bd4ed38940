"""`evaluate`: scores of the predictions and of the refined labels."""

from __future__ import annotations

import csv
import io
from typing import Any

from ecmf_pipeline import layout
from ecmf_pipeline.evaluation.scoring import Judge, evaluate
from ecmf_pipeline.files import write_atomic, write_json
from ecmf_pipeline.labels.tables import read_decisions
from ecmf_pipeline.params import load_params
from ecmf_pipeline.predictions import PredictionTable
from ecmf_pipeline.progress import say
from ecmf_pipeline.stage_inputs import read_labelled_corpus


def run() -> None:
    """Score the models against gold labels, or against given ones where there is no gold."""
    config = load_params().evaluate
    corpus = read_labelled_corpus()
    given = {path.stem: PredictionTable.read(path) for path in sorted(layout.predictions("given").glob("*.csv"))}
    refined = PredictionTable.read(layout.predictions("refined") / "fusion.csv")
    decisions = read_decisions(layout.REFINED)
    results = evaluate(corpus.clips, corpus.labels, given, refined, decisions, config)
    write_json(layout.METRICS / "evaluate.json", results)
    judge = Judge(corpus.clips, corpus.labels, config)
    predicted = refined.by_clip()
    pairs = [[judge.truth(clip), predicted[clip.clip_id]] for clip in judge.clips]
    _write_csv("confusion.csv", [["actual", "predicted"], *pairs])
    models = {name: scores["weighted_f1"] for name, scores in results["modalities"].items()}
    models |= {f"fusion ({name} labels)": scores["weighted_f1"] for name, scores in results["fusion"].items()}
    _write_csv("models.csv", [["model", "weighted_f1"], *([name, str(value)] for name, value in models.items())])
    say(_summary(results))


def _write_csv(name: str, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(layout.PLOTS / name, text.getvalue())


def _summary(results: dict[str, Any]) -> str:
    lines = [
        f"evaluate: weighted F1 {results['weighted_f1']:.4f}, accuracy {results['accuracy']:.4f} over "
        f"{results['clips']} clips, judged by {results['judged_by']} labels (fusion on {results['model']} labels)"
    ]
    if over := results["fusion_over_best_modality"]:
        lines.append(f"  fusion over {over['best']} alone: {_interval(over)}")
    if over := results["refined_over_given"]:
        caveat = "" if results["judged_by"] == "gold" else "; no measure: the refinement was made from these labels"
        lines.append(f"  refined over given labels: {_interval(over)}{caveat}")
    if labels := results["labels"]:
        lines.append(
            f"  training labels: {labels['given']['accuracy']} right as given, {labels['refined']['accuracy']} refined "
            f"({labels['fixed']} fixed, {labels['broken']} broken, {labels['dropped_wrong']} wrong and "
            f"{labels['dropped_right']} right ones left out)"
        )
    return "\n".join(lines)


def _interval(over: dict[str, float]) -> str:
    return f"{over['difference']:+.4f} weighted F1 (95% interval {over['low']:+.4f} to {over['high']:+.4f})"
