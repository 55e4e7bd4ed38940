"""Evaluate a model trained on one corpus on another corpus, to measure the cost of the domain shift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.console import format_count
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.evaluation.scoring import Evaluator
from ecmf_pipeline.evaluation.summary import format_difference
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.tables import FoldwiseEnsemble, predict_in_blocks

NO_ANSWER = ""
"""Prediction for a clip without any modality of the model; it counts as wrong."""


def label_map(theirs: Sequence[str], ours: Sequence[str], changes: Sequence[str]) -> dict[str, str]:
    """Map the labels of a model to the labels of this corpus; labels with equal names need no entry.

    Args:
        theirs: Labels of the model.
        ours: Labels of this corpus.
        changes: Entries ``THEIRS=OURS``.

    Raises:
        InputError: If an entry has an unknown label, or no label of the model maps to this corpus.
    """
    hint = f"write THEIRS=OURS; labels of the model: {', '.join(theirs)}; labels of this corpus: {', '.join(ours)}"
    mapped = {label: label for label in theirs if label in ours}
    for change in changes:
        their, _, our = change.partition("=")
        if their not in theirs or our not in ours:
            unknown = f"model has no label {their!r}" if their not in theirs else f"corpus has no label {our!r}"
            raise InputError(f"--map {change}: the {unknown}", hint)
        mapped[their] = our
    if not mapped:
        raise InputError("the model and this corpus have no label in common", hint)
    return mapped


def evaluate_transfer(
    ensemble: Ensemble,
    evaluator: Evaluator,
    mapped: Mapping[str, str],
    *,
    local_predictions: Mapping[str, Mapping[str, str]],
    modalities: Sequence[str],
    read: Callable[[Sequence[str]], Mapping[str, NDArray[np.float32]]],
) -> dict[str, Any]:
    """Evaluate a model from another corpus and the local model on the same clips.

    Probabilities of labels that map to the same local label are added; labels without a local label are never
    predicted. A clip whose id occurs in the model's training set is predicted by the members that held out the clip or
    its group, because it may be the same clip.

    Args:
        ensemble: The model.
        evaluator: The evaluated clips and their labels.
        mapped: Local label of each label of the model (`label_map`).
        local_predictions: Out-of-fold predictions of the local models by clip id: ``fusion``, and each modality alone.
            If the model shares only one modality with this corpus, the local model of this modality is compared too.
        modalities: Modalities with features in this corpus. Those unknown to the model are ignored; those that it needs
            in addition count as missing.
        read: Function from clip ids to the features of this corpus, by modality.

    Raises:
        InputError: If no modality is shared, or features have another width.
    """
    shared = shared_modalities(ensemble, modalities)
    clip_ids = evaluator.clips.ids
    held_out = ensemble.held_out(clip_ids)
    probs = transfer_votes(ensemble, clip_ids, modalities=modalities, read=read)
    predicted_labels = _local_labels(probs, ensemble.label_names, mapped)
    external_predictions = dict(zip(clip_ids, predicted_labels, strict=True))
    results = {
        "clips": len(clip_ids),
        "judged_by": evaluator.by,
        "modalities": shared,
        "labels": dict(mapped),
        "unanswered": predicted_labels.count(NO_ANSWER),
        "trained_on": int(ensemble.trained_on(clip_ids).sum()),
        "held_out": int((held_out >= 0).sum()),
        "there": evaluator.scores(external_predictions),
        "here": evaluator.scores(local_predictions["fusion"]),
        "loss": evaluator.difference(external_predictions, local_predictions["fusion"]),
    }
    if len(shared) == 1 < len(modalities) and shared[0] in local_predictions:
        alone = local_predictions[shared[0]]
        results["here_alone"] = evaluator.scores(alone)
        results["loss_alone"] = evaluator.difference(external_predictions, alone)
    return results


def transfer_votes(
    ensemble: Ensemble,
    clip_ids: Sequence[str],
    *,
    modalities: Sequence[str],
    read: Callable[[Sequence[str]], Mapping[str, NDArray[np.float32]]],
) -> NDArray[np.float32]:
    """Return the probabilities of a model from another corpus, (n, C); NaN for clips without any of its modalities.

    Args:
        ensemble: The model; a clip whose id it was trained on is predicted by the members that held out the clip.
        clip_ids: The clips, (n,).
        modalities: Modalities with features in this corpus; those that the model needs in addition count as missing.
        read: Function from clip ids to the features of this corpus, by modality.

    Raises:
        InputError: If no modality is shared, or features have another width.
    """
    shared_modalities(ensemble, modalities)
    foldwise = FoldwiseEnsemble(ensemble, ensemble.held_out(clip_ids))
    predictions = predict_in_blocks(
        {"there": foldwise}, clip_ids, lambda ids: _model_inputs(ensemble, read(ids), len(ids))
    )
    return predictions["there"].probs


def shared_modalities(ensemble: Ensemble, modalities: Sequence[str]) -> list[str]:
    """Return the modalities of a model that have features in this corpus.

    Raises:
        InputError: If there is none.
    """
    shared = [name for name in ensemble.modalities if name in modalities]
    if not shared:
        raise InputError(
            f"the model was trained on {', '.join(ensemble.modalities)}; this corpus has features of "
            f"{', '.join(modalities)}",
            "extract a modality of the model, with the same encoder",
        )
    return shared


def _model_inputs(
    ensemble: Ensemble, features: Mapping[str, NDArray[np.float32]], clips: int
) -> Mapping[str, NDArray[np.float32]]:
    """Select the features of n clips that the model needs; absent modalities are NaN."""
    return {
        name: features[name] if name in features else np.full((clips, dim), np.nan, np.float32)
        for name, dim in ensemble.dims.items()
    }


def _local_labels(probs: NDArray[np.float32], theirs: Sequence[str], mapped: Mapping[str, str]) -> list[str]:
    """Return the most probable local label of each clip for probabilities of the model's labels, (n, C).

    Rows of NaN give `NO_ANSWER`.
    """
    names = list(dict.fromkeys(mapped.values()))
    local_probs = np.stack(
        [probs[:, [i for i, label in enumerate(theirs) if mapped.get(label) == name]].sum(axis=1) for name in names],
        axis=1,
    )  # (n, K)
    best = np.where(np.isnan(local_probs).any(axis=1), len(names), np.nan_to_num(local_probs).argmax(axis=1))
    return [[*names, NO_ANSWER][index] for index in best.tolist()]


def transfer_summary(model: str, results: Mapping[str, Any]) -> str:
    """Format the results of `evaluate_transfer` in a few lines."""
    external_f1, local_f1 = results["there"]["weighted_f1"], results["here"]["weighted_f1"]
    lines = [
        f"evaluate: {model} with {', '.join(results['modalities'])} on {results['clips']} clips of this corpus, "
        f"evaluated on {results['judged_by']} labels: weighted F1 {external_f1:.4f}; local model: {local_f1:.4f}",
        f"  difference to the local model: {format_difference(results['loss'])}",
    ]
    if "here_alone" in results:
        (name,), single_f1 = results["modalities"], results["here_alone"]["weighted_f1"]
        lines.append(
            f"  difference to the local {name} model ({single_f1:.4f}): {format_difference(results['loss_alone'])}"
        )
    if results["held_out"]:
        lines.append(
            f"  {results['held_out']} clips have ids of the model's corpus, {results['trained_on']} of them in its "
            "training set: they are predicted by members that held out the clip or its group"
        )
    if results["unanswered"]:
        unanswered = format_count(results["unanswered"], "clip has", "clips have")
        lines.append(f"  {unanswered} no modality of the model, and count as wrong")
    return "\n".join(lines)
