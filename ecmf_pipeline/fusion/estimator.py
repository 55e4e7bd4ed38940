"""The fusion as a scikit-learn classifier: all features in one 2-D table, the columns of each modality named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig
from ecmf_pipeline.fusion.prediction import Ensemble, Prediction
from ecmf_pipeline.fusion.training import fit

Columns = Mapping[str, slice | Sequence[int] | Sequence[str]]
"""The columns of each modality: a slice, positions, or names of the columns of a DataFrame."""


class FusionClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The fusion as a scikit-learn classifier, for `Pipeline`, `cross_validate`, `GridSearchCV` and others.

    X is one 2-D table, so that scikit-learn can index its rows. A row in which all columns of a modality are NaN has no
    such modality; one value that is NaN is enough. A row without any modality is predicted by the class shares of the
    training rows.

    Args:
        columns: The columns of each modality: ``{"text": slice(0, 384), "face": ["jawOpen", "mouthPucker"]}``; other
            columns are not used. None: the first level of the columns of X if they have several levels, as after
            ``pandas.concat({"text": ..., "face": ...}, axis=1)``; otherwise all columns are one modality, ``features``.
        kind: See `FusionConfig`, also for ``hidden``, ``heads``, ``layers`` and ``dropout``.
        hidden: Width of a token.
        heads: Attention heads; they divide ``hidden``.
        layers: Attention layers.
        dropout: Dropout rate.
        folds: See `TrainingConfig`, also for the following arguments. Folds and seeds are those of the ensemble, inside
            the rows given to `fit`; they are independent of the folds of `GridSearchCV`.
        seeds: Models for each fold.
        epochs: Maximum number of epochs.
        patience: Epochs without improvement before early stopping.
        batch_size: Batch size; None: chosen by the number of rows.
        learning_rate: Learning rate.
        weight_decay: Weight decay.
        class_weights: Class weights of the loss.
        modality_dropout: Probability of hiding a modality of a row in training.
        validation_share: Share of the rows for early stopping.
        calibration: ``temperature`` or ``none``.
        device: ``auto`` or a torch device.
        random_state: Seed; equal seeds give equal models. None or a `RandomState`: a seed is drawn.

    Attributes:
        classes_: The labels, (C,), sorted.
        columns_: The columns of each modality in X: a slice or positions.
        ensemble_: The trained models; `Ensemble.save` writes them.
        n_features_in_: Number of columns of X.
        feature_names_in_: Names of the columns of X, if it was a DataFrame.
    """

    def __init__(
        self,
        columns: Columns | None = None,
        *,
        kind: str = "ecmf",
        hidden: int = 128,
        heads: int = 4,
        layers: int = 1,
        dropout: float = 0.3,
        folds: int = 5,
        seeds: int = 3,
        epochs: int = 100,
        patience: int = 10,
        batch_size: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        class_weights: str = "sqrt",
        modality_dropout: float = 0.1,
        validation_share: float = 0.2,
        calibration: str = "temperature",
        device: str = "auto",
        random_state: int | np.random.RandomState | None = 7,
    ) -> None:
        self.columns = columns
        self.kind = kind
        self.hidden = hidden
        self.heads = heads
        self.layers = layers
        self.dropout = dropout
        self.folds = folds
        self.seeds = seeds
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.class_weights = class_weights
        self.modality_dropout = modality_dropout
        self.validation_share = validation_share
        self.calibration = calibration
        self.device = device
        self.random_state = random_state

    def fit(
        self,
        X: Any,  # noqa: N803 - the name that scikit-learn requires
        y: ArrayLike,
        groups: Iterable[Any] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train one model for each fold and seed.

        Args:
            X: Features, (n, D): an array or a DataFrame; a missing modality is a row of NaN in its columns.
            y: Labels, (n,): strings or numbers, none missing.
            groups: Speaker or dialogue of each row, (n,); rows of one group are in the same fold of the ensemble. In
                `GridSearchCV` they arrive here after ``set_fit_request(groups=True)``.
            sample_weight: Weight of each row, (n,), not negative.

        Raises:
            ValueError: If arrays have other shapes or values, a setting is out of range, or there is only one class.
            TooFewClips: If there are too few rows, classes or groups.
            InputError: If the device cannot be used.
        """
        table, y = validate_data(self, _flatten(X), y, dtype=np.float32, ensure_all_finite="allow-nan")
        check_classification_targets(y)
        labels = column_or_1d(y)
        self.classes_, classes = np.unique(labels, return_inverse=True)
        weights = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        if weights.shape != labels.shape:
            raise ValueError(f"sample_weight must be {labels.shape}, not {weights.shape}")
        if (weights >= 0).all():
            if not weights.any():
                raise ValueError("Sample weights must contain at least one non-zero number.")
            if (n_classes := len(np.unique(classes[weights > 0]))) < 2:
                raise ValueError(f"{n_classes} class in y; a classifier needs at least two classes")
        self.columns_ = _positions(X if hasattr(X, "columns") else table, self.columns)
        settings = self.get_params(deep=False) | {"seed": _seed(self.random_state)}
        self.ensemble_: Ensemble = fit(
            self._split(table),
            classes,
            groups,
            fusion=FusionConfig(**{key: settings[key] for key in FusionConfig.model_fields if key in settings}),
            training=TrainingConfig(**{key: settings[key] for key in TrainingConfig.model_fields if key in settings}),
            weights=weights,
            label_names=[str(label) for label in self.classes_],
            description="fit",
        )
        shares = np.bincount(classes, weights, len(self.classes_))
        self._prior = (shares / shares.sum()).astype(np.float32)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the probability of each label, (n, C), in the order of ``classes_``."""
        probs = self._predict(X).probs
        return np.where(np.isnan(probs), self._prior, probs)

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the most likely label of each row, (n,)."""
        choices = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[choices]
        return labels

    def modality_weights(self, X: Any) -> NDArray[np.float32]:  # noqa: N803
        """Return the share of each modality, (n, M), in the order of ``columns_``; NaN for a row without any."""
        return self._predict(X).modality_weights

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _predict(self, X: Any) -> Prediction:  # noqa: N803
        check_is_fitted(self)
        table = validate_data(self, _flatten(X), dtype=np.float32, ensure_all_finite="allow-nan", reset=False)
        return self.ensemble_.predict(self._split(table))

    def _split(self, table: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {name: table[:, columns] for name, columns in self.columns_.items()}


def _flatten(X: Any) -> Any:  # noqa: N803
    """Join the levels of the column names of a DataFrame: scikit-learn compares names only if they are strings."""
    if not _has_levels(X):
        return X
    return X.set_axis(["/".join(map(str, levels)) for levels in X.columns], axis=1)


def _has_levels(X: Any) -> bool:  # noqa: N803
    return getattr(getattr(X, "columns", None), "nlevels", 1) > 1


def _positions(X: Any, columns: Columns | None) -> dict[str, slice | NDArray[np.int64]]:  # noqa: N803
    """Return the columns of each modality as slices or positions; X is a checked array or a DataFrame.

    Raises:
        ValueError: If columns do not exist, a modality has none, or has one twice.
    """
    if columns is None:
        if not _has_levels(X):
            return {"features": slice(0, np.shape(X)[1])}
        modalities = X.columns.get_level_values(0)
        return {str(name): np.flatnonzero(modalities == name) for name in modalities.unique()}
    if not columns:
        raise ValueError("columns is empty; name the columns of at least one modality, or set it to None")
    names = [str(name) for name in getattr(_flatten(X), "columns", ())]
    numbers = {name: number for number, name in enumerate(names)}
    found: dict[str, slice | NDArray[np.int64]] = {}
    for modality, chosen in columns.items():
        positions = _column_numbers(chosen, numbers, np.shape(X)[1])
        if not len(positions):
            raise ValueError(f"columns of modality {modality!r} are not different columns of X: {chosen}")
        found[str(modality)] = chosen if isinstance(chosen, slice) else positions
    return found


def _column_numbers(chosen: Any, numbers: Mapping[Any, int], width: int) -> NDArray[np.int64]:
    """Return the positions of chosen columns, (k,); none if one does not exist, or occurs twice.

    NumPy alone would shorten a slice that is too long, and take True and 1.5 for 1.
    """
    is_slice = isinstance(chosen, slice)
    bounds: list[Any] = [chosen.start or 0, chosen.stop or 0] if is_slice else []
    if not all(isinstance(bound, int | np.integer) and -width <= bound <= width for bound in bounds):
        return np.zeros(0, np.int64)
    entries = range(width)[chosen] if is_slice else np.array(chosen, object).reshape(-1)
    wanted = [numbers.get(one, one) for one in entries]
    if not all(
        isinstance(one, int | np.integer) and not isinstance(one, bool) and -width <= one < width for one in wanted
    ):
        return np.zeros(0, np.int64)
    positions = np.array(wanted, np.int64) % width
    return positions if len(np.unique(positions)) == len(positions) else positions[:0]


def _seed(random_state: int | np.random.RandomState | None) -> int:
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
