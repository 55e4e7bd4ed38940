"""Search of the smallest set of encoders whose score is within a margin of the best: backward elimination.

A trained fusion predicts clips that lack modalities. Sets are therefore compared without further training: the members
that held out a clip predict it with the other encoders masked. The set by which a fold is scored is chosen on the other
folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import weighted_f1_of
from ecmf_pipeline.fusion.prediction import Ensemble

Names = tuple[str, ...]


@dataclass(frozen=True)
class SmallestSet:
    """The result of the search.

    Attributes:
        kept: Names of the chosen encoders, by all labelled clips.
        path: The sets from all encoders to one, each with its weighted F1 on training labels.
        by_fold: The encoders by which each fold is predicted, chosen on the other folds.
        classes: Predicted class of each clip by the set of its fold, (S, n); -1 if it has none of these encoders.
        scored: Number of sets that were predicted.
    """

    kept: Names
    path: list[tuple[Names, float]]
    by_fold: dict[int, Names]
    classes: NDArray[np.int64]
    scored: int


@dataclass
class SubsetScores:
    """Predictions by subsets of the encoders, each computed once.

    Attributes:
        ensembles: S ensembles with the same folds.
        features: Features by name, (n, D) or (n, T, D).
        labels: Class indices, (n,), -1 if unknown.
        folds: Fold of each clip, (n,).
        budget: Maximum number of sets to predict.
    """

    ensembles: Sequence[Ensemble]
    features: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    budget: int
    _classes: dict[frozenset[str], NDArray[np.int64]] = field(default_factory=dict)

    @property
    def n_scored(self) -> int:
        """Number of sets that were predicted."""
        return len(self._classes)

    def can_score(self, names: Names) -> bool:
        """Return whether the budget allows this set."""
        return frozenset(names) in self._classes or len(self._classes) < self.budget

    def classes(self, names: Names) -> NDArray[np.int64]:
        """Return the classes predicted by a set, (S, n)."""
        key = frozenset(names)
        if key not in self._classes:
            none = np.zeros(len(self.labels), np.bool_)
            masks = {name: none for name in self.features if name not in key}
            self._classes[key] = np.stack([e.predict(self.features, self.folds, masks).classes for e in self.ensembles])
        return self._classes[key]

    def score(self, names: Names, rows: NDArray[np.bool_]) -> float:
        """Return the weighted F1 of a set on labelled ``rows``, averaged over the ensembles."""
        used = rows & (self.labels >= 0)
        size = len(self.ensembles[0].label_names) + 1  # the last column counts clips without a prediction
        predicted = self.classes(names)[:, used] % size
        cells = self.labels[used] * size + predicted  # (S, k)
        counts = np.stack([np.bincount(row, minlength=size**2) for row in cells]).reshape(-1, size, size)
        return float(np.mean(weighted_f1_of(counts.astype(np.float64))))

    def eliminate(self, rows: NDArray[np.bool_]) -> list[tuple[Names, float]]:
        """Remove one encoder after another, each time the one whose removal leaves the highest score."""
        current = tuple(self.features)
        path = [(current, self.score(current, rows))]
        while len(current) > 1:
            candidates = [tuple(other for other in current if other != name) for name in current]
            scored = [(self.score(names, rows), names) for names in candidates if self.can_score(names)]
            if len(scored) < len(candidates):
                break  # the budget is spent
            score, current = max(scored, key=lambda pair: pair[0])
            path.append((current, score))
        return path


def within_margin(path: Sequence[tuple[Names, float]], margin: float) -> Names:
    """Return the smallest set whose score is at most ``margin`` below the best."""
    best = max(score for _, score in path)
    return min((names for names, score in path if score >= best - margin), key=len)


def find_smallest(scores: SubsetScores, margin: float) -> SmallestSet:
    """Find the smallest set, and predict each fold by the set that the other folds choose."""
    held_out = scores.folds >= 0
    path = scores.eliminate(held_out)
    kept = within_margin(path, margin)
    classes = scores.classes(kept).copy()
    by_fold = {}
    for fold in np.unique(scores.folds[held_out]).tolist():
        chosen = within_margin(scores.eliminate(held_out & (scores.folds != fold)), margin)
        by_fold[fold] = chosen
        classes[:, scores.folds == fold] = scores.classes(chosen)[:, scores.folds == fold]
    return SmallestSet(kept, path, by_fold, classes, scores.n_scored)
