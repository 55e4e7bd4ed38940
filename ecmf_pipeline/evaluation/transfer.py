"""A model trained on one corpus, judged on another: what leaving its domain costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.errors import InputError
from ecmf_pipeline.evaluation.scoring import Judge
from ecmf_pipeline.fusion.prediction import Ensemble

NO_ANSWER = ""
"""Of a clip that has no modality the model knows: it counts as wrong."""


def label_map(theirs: Sequence[str], ours: Sequence[str], changes: Sequence[str]) -> dict[str, str]:
    """What each label of a model is called here; labels that are called the same need no entry.

    Args:
        theirs: The model's labels.
        ours: The labels of this corpus.
        changes: ``THEIRS=OURS``.

    Raises:
        InputError: When an entry names an unknown label, or no label of the model is known here.
    """
    hint = f"write THEIRS=OURS; the model's are {', '.join(theirs)}, those of here {', '.join(ours)}"
    mapped = {label: label for label in theirs if label in ours}
    for change in changes:
        their, _, our = change.partition("=")
        if their not in theirs or our not in ours:
            raise InputError(f"--map {change}: a label is unknown", hint)
        mapped[their] = our
    if not mapped:
        raise InputError("no label of the model is one of this corpus", hint)
    return mapped


def judge_transfer(
    ensemble: Ensemble,
    features: Mapping[str, NDArray[np.float32]],
    judge: Judge,
    here: Mapping[str, str],
    mapped: Mapping[str, str],
) -> dict[str, Any]:
    """Score a model from elsewhere beside the one trained here, on the same clips.

    Probabilities of its labels are added up by what they are called here; a label without a name here is no choice.

    Args:
        ensemble: The model; none of the judged clips may be of its training set.
        features: Of the judged clips, (n, D); modalities the model does not know are not used, those that are not here
            are missing.
        judge: The judged clips and their labels.
        here: Predicted label by clip id of the model trained here, out of fold.
        mapped: What each of its labels is called here (`label_map`).

    Raises:
        InputError: When no modality is shared, or the features have another width.
    """
    shared = [name for name in ensemble.modalities if name in features]
    if not shared:
        raise InputError(
            f"the model knows {', '.join(ensemble.modalities)}; this corpus has features of {', '.join(features)}",
            "extract a modality that the model was trained on, with the same encoder",
        )
    clips = len(judge.clips)
    whole = {name: features.get(name, np.full((clips, dim), np.nan, np.float32)) for name, dim in ensemble.dims.items()}
    probs = ensemble.predict(whole).probs  # (n, C)
    names = list(dict.fromkeys(mapped.values()))
    ours = np.stack(
        [
            probs[:, [i for i, label in enumerate(ensemble.label_names) if mapped.get(label) == name]].sum(axis=1)
            for name in names
        ],
        axis=1,
    )  # (n, K)
    best = np.where(np.isnan(ours).any(axis=1), len(names), np.nan_to_num(ours).argmax(axis=1))
    answers = np.array([*names, NO_ANSWER])[best]
    there: dict[str, str] = dict(zip((str(clip.clip_id) for clip in judge.clips), map(str, answers), strict=True))
    return {
        "clips": clips,
        "judged_by": judge.by,
        "modalities": shared,
        "labels": dict(mapped),
        "unanswered": int((answers == NO_ANSWER).sum()),
        "there": judge.scores(there),
        "here": judge.scores(here),
        "loss": judge.difference(there, here),
    }
