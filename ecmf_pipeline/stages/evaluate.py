"""`evaluate`: score the predictions and the refined labels."""

from __future__ import annotations

from typing import Any

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.core.files import write_json, write_sealed_json
from ecmf_pipeline.core.predictions import Basis, PredictionTable
from ecmf_pipeline.evaluation.controls import compare_controls, fusion_predictions, predict_out_of_fold, training_sets
from ecmf_pipeline.evaluation.label_quality import LabelEvidence, compare_methods, measure_calibration, measure_sources
from ecmf_pipeline.evaluation.plain import compare_plain
from ecmf_pipeline.evaluation.scoring import Evaluator, evaluate
from ecmf_pipeline.evaluation.summary import summary, summary_metrics, write_plots
from ecmf_pipeline.evaluation.zero_shot import (
    describe,
    evaluate_zero_shot,
    gold_clips,
    zero_shot_metrics,
    zero_shot_summary,
)
from ecmf_pipeline.labels.decision_files import read_decisions
from ecmf_pipeline.labels.verdicts import MIN_GOLD
from ecmf_pipeline.labels.voters import join_modalities
from ecmf_pipeline.runner.quarantine import read_all
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.inputs import (
    LabelledCorpus,
    all_votes,
    assess_project,
    folds_of,
    read_features,
    read_given_predictions,
    read_project_corpus,
    read_refined_predictions,
    votes_of_sources,
)


def run() -> None:
    """Score the models against gold labels, or against given labels if there are no gold labels."""
    params = load_params()
    labelled = read_project_corpus(params)
    corpus = labelled.corpus
    if labelled.is_zero_shot:
        _evaluate_zero_shot(params, labelled)
        return
    evaluator = Evaluator(corpus.clips, corpus.labels, params.evaluate)
    refined = read_refined_predictions(paths.predictions("refined") / "fusion.csv", corpus)
    results = {"basis": labelled.basis.value, **_score_models(params, labelled, evaluator, refined)}
    # Both sets of tables take more than a gigabyte for a million clips: those of the models are released by now.
    votes = all_votes(corpus)
    evidence = LabelEvidence.of(
        corpus,
        votes,
        human_labels=labelled.known,
        folds=folds_of(corpus, params.vote.folds, params.vote.seed),
        seed=params.vote.seed,
        config=params.refine.label_model,
        given_are_human=labelled.basis is Basis.VERDICTS,
    )
    results["label_model"] = measure_calibration(evidence)
    results["label_methods"] = compare_methods(evidence, params.evaluate)
    results["interval"] = evaluator.interval(refined.classes[evaluator.rows])
    write_sealed_json(paths.SOURCES, measure_sources(evidence, corpus.labels))
    write_sealed_json(paths.METRICS / "evaluate.json", results)
    quarantined = {entry.clip_id for entry in read_all(paths.QUARANTINE, params.extract.encoders)}
    write_json(paths.SUMMARY, summary_metrics(results, results["interval"], len(quarantined)))
    write_plots(paths.PLOTS, evaluator, refined, results)
    echo(summary(results))


def _score_models(
    params: Params, labelled: LabelledCorpus, evaluator: Evaluator, refined: PredictionTable
) -> dict[str, Any]:
    """Score the models of all variants, and models that are trained only for comparison."""
    corpus, training = labelled.corpus, params.train.training
    clips, labels, verdicts = corpus.clips, corpus.labels, labelled.known
    variants = [path.stem for path in sorted(paths.predictions("given").glob("*.csv"))]
    tables = {variant: read_given_predictions(variant, corpus) for variant in variants}
    decisions = read_decisions(paths.REFINED, corpus=corpus)
    results = evaluate(evaluator, clips, tables, refined, decisions, verdicts)
    fusion = tables["fusion"]
    del tables
    sets = training_sets(corpus.given, decisions, labels, verdicts)
    del decisions
    features = read_features(params, clips)
    folds, seed = folds_of(corpus, params.vote.folds, params.vote.seed), params.vote.seed
    rows = join_modalities(features)
    linear = {name: predict_out_of_fold(rows, one, folds, seed=seed) for name, one in sets.items()}
    del rows
    results["controls"] = compare_controls(evaluator, linear)
    training_folds = folds_of(corpus, training.folds, training.seed)
    if params.evaluate.plain:
        classes = fusion.classes[evaluator.rows]
        results["plain"] = compare_plain(evaluator, corpus, features, training_folds, classes, seed=training.seed)
    if params.evaluate.fusion_controls:
        try:
            predictions = fusion_predictions(
                features,
                sets,
                training_folds,
                clips,
                labels,
                fusion=params.train.fusion,
                training=training,
                trained={"given": fusion, "refined": refined},
            )
            results["controls"]["fusion"] = compare_controls(evaluator, predictions)
        except TooFewClips as error:
            results["controls"]["no_fusion"] = (
                f"the fusion model cannot be trained on each training set: {error.message}"
            )
    return results


def _evaluate_zero_shot(params: Params, labelled: LabelledCorpus) -> None:
    """Describe the labels of sources that saw no label; score them only if there are gold labels."""
    corpus, known = labelled.corpus, labelled.known
    decisions = read_decisions(paths.REFINED, corpus=corpus)
    predictions = read_refined_predictions(paths.predictions("refined") / "fusion.csv", corpus)
    votes = votes_of_sources(labelled)
    description = describe(decisions, assess_project(params, labelled, votes), votes, known)
    evaluator = Evaluator(gold_clips(corpus.clips, known), corpus.labels, params.evaluate)
    results = evaluate_zero_shot(evaluator, predictions.by_clip(), description)
    # Agreement with the combined votes would look like reliability: a single source always agrees with itself.
    write_sealed_json(
        paths.SOURCES,
        {
            "judged_by": "votes",
            "known": description["verdicts"],
            "needed": MIN_GOLD,
            "labels": corpus.labels,
            "sources": {},
        },
    )
    write_sealed_json(paths.METRICS / "evaluate.json", results)
    quarantined = {entry.clip_id for entry in read_all(paths.QUARANTINE, params.extract.encoders)}
    write_json(paths.SUMMARY, zero_shot_metrics(results, len(quarantined)))
    write_plots(paths.PLOTS, evaluator, predictions, {"modalities": {}, "fusion": {}, **results})
    echo(zero_shot_summary(results))
