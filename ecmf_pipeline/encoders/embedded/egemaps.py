"""eGeMAPSv02, the default encoder of the audio branch.

Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for Voice Research and Affective Computing" (IEEE
Transactions on Affective Computing, 2016), computed by openSMILE. openSMILE by audEERING is free for research and
personal use under its own licence. For other uses, choose another audio encoder in params.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import opensmile
from numpy.typing import NDArray

from ecmf_pipeline.encoders.base import Encoder, Encoding, Preparer
from ecmf_pipeline.encoders.config import EgemapsConfig
from ecmf_pipeline.media.config import SAMPLE_RATE

MIN_SAMPLES = 960
"""60 ms, the longest window of the set: openSMILE returns nothing for less."""


class EgemapsPreparer(Preparer[NDArray[np.float32]]):
    """Computation of the features with openSMILE; there is no network."""

    def __init__(self) -> None:
        self._smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
        )

    def describe(self) -> dict[str, Any]:
        """Return the sampling rate and the feature set."""
        return {"sample_rate": SAMPLE_RATE, "feature_set": "eGeMAPSv02", "feature_level": "functionals"}

    @property
    def functionals(self) -> list[str]:
        """The names of the functionals, (88,)."""
        return list(self._smile.feature_names)

    def prepare(self, view: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the functionals of mono samples at 16 kHz, (1, 88); (0, 88) if openSMILE returns no finite values."""
        no_rows = np.zeros((0, EgemapsConfig.dim), np.float32)
        if len(view) < MIN_SAMPLES or not np.isfinite(view).all():
            return no_rows
        row: NDArray[np.float32] = self._smile.process_signal(view, SAMPLE_RATE).to_numpy(np.float32)
        return row if np.isfinite(row).all() else no_rows


class EgemapsEncoder(Encoder[NDArray[np.float32]]):
    """The 88 functionals over the whole clip: T = 1, or 0 if openSMILE returns no finite values.

    Silence is encoded like any other audio: its functionals are finite.
    """

    is_clip_level = True
    dtype = "float32"  # formant frequencies and bandwidths need more than float16's three digits
    preparer: EgemapsPreparer

    def __init__(self, config: EgemapsConfig) -> None:
        self.settings = config.settings()
        self.preparer = EgemapsPreparer()

    @property
    def dim(self) -> int:
        """D, the number of functionals."""
        return EgemapsConfig.dim

    @property
    def column_names(self) -> list[str]:
        """The names of the functionals by openSMILE, (88,)."""
        return self.preparer.functionals

    def encode_prepared(self, prepared: Sequence[NDArray[np.float32]]) -> list[Encoding]:
        """Return the prepared functionals: (1, 88) or (0, 88) for each clip."""
        return [Encoding(rows, np.arange(len(rows))) for rows in prepared]
