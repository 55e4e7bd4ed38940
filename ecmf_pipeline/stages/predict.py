"""`predict`: every clip's label, probabilities and modality weights, and the submission."""

from __future__ import annotations

import numpy as np

from ecmf_pipeline import layout
from ecmf_pipeline.clips import labels_of
from ecmf_pipeline.errors import MissingInput
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.interop.mertools import write_submission
from ecmf_pipeline.params import load_params
from ecmf_pipeline.predictions import PredictionTable, with_prior
from ecmf_pipeline.progress import progress, say
from ecmf_pipeline.stage_inputs import read_features, read_labelled_corpus


def run(labels: layout.Labels) -> None:
    """Predict all clips with every saved variant; clips trained on are judged by models that held them out."""
    params = load_params()
    corpus = read_labelled_corpus()
    features = read_features(params, corpus.clips)
    given = np.array(labels_of(corpus.clips, corpus.labels))
    prior = np.bincount(given[given >= 0], minlength=len(corpus.labels)) / (given >= 0).sum()
    clip_ids = [clip.clip_id for clip in corpus.clips]
    tables = {}
    folders = sorted(path for path in layout.models_trained_on(labels).glob("*") if path.is_dir())
    if not folders:
        raise MissingInput(
            f"there are no models trained on {labels} labels", f"run `ecmf-pipe train --labels {labels}`"
        )
    for folder in progress(folders, "predict", unit="model"):
        ensemble = Ensemble.load(folder)
        held_out = ensemble.held_out(clip_ids)
        prediction = ensemble.predict({name: features[name] for name in ensemble.modalities}, held_out)
        probs, flags = with_prior(prediction.probs, prior.tolist())
        tables[folder.name] = PredictionTable(
            clip_ids=tuple(clip_ids),
            splits=tuple(clip.split.value for clip in corpus.clips),
            out_of_fold=held_out >= 0,
            flags=flags,
            label_names=ensemble.label_names,
            probs=probs,
            modalities=ensemble.modalities,
            modality_weights=prediction.modality_weights,
        )
        tables[folder.name].write(layout.predictions(labels) / f"{folder.name}.csv")
    fusion = tables["fusion"]
    write_submission(layout.submission(labels), corpus.candidates, fusion.by_clip())
    flagged = sum(bool(flag) for flag in fusion.flags)
    say(
        f"predict ({labels} labels): {len(clip_ids)} clips by {', '.join(tables)}; {len(corpus.candidates)} candidates "
        f"in {layout.submission(labels)}; {flagged} clips have no usable modality and get the labels' prior"
    )
