"""`predict`: predict label, probabilities and modality weights of each clip, and write the submission."""

from __future__ import annotations

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.files import write_sealed_json
from ecmf_pipeline.extraction.features import check_feature_origins
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.tables import deployed, out_of_fold, predict_tables
from ecmf_pipeline.interop.mertools import write_submission
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    check_trained_on_current_labels,
    feature_origins,
    missing_models,
    open_stored,
    read_labelled_corpus,
)
from ecmf_pipeline.stages.shared.timeline import write_timelines

_DEPLOYED = "deployed/fusion"


def run(labels: paths.Labels) -> None:
    """Predict all clips out of fold with each saved variant, and write the submission.

    A clip's prediction comes from the models that were trained on neither it nor its group. The submission is
    different: there the whole ensemble predicts each clip that was not trained on.
    """
    params = load_params()
    corpus = read_labelled_corpus()
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
    tables = predict_tables(foldwise_ensembles, corpus.clips, lambda some: stored.read(some, params.train.pool))
    submitted = tables.pop(_DEPLOYED)
    for name, table in tables.items():
        table.write(paths.predictions(labels) / f"{name}.csv")
    for path in paths.predictions(labels).glob("*.*"):
        if path.name.partition(".")[0] not in tables and path != paths.trained_on(labels):
            path.unlink()  # belongs to a removed model or to the labels of an earlier training
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
        f"{format_count(sum(map(bool, submitted.flags)), 'clip')} without a usable modality (set to the label prior)"
    )
