"""`predict`: predict label, probabilities and modality weights of each clip, and write the submission."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Corpus
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.files import write_sealed_json
from ecmf_pipeline.core.predictions import ABSTAINS, NO_MODALITY, Basis, PredictionTable
from ecmf_pipeline.extraction.features import check_feature_origins
from ecmf_pipeline.fusion.prediction import SINGLE_MODELS, Ensemble
from ecmf_pipeline.fusion.tables import deployed, out_of_fold, predict_tables
from ecmf_pipeline.interop.mertools import write_submission, write_unverified_submission
from ecmf_pipeline.labels.decision_files import read_decisions, read_posterior
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    check_trained_on_current_labels,
    echo_nothing_to_train,
    feature_origins,
    missing_models,
    open_stored,
    read_project_corpus,
    refined_sha256,
)
from ecmf_pipeline.stages.shared.timeline import write_timelines

_DEPLOYED = "deployed/fusion"


def run(labels: paths.Labels) -> None:
    """Predict all clips out of fold with each saved variant, and write the submission.

    A clip's prediction comes from the models that were trained on neither it nor its group. The submission is
    different: there the whole ensemble predicts each clip that was not trained on.
    """
    params = load_params()
    labelled = read_project_corpus(params)
    corpus = labelled.corpus
    if labelled.is_zero_shot:
        if labels == "given":
            _write_no_predictions(corpus)
            echo_nothing_to_train(f"predict ({labels} labels)", labelled)
        else:
            _write_refined_labels(corpus)
        return
    folders = sorted(path for path in paths.models_trained_on(labels).glob("*") if path.is_dir())
    if not folders:
        raise missing_models(labels)
    ensembles = {folder.name: Ensemble.load(folder) for folder in folders}
    for ensemble in ensembles.values():
        ensemble.check_label_names(corpus.labels)
        ensemble.check_pool(params.train.pool)
    fusion = ensembles.get("fusion") or Ensemble.load(paths.models_trained_on(labels) / "fusion")
    if labels == "refined":
        check_trained_on_current_labels(
            fusion.labels_sha256,
            f"the models in {paths.models_trained_on(labels)}",
            "train the models again",
            command="ecmf-pipe train --labels refined",
        )
    stored = open_stored(params, corpus.clips)
    for ensemble in ensembles.values():
        check_feature_origins(
            ensemble.origins,
            feature_origins(params, stored),
            hint="train the models again",
            command="ecmf-pipe train",
        )
        ensemble.check_modalities(stored.modalities)
    foldwise_ensembles = {name: out_of_fold(ensemble, corpus.clips) for name, ensemble in ensembles.items()}
    foldwise_ensembles[_DEPLOYED] = deployed(fusion, corpus.clips)
    singles = SINGLE_MODELS if SINGLE_MODELS in ensembles else "fusion"
    tables = predict_tables(
        foldwise_ensembles,
        corpus.clips,
        lambda some: stored.read(some, params.train.pool),
        branches_of=singles if labels == "given" else None,
        with_branches={"fusion"} if labels == "refined" else (),  # of the predictions that the report shows
    )
    tables.pop(SINGLE_MODELS, None)
    submitted = tables.pop(_DEPLOYED)
    basis = labelled.basis
    for name, table in tables.items():
        replace(table, basis=basis).write(paths.predictions(labels) / f"{name}.csv")
    suffixes = (".csv", ".csv.sha256", ".npz")
    kept = {f"{name}{suffix}" for name in tables for suffix in suffixes} | {paths.trained_on(labels).name}
    for path in paths.predictions(labels).glob("*.*"):
        if path.name not in kept:
            path.unlink()  # belongs to a removed model or to the labels of an earlier training
    submitted = replace(submitted, basis=basis)
    submitted.write(paths.deployed_predictions(labels))
    write_timelines(labels, corpus.clips, submitted)
    if fusion.labels_sha256:
        write_sealed_json(paths.trained_on(labels), {"labels_sha256": fusion.labels_sha256})
    else:
        paths.trained_on(labels).unlink(missing_ok=True)
    write_submission(paths.submission(labels), corpus.candidates, submitted.by_clip())
    echo(
        f"predict ({labels} labels): {len(corpus.clips)} clips by {', '.join(tables)}; "
        f"{len(corpus.candidates)} candidates in {paths.submission(labels)}; "
        f"{format_count(int(submitted.is_flagged.sum()), 'clip')} without a usable modality (set to the label prior)"
    )


def _write_no_predictions(corpus: Corpus) -> None:
    """Write tables without rows, which DVC expects."""
    folder = paths.predictions("given")
    shutil.rmtree(folder, ignore_errors=True)
    _table(corpus, [], np.zeros((0, len(corpus.labels)), np.float32)).write(folder / "fusion.csv")
    write_unverified_submission(paths.submission("given"), [])


def _write_refined_labels(corpus: Corpus) -> None:
    """Write the labels of `refine` as predictions: there are too few labels to train a model on."""
    labels_sha256 = refined_sha256()
    decisions = read_decisions(paths.REFINED, corpus=corpus)
    posterior = read_posterior(paths.REFINED, corpus.labels).astype(np.float32)
    without_vote, has_label = np.isnan(decisions.column("agreement")), decisions.column("refined_label") != ""
    flags = np.where(has_label, "", np.where(without_vote, NO_MODALITY, ABSTAINS)).tolist()
    table = _table(corpus, flags, posterior)
    folder = paths.predictions("refined")
    shutil.rmtree(folder, ignore_errors=True)
    table.write(folder / "fusion.csv")
    table.write(paths.deployed_predictions("refined"))
    write_timelines("refined", corpus.clips, table)
    write_sealed_json(paths.trained_on("refined"), {"labels_sha256": labels_sha256})
    candidates = set(corpus.candidates)
    chosen = decisions.where(np.array([clip_id in candidates for clip_id in corpus.columns.ids], np.bool_))
    by_clip = {str(one.clip_id): (one.refined_label, one.confidence, one.basis) for one in chosen}
    write_unverified_submission(paths.submission("refined"), ((name, *by_clip[name]) for name in corpus.candidates))
    n_verdicts = decisions.counts("basis").get(Basis.VERDICTS.value, 0)
    n_labelled = flags.count("") - n_verdicts
    echo(
        f"predict (refined labels): zero-shot, unverified: {n_labelled} of {len(decisions)} clips labelled by refine, "
        f"{format_count(n_verdicts, 'verdict')}; "
        f"{len(corpus.candidates)} candidates in {paths.submission('refined')}, without a label if it is too uncertain"
    )


def _table(corpus: Corpus, flags: list[str], probs: NDArray[np.float32]) -> PredictionTable:
    clips = corpus.columns[: len(flags)]
    return PredictionTable(
        clip_ids=clips.ids,
        splits=clips.splits,
        out_of_fold=np.ones(len(flags), np.bool_),  # no model saw a label of any clip
        flags=tuple(flags),
        label_names=tuple(corpus.labels),
        probs=probs,
        modalities=(),
        modality_weights=np.zeros((len(flags), 0), np.float32),
        basis=Basis.ZERO_SHOT,
    )
