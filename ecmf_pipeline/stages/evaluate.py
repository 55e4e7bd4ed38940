"""`evaluate`: scores of the predictions and of the refined labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline import layout
from ecmf_pipeline.clips import labels_of
from ecmf_pipeline.errors import MissingInput
from ecmf_pipeline.evaluation.belief import leave_one_out, reliability
from ecmf_pipeline.evaluation.controls import compare, predict_out_of_fold, training_sets
from ecmf_pipeline.evaluation.scoring import Judge, evaluate
from ecmf_pipeline.evaluation.transfer import judge_transfer, label_map, told, transfer_summary
from ecmf_pipeline.files import write_atomic, write_json
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.labels.assessing import assess
from ecmf_pipeline.labels.refine import Decision
from ecmf_pipeline.labels.tables import read_decisions, read_votes
from ecmf_pipeline.labels.voters import family_of, joined
from ecmf_pipeline.params import Params, load_params
from ecmf_pipeline.predictions import PredictionTable
from ecmf_pipeline.progress import say
from ecmf_pipeline.stage_inputs import (
    Corpus,
    folds_of,
    fusion_votes,
    open_stored,
    read_corpus_verdicts,
    read_features,
    read_labelled_corpus,
)


def run() -> None:
    """Score the models against gold labels, or against given ones where there is no gold."""
    params = load_params()
    config = params.evaluate
    corpus = read_labelled_corpus()
    given = {path.stem: PredictionTable.read(path) for path in sorted(layout.predictions("given").glob("*.csv"))}
    refined = PredictionTable.read(layout.predictions("refined") / "fusion.csv")
    decisions = read_decisions(layout.REFINED)
    results = evaluate(corpus.clips, corpus.labels, given, refined, decisions, config)
    judge = Judge(corpus.clips, corpus.labels, config)
    results["controls"] = _controls(params, corpus, decisions, judge)
    results["label_model"] = _label_model(params, corpus, judge)
    write_json(layout.METRICS / "evaluate.json", results)
    predicted = refined.by_clip()
    pairs = [[judge.truth(clip), predicted[clip.clip_id]] for clip in judge.clips]
    _write_csv("confusion.csv", [["actual", "predicted"], *pairs])
    models = {name: scores["weighted_f1"] for name, scores in results["modalities"].items()}
    models |= {f"fusion ({name} labels)": scores["weighted_f1"] for name, scores in results["fusion"].items()}
    _write_csv("models.csv", [["model", "weighted_f1"], *([name, str(value)] for name, value in models.items())])
    say(_summary(results))


def _controls(params: Params, corpus: Corpus, decisions: Sequence[Decision], judge: Judge) -> dict[str, Any]:
    given = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    verdicts = read_corpus_verdicts(params.refine.verdicts, corpus)
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    features = joined(read_features(params, corpus.clips))
    predictions = {
        name: predict_out_of_fold(features, training, folds, seed=params.vote.seed)
        for name, training in training_sets(given, decisions, corpus.labels, verdicts).items()
    }
    return compare(judge, [clip.clip_id for clip in corpus.clips], predictions, corpus.labels)


def _label_model(params: Params, corpus: Corpus, judge: Judge) -> dict[str, Any] | None:
    """How far the label model can be believed, by gold labels of clips on which no verdict was read."""
    if judge.by != "gold":
        return None
    given = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    verdicts = read_corpus_verdicts(params.refine.verdicts, corpus)
    index = {label: position for position, label in enumerate(corpus.labels)}
    truth = np.array([index.get(clip.gold_label, -1) for clip in corpus.clips], np.int64)
    truth[verdicts >= 0] = -1
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    fusion = PredictionTable.read(layout.predictions("given") / "fusion.csv")
    votes = {**read_votes(layout.VOTES, corpus.labels).votes, "fusion": fusion_votes(fusion)}

    def posterior_of(some: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        config = params.refine.label_model
        return assess(some, given, verdicts, folds=folds, seed=params.vote.seed, config=config).posterior

    families = {name: family_of(name) for name in votes}
    without = leave_one_out(votes, families, truth, posterior_of)
    return {**reliability(posterior_of(votes), truth), "without": without}


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
    here = {path.stem: PredictionTable.read(path).by_clip() for path in layout.predictions("given").glob("*.csv")}
    if "fusion" not in here:
        raise MissingInput(
            "no model trained here has predicted this corpus", "run `ecmf-pipe predict` (or `dvc repro`)"
        )
    stored = open_stored(params, judge.clips)
    results = judge_transfer(
        ensemble,
        judge,
        label_map(ensemble.label_names, corpus.labels, mapping),
        here=here,
        modalities=stored.modalities,
        read=lambda some: stored.read(some, ensemble.pool or params.train.pool),
    )
    write_json(layout.TRANSFER, results)
    say(transfer_summary(str(folder), results))


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
        lines.append(f"  fusion over {over['best']} alone: {told(over)}")
    if over := results["refined_over_given"]:
        caveat = "" if results["judged_by"] == "gold" else "; no measure: the refinement was made from these labels"
        lines.append(f"  refined over given labels: {told(over)}{caveat}")
    if (labels := results["labels"]) and labels["given"]["clips"]:  # gold may be known of candidates alone
        lines.append(
            f"  training labels: {labels['given']['accuracy']} right as given, {labels['refined']['accuracy']} refined "
            f"({labels['fixed']} fixed, {labels['broken']} broken, {labels['dropped_wrong']} wrong and "
            f"{labels['dropped_right']} right ones left out)"
        )
    lines.append(f"  {results['controls']['sentence']}")
    if believed := results["label_model"]:
        lines.append(
            f"  label model: {believed['accuracy']} right over {believed['clips']} clips, calibration error "
            f"{believed['ece']}"
        )
    return "\n".join(lines)
