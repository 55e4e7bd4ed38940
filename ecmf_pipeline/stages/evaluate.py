"""`evaluate`: scores of the predictions and of the refined labels."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ecmf_pipeline import layout
from ecmf_pipeline.evaluation.scoring import Judge, evaluate
from ecmf_pipeline.evaluation.transfer import judge_transfer, label_map
from ecmf_pipeline.files import write_atomic, write_json
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.labels.tables import read_decisions
from ecmf_pipeline.params import load_params
from ecmf_pipeline.predictions import PredictionTable
from ecmf_pipeline.progress import say
from ecmf_pipeline.stage_inputs import read_features, read_labelled_corpus


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


def run_transfer(folder: Path, mapping: list[str]) -> None:
    """Judge a model that was saved elsewhere on this corpus, beside the one trained here; writes data/transfer.json.

    Args:
        folder: The saved model.
        mapping: ``THEIRS=OURS``: labels of the model that are called otherwise here.
    """
    params = load_params()
    corpus = read_labelled_corpus()
    ensemble = Ensemble.load(folder)
    judge = Judge(corpus.clips, corpus.labels, params.evaluate)
    here = PredictionTable.read(layout.predictions("given") / "fusion.csv").by_clip()
    features = read_features(params, judge.clips)
    theirs = label_map(ensemble.label_names, corpus.labels, mapping)
    results = judge_transfer(ensemble, features, judge, here, theirs)
    write_json(layout.TRANSFER, results)
    there, here_score = (results[where]["weighted_f1"] for where in ("there", "here"))
    say(
        f"evaluate: {folder} on {results['clips']} clips of this corpus: weighted F1 {there:.4f}; "
        f"trained here: {here_score:.4f}; the one from elsewhere less the one of here: {_interval(results['loss'])}"
    )


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
