"""Which variants of the fusion are compared with it: modalities, models, parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.evaluation.config import AblateConfig
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig

REFERENCE = "fusion"

PARTS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no attention among modalities": ({"layers": 0}, {}),
    "two layers of attention": ({"layers": 2}, {}),
    "no LayerNorm": ({"layer_norm": False}, {}),
    "tokens summed as they are": ({"joint": "sum"}, {}),
    "fixed weights": ({"weighting": "fixed"}, {}),
    "equal weights": ({"weighting": "equal"}, {}),
    "no path of a modality's own logits": ({"own_path": False}, {}),
    "no path of the attended tokens": ({"token_path": False}, {}),
    "no separate training of the branches": ({}, {"staged": False}),
    "branches learn on, gently": ({}, {"joint_learning_rate": 1e-4}),
    "branches learn on": ({}, {"joint_learning_rate": 1e-3}),
    "no modality dropout": ({}, {"modality_dropout": 0.0}),
    "with label smoothing 0.1": ({}, {"label_smoothing": 0.1}),
    "no class weights": ({}, {"class_weights": "none"}),
    "with mixup 0.2": ({}, {"mixup": 0.2}),
}
"""What is changed of the fusion's configuration and of its training."""

QUANTILES = {"q05": 0.05, "median": 0.5, "q95": 0.95}


@dataclass(frozen=True)
class Variant:
    """One thing that is trained.

    Attributes:
        table: Which comparison it belongs to.
        name: What is said of it.
        features: Its modalities, (n, D) or (n, T, D) each.
        fusion: Its model.
        training: How it is trained.
        without: The modality it lacks, where it is one that is left out.
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
    """The reference first, then each variant.

    Args:
        features: All modalities in use.
        text_halves: The text features of the original and of the enriched transcript alone; empty where there is one.
        fusion: The model of the reference.
        training: How all are trained.
        config: Which comparisons are made.
        otherwise: All modalities again, their rows read in another way, by what is said of that.
    """
    yield Variant("reference", REFERENCE, features, fusion, training)
    if config.modalities:
        for table, name, chosen, without in _choices(list(features)):
            model = fusion.alone(chosen[0]) if table == "alone" else fusion
            if model.single in {None, *chosen}:  # without its modality, a model of one cannot be
                yield Variant(table, name, {m: features[m] for m in chosen}, model, training, without)
        for name, half in text_halves.items():
            # A fusion of the text alone is the next line; one of another modality does not hear it.
            if len(features) > 1 and fusion.single in {None, "text"}:
                yield Variant("text", f"fusion with {name} text", {**features, "text": half}, fusion, training)
            yield Variant("text", f"{name} text alone", {"text": half}, fusion.alone("text"), training)
    for name, read in (otherwise or {}).items():
        yield Variant("rows", name, read, fusion, training)
    for kind in config.fusions:
        if kind != fusion.kind:
            changed = FusionConfig(**(fusion.model_dump() | {"kind": kind}))
            yield Variant("fusion", kind, features, changed, training)
    if config.parts:
        for name, shape, schooling in _parts(fusion, training):
            yield Variant("part", name, features, shape, schooling)


def _choices(modalities: Sequence[str]) -> Iterator[tuple[str, str, list[str], str]]:
    if len(modalities) < 2:
        return
    for name in modalities:
        yield "alone", f"{name} alone", [name], ""
    if len(modalities) > 2:  # of two, leaving one out is the other alone
        for name in modalities:
            yield "left out", f"without {name}", [other for other in modalities if other != name], name
    if {"global", "face"} < set(modalities):
        yield "view", "global and face", ["global", "face"], ""


def _parts(fusion: FusionConfig, training: TrainingConfig) -> Iterator[tuple[str, FusionConfig, TrainingConfig]]:
    """What of `PARTS` can be changed: a fusion without either path cannot be, the reference need not be again."""
    for name, (shape, schooling) in PARTS.items():
        wanted = fusion.model_dump() | shape
        if not (wanted["own_path"] or wanted["token_path"]):
            continue
        changed = FusionConfig(**wanted), TrainingConfig(**(training.model_dump() | schooling))
        if changed != (fusion, training):
            yield name, *changed


def weight_diagnostics(
    weights: NDArray[np.float32], modalities: Sequence[str], *, collapse_above: float
) -> dict[str, Any]:
    """Describe the distribution of modality weights.

    Args:
        weights: (n, M); rows of NaN do not count.
        modalities: Their names, M.
        collapse_above: Mean weight of one modality above which a warning names it.

    Returns:
        ``modalities`` (for each, mean, standard deviation, quantiles, and ``heaviest``, the share of clips where it
        weighs most), ``effective_modalities`` (the exponential of the mean entropy: 1 where one modality has all the
        weight, M where all weigh the same) and ``warnings``.
    """
    known = weights[~np.isnan(weights).any(axis=1)].astype(np.float64)  # (k, M)
    if not len(known):
        return {"modalities": {}, "effective_modalities": None, "warnings": ["no clip has modality weights"]}
    heaviest = known.argmax(axis=1)  # (k,)
    described = {
        name: {
            "mean": round(float(column.mean()), 6),
            "std": round(float(column.std()), 6),
            **{key: round(float(np.quantile(column, share)), 6) for key, share in QUANTILES.items()},
            "heaviest": round(float((heaviest == index).mean()), 6),
        }
        for index, (name, column) in enumerate(zip(modalities, known.T, strict=True))
    }
    entropy = -(known * np.log(np.maximum(known, 1e-12))).sum(axis=1)  # (k,)
    collapsed = [name for name, row in described.items() if row["mean"] > collapse_above]
    warnings = [
        f"the fusion has collapsed onto {name}: its mean weight is {described[name]['mean']:.2f}, so that the other "
        "modalities hardly count"
        for name in collapsed
        if len(modalities) > 1
    ]
    return {
        "modalities": described,
        "effective_modalities": round(float(np.exp(entropy.mean())), 6),
        "warnings": warnings,
    }
