"""A model trained on one corpus, judged on another: what leaving its domain costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.evaluation.scoring import Judge, in_words
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.tables import Judgement, predict_in_blocks

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
    judge: Judge,
    mapped: Mapping[str, str],
    *,
    here: Mapping[str, Mapping[str, str]],
    modalities: Sequence[str],
    read: Callable[[Sequence[str]], Mapping[str, NDArray[np.float32]]],
) -> dict[str, Any]:
    """Score a model from elsewhere beside the one trained here, on the same clips.

    Probabilities of its labels are added up by what they are called here; a label without a name here is no choice. A
    clip of a name that it knows is judged by the members that held it, or its group, out: it may be the same clip.

    Args:
        ensemble: The model.
        judge: The judged clips and their labels.
        mapped: What each of its labels is called here (`label_map`).
        here: Predicted label by clip id of the models trained here, out of fold: ``fusion``, and modalities alone. One
            of these is compared besides, where the model from elsewhere shares that modality alone.
        modalities: Those of which this corpus has features. Those that the model does not know are not used, and of
            those that are not here it judges every clip as missing them.
        read: From clip ids to the features of this corpus, by modality.

    Raises:
        InputError: When no modality is shared, or the features have another width.
    """
    shared = [name for name in ensemble.modalities if name in modalities]
    if not shared:
        raise InputError(
            f"the model knows {', '.join(ensemble.modalities)}; this corpus has features of {', '.join(modalities)}",
            "extract a modality that the model was trained on, with the same encoder",
        )
    clip_ids = [str(clip.clip_id) for clip in judge.clips]
    held_out = ensemble.held_out(clip_ids)
    judgement = Judgement(ensemble, held_out)
    found = predict_in_blocks({"there": judgement}, clip_ids, lambda some: _as_known(ensemble, read(some), len(some)))
    answers = _answers(found["there"].probs, ensemble.label_names, mapped)
    there = dict(zip(clip_ids, answers, strict=True))
    results = {
        "clips": len(clip_ids),
        "judged_by": judge.by,
        "modalities": shared,
        "labels": dict(mapped),
        "unanswered": answers.count(NO_ANSWER),
        "trained_on": int(ensemble.trained_on(clip_ids).sum()),
        "held_out": int((held_out >= 0).sum()),
        "there": judge.scores(there),
        "here": judge.scores(here["fusion"]),
        "loss": judge.difference(there, here["fusion"]),
    }
    if len(shared) == 1 < len(modalities) and shared[0] in here:
        alone = here[shared[0]]
        results["here_alone"] = judge.scores(alone)
        results["loss_alone"] = judge.difference(there, alone)
    return results


def _as_known(
    ensemble: Ensemble, features: Mapping[str, NDArray[np.float32]], clips: int
) -> Mapping[str, NDArray[np.float32]]:
    """Features of n clips as a model takes them: modalities that it does not know are left out, others are missing."""
    return {
        name: features[name] if name in features else np.full((clips, dim), np.nan, np.float32)
        for name, dim in ensemble.dims.items()
    }


def _answers(probs: NDArray[np.float32], theirs: Sequence[str], mapped: Mapping[str, str]) -> list[str]:
    """From probabilities of a model's labels, (n, C), to the likeliest label of here; rows of NaN give `NO_ANSWER`."""
    names = list(dict.fromkeys(mapped.values()))
    ours = np.stack(
        [probs[:, [i for i, label in enumerate(theirs) if mapped.get(label) == name]].sum(axis=1) for name in names],
        axis=1,
    )  # (n, K)
    best = np.where(np.isnan(ours).any(axis=1), len(names), np.nan_to_num(ours).argmax(axis=1))
    return [[*names, NO_ANSWER][index] for index in best.tolist()]


def transfer_summary(model: str, results: Mapping[str, Any]) -> str:
    """What `judge_transfer` found, in a few lines."""
    there, here = results["there"]["weighted_f1"], results["here"]["weighted_f1"]
    lines = [
        f"evaluate: {model} by {', '.join(results['modalities'])} on {results['clips']} clips of this corpus, judged "
        f"by {results['judged_by']} labels: weighted F1 {there:.4f}; trained here: {here:.4f}",
        f"  the model from elsewhere less the one of here: {in_words(results['loss'])}",
    ]
    if "here_alone" in results:
        (name,), alone = results["modalities"], results["here_alone"]["weighted_f1"]
        lines.append(f"  less the one of here by {name} alone ({alone:.4f}): {in_words(results['loss_alone'])}")
    if results["held_out"]:
        lines.append(
            f"  {results['held_out']} clips have names that it knows, {results['trained_on']} of them trained on: "
            "models that held them, or their group, out judge"
        )
    if results["unanswered"]:
        lines.append(f"  {results['unanswered']} clips lack every modality that it knows: they count as wrong")
    return "\n".join(lines)
