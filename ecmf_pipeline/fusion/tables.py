"""Predictions of a whole corpus by several ensembles, block by block, as tables, and the table of training curves."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.clips import Clip, Clips, label_indices
from ecmf_pipeline.core.console import progress
from ecmf_pipeline.core.predictions import PredictionTable, fill_with_prior
from ecmf_pipeline.fusion.config import modality_of
from ecmf_pipeline.fusion.prediction import ALL_MEMBERS, Ensemble, Prediction
from ecmf_pipeline.fusion.trained import CHUNK, Member

BLOCK = 4 * CHUNK
"""Clips whose features are read together: 170 MB for 16 frames and 1,280 columns.

A multiple of `CHUNK`: the chunks, and therefore the rounding, are the same as without blocks.
"""

Features = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class FoldwiseEnsemble:
    """The ensemble that predicts, and the members for each clip.

    Attributes:
        ensemble: The models.
        held_out: The fold that held out each clip, (n,), or -1 for all members; see `Ensemble.predict`.
    """

    ensemble: Ensemble
    held_out: NDArray[np.int64]


def predict_in_blocks(
    foldwise_ensembles: Mapping[str, FoldwiseEnsemble],
    clip_ids: Sequence[str],
    read: Callable[[Sequence[str]], Features],
) -> dict[str, Prediction]:
    """Predict the same clips with several ensembles, reading the features once.

    Args:
        foldwise_ensembles: The ensembles, by name.
        clip_ids: The clips, (n,).
        read: Returns the features of given clips; each ensemble uses its own modalities.

    Raises:
        KeyError: If ``read`` does not return a modality of an ensemble.
    """
    by_ensemble: dict[int, list[str]] = {}
    for name, judgement in foldwise_ensembles.items():
        by_ensemble.setdefault(id(judgement.ensemble), []).append(name)
    blocks: dict[str, list[Prediction]] = {name: [] for name in foldwise_ensembles}
    for start in progress(range(0, max(len(clip_ids), 1), BLOCK), "predict", unit="block"):
        rows = slice(start, start + BLOCK)
        features = read(clip_ids[rows])
        for names in by_ensemble.values():
            ensemble = foldwise_ensembles[names[0]].ensemble
            inputs = {modality: features[modality] for modality in ensemble.modalities}
            held_out = [foldwise_ensembles[name].held_out[rows] for name in names]
            for name, part in zip(names, ensemble.predict_several(inputs, held_out), strict=True):
                blocks[name].append(part)
    return {
        name: Prediction(
            np.concatenate([part.probs for part in parts]),
            np.concatenate([part.modality_weights for part in parts]),
            np.concatenate([part.branch_probs for part in parts]),
            parts[0].label_names,
            parts[0].label_type,
        )
        for name, parts in blocks.items()
    }


def out_of_fold(ensemble: Ensemble, clips: Sequence[Clip]) -> FoldwiseEnsemble:
    """Predict each clip by the members that held out the clip or its group."""
    return FoldwiseEnsemble(ensemble, ensemble.held_out(Clips.of(clips).ids))


def deployed(ensemble: Ensemble, clips: Sequence[Clip]) -> FoldwiseEnsemble:
    """Predict new clips by the whole ensemble, and training clips by the members that held them out."""
    clip_ids = Clips.of(clips).ids
    return FoldwiseEnsemble(ensemble, np.where(ensemble.trained_on(clip_ids), ensemble.held_out(clip_ids), ALL_MEMBERS))


def predict_tables(
    foldwise_ensembles: Mapping[str, FoldwiseEnsemble],
    clips: Sequence[Clip],
    read: Callable[[Sequence[str]], Features],
    *,
    branches_of: str | None = None,
    with_branches: Container[str] = (),
) -> dict[str, PredictionTable]:
    """Return the predictions of `predict_in_blocks` as tables; clips without a prediction get the label frequencies.

    Args:
        foldwise_ensembles: The ensembles, by name.
        clips: The clips, (n,).
        read: Returns the features of given clips.
        branches_of: Name of the ensemble whose branches get a table too, by modality; branches that predict no clip are
            left out.
        with_branches: Names of the ensembles whose tables hold the probabilities of the branches.
    """
    tables = {}
    clips = Clips.of(clips)
    for name, prediction in predict_in_blocks(foldwise_ensembles, clips.ids, read).items():
        foldwise = foldwise_ensembles[name]
        labels = np.array(label_indices(clips, prediction.label_names))
        prior = np.bincount(labels[labels >= 0], minlength=len(prediction.label_names)) / (labels >= 0).sum()

        def table(
            probs: NDArray[np.float32],
            modalities: Sequence[str],
            weights: NDArray[np.float32],
            *,
            columns: Clips = clips,
            foldwise: FoldwiseEnsemble = foldwise,
            prior: NDArray[np.float64] = prior,
        ) -> PredictionTable:
            completed, flags = fill_with_prior(probs, prior.tolist())
            return PredictionTable(
                clip_ids=columns.ids,
                splits=columns.splits,
                out_of_fold=foldwise.held_out >= 0,
                flags=flags,
                label_names=foldwise.ensemble.label_names,
                probs=completed,
                modalities=tuple(modalities),
                modality_weights=weights,
            )

        modalities = foldwise.ensemble.modalities
        made = table(prediction.probs, *weight_columns(modalities, prediction.modality_weights))
        if name in with_branches and not np.isnan(prediction.branch_probs).all():
            made = replace(made, branches=modalities, branch_probs=prediction.branch_probs.astype(np.float16))
        tables[name] = made
        if name == branches_of:
            for modality, probs in zip(modalities, prediction.branch_probs.swapaxes(0, 1), strict=True):
                if not (missing := np.isnan(probs[:, :1])).all():
                    tables[modality] = table(probs, [modality], np.where(missing, np.nan, 1).astype(np.float32))
    return tables


def weight_columns(names: Sequence[str], weights: NDArray[np.float32]) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return the weight of each modality, then that of each encoder of modalities with several.

    Args:
        names: Names of features; see `config.modality_of`.
        weights: Their weights, (n, M).

    Returns:
        The names of the columns, and the weights, (n, columns).
    """
    modalities = list(dict.fromkeys(map(modality_of, names)))
    is_of = np.array([[modality_of(name) == modality for modality in modalities] for name in names], np.float32)
    encoders = [index for index, name in enumerate(names) if name not in modalities]
    columns = np.concatenate([weights @ is_of.reshape(len(names), -1), weights[:, encoders]], axis=1)
    return (*modalities, *(names[index] for index in encoders)), columns


def training_curve(members: Sequence[Member]) -> list[tuple[int, float, float, int]]:
    """Return the mean validation loss and weighted F1 of the members in each epoch of joint training.

    A member that has stopped counts with the values of its best epoch, whose weights it has. The last row is therefore
    the mean of the members as they are used.

    Returns:
        Epoch, mean loss, mean weighted F1, and the number of members that were trained in this epoch; empty if no
        member can predict a validation clip.
    """
    trained = [member for member in members if member.curve]
    epochs = max((len(member.curve) for member in trained), default=0)
    rows = []
    for epoch in range(epochs + 1 if epochs else 0):
        points = [
            member.curve[epoch if epoch < len(member.curve) else member.epochs] for member in trained
        ]  # (loss, weighted F1) of each member
        loss, f1 = np.mean(points, axis=0).round(6).tolist()
        rows.append((epoch, loss, f1, sum(epoch < len(member.curve) for member in trained)))
    return rows
