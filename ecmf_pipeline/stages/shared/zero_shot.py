"""Votes of sources that need no label of this corpus, and the predictions made from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Corpus, Modality
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import InputError, MissingInput
from ecmf_pipeline.encoders.config import MiniXceptionConfig, VisionConfig
from ecmf_pipeline.evaluation.transfer import transfer_votes
from ecmf_pipeline.extraction.features import StoredFeatures, check_feature_origins
from ecmf_pipeline.fusion.ensemble_files import CONFIG_FILE
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.labels.zero_shot import map_labels, map_probs
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.inputs import feature_origins, open_stored

Votes = dict[str, NDArray[np.float64]]

FACE_SOURCE = "face/zero-shot"
"""The face network's own emotions."""


def zero_shot_votes(params: Params, corpus: Corpus) -> Votes:
    """Return the votes of the face network's own emotions and of CLIP encoders, by source, (n, K) each.

    Raises:
        InputError: If features are stale or missing, or weights cannot be read.
    """
    config = params.vote.zero_shot
    stored = open_stored(params, corpus.clips)
    votes: Votes = {}
    for name, token in params.tokens.items():
        encoder = params.encoder_of(*token)
        if config.face and token.modality is Modality.FACE and isinstance(encoder, MiniXceptionConfig):
            votes[FACE_SOURCE] = _face_votes(params, corpus, stored, name, encoder)
        if config.text_image and isinstance(encoder, VisionConfig) and encoder.token_pool == "projection":
            votes[f"{name}/text-image"] = _text_image_votes(params, corpus, stored, name, encoder)
    return votes


def _rows(stored: StoredFeatures, corpus: Corpus, name: str) -> NDArray[np.float32]:
    """Return the rows of each clip, (n, T, D), NaN where there is none; T is 1 if no clip has several."""
    if name not in stored.stores:
        return np.full((len(corpus.clips), 1, 1), np.nan, np.float32)
    rows = stored.read(corpus.columns.ids, "frames")[name]
    return rows if rows.ndim == 3 else rows[:, None]


def _mean_over_rows(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of (n, T, J) over the rows that exist, (n, J); NaN if a clip has none."""
    exists = np.asarray(~np.isnan(probs).any(axis=2))
    total = np.where(exists[:, :, None], probs, 0.0).sum(axis=1)
    count = exists.sum(axis=1)[:, None]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _face_votes(
    params: Params, corpus: Corpus, stored: StoredFeatures, name: str, encoder: MiniXceptionConfig
) -> NDArray[np.float64]:
    from ecmf_pipeline.encoders.embedded.mini_xception import EXPRESSIONS, expression_probs

    rows = _rows(stored, corpus, name)
    if name not in stored.stores:
        return np.full((len(corpus.clips), len(corpus.labels)), np.nan)
    features = rows[:, :, : encoder.expression_dim]
    probs = expression_probs(encoder.weights, features.reshape(-1, encoder.expression_dim))
    by_clip = _mean_over_rows(probs.reshape(*features.shape[:2], -1))
    mapped = map_labels(EXPRESSIONS, corpus.labels, params.vote.zero_shot.mapping)
    if left_out := [name for name in EXPRESSIONS if name not in mapped]:
        echo(
            f"vote: {FACE_SOURCE}: no label for {', '.join(left_out)} (the network abstains on such faces); "
            "set vote.zero_shot.mapping to give them one"
        )
    return map_probs(by_clip, EXPRESSIONS, corpus.labels, mapped)


def _text_image_votes(
    params: Params, corpus: Corpus, stored: StoredFeatures, name: str, encoder: VisionConfig
) -> NDArray[np.float64]:
    from ecmf_pipeline.encoders.text_image import text_image_probs

    if name not in stored.stores:
        return np.full((len(corpus.clips), len(corpus.labels)), np.nan)
    rows = _rows(stored, corpus, name)
    texts = [params.vote.zero_shot.prompt.replace("{label}", label) for label in corpus.labels]
    return _mean_over_rows(text_image_probs(encoder, rows, texts))


def saved_model_votes(params: Params, corpus: Corpus) -> Votes:
    """Return the votes of the models in ``vote.transfer``, by source ``transfer:NAME``, (n, K) each.

    A clip whose id is in the training set of a model is predicted by the members that held it out.

    Raises:
        MissingInput: If a folder holds no saved model.
        InputError: If a model shares no label or no modality with this corpus, or its features come from another
            encoder.
    """
    votes: Votes = {}
    for name, config in params.vote.transfer.items():
        if not (config.folder / CONFIG_FILE).is_file():
            raise MissingInput(
                f"vote.transfer.{name}: {config.folder} holds no saved model ({CONFIG_FILE} is missing)",
                "give the folder of a saved model, such as data/fusion/refined/fusion of another project",
            )
        ensemble = Ensemble.load(config.folder)
        stored = open_stored(params, corpus.clips)
        check_feature_origins(
            ensemble.origins,
            feature_origins(params, stored),
            hint="extract features with the encoders of the model, or remove it from vote.transfer",
            command="ecmf-pipe extract",
            columns_only=True,
        )
        mapped = map_labels(ensemble.label_names, corpus.labels, config.mapping)
        if not mapped:
            raise InputError(
                f"vote.transfer.{name}: the model has the labels {', '.join(ensemble.label_names)}, none of which is a "
                f"label of this corpus: {', '.join(corpus.labels)}",
                f"set vote.transfer.{name}.mapping",
            )
        probs = transfer_votes(
            ensemble,
            corpus.columns.ids,
            modalities=stored.modalities,
            read=lambda some, stored=stored, ensemble=ensemble: stored.read(  # type: ignore[misc]
                some, ensemble.pool or params.train.pool
            ),
        )
        votes[f"transfer:{name}"] = map_probs(probs, ensemble.label_names, corpus.labels, mapped)
    return votes
