"""Ablation study: train variants of the fusion model, and test the model on damaged inputs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import bootstrap_samples, scores
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.core.files import write_atomic, write_sealed_json
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.evaluation.config import AblateConfig
from ecmf_pipeline.evaluation.plain import plain_predictions
from ecmf_pipeline.evaluation.scoring import groups_to_draw
from ecmf_pipeline.evaluation.smallest import SubsetScores, find_smallest
from ecmf_pipeline.evaluation.variants import REFERENCE, Variant, weight_diagnostics
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import fit

NO_PREDICTION = ""
"""Prediction for a clip without any modality of the variant; it counts as wrong."""

VARIANT_COLUMNS = ("table", "name", "clips", "weighted_f1", "accuracy", "difference", "low", "high")

ROBUSTNESS_COLUMNS = (
    "modality", "damage", "clips", "weighted_f1", "accuracy", "difference", "low", "high", "trained_without",
)  # fmt: skip

Damage = Callable[[NDArray[np.float32], np.random.Generator, float], NDArray[np.float32]]


@dataclass(frozen=True)
class Study:
    """Clips for training and evaluating all variants.

    Attributes:
        labels: Class indices to train on, (n,); -1 if there is none.
        truth: True label for evaluation, (n,); "" if the clip is not evaluated.
        groups: Speaker or dialogue, (n,); "" if unknown.
        folds: Fold of each clip, (n,); it is predicted by models that saw neither the clip nor its group.
        label_names: The labels, in order.
        config: Seeds and bootstrap settings.
    """

    labels: NDArray[np.int64]
    truth: NDArray[np.str_]
    groups: Sequence[str]
    folds: NDArray[np.int64]
    label_names: tuple[str, ...]
    config: AblateConfig

    def train(self, variant: Variant, *, optimistic: bool = False) -> list[Ensemble]:
        """Train one ensemble per seed, with one model per fold.

        Raises:
            TooFewClips: If there are too few clips to train on.
        """
        return [
            fit(
                variant.features,
                self.labels,
                groups=self.groups,
                folds=self.folds,
                label_names=self.label_names,
                fusion=variant.fusion,
                training=variant.training.model_copy(
                    update={"seeds": 1, "seed": variant.training.seed + number, "calibration": "none"}
                ),
                description=f"ablate {variant.name}",
                optimistic=optimistic,
            )
            for number in range(self.config.seeds)
        ]

    def predict(
        self, ensembles: Iterable[Ensemble], features: Mapping[str, NDArray[np.float32]], *, alone: str = ""
    ) -> NDArray[np.str_]:
        """Return the label predicted by each ensemble for each evaluated clip, (S, j).

        With ``alone`` the branch of this modality predicts.
        """
        is_evaluated = self.truth != NO_PREDICTION
        names = np.array([*self.label_names, NO_PREDICTION])
        evaluated_features = {name: values[is_evaluated] for name, values in features.items()}
        predictions = [ensemble.predict(evaluated_features, self.folds[is_evaluated]) for ensemble in ensembles]
        if not alone:
            return np.stack([names[prediction.classes] for prediction in predictions])
        index = list(features).index(alone)
        return np.stack([names[prediction.branch_classes[:, index]] for prediction in predictions])

    def mean_scores(self, predictions: NDArray[np.str_]) -> dict[str, Any]:
        """Return scores of predictions, (S, j), averaged over seeds."""
        truth = [str(label) for label in self.truth if label != NO_PREDICTION]
        scores_by_seed = [scores(truth, row.tolist(), self.label_names) for row in predictions]
        return {"clips": len(truth)} | {
            key: round(float(np.mean([float(str(seed_scores[key])) for seed_scores in scores_by_seed])), 6)
            for key in ("weighted_f1", "accuracy")
        }

    def difference(self, predictions: NDArray[np.str_], reference: NDArray[np.str_]) -> dict[str, float]:
        """Return the difference in weighted F1 to the reference, (S, j) each, with a paired bootstrap interval (95%).

        Predictions of equal seeds are paired and the bootstrap samples of all seeds pooled, so the interval is over
        seeds and clips, or over whole groups if the group of each clip is known.
        """
        is_evaluated = self.truth != NO_PREDICTION
        groups = groups_to_draw([group for group, used in zip(self.groups, is_evaluated, strict=True) if used])
        pairs = [
            bootstrap_samples(
                predicted,
                reference_predicted,
                self.truth[is_evaluated],
                rng=np.random.default_rng([self.config.seed, number]),
                groups=groups,
                draws=self.config.draws,
            )
            for number, (predicted, reference_predicted) in enumerate(zip(predictions, reference, strict=True))
        ]
        low, high = np.quantile(np.concatenate([samples for _, samples in pairs]), [0.025, 0.975])
        mean_difference = float(np.mean([difference for difference, _ in pairs]))
        return {"difference": round(mean_difference, 6), "low": round(float(low), 6), "high": round(float(high), 6)}


@dataclass(frozen=True)
class Ablation:
    """Results of an ablation study.

    Attributes:
        results: Content of the JSON file.
        predictions: Predictions by variant, (S, j): one label per seed and evaluated clip.
    """

    results: dict[str, Any]
    predictions: dict[str, NDArray[np.str_]]


def ablate(study: Study, chosen: Sequence[Variant], advance: Callable[[], object]) -> Ablation:
    """Train and evaluate each variant, and test the reference on damaged inputs.

    Args:
        study: The clips.
        chosen: The variants; the first one is the reference.
        advance: Callback invoked after each variant.

    Raises:
        TooFewClips: If there are too few clips to train the reference.
    """
    reference = chosen[0]
    ensembles = study.train(reference)
    reference_predictions = study.predict(ensembles, reference.features)
    advance()
    predictions, rows, skipped = {REFERENCE: reference_predictions}, [], []
    for variant in chosen[1:]:
        try:
            if variant.table == "alone" and len(variant.features) == 1 and ensembles[0].has_single_models:
                predicted = study.predict(ensembles, reference.features, alone=next(iter(variant.features)))
            else:
                predicted = study.predict(study.train(variant), variant.features)
        except TooFewClips as error:
            skipped.append({"name": variant.name, "why": error.message})
            continue
        finally:
            advance()
        predictions[variant.name] = predicted
        rows.append(
            {"table": variant.table, "name": variant.name, "without": variant.without}
            | study.mean_scores(predicted)
            | study.difference(predicted, reference_predictions)
        )
    if study.config.plain:
        for name, predicted in _plain_predictions(study, reference).items():
            predictions[name] = predicted
            rows.append(
                {"table": "plain", "name": name, "without": ""}
                | study.mean_scores(predicted)
                | study.difference(predicted, reference_predictions)
            )
    weights = np.concatenate([e.predict(reference.features, study.folds).modality_weights for e in ensembles])
    results: dict[str, Any] = {
        "reference": {"kind": reference.fusion.kind, "modalities": list(reference.features)}
        | study.mean_scores(reference_predictions),
        "variants": rows,
        "skipped": skipped,
        "robustness": robustness(study, ensembles, reference.features, reference_predictions, rows),
        "weights": weight_diagnostics(weights, list(reference.features), collapse_above=study.config.collapse_above),
    }
    if study.config.sets and len(reference.features) > 1:
        results["smallest"] = smallest_set(study, ensembles, reference.features, reference_predictions)
    if reference.training.protocol == "mertools":
        optimistic_predictions = study.predict(study.train(reference, optimistic=True), reference.features)
        results["mertools_protocol"] = study.mean_scores(optimistic_predictions) | {
            "note": "optimistic: epochs are selected on the fold that is also used for evaluation"
        }
    return Ablation(results, predictions)


def _plain_predictions(study: Study, reference: Variant) -> dict[str, NDArray[np.str_]]:
    """Return the predictions of the plain models, (S, j), equal for all seeds; none if there are too few clips."""
    is_evaluated = study.truth != NO_PREDICTION
    names = np.array([*study.label_names, NO_PREDICTION])
    try:
        predicted = plain_predictions(
            reference.features,
            study.labels,
            study.groups,
            study.folds,
            seed=reference.training.seed,
            queried=is_evaluated,
        )
    except TooFewClips:
        return {}
    return {name: np.tile(names[classes[is_evaluated]], (study.config.seeds, 1)) for name, classes in predicted.items()}


def smallest_set(
    study: Study,
    ensembles: Sequence[Ensemble],
    features: Mapping[str, NDArray[np.float32]],
    reference_predictions: NDArray[np.str_],
) -> dict[str, Any]:
    """Return the smallest set of encoders within the margin of the best, chosen by the labels that are trained on."""
    scores = SubsetScores(ensembles, features, study.labels, study.folds, study.config.sets)
    found = find_smallest(scores, study.config.margin)
    names = np.array([*study.label_names, NO_PREDICTION])
    predictions = names[found.classes[:, study.truth != NO_PREDICTION]]
    return (
        {
            "kept": list(found.kept),
            "margin": study.config.margin,
            "sets": found.scored,
            "path": [{"kept": list(kept), "weighted_f1": round(score, 6)} for kept, score in found.path],
            "by_fold": {str(fold): list(kept) for fold, kept in found.by_fold.items()},
        }
        | study.mean_scores(predictions)
        | study.difference(predictions, reference_predictions)
    )


def robustness(
    study: Study,
    ensembles: Sequence[Ensemble],
    features: Mapping[str, NDArray[np.float32]],
    reference_predictions: NDArray[np.str_],
    rows: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Evaluate the reference with one modality missing, noisy, or shuffled between clips."""
    trained_without = {row["without"]: row["weighted_f1"] for row in rows if row["without"]}
    if len(features) == 2:  # leaving one out equals the other alone
        one, other = features
        alone = {row["name"]: row["weighted_f1"] for row in rows if row["table"] == "alone"}
        trained_without = {one: alone.get(f"{other} alone"), other: alone.get(f"{one} alone")}
    kinds: list[tuple[str, Damage]] = [("missing", missing)] if len(features) > 1 else []
    kinds += [("noisy", noisy), ("shuffled", shuffled)]
    table = []
    for name, values in features.items():
        for kind, apply_damage in kinds:
            rng = np.random.default_rng([study.config.seed, list(features).index(name)])
            damaged = {**features, name: apply_damage(values, rng, study.config.noise)}
            predicted = study.predict(ensembles, damaged)
            row = (
                {"modality": name, "damage": kind}
                | study.mean_scores(predicted)
                | study.difference(predicted, reference_predictions)
            )
            if kind == "missing":
                row["trained_without"] = trained_without.get(name)
            table.append(row)
    return table


def missing(values: NDArray[np.float32], _rng: np.random.Generator, _noise: float) -> NDArray[np.float32]:
    """Remove the modality from all clips."""
    return np.full_like(values, np.nan)


def noisy(values: NDArray[np.float32], rng: np.random.Generator, noise: float) -> NDArray[np.float32]:
    """Add Gaussian noise of ``noise`` standard deviations of each feature."""
    spread = np.nanstd(values.reshape(-1, values.shape[-1]), axis=0)  # (D,)
    drawn = rng.standard_normal(values.shape, dtype=np.float32)
    noised: NDArray[np.float32] = values + drawn * (noise * spread).astype(np.float32)
    return noised


def shuffled(values: NDArray[np.float32], rng: np.random.Generator, _noise: float) -> NDArray[np.float32]:
    """Permute the features among the clips that have the modality; missing features stay missing."""
    present = np.isfinite(values.reshape(len(values), -1)).any(axis=1)
    changed = values.copy()
    changed[present] = values[present][rng.permutation(int(present.sum()))]
    return changed


def write_ablation(folder: Path, metrics: Path, clip_ids: Sequence[str], judged_by: str, ablation: Ablation) -> None:
    """Write the tables and predictions into ``folder``, and the metrics file.

    The folder gets ``variants.csv``, ``robustness.csv`` and ``answers.npz`` with ``clip_ids``, (j,), the evaluated
    clips, ``variants``, (V,), and ``labels``, (V, S, j).
    """
    results = ablation.results
    write_sealed_json(metrics, {"judged_by": judged_by, **results})
    reference = {"table": "reference", "name": "fusion", **results["reference"]}
    _write_table(folder / "variants.csv", VARIANT_COLUMNS, [reference, *results["variants"]])
    _write_table(folder / "robustness.csv", ROBUSTNESS_COLUMNS, results["robustness"])
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        clip_ids=np.array(clip_ids, dtype=np.str_),
        variants=np.array(list(ablation.predictions), dtype=np.str_),
        labels=np.stack(list(ablation.predictions.values())),
    )
    write_atomic(folder / "answers.npz", packed.getvalue())


def write_no_ablation(folder: Path, metrics: Path) -> None:
    """Write tables without rows, because there are too few labels to train on."""
    (folder / "answers.npz").unlink(missing_ok=True)
    write_sealed_json(metrics, {"basis": Basis.ZERO_SHOT.value})
    _write_table(folder / "variants.csv", VARIANT_COLUMNS, [])
    _write_table(folder / "robustness.csv", ROBUSTNESS_COLUMNS, [])


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue())


def summary(results: Mapping[str, Any], judged_by: str) -> str:
    """Format the results: a line per variant and per kind of damage, then the warnings."""
    reference = results["reference"]
    lines = [
        f"ablate: fusion weighted F1 {reference['weighted_f1']:.4f} over {reference['clips']} clips, "
        f"evaluated on {judged_by} labels"
    ]
    lines += [f"  {row['name']}: {_format_row(row)}" for row in results["variants"]]
    if smallest := results.get("smallest"):
        lines.append(f"  smallest set, {', '.join(smallest['kept'])}: {_format_row(smallest)}")
    lines += [f"  {row['modality']} {row['damage']}: {_format_row(row)}" for row in results["robustness"]]
    if "mertools_protocol" in results:
        lines.append(f"  with the baseline's protocol: {results['mertools_protocol']['weighted_f1']:.4f} (optimistic)")
    lines += [f"  {row['name']}: not trained: {row['why']}" for row in results["skipped"]]
    lines += [f"  warning: {text}" for text in results["weights"]["warnings"]]
    return "\n".join(lines)


def _format_row(row: Mapping[str, Any]) -> str:
    return f"{row['weighted_f1']:.4f} ({row['difference']:+.4f}, {row['low']:+.4f} to {row['high']:+.4f})"
