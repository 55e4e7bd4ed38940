"""`predict`: every clip's label, probabilities and modality weights, and the submission."""

from __future__ import annotations

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.core.files import write_json
from ecmf_pipeline.extraction.features import refuse_other_features
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.tables import deployed, out_of_fold, predict_tables
from ecmf_pipeline.interop.mertools import write_submission
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import open_stored, origins_of, read_labelled_corpus, refuse_stale

_DEPLOYED = "deployed/fusion"


def run(labels: paths.Labels) -> None:
    """Predict all clips with every saved variant, each by the models that held it or its group out.

    The submission is another matter: there the whole ensemble judges every clip that was not trained on.
    """
    params = load_params()
    corpus = read_labelled_corpus()
    folders = sorted(path for path in paths.models_trained_on(labels).glob("*") if path.is_dir())
    if not folders:
        raise MissingInput(f"no model is trained on {labels} labels yet", f"run `ecmf-pipe train --labels {labels}`")
    ensembles = {folder.name: Ensemble.load(folder) for folder in folders}
    for ensemble in ensembles.values():
        ensemble.refuse_other_labels(corpus.labels)
        ensemble.refuse_other_pool(params.train.pool)
    fusion = ensembles.get("fusion") or Ensemble.load(paths.models_trained_on(labels) / "fusion")
    if labels == "refined":
        refuse_stale(fusion.labels_sha256, "the saved models were", "run `ecmf-pipe train --labels refined`")
    stored = open_stored(params, corpus.clips)
    for ensemble in ensembles.values():
        refuse_other_features(ensemble.origins, origins_of(params, stored), hint="run `ecmf-pipe train` again")
        ensemble.refuse_missing(stored.modalities)
    judgements = {name: out_of_fold(ensemble, corpus.clips) for name, ensemble in ensembles.items()}
    judgements[_DEPLOYED] = deployed(fusion, corpus.clips)
    found = predict_tables(judgements, corpus.clips, lambda some: stored.read(some, params.train.pool))
    submitted = found.pop(_DEPLOYED)
    for name, table in found.items():
        table.write(paths.predictions(labels) / f"{name}.csv")
    for path in paths.predictions(labels).glob("*.*"):
        if path.stem not in found:
            path.unlink()  # of a model that is gone, or of the labels that the last one had learned from
    submitted.write(paths.deployed_predictions(labels))
    if fusion.labels_sha256:
        write_json(paths.trained_on(labels), {"labels_sha256": fusion.labels_sha256})
    write_submission(paths.submission(labels), corpus.candidates, submitted.by_clip())
    echo(
        f"predict ({labels} labels): {len(corpus.clips)} clips by {', '.join(found)}; "
        f"{len(corpus.candidates)} candidates in {paths.submission(labels)}; {sum(map(bool, submitted.flags))} clips "
        "have no usable modality and get the labels' prior"
    )
