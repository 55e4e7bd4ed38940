"""`predict`: every clip's label, probabilities and modality weights, and the submission."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import labels_of
from ecmf_pipeline.core.config import PoolOrFrames
from ecmf_pipeline.core.errors import MissingInput
from ecmf_pipeline.core.files import write_json
from ecmf_pipeline.core.predictions import PredictionTable, with_prior
from ecmf_pipeline.core.progress import say
from ecmf_pipeline.extraction.feature_origin import refuse_other_features
from ecmf_pipeline.extraction.features import StoredFeatures
from ecmf_pipeline.fusion.prediction import Ensemble, Judgement, Prediction, predict_in_blocks
from ecmf_pipeline.interop.mertools import write_submission
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    Corpus,
    open_stored,
    origins_of,
    read_corpus_tables,
    read_labelled_corpus,
    refuse_stale,
)
from ecmf_pipeline.stages.shared.single_clip import predict_clip

_RETRAIN = "run `ecmf-pipe train` again"
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
    ensembles = {folder.name: _usable(Ensemble.load(folder), corpus, params.train.pool) for folder in folders}
    fusion = ensembles.get("fusion") or Ensemble.load(paths.models_trained_on(labels) / "fusion")
    if labels == "refined":
        refuse_stale(fusion.labels_sha256, "the saved models were", "run `ecmf-pipe train --labels refined`")
    stored = open_stored(params, corpus.clips)
    for ensemble in ensembles.values():
        refuse_other_features(ensemble.origins, origins_of(params, stored), hint=_RETRAIN)
    clip_ids = [clip.clip_id for clip in corpus.clips]
    judgements = {name: Judgement(ensemble, ensemble.held_out(clip_ids)) for name, ensemble in ensembles.items()}
    whole = np.where(fusion.trained_on(clip_ids), fusion.held_out(clip_ids), -1)
    judgements[_DEPLOYED] = Judgement(fusion, whole)
    found = _predictions(judgements, corpus, stored, params.train.pool)
    deployed = found.pop(_DEPLOYED)
    for name, table in found.items():
        table.write(paths.predictions(labels) / f"{name}.csv")
    for path in paths.predictions(labels).glob("*.*"):
        if path.stem not in found:
            path.unlink()  # of a model that is gone, or of the labels that the last one had learned from
    deployed.write(paths.deployed_predictions(labels))
    if fusion.labels_sha256:
        write_json(paths.trained_on(labels), {"labels_sha256": fusion.labels_sha256})
    write_submission(paths.submission(labels), corpus.candidates, deployed.by_clip())
    say(
        f"predict ({labels} labels): {len(corpus.clips)} clips by {', '.join(found)}; "
        f"{len(corpus.candidates)} candidates in {paths.submission(labels)}; {sum(map(bool, deployed.flags))} clips "
        "have no usable modality and get the labels' prior"
    )


def show(video: Path | None, text: str, labels: paths.Labels | None, *, as_json: bool) -> None:
    """Run one new clip through everything, and print its label, probabilities and modality weights.

    Args:
        video: The clip; None: there are words alone.
        text: What is said in it.
        labels: Which models judge; None: those trained on refined labels where there are any.
        as_json: Whether to print JSON alone.
    """
    params = load_params()
    if labels is None:
        labels = "refined" if (paths.models_trained_on("refined") / "fusion").is_dir() else "given"
    ensemble = Ensemble.load(paths.models_trained_on(labels) / "fusion")
    known = read_corpus_tables().labels
    if known:  # a corpus without labels has none that a model from elsewhere could differ from
        _check_labels(ensemble, known)
    found = predict_clip(params, ensemble, video, text, known)
    if as_json:
        say(json.dumps({"clip": str(video or ""), "model": labels, **asdict(found)}, ensure_ascii=False))
        return
    say(f"{video or text}: {found.label} (models trained on {labels} labels)")
    say("  " + ", ".join(f"{name} {prob:.3f}" for name, prob in found.probs.items()))
    say("  weights: " + ", ".join(f"{name} {share:.3f}" for name, share in found.modality_weights.items()))
    for name, reason in found.missing.items():
        say(f"  {name} is missing: {reason}")


def _usable(ensemble: Ensemble, corpus: Corpus, pool: PoolOrFrames) -> Ensemble:
    """The ensemble itself.

    Raises:
        MissingInput: When it was trained for other labels than the corpus has now, or on rows pooled otherwise.
    """
    _check_labels(ensemble, corpus.labels)
    if ensemble.pool not in {pool, ""}:
        raise MissingInput(f"the saved models were trained with train.pool {ensemble.pool}; it is {pool} now", _RETRAIN)
    return ensemble


def _check_labels(ensemble: Ensemble, labels: Sequence[str]) -> None:
    """Refuse models that were trained for other labels, or for the same in another order."""
    if ensemble.label_names != tuple(labels):
        raise MissingInput(
            f"the saved models know the labels {', '.join(ensemble.label_names)}; the corpus has others now", _RETRAIN
        )


def _predictions(
    judgements: Mapping[str, Judgement], corpus: Corpus, stored: StoredFeatures, pool: PoolOrFrames
) -> dict[str, PredictionTable]:
    for judgement in judgements.values():
        if missing := [name for name in judgement.ensemble.modalities if name not in stored.modalities]:
            raise MissingInput(
                f"the saved models judge by {', '.join(missing)} too, of which there are no features now",
                f"{_RETRAIN}, or `ecmf-pipe extract`",
            )
    clip_ids = [clip.clip_id for clip in corpus.clips]
    found = predict_in_blocks(judgements, clip_ids, lambda some: stored.read(some, pool))
    return {name: _table(judgements[name], corpus, prediction) for name, prediction in found.items()}


def _table(judgement: Judgement, corpus: Corpus, prediction: Prediction) -> PredictionTable:
    given = np.array(labels_of(corpus.clips, corpus.labels))
    prior = np.bincount(given[given >= 0], minlength=len(corpus.labels)) / (given >= 0).sum()
    probs, flags = with_prior(prediction.probs, prior.tolist())
    return PredictionTable(
        clip_ids=tuple(clip.clip_id for clip in corpus.clips),
        splits=tuple(clip.split.value for clip in corpus.clips),
        out_of_fold=judgement.held_out >= 0,
        flags=flags,
        label_names=judgement.ensemble.label_names,
        probs=probs,
        modalities=judgement.ensemble.modalities,
        modality_weights=prediction.modality_weights,
    )
