"""`evaluate`: score the predictions and the refined labels."""

from __future__ import annotations

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.core.files import write_json, write_sealed_json
from ecmf_pipeline.evaluation.controls import compare_controls, fusion_predictions, predict_out_of_fold, training_sets
from ecmf_pipeline.evaluation.label_quality import LabelEvidence, compare_methods, measure_calibration, measure_sources
from ecmf_pipeline.evaluation.scoring import Evaluator, evaluate
from ecmf_pipeline.evaluation.summary import summary, summary_metrics, write_plots
from ecmf_pipeline.labels.tables import read_decisions
from ecmf_pipeline.labels.voters import join_modalities
from ecmf_pipeline.runner.quarantine import read_all
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    all_votes,
    folds_of,
    read_corpus_verdicts,
    read_features,
    read_given_predictions,
    read_labelled_corpus,
    read_refined_predictions,
)


def run() -> None:
    """Score the models against gold labels, or against given labels if there are no gold labels."""
    params = load_params()
    corpus = read_labelled_corpus()
    clips, labels, training = corpus.clips, corpus.labels, params.train.training
    variants = [path.stem for path in sorted(paths.predictions("given").glob("*.csv"))]
    tables = {variant: read_given_predictions(variant, corpus) for variant in variants}
    decisions = read_decisions(paths.REFINED, corpus=corpus)
    refined = read_refined_predictions(paths.predictions("refined") / "fusion.csv", corpus)
    verdicts = read_corpus_verdicts(params, corpus).gold
    folds, seed = folds_of(corpus, params.vote.folds, params.vote.seed), params.vote.seed
    evaluator = Evaluator(clips, labels, params.evaluate)
    results = evaluate(evaluator, clips, tables, refined, decisions, verdicts)
    sets = training_sets(corpus.given, decisions, labels, verdicts)
    features = read_features(params, clips)
    rows, clip_ids = join_modalities(features), [clip.clip_id for clip in clips]
    linear = {name: predict_out_of_fold(rows, one, folds, seed=seed) for name, one in sets.items()}
    results["controls"] = compare_controls(evaluator, clip_ids, linear)
    if params.evaluate.fusion_controls:
        try:
            predictions = fusion_predictions(
                features,
                sets,
                folds_of(corpus, training.folds, training.seed),
                clips,
                labels,
                fusion=params.train.fusion,
                training=training,
                trained={"given": tables["fusion"], "refined": refined},
            )
            results["controls"]["fusion"] = compare_controls(evaluator, clip_ids, predictions)
        except TooFewClips as error:
            results["controls"]["no_fusion"] = (
                f"the fusion model cannot be trained on each training set: {error.message}"
            )
    votes, label_model = all_votes(corpus), params.refine.label_model
    evidence = LabelEvidence.of(corpus, votes, human_labels=verdicts, folds=folds, seed=seed, config=label_model)
    results["label_model"] = measure_calibration(evidence)
    results["label_methods"] = compare_methods(evidence, params.evaluate)
    write_sealed_json(paths.SOURCES, measure_sources(evidence, labels))
    write_sealed_json(paths.METRICS / "evaluate.json", results)
    quarantined = {entry.clip_id for entry in read_all(paths.QUARANTINE, params.extract.encoders)}
    write_json(paths.SUMMARY, summary_metrics(results, evaluator.interval(refined.by_clip()), len(quarantined)))
    write_plots(paths.PLOTS, evaluator, refined, results)
    echo(summary(results))
