"""Evaluate a model that was saved in another project, compared with the model of this project."""

from __future__ import annotations

from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.core.files import write_json
from ecmf_pipeline.evaluation.scoring import Evaluator
from ecmf_pipeline.evaluation.transfer import evaluate_transfer, label_map, transfer_summary
from ecmf_pipeline.extraction.features import check_feature_origins
from ecmf_pipeline.fusion.ensemble_files import CONFIG_FILE
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    feature_origins,
    open_stored,
    read_given_predictions,
    read_labelled_corpus,
)


def run(folder: Path, mapping: list[str]) -> None:
    """Evaluate the model on this corpus and write data/transfer.json.

    Args:
        folder: Folder of the saved model.
        mapping: ``THEIRS=OURS``, which maps labels of the model to labels of this corpus.

    Raises:
        MissingInput: If there is no saved model in ``folder``, or no prediction of this corpus.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise MissingInput(
            f"{folder} holds no saved model ({CONFIG_FILE} is missing)",
            "give the folder of a saved model, such as data/fusion/given/fusion of another project",
        )
    params = load_params()
    corpus = read_labelled_corpus()
    if not (folder / "config.json").is_file():
        raise MissingInput(
            f"{folder} is no saved model: it has no config.json",
            "give the folder of one model, such as data/fusion/given/fusion of the other project",
        )
    ensemble = Ensemble.load(folder)
    evaluator = Evaluator(corpus.clips, corpus.labels, params.evaluate)
    own = {
        path.stem: read_given_predictions(path.stem, corpus).by_clip()
        for path in paths.predictions("given").glob("*.csv")
    }
    if "fusion" not in own:
        raise MissingInput(
            f"{paths.predictions('given') / 'fusion.csv'} does not exist",
            "predict this corpus with a model of this project",
            command="ecmf-pipe predict",
        )
    stored = open_stored(params, evaluator.clips)
    check_feature_origins(
        ensemble.origins,
        feature_origins(params, stored),
        hint="train the model again, or extract features with the encoders of the model",
        command="ecmf-pipe extract",
        columns_only=True,
    )
    results = evaluate_transfer(
        ensemble,
        evaluator,
        label_map(ensemble.label_names, corpus.labels, mapping),
        local_predictions=own,
        modalities=stored.modalities,
        read=lambda some: stored.read(some, ensemble.pool or params.train.pool),
    )
    write_json(paths.TRANSFER, results)
    echo(transfer_summary(str(folder), results))
