"""Training of an ensemble: one model for each fold and seed, then calibration.

With one model for each fold, the fusion is also a voter of `vote`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ecmf_pipeline.core.arrays import Floats, Ints, ShortRepr, assign_folds, group_names, scores
from ecmf_pipeline.core.console import progress_bar
from ecmf_pipeline.core.errors import InputError, TooFewClips
from ecmf_pipeline.fusion.calibration import calibrate
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.folds import ClipFolds
from ecmf_pipeline.fusion.inputs import encode_labels, label_type, read_inputs
from ecmf_pipeline.fusion.member import Examples
from ecmf_pipeline.fusion.plan import NO_TRAINING, Plan, Settings
from ecmf_pipeline.fusion.prediction import Ensemble


@dataclass(frozen=True, repr=False)
class CrossValidation(ShortRepr):
    """Out-of-fold predictions of n clips.

    Attributes:
        probs: Probability of each label, (n, C); a row of NaN if a clip has no modality.
        predictions: The most likely label, (n,), in the type of the input labels: integers (also for bools), floats or
            names; -1 or "" without a prediction.
        modality_weights: Share of each modality, (n, M).
        metrics: `arrays.scores` of the clips with a label and a prediction, and ``unpredicted``: the number of clips
            with only a label. With ``protocol: mertools`` also ``mertools``: the same scores of models whose epoch was
            chosen on the evaluated fold.
        folds: The fold that held out each clip, (n,).
        ensemble: The models, for predicting other clips.
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
    """Train one model for each fold and seed.

    Args:
        features: For each modality, (n, D), or (n, T, D) at frame level; a missing clip or frame is a row of NaN.
        labels: Class indices or names, (n,); a missing label is -1, "", None or NaN. Indices are columns of the
            probabilities: there are as many columns as the largest index plus one, unless ``label_names`` is given.
        groups: Speaker or dialogue of each clip, (n,), as strings or numbers; "", None or NaN if unknown. All clips of
            a group are in the same fold.
        masks: For each modality, whether a clip has it, (n,); in addition to rows of NaN.
        fusion: Shape of the models.
        training: Training settings.
        weights: Sample weights, (n,), not negative. A clip of weight 0, like a clip without a label, is not trained on,
            but still belongs to a fold.
        folds: Custom fold of each clip, (n,); -1 for a clip that is never held out.
        clip_ids: Ids of the clips, (n,), for `Ensemble.folds`; their row numbers if None.
        label_names: All labels in order; needed if some may not occur.
        description: Text of the progress bar.
        optimistic: Whether each model keeps the best epoch on its own evaluated fold, like the baseline; out-of-fold
            scores are then optimistically biased.

    Raises:
        TooFewClips: If there are too few clips, classes or groups, or ``folds`` hold out no clip.
        InputError: If a label is unknown or not a class index (`inputs.encode_labels`), or the device cannot be used.
        ValueError: If arrays differ in length, weights are negative, or ``folds`` are not integers of at least -1.
    """
    fusion, training = fusion or FusionConfig(), training or TrainingConfig()
    device = _device(training.device)
    classes, names = encode_labels(labels, label_names)
    inputs = read_inputs(features, masks, device=device)
    clips = len(classes)
    sample_weights = np.ones(clips) if weights is None else np.asarray(weights, dtype=np.float64)
    clip_ids = list(map(str, range(clips))) if clip_ids is None else list(clip_ids)
    groups = None if groups is None else group_names(groups)
    lengths = [len(inputs), len(sample_weights), len(set(clip_ids)), clips if groups is None else len(groups)]
    if set(lengths) != {clips}:
        raise ValueError(f"{clips} labels, but lengths of features, weights, unique clip ids and groups are {lengths}")
    if not np.isfinite(sample_weights).all() or (sample_weights < 0).any():
        raise ValueError("weights must be finite and not negative")
    # Only ratios matter. A power of two, so that the greatest is from 1 to 2: exact, and within the range of float32.
    sample_weights = np.ldexp(sample_weights, 1 - np.frexp(sample_weights.max(initial=0.0))[1])
    sample_weights = sample_weights.astype(np.float32).astype(np.float64)
    if folds is None:
        assigned = assign_folds(classes, groups, training.folds, rng=np.random.default_rng(training.seed))
    else:
        assigned = _custom_folds(folds, clips)
    usable = (sample_weights > 0) & (classes >= 0) & inputs.present.any(dim=1).cpu().numpy()
    plan = Plan(
        examples=Examples(
            inputs,
            torch.from_numpy(classes).to(device),
            torch.from_numpy(sample_weights.astype(np.float32)).to(device),
        ),
        classes=classes,
        groups=groups,
        folds=np.where(usable, assigned, NO_TRAINING),
        dims={name: values.shape[-1] for name, values in zip(features, inputs.features, strict=True)},
        n_classes=len(names),
        fusion=fusion,
        training=training,
    )
    members = []
    fold_numbers = np.unique(assigned[assigned >= 0]).tolist()
    with _one_thread(), progress_bar(description, len(fold_numbers) * training.seeds, unit="model") as bar:
        for fold, settings in _settings_by_fold(plan, fold_numbers).items():
            for member in plan.train_fold(fold, settings, optimistic=optimistic):
                members.append(member)
                bar.update()
    clip_folds = ClipFolds(tuple(clip_ids), assigned, np.ones(clips, np.bool_))
    ensemble = Ensemble(tuple(members), plan.dims, names, clip_folds, fusion, training, label_type=label_type(labels))
    if training.calibration == "none":
        return ensemble
    held_out = np.flatnonzero(usable & (assigned >= 0))
    held_out_features = {name: np.asarray(values)[held_out] for name, values in features.items()}
    held_out_masks = {name: np.asarray(values)[held_out] for name, values in (masks or {}).items()}
    with _one_thread():
        return calibrate(
            ensemble,
            held_out_features,
            held_out_masks,
            labels=classes[held_out],
            weights=sample_weights[held_out],
            folds=assigned[held_out],
        )


def _settings_by_fold(plan: Plan, folds: Sequence[int]) -> dict[int, Settings]:
    if not plan.training.search.trials:
        return dict.fromkeys(folds, Settings(plan.fusion, plan.training))
    from ecmf_pipeline.fusion.search import search_settings  # imports scikit-learn, which takes a second

    return {fold: search_settings(plan, fold) for fold in folds}


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

    Args and errors are those of `training.fit`; also raises `TooFewClips` if no labelled clip can be predicted.
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
    metrics = _scores(classes, prediction.classes, names)
    if training.protocol == "mertools":
        biased = train(description="cross-validate (mertools)", optimistic=True)
        metrics["mertools"] = _scores(classes, biased.predict(features, folds, masks).classes, names)
    return CrossValidation(
        prediction.probs, prediction.predictions, prediction.modality_weights, metrics, folds, ensemble
    )


def _scores(classes: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    evaluated = (classes >= 0) & (predicted >= 0)
    if not evaluated.any():
        raise TooFewClips(
            f"none of {int((classes >= 0).sum())} labelled clips has a modality that the models use",
            "choose another fusion kind: all rows of its modality are NaN or masked",
        )
    metrics: dict[str, Any] = scores(
        [names[i] for i in classes[evaluated]], [names[i] for i in predicted[evaluated]], names
    )
    metrics["unpredicted"] = int(((classes >= 0) & (predicted < 0)).sum())
    return metrics


def _custom_folds(folds: ArrayLike, clips: int) -> NDArray[np.int64]:
    values = np.asarray(folds)
    are_numbers = values.shape == (clips,) and values.dtype.kind in "biuf" and bool(np.isfinite(values).all())
    if not are_numbers or (values != np.round(values)).any() or (values < -1).any():
        raise ValueError(f"folds must be integers of at least -1, one for each of {clips} clips")
    assigned = values.astype(np.int64)
    if not (assigned >= 0).any():
        raise TooFewClips("folds hold out no clip, which leaves no model to train", "assign folds from 0 to some clips")
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
        raise InputError(f"device {name!r} cannot be used (its tensors have no data)", hint)
    return device


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch and NumPy to one thread, which fixes the order of sums; steps this small are not slower."""
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True)
class FusionVoter:
    """The fusion as an out-of-fold voter with sample weights for each fold; see `labels.voters.JointVoter`.

    Attributes:
        features: By modality, (n, D), with a row of NaN for a missing clip.
        groups: Speaker or dialogue of each clip, (n,), "" if unknown.
        labels: The K label names.
        fusion: Shape of the model.
        training: Training settings; seeds and calibration are ignored: one uncalibrated model is trained for each fold.
    """

    features: Mapping[str, NDArray[np.float32]]
    groups: Sequence[str]
    labels: Sequence[str]
    fusion: FusionConfig
    training: TrainingConfig

    def votes(self, given: Ints, folds: Ints, weights: Mapping[int, Floats] | None = None) -> Floats:
        """See `labels.voters.JointVoter`; rows are also NaN if no model can be trained.

        A clip without a label is predicted like the others of its fold.
        """
        probs = np.full((len(given), len(self.labels)), np.nan)
        for fold in np.unique(folds).tolist():
            in_fold = folds == fold
            try:
                ensemble = fit(
                    self.features,
                    np.where(in_fold, -1, given),
                    groups=self.groups,
                    weights=None if weights is None else weights.get(fold),
                    folds=np.where(in_fold, 0, -1),
                    label_names=self.labels,
                    fusion=self.fusion,
                    training=self.training.model_copy(update={"seeds": 1, "calibration": "none", "protocol": "nested"}),
                    description="vote: fusion",
                )
            except TooFewClips:
                continue
            probs[in_fold] = ensemble.predict({name: values[in_fold] for name, values in self.features.items()}).probs
        return probs
