"""Training of an ensemble: folds times seeds of one model, and the temperatures that calibrate it.

With one model a fold it is one more voter in the rounds of `vote`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ecmf_pipeline.core.arrays import Floats, Ints, assign_folds, group_names, scores
from ecmf_pipeline.core.console import progress_bar
from ecmf_pipeline.core.errors import InputError, TooFewClips
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.inputs import encode_labels, label_type, read_inputs
from ecmf_pipeline.fusion.member import Examples
from ecmf_pipeline.fusion.plan import NEVER, Plan, found_settings
from ecmf_pipeline.fusion.prediction import EVERYONE, Ensemble

LEAST_CLIPS = 20
"""With fewer, a temperature would be a guess: probabilities are left as they are."""

BOUNDS = (0.2, 5.0)

PRIOR = 2.0
"""Pull of the log-temperature towards 0, in clips (a standard deviation of 0.5): where a few dozen happen to be all
right, they are no proof of certainty."""


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold predictions of n clips.

    Attributes:
        probs: Probability of each label, (n, C); a row of NaN where a clip has no modality.
        predictions: The likeliest label in the type of the labels handed in, (n,): integers (of bools too), floats or
            names; -1 or "" where there is none.
        modality_weights: Share of each modality, (n, M).
        metrics: `arrays.scores` over the clips that have a label and a prediction, and ``unpredicted``: how many have
            a label alone. With ``protocol: mertools`` also ``mertools``: the same scores of models that kept the epoch
            which does best on the very fold they are judged by.
        folds: The fold that held each clip out, (n,).
        ensemble: The models, to predict other clips with.
    """

    probs: NDArray[np.float32]
    predictions: NDArray[Any]
    modality_weights: NDArray[np.float32]
    metrics: dict[str, Any]
    folds: NDArray[np.int64]
    ensemble: Ensemble


def fit(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    groups: Iterable[Any] | None = None,
    masks: Mapping[str, ArrayLike] | None = None,
    fusion: FusionConfig | None = None,
    training: TrainingConfig | None = None,
    *,
    weights: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    clip_ids: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    description: str = "train",
    optimistic: bool = False,
) -> Ensemble:
    """Train one model for every fold and seed.

    Args:
        features: For each modality, (n, D), or (n, T, D) at frame level; a row of NaN where a clip, or a frame, is
            missing.
        labels: Class indices, or names, (n,); -1, or "", where there is none, or None or NaN in either. Indices are
            those of the columns of probabilities: there are as many of these as the largest plus one, unless
            ``label_names`` say otherwise.
        groups: Speaker or dialogue of each clip, (n,): words or numbers, "", None or NaN where unknown. No fold tears
            one apart.
        masks: For each modality, whether a clip has it, (n,); beside the rows of NaN.
        fusion: The shape of the models.
        training: How to train them.
        weights: How much each clip counts, (n,), not negative. A clip of weight 0, like one without a label, is not
            learned from in any way, but stands in a fold all the same.
        folds: The fold of each clip, (n,), to have folds of one's own; -1 for a clip that is never held out.
        clip_ids: Names of the clips, (n,), under which `Ensemble.folds` keeps their folds; their row numbers if None.
        label_names: All labels in order; needed where some may not occur.
        description: What the progress bar says.
        optimistic: Whether each model keeps the epoch that does best on the very fold it is judged by, as the
            baseline's do: figures out of fold are then too good to be true.

    Raises:
        TooFewClips: When there are too few clips, classes or groups, or ``folds`` hold out no clip.
        InputError: When a label is unknown or no class index (`inputs.encode_labels`), or the device cannot be used.
        ValueError: When arrays differ in length, weights are negative, or ``folds`` are no whole numbers from -1 up.
    """
    fusion, training = fusion or FusionConfig(), training or TrainingConfig()
    device = _device(training.device)
    classes, names = encode_labels(labels, label_names)
    inputs = read_inputs(features, masks, device=device)
    clips = len(classes)
    counts = np.ones(clips) if weights is None else np.asarray(weights, dtype=np.float64)
    clip_ids = list(map(str, range(clips))) if clip_ids is None else list(clip_ids)
    groups = None if groups is None else group_names(groups)
    lengths = [len(inputs), len(counts), len(set(clip_ids)), clips if groups is None else len(groups)]
    if set(lengths) != {clips}:
        raise ValueError(f"{clips} labels, but features, weights, unique clip ids and groups count {lengths}")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError("weights must be finite and not negative")
    if folds is None:
        assigned = assign_folds(classes, groups, training.folds, rng=np.random.default_rng(training.seed))
    else:
        assigned = _own_folds(folds, clips)
    usable = (counts > 0) & (classes >= 0) & inputs.present.any(dim=1).cpu().numpy()
    plan = Plan(
        examples=Examples(
            inputs,
            torch.from_numpy(classes).to(device),
            torch.from_numpy(counts.astype(np.float32)).to(device),
        ),
        classes=classes,
        groups=groups,
        folds=np.where(usable, assigned, NEVER),
        dims={name: values.shape[-1] for name, values in zip(features, inputs.features, strict=True)},
        n_classes=len(names),
        fusion=fusion,
        training=training,
    )
    jobs = [(fold, repeat) for fold in np.unique(assigned[assigned >= 0]).tolist() for repeat in range(training.seeds)]
    members = []
    with _one_thread(), progress_bar(description, len(jobs), unit="model") as bar:
        settings = {fold: found_settings(plan, fold) for fold in sorted({fold for fold, _ in jobs})}
        for fold, repeat in jobs:
            members.append(plan.train(fold, repeat, settings[fold], optimistic=optimistic))
            bar.update()
    by_clip = dict(zip(clip_ids, assigned.tolist(), strict=True))
    ensemble = Ensemble(
        tuple(members), plan.dims, names, by_clip, frozenset(by_clip), fusion, training, label_type=label_type(labels)
    )
    if training.calibration == "none":
        return ensemble
    held_out = np.flatnonzero(usable & (assigned >= 0))
    seen = {name: np.asarray(values)[held_out] for name, values in features.items()}
    masked = {name: np.asarray(values)[held_out] for name, values in (masks or {}).items()}
    with _one_thread():
        probs = ensemble.predict(seen, assigned[held_out], masked).probs
    temperatures = held_out_temperatures(probs, classes[held_out], counts[held_out], assigned[held_out])
    return replace(ensemble, temperatures=temperatures)


def cross_validate(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    groups: Iterable[Any] | None = None,
    masks: Mapping[str, ArrayLike] | None = None,
    fusion: FusionConfig | None = None,
    training: TrainingConfig | None = None,
    *,
    weights: ArrayLike | None = None,
    label_names: Sequence[str] | None = None,
) -> CrossValidation:
    """Train in folds and predict each clip with the models of the fold that held it out.

    Args and errors are those of `training.fit`; `TooFewClips` also where not one labelled clip can be predicted.
    """
    classes, names = encode_labels(labels, label_names)
    training = training or TrainingConfig()
    groups = None if groups is None else group_names(groups)
    train = partial(
        fit,
        features,
        labels,
        groups=groups,
        masks=masks,
        weights=weights,
        label_names=names,
        fusion=fusion,
        training=training,
    )
    ensemble = train(description="cross-validate")
    folds = ensemble.held_out(str(row) for row in range(len(classes)))
    prediction = ensemble.predict(features, folds, masks)
    found = prediction.classes
    metrics = _scores(classes, found, names)
    if training.protocol == "mertools":
        too_good = train(description="cross-validate as the baseline does", optimistic=True)
        metrics["mertools"] = _scores(classes, too_good.predict(features, folds, masks).classes, names)
    return CrossValidation(
        prediction.probs, prediction.predictions, prediction.modality_weights, metrics, folds, ensemble
    )


def _scores(classes: NDArray[np.int64], found: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    judged = (classes >= 0) & (found >= 0)
    if not judged.any():
        raise TooFewClips(
            f"none of {int((classes >= 0).sum())} labelled clips has a modality that the models listen to",
            "choose a fusion kind whose modality is there: all its rows are NaN, or masked",
        )
    told: dict[str, Any] = scores([names[i] for i in classes[judged]], [names[i] for i in found[judged]], names)
    told["unpredicted"] = int(((classes >= 0) & (found < 0)).sum())
    return told


def _own_folds(folds: ArrayLike, clips: int) -> NDArray[np.int64]:
    given = np.asarray(folds)
    numbers = given.shape == (clips,) and given.dtype.kind in "biuf" and bool(np.isfinite(given).all())
    if not numbers or (given != np.round(given)).any() or (given < -1).any():
        raise ValueError(f"folds must be whole numbers from -1 up, one for each of {clips} clips")
    assigned = given.astype(np.int64)
    if not (assigned >= 0).any():
        raise TooFewClips("no clip stands in a fold: there is no model to train", "give some clips a fold from 0 up")
    return assigned


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hint = "set it to auto, cpu or cuda"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used ({error})", hint) from error
    if device.type == "meta":
        raise InputError(f"device {name!r} cannot be used (its tensors hold no numbers)", hint)
    return device


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are then always taken in the same order, and steps this small are no slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def held_out_temperatures(
    probs: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64], folds: NDArray[np.int64]
) -> dict[int, float]:
    """One temperature for each fold, fitted on the clips of the other folds; and one for all other clips.

    So the fit never looks at a clip's own label. What it looks at, the other folds' probabilities, is of models that
    may have learned from that label: through the temperature it moves how certain the clip's probabilities are a
    little, and never which label is likeliest.

    Args:
        probs: Out-of-fold probabilities, (n, C); rows of NaN do not count.
        labels: Class indices, (n,).
        weights: How much each clip counts, (n,).
        folds: The fold of each clip, (n,).
    """
    known = ~np.isnan(probs[:, 0])
    chosen = {EVERYONE: known} | {int(fold): known & (folds != fold) for fold in np.unique(folds)}
    return {fold: temperature(probs[rows], labels[rows], weights[rows]) for fold, rows in chosen.items()}


def temperature(probs: NDArray[np.float32], labels: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """The temperature of the lowest weighted negative log-likelihood, within `BOUNDS`; 1.0 for too few clips."""
    from scipy.optimize import minimize_scalar

    if len(probs) < LEAST_CLIPS:
        return 1.0
    logs = np.log(np.maximum(probs.astype(np.float64), 1e-12))  # (n, C)

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        likelihood = scaled[np.arange(len(labels)), labels] - np.logaddexp.reduce(scaled, axis=1)
        return PRIOR / len(labels) * log_temperature**2 - float(np.average(likelihood, weights=weights))

    found = minimize_scalar(loss, bounds=tuple(np.log(BOUNDS)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


@dataclass(frozen=True, slots=True)
class FusionVoter:
    """The fusion as a voter, out of fold, on labels weighed by fold; see `labels.voters.JointVoter`.

    Attributes:
        features: By modality, (n, D), a row of NaN where a clip has none.
        groups: Speaker or dialogue of each clip, (n,), "" where unknown.
        labels: The K label names.
        fusion: The model.
        training: How it is trained: one model a fold is enough of a vote, and none of its clips calibrates it.
    """

    features: Mapping[str, NDArray[np.float32]]
    groups: Sequence[str]
    labels: Sequence[str]
    fusion: FusionConfig
    training: TrainingConfig

    def votes(self, given: Ints, folds: Ints, weights: Mapping[int, Floats] | None = None) -> Floats:
        """See `labels.voters.JointVoter`; NaN also where no model can be trained.

        A clip without a label is judged like the others of its fold.
        """
        found = np.full((len(given), len(self.labels)), np.nan)
        for fold in np.unique(folds).tolist():
            asked = folds == fold
            try:
                ensemble = fit(
                    self.features,
                    np.where(asked, -1, given),
                    groups=self.groups,
                    weights=None if weights is None else weights.get(fold),
                    folds=np.where(asked, 0, -1),
                    label_names=self.labels,
                    fusion=self.fusion,
                    training=self.training.model_copy(update={"seeds": 1, "calibration": "none", "protocol": "nested"}),
                    description="vote: fusion",
                )
            except TooFewClips:
                continue
            found[asked] = ensemble.predict({name: values[asked] for name, values in self.features.items()}).probs
        return found
