"""`predict`: every clip's label, probabilities and modality weights, and the submission."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline import layout
from ecmf_pipeline.clips import labels_of
from ecmf_pipeline.errors import MissingInput
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.interop.mertools import write_submission
from ecmf_pipeline.one_clip import predict_clip
from ecmf_pipeline.params import load_params
from ecmf_pipeline.predictions import PredictionTable, with_prior
from ecmf_pipeline.progress import progress, say
from ecmf_pipeline.stage_inputs import Corpus, read_corpus_tables, read_features, read_labelled_corpus


def run(labels: layout.Labels) -> None:
    """Predict all clips with every saved variant, each by the models that held it or its group out.

    The submission is another matter: there the whole ensemble judges every clip that was not trained on.
    """
    params = load_params()
    corpus = read_labelled_corpus()
    folders = sorted(path for path in layout.models_trained_on(labels).glob("*") if path.is_dir())
    if not folders:
        raise MissingInput(f"no model is trained on {labels} labels yet", f"run `ecmf-pipe train --labels {labels}`")
    features = read_features(params, corpus.clips)
    for folder in progress(folders, "predict", unit="model"):
        ensemble = Ensemble.load(folder)
        held_out = ensemble.held_out([clip.clip_id for clip in corpus.clips])
        _predicted(ensemble, corpus, features, held_out).write(layout.predictions(labels) / f"{folder.name}.csv")
    for path in layout.predictions(labels).glob("*.csv"):
        if path.stem not in {folder.name for folder in folders}:
            path.unlink()  # of a model that is gone
    fusion = Ensemble.load(layout.models_trained_on(labels) / "fusion")
    trained = fusion.trained_on([clip.clip_id for clip in corpus.clips])
    held_out = fusion.held_out([clip.clip_id for clip in corpus.clips])
    deployed = _predicted(fusion, corpus, features, np.where(trained, held_out, -1))
    deployed.write(layout.deployed_predictions(labels))
    write_submission(layout.submission(labels), corpus.candidates, deployed.by_clip())
    say(
        f"predict ({labels} labels): {len(corpus.clips)} clips by {', '.join(folder.name for folder in folders)}; "
        f"{len(corpus.candidates)} candidates in {layout.submission(labels)}; {sum(map(bool, deployed.flags))} clips "
        "have no usable modality and get the labels' prior"
    )


def show(video: Path, text: str, labels: layout.Labels | None, *, as_json: bool) -> None:
    """Run one new clip through everything, and print its label, probabilities and modality weights.

    Args:
        video: The clip.
        text: What is said in it.
        labels: Which models judge; None: those trained on refined labels where there are any.
        as_json: Whether to print JSON alone.
    """
    params = load_params()
    if labels is None:
        labels = "refined" if (layout.models_trained_on("refined") / "fusion").is_dir() else "given"
    ensemble = Ensemble.load(layout.models_trained_on(labels) / "fusion")
    found = predict_clip(params, ensemble, video, text, read_corpus_tables().labels)
    if as_json:
        say(json.dumps({"clip": str(video), "model": labels, **asdict(found)}, ensure_ascii=False))
        return
    say(f"{video}: {found.label} (models trained on {labels} labels)")
    say("  " + ", ".join(f"{name} {prob:.3f}" for name, prob in found.probs.items()))
    say("  weights: " + ", ".join(f"{name} {share:.3f}" for name, share in found.modality_weights.items()))
    for name, reason in found.missing.items():
        say(f"  {name} is missing: {reason}")


def _predicted(
    ensemble: Ensemble, corpus: Corpus, features: Mapping[str, NDArray[np.float32]], held_out: NDArray[np.int64]
) -> PredictionTable:
    if ensemble.label_names != tuple(corpus.labels):
        raise MissingInput(
            f"the saved models know the labels {', '.join(ensemble.label_names)}; the corpus has others now",
            "run `ecmf-pipe train` again",
        )
    if missing := [name for name in ensemble.modalities if name not in features]:
        raise MissingInput(
            f"the saved models judge by {', '.join(missing)} too, of which there are no features now",
            "run `ecmf-pipe train` again, or `ecmf-pipe extract`",
        )
    prediction = ensemble.predict({name: features[name] for name in ensemble.modalities}, held_out)
    given = np.array(labels_of(corpus.clips, corpus.labels))
    prior = np.bincount(given[given >= 0], minlength=len(corpus.labels)) / (given >= 0).sum()
    probs, flags = with_prior(prediction.probs, prior.tolist())
    return PredictionTable(
        clip_ids=tuple(clip.clip_id for clip in corpus.clips),
        splits=tuple(clip.split.value for clip in corpus.clips),
        out_of_fold=held_out >= 0,
        flags=flags,
        label_names=ensemble.label_names,
        probs=probs,
        modalities=ensemble.modalities,
        modality_weights=prediction.modality_weights,
    )
