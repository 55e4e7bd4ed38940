"""The fusion model as one more voter in the rounds of `vote`: out of fold, on labels weighed by fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.core.errors import TooFewClips
from ecmf_pipeline.fusion.config import FusionConfig, TrainingConfig


@dataclass(frozen=True, slots=True)
class FusionVoter:
    """Judges clips by all modalities with the model that params choose; see `labels.voters.JointVoter`.

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
        """See `labels.voters.JointVoter`; a clip without a label is judged like the others of its fold."""
        found = np.full((len(given), len(self.labels)), np.nan)
        for fold in np.unique(folds).tolist():
            asked = folds == fold
            found[asked] = self._judged(given, asked, None if weights is None else weights.get(fold))
        return found

    def _judged(self, given: Ints, asked: NDArray[np.bool_], weights: Floats | None) -> Floats:
        """What models that saw no label of the clips asked about say of them, (m, K); NaN where none can be trained."""
        from ecmf_pipeline.fusion.training import fit

        training = self.training.model_copy(update={"seeds": 1, "calibration": "none", "protocol": "nested"})
        try:
            ensemble = fit(
                self.features,
                np.where(asked, -1, given),
                groups=self.groups,
                weights=weights,
                folds=np.where(asked, 0, -1),
                label_names=self.labels,
                fusion=self.fusion,
                training=training,
                description="vote: fusion",
            )
        except TooFewClips:
            return np.full((int(asked.sum()), len(self.labels)), np.nan)
        return ensemble.predict({name: values[asked] for name, values in self.features.items()}).probs.astype(
            np.float64
        )
