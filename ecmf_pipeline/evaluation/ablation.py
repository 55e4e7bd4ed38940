"""What earns its place: variants of the fusion against it, and the fusion on damaged inputs."""

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
from ecmf_pipeline.core.files import write_atomic, write_json
from ecmf_pipeline.evaluation.config import AblateConfig
from ecmf_pipeline.evaluation.scoring import groups_to_draw
from ecmf_pipeline.evaluation.variants import REFERENCE, Variant, weight_diagnostics
from ecmf_pipeline.fusion.prediction import Ensemble
from ecmf_pipeline.fusion.training import fit

NOTHING = ""
"""The answer for a clip that a variant cannot judge: it counts as wrong."""

VARIANT_COLUMNS = ("table", "name", "clips", "weighted_f1", "accuracy", "difference", "low", "high")

ROBUSTNESS_COLUMNS = (
    "modality", "damage", "clips", "weighted_f1", "accuracy", "difference", "low", "high", "trained_without",
)  # fmt: skip

Damage = Callable[[NDArray[np.float32], np.random.Generator, float], NDArray[np.float32]]


@dataclass(frozen=True)
class Study:
    """The clips that all variants are trained on and judged by.

    Attributes:
        labels: Class indices to learn, (n,); -1 where there is none.
        truth: Label that a clip is judged by, (n,); "" where it is not judged.
        groups: Speaker or dialogue, (n,); "" where unknown.
        folds: The fold of each clip, (n,): it is judged by models that saw neither it nor its group.
        label_names: The labels, in order.
        config: Seeds and bootstrap.
    """

    labels: NDArray[np.int64]
    truth: NDArray[np.str_]
    groups: Sequence[str]
    folds: NDArray[np.int64]
    label_names: tuple[str, ...]
    config: AblateConfig

    def train(self, variant: Variant, *, optimistic: bool = False) -> list[Ensemble]:
        """One ensemble of one model a fold for each seed.

        Raises:
            TooFewClips: When there is too little to train on.
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

    def answers(self, ensembles: Iterable[Ensemble], features: Mapping[str, NDArray[np.float32]]) -> NDArray[np.str_]:
        """The label each ensemble gives each judged clip, (S, j)."""
        judged = self.truth != NOTHING
        names = np.array([*self.label_names, NOTHING])
        rows = {name: values[judged] for name, values in features.items()}
        return np.stack([names[ensemble.predict(rows, self.folds[judged]).classes] for ensemble in ensembles])

    def told(self, answers: NDArray[np.str_]) -> dict[str, Any]:
        """Scores of answers, (S, j), averaged over seeds."""
        truth = [str(label) for label in self.truth if label != NOTHING]
        each = [scores(truth, row.tolist(), self.label_names) for row in answers]
        return {"clips": len(truth)} | {
            key: round(float(np.mean([float(str(one[key])) for one in each])), 6) for key in ("weighted_f1", "accuracy")
        }

    def difference(self, answers: NDArray[np.str_], reference: NDArray[np.str_]) -> dict[str, float]:
        """Weighted F1 of answers minus the reference's, (S, j) each, with a paired bootstrap interval (95%).

        Each seed of the one is paired with the same seed of the other; their samples are pooled, so that the interval
        is over clips (whole groups where every clip's is known) and seeds.
        """
        judged = self.truth != NOTHING
        groups = groups_to_draw([group for group, one in zip(self.groups, judged, strict=True) if one])
        pairs = [
            bootstrap_samples(
                one,
                other,
                self.truth[judged],
                rng=np.random.default_rng([self.config.seed, number]),
                groups=groups,
                draws=self.config.draws,
            )
            for number, (one, other) in enumerate(zip(answers, reference, strict=True))
        ]
        low, high = np.quantile(np.concatenate([samples for _, samples in pairs]), [0.025, 0.975])
        middle = float(np.mean([difference for difference, _ in pairs]))
        return {"difference": round(middle, 6), "low": round(float(low), 6), "high": round(float(high), 6)}


@dataclass(frozen=True)
class Ablation:
    """What `ablate` found.

    Attributes:
        results: The content of the JSON file.
        answers: For each variant, the label of each judged clip by each seed, (S, j).
    """

    results: dict[str, Any]
    answers: dict[str, NDArray[np.str_]]


def ablate(study: Study, chosen: Sequence[Variant], advance: Callable[[], object]) -> Ablation:
    """Train and judge every variant, and try the reference, which comes first, on damaged inputs.

    Args:
        study: The clips.
        chosen: The variants.
        advance: Called after each.

    Raises:
        TooFewClips: When the reference itself cannot be trained.
    """
    reference = chosen[0]
    ensembles = study.train(reference)
    base = study.answers(ensembles, reference.features)
    advance()
    answers, rows, skipped = {REFERENCE: base}, [], []
    for variant in chosen[1:]:
        try:
            found = study.answers(study.train(variant), variant.features)
        except TooFewClips as error:
            skipped.append({"name": variant.name, "why": error.message})
            continue
        finally:
            advance()
        answers[variant.name] = found
        rows.append(
            {"table": variant.table, "name": variant.name, "without": variant.without}
            | study.told(found)
            | study.difference(found, base)
        )
    weights = np.concatenate([e.predict(reference.features, study.folds).modality_weights for e in ensembles])
    results: dict[str, Any] = {
        "reference": {"kind": reference.fusion.kind, "modalities": list(reference.features)} | study.told(base),
        "variants": rows,
        "skipped": skipped,
        "robustness": robustness(study, ensembles, reference.features, base, rows),
        "weights": weight_diagnostics(weights, list(reference.features), collapse_above=study.config.collapse_above),
    }
    if reference.training.protocol == "mertools":
        too_good = study.answers(study.train(reference, optimistic=True), reference.features)
        results["mertools_protocol"] = study.told(too_good) | {
            "note": "each epoch was chosen on the very fold it is judged by: too good to be true"
        }
    return Ablation(results, answers)


def robustness(
    study: Study,
    ensembles: Sequence[Ensemble],
    features: Mapping[str, NDArray[np.float32]],
    base: NDArray[np.str_],
    rows: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The reference on inputs of which one modality is missing, noisy, or another clip's."""
    trained_without = {row["without"]: row["weighted_f1"] for row in rows if row["without"]}
    if len(features) == 2:  # leaving one out is the other alone
        one, other = features
        alone = {row["name"]: row["weighted_f1"] for row in rows if row["table"] == "alone"}
        trained_without = {one: alone.get(f"{other} alone"), other: alone.get(f"{one} alone")}
    damage: list[tuple[str, Damage]] = [("missing", missing)] if len(features) > 1 else []
    damage += [("noisy", noisy), ("shuffled", shuffled)]
    table = []
    for name, values in features.items():
        for what, do in damage:
            rng = np.random.default_rng([study.config.seed, list(features).index(name)])
            damaged = {**features, name: do(values, rng, study.config.noise)}
            found = study.answers(ensembles, damaged)
            row = {"modality": name, "damage": what} | study.told(found) | study.difference(found, base)
            if what == "missing":
                row["trained_without"] = trained_without.get(name)
            table.append(row)
    return table


def missing(values: NDArray[np.float32], _rng: np.random.Generator, _noise: float) -> NDArray[np.float32]:
    """No clip has the modality."""
    return np.full_like(values, np.nan)


def noisy(values: NDArray[np.float32], rng: np.random.Generator, noise: float) -> NDArray[np.float32]:
    """Gaussian noise of so many standard deviations of each feature."""
    spread = np.nanstd(values.reshape(-1, values.shape[-1]), axis=0)  # (D,)
    drawn = rng.standard_normal(values.shape, dtype=np.float32)
    loud: NDArray[np.float32] = values + drawn * (noise * spread).astype(np.float32)
    return loud


def shuffled(values: NDArray[np.float32], rng: np.random.Generator, _noise: float) -> NDArray[np.float32]:
    """Every clip that has the modality gets another's features; what is missing stays missing."""
    here = np.isfinite(values.reshape(len(values), -1)).any(axis=1)
    changed = values.copy()
    changed[here] = values[here][rng.permutation(int(here.sum()))]
    return changed


def write_ablation(folder: Path, metrics: Path, clip_ids: Sequence[str], judged_by: str, found: Ablation) -> None:
    """Write the tables and answers into ``folder`` and the metrics beside the others.

    The folder gets ``variants.csv``, ``robustness.csv`` and ``answers.npz``: ``clip_ids``, (j,), those that are judged,
    ``variants``, (V,), and ``labels``, (V, S, j).
    """
    results = found.results
    write_json(metrics, {"judged_by": judged_by, **results})
    reference = {"table": "reference", "name": "fusion", **results["reference"]}
    _write_table(folder / "variants.csv", VARIANT_COLUMNS, [reference, *results["variants"]])
    _write_table(folder / "robustness.csv", ROBUSTNESS_COLUMNS, results["robustness"])
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        clip_ids=np.array(clip_ids, dtype=np.str_),
        variants=np.array(list(found.answers), dtype=np.str_),
        labels=np.stack(list(found.answers.values())),
    )
    write_atomic(folder / "answers.npz", packed.getvalue())


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def summary(results: Mapping[str, Any], judged_by: str) -> str:
    """A line for each variant and each kind of damage, and the warnings."""
    base = results["reference"]
    lines = [
        f"ablate: fusion weighted F1 {base['weighted_f1']:.4f} over {base['clips']} clips, judged by {judged_by} labels"
    ]
    lines += [f"  {row['name']}: {_against(row)}" for row in results["variants"]]
    lines += [f"  {row['modality']} {row['damage']}: {_against(row)}" for row in results["robustness"]]
    if "mertools_protocol" in results:
        lines.append(f"  by the baseline's protocol: {results['mertools_protocol']['weighted_f1']:.4f} (optimistic)")
    lines += [f"  {row['name']} was left out: {row['why']}" for row in results["skipped"]]
    lines += [f"  warning: {text}" for text in results["weights"]["warnings"]]
    return "\n".join(lines)


def _against(row: Mapping[str, Any]) -> str:
    return f"{row['weighted_f1']:.4f} ({row['difference']:+.4f}, {row['low']:+.4f} to {row['high']:+.4f})"
