"""Define the variants of the ablation study: modalities, fusion models and model parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.evaluation.config import AblateConfig
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig, modality_of

REFERENCE = "fusion"

PARTS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no attention between modalities": ({"layers": 0}, {}),
    "two attention layers": ({"layers": 2}, {}),
    "no LayerNorm": ({"layer_norm": False}, {}),
    "no kernel path": ({"kernel_path": False}, {}),
    "tokens summed without projection": ({"joint": "sum"}, {}),
    "fixed modality weights": ({"weighting": "fixed"}, {}),
    "equal modality weights": ({"weighting": "equal"}, {}),
    "without unimodal logits": ({"own_path": False}, {}),
    "without logits of attended tokens": ({"token_path": False}, {}),
    "branches not trained separately first": ({}, {"staged": False}),
    "branches fine-tuned jointly, learning rate 1e-4": ({}, {"joint_learning_rate": 1e-4}),
    "branches fine-tuned jointly, learning rate 1e-3": ({}, {"joint_learning_rate": 1e-3}),
    "no modality dropout": ({}, {"modality_dropout": 0.0}),
    "with label smoothing 0.1": ({}, {"label_smoothing": 0.1}),
    "no class weights": ({}, {"class_weights": "none"}),
    "with mixup 0.2": ({}, {"mixup": 0.2}),
}
"""Changes to the fusion settings and to the training settings, by variant."""

QUANTILES = {"q05": 0.05, "median": 0.5, "q95": 0.95}


@dataclass(frozen=True)
class Variant:
    """One model to train.

    Attributes:
        table: Comparison to which it belongs.
        name: Name in tables.
        features: Its modalities, (n, D) or (n, T, D) each.
        fusion: Its model.
        training: Its training settings.
        without: The modality left out, if it is one of the ``left out`` table.
    """

    table: str
    name: str
    features: Mapping[str, NDArray[np.float32]] = field(repr=False)
    fusion: FusionConfig
    training: TrainingConfig
    without: str = ""


def variants(
    features: Mapping[str, NDArray[np.float32]],
    text_halves: Mapping[str, NDArray[np.float32]],
    fusion: FusionConfig,
    training: TrainingConfig,
    config: AblateConfig,
    *,
    otherwise: Mapping[str, Mapping[str, NDArray[np.float32]]] | None = None,
) -> Iterator[Variant]:
    """Yield the reference, then each variant.

    Args:
        features: All modalities in use.
        text_halves: Text features of the original transcript alone and of the enriched one alone; empty if there is
            only one.
        fusion: Model of the reference.
        training: Training settings of all variants.
        config: Comparisons to make.
        otherwise: All modalities with another pooling of the frames, by name of the pooling.
    """
    yield Variant("reference", REFERENCE, features, fusion, training)
    if config.modalities:
        for table, name, chosen, without in _choices(list(features)):
            model = fusion.alone(chosen[0]) if table == "alone" else fusion
            if model.single in {None, *chosen}:  # a single-modality model needs its modality
                yield Variant(table, name, {m: features[m] for m in chosen}, model, training, without)
        for name, half in text_halves.items():
            # With text as the only modality this equals the next variant; other single-modality models ignore text.
            if len(features) > 1 and fusion.single in {None, "text"}:
                yield Variant("text", f"fusion with {name} text", {**features, "text": half}, fusion, training)
            yield Variant("text", f"{name} text alone", {"text": half}, fusion.alone("text"), training)
    for name, other_features in (otherwise or {}).items():
        yield Variant("rows", name, other_features, fusion, training)
    for kind in config.fusions:
        if kind != fusion.kind:
            changed = FusionConfig(**(fusion.model_dump() | {"kind": kind}))
            yield Variant("fusion", kind, features, changed, training)
    if config.parts:
        for name, part_fusion, part_training in _parts(fusion, training):
            yield Variant("part", name, features, part_fusion, part_training)


def _choices(names: Sequence[str]) -> Iterator[tuple[str, str, list[str], str]]:
    """Yield table, name, chosen features and the one left out: encoders, and modalities of several encoders."""
    if len(names) < 2:
        return
    for name in names:
        yield "alone", f"{name} alone", [name], ""
    of_several = [m for m in dict.fromkeys(map(modality_of, names)) if m not in names]
    groups = {m: [name for name in names if modality_of(name) == m] for m in of_several}
    for modality, members in groups.items():
        if len(members) < len(names):
            yield "alone", f"{modality} alone", members, ""
    if len(names) > 2:  # with two, leaving one out equals the other alone
        for left_out, members in ({name: [name] for name in names} | groups).items():
            if kept := [other for other in names if other not in members]:
                yield "left out", f"without {left_out}", kept, left_out
    if {"global", "face"} < set(names):
        yield "view", "global and face", ["global", "face"], ""


def _parts(fusion: FusionConfig, training: TrainingConfig) -> Iterator[tuple[str, FusionConfig, TrainingConfig]]:
    """Yield the variants of `PARTS` that can be trained and differ from the reference.

    A fusion needs at least one of the two logit paths.
    """
    for name, (fusion_changes, training_changes) in PARTS.items():
        fusion_settings = fusion.model_dump() | fusion_changes
        if not (fusion_settings["own_path"] or fusion_settings["token_path"]):
            continue
        changed = FusionConfig(**fusion_settings), TrainingConfig(**(training.model_dump() | training_changes))
        if changed != (fusion, training):
            yield name, *changed


def weight_diagnostics(
    weights: NDArray[np.float32], modalities: Sequence[str], *, collapse_above: float
) -> dict[str, Any]:
    """Describe the distribution of modality weights.

    Args:
        weights: Weights, (n, M); rows of NaN are ignored.
        modalities: Names of the M modalities.
        collapse_above: Mean weight of one modality above which a warning names it.

    Returns:
        ``modalities`` (for each: mean, standard deviation, quantiles, and ``heaviest``, the share of clips for which it
        has the largest weight), ``effective_modalities`` (exponential of the mean entropy: 1 if one modality has all
        the weight, M if all have the same) and ``warnings``.
    """
    known_weights = weights[~np.isnan(weights).any(axis=1)].astype(np.float64)  # (k, M)
    if not len(known_weights):
        return {"modalities": {}, "effective_modalities": None, "warnings": ["no clip has modality weights"]}
    heaviest = known_weights.argmax(axis=1)  # (k,)
    statistics = {
        name: {
            "mean": round(float(column.mean()), 6),
            "std": round(float(column.std()), 6),
            **{key: round(float(np.quantile(column, share)), 6) for key, share in QUANTILES.items()},
            "heaviest": round(float((heaviest == index).mean()), 6),
        }
        for index, (name, column) in enumerate(zip(modalities, known_weights.T, strict=True))
    }
    entropy = -(known_weights * np.log(np.maximum(known_weights, 1e-12))).sum(axis=1)  # (k,)
    collapsed = [name for name, row in statistics.items() if row["mean"] > collapse_above]
    warnings = [
        f"the fusion has collapsed onto {name}: its mean weight is {statistics[name]['mean']:.2f}, and the other "
        "modalities have almost no influence"
        for name in collapsed
        if len(modalities) > 1
    ]
    return {
        "modalities": statistics,
        "effective_modalities": round(float(np.exp(entropy.mean())), 6),
        "warnings": warnings,
    }
