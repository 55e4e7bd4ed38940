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
        """See `labels.voters.JointVoter`; NaN also where no model can be trained.

        A clip without a label is judged like the others of its fold.
        """
        from ecmf_pipeline.fusion.training import fit

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
