"""`evaluate`: scores of the predictions and of the refined labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import labels_of
from ecmf_pipeline.core.errors import MissingInput, TooFewClips
from ecmf_pipeline.core.files import write_atomic, write_json
from ecmf_pipeline.core.formatting import part_of
from ecmf_pipeline.core.predictions import PredictionTable
from ecmf_pipeline.core.progress import say
from ecmf_pipeline.evaluation.controls import compare, fusion_predictions, predict_out_of_fold, training_sets
from ecmf_pipeline.evaluation.label_quality import LabelEvidence, belief, methods, sources
from ecmf_pipeline.evaluation.scoring import Judge, evaluate
from ecmf_pipeline.evaluation.transfer import judge_transfer, label_map, told, transfer_summary
from ecmf_pipeline.extraction.feature_origin import refuse_other_features
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.labels.refine import Decision
from ecmf_pipeline.labels.tables import read_decisions
from ecmf_pipeline.labels.voters import joined
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.inputs import (
    Corpus,
    all_votes,
    folds_of,
    open_stored,
    origins_of,
    read_corpus_verdicts,
    read_features,
    read_labelled_corpus,
    read_refined_predictions,
)


def run() -> None:
    """Score the models against gold labels, or against given ones where there is no gold."""
    params = load_params()
    config = params.evaluate
    corpus = read_labelled_corpus()
    given = {path.stem: PredictionTable.read(path) for path in sorted(paths.predictions("given").glob("*.csv"))}
    refined = read_refined_predictions(paths.predictions("refined") / "fusion.csv")
    decisions = read_decisions(paths.REFINED)
    verdicts = read_corpus_verdicts(params.refine.verdicts, corpus)
    vouched: dict[str, str] = {
        clip.clip_id: corpus.labels[one] for clip, one in zip(corpus.clips, verdicts, strict=True) if one >= 0
    }
    results = evaluate(corpus.clips, corpus.labels, given, refined, decisions, config, vouched)
    judge = Judge(corpus.clips, corpus.labels, config)
    results["controls"] = _controls(
        params, corpus, decisions, verdicts, judge, {"given": given["fusion"], "refined": refined}
    )
    evidence = _label_evidence(params, corpus, verdicts)
    results["label_model"] = belief(evidence)
    results["label_methods"] = methods(evidence, config)
    write_json(paths.SOURCES, sources(evidence, corpus.labels))
    write_json(paths.METRICS / "evaluate.json", results)
    predicted = refined.by_clip()
    pairs = [[judge.truth(clip), predicted[clip.clip_id]] for clip in judge.clips]
    _write_csv("confusion.csv", [["actual", "predicted"], *pairs])
    models = {name: scores["weighted_f1"] for name, scores in results["modalities"].items()}
    models |= {f"fusion ({name} labels)": scores["weighted_f1"] for name, scores in results["fusion"].items()}
    _write_csv("models.csv", [["model", "weighted_f1"], *([name, str(value)] for name, value in models.items())])
    say(_summary(results))


def _controls(
    params: Params,
    corpus: Corpus,
    decisions: Sequence[Decision],
    verdicts: NDArray[np.int64],
    judge: Judge,
    trained: Mapping[str, PredictionTable],
) -> dict[str, Any]:
    given = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    sets = training_sets(given, decisions, corpus.labels, verdicts)
    features, seed = read_features(params, corpus.clips), params.vote.seed
    folds, rows = folds_of(corpus, params.vote.folds, seed), joined(features)
    clip_ids = [clip.clip_id for clip in corpus.clips]
    linear = {name: predict_out_of_fold(rows, one, folds, seed=seed) for name, one in sets.items()}
    results = compare(judge, clip_ids, linear, corpus.labels)
    if not params.evaluate.fusion_controls:
        return results
    try:
        fusion = fusion_predictions(
            features,
            sets,
            folds_of(corpus, params.train.training.folds, params.train.training.seed),
            corpus.clips,
            corpus.labels,
            fusion=params.train.fusion,
            training=params.train.training,
            trained=trained,
        )
    except TooFewClips as error:
        return {**results, "no_fusion": f"the fusion model cannot be trained on each training set: {error.what}"}
    return {**results, "fusion": compare(judge, clip_ids, fusion, corpus.labels)}


def _label_evidence(params: Params, corpus: Corpus, verdicts: NDArray[np.int64]) -> LabelEvidence:
    index = {label: position for position, label in enumerate(corpus.labels)}
    groups = np.array([clip.group for clip in corpus.clips])
    return LabelEvidence(
        votes=all_votes(corpus),
        given=np.array(labels_of(corpus.clips, corpus.labels), np.int64),
        verdicts=verdicts,
        gold=np.array([index.get(clip.gold_label, -1) for clip in corpus.clips], np.int64),
        folds=folds_of(corpus, params.vote.folds, params.vote.seed),
        groups=groups if all(groups) and len(set(groups)) > 1 else None,
        seed=params.vote.seed,
        config=params.refine.label_model,
    )


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
    here = {path.stem: PredictionTable.read(path).by_clip() for path in paths.predictions("given").glob("*.csv")}
    if "fusion" not in here:
        raise MissingInput(
            "no model trained here has predicted this corpus", "run `ecmf-pipe predict` (or `dvc repro`)"
        )
    stored = open_stored(params, judge.clips)
    refuse_other_features(
        ensemble.origins,
        origins_of(params, stored),
        hint="run `ecmf-pipe extract` here with the encoders that it was trained on, or `ecmf-pipe train` again there",
        columns_alone=True,
    )
    results = judge_transfer(
        ensemble,
        judge,
        label_map(ensemble.label_names, corpus.labels, mapping),
        here=here,
        modalities=stored.modalities,
        read=lambda some: stored.read(some, ensemble.pool or params.train.pool),
    )
    write_json(paths.TRANSFER, results)
    say(transfer_summary(str(folder), results))


def _write_csv(name: str, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(paths.PLOTS / name, text.getvalue())


def _with_verdicts(labels: Mapping[str, Any], what: str) -> str:
    """How many labels were fixed or broken, and how many of them by a person."""
    share = part_of(labels[f"{what}_by_verdicts"], labels[what], "by verdicts")
    return f"{labels[what]} {what}" + (f", {share}" if share else "")


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
            f"({_with_verdicts(labels, 'fixed')}; {_with_verdicts(labels, 'broken')}; {labels['dropped_wrong']} wrong "
            f"and {labels['dropped_right']} right ones left out)"
        )
    lines.append(f"  {results['controls']['sentence']}")
    if fusion := results["controls"].get("fusion"):
        lines.append(f"  trained with the fusion model, {fusion['sentence']}")
    if reason := results["controls"].get("no_fusion"):
        lines.append(f"  {reason}")
    if believed := results["label_model"]:
        lines.append(
            f"  label model: {believed['accuracy']} right over {believed['clips']} clips, calibration error "
            f"{believed['ece']}"
        )
    if ways := results["label_methods"]["methods"]:
        best = max(ways, key=lambda name: ways[name]["accuracy"])
        lines.append(
            f"  of {len(ways)} ways to combine the votes the best on known labels is: {best} ({ways[best]['accuracy']})"
        )
    return "\n".join(lines)
