"""eGeMAPSv02: the audio branch's default encoder.

Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for Voice Research and Affective Computing"
(IEEE Transactions on Affective Computing, 2016), computed by openSMILE. openSMILE is audEERING's, free for research and
personal use under its own licence; whoever needs another licence names another audio encoder in params.yaml.
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

FEWEST_SAMPLES = 960
"""60 ms, the longest window of the set: openSMILE has no answer for less."""


class EgemapsPreparer(Preparer[NDArray[np.float32]]):
    """openSMILE, which does all the work: there is no network behind it."""

    def __init__(self) -> None:
        self._smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
        )

    def described(self) -> dict[str, Any]:
        """The rate, and what openSMILE computes."""
        return {"sample_rate": SAMPLE_RATE, "feature_set": "eGeMAPSv02", "feature_level": "functionals"}

    def prepare(self, view: NDArray[np.float32]) -> NDArray[np.float32]:
        """The functionals of mono samples at 16 kHz, (1, 88); (0, 88) where openSMILE finds no finite answer."""
        nothing = np.zeros((0, EgemapsConfig.dim), np.float32)
        if len(view) < FEWEST_SAMPLES or not np.isfinite(view).all():
            return nothing
        row: NDArray[np.float32] = self._smile.process_signal(view, SAMPLE_RATE).to_numpy(np.float32)
        return row if np.isfinite(row).all() else nothing


class EgemapsEncoder(Encoder[NDArray[np.float32]]):
    """The 88 functionals over the whole clip: T = 1, or 0 where openSMILE finds no finite answer.

    Silence is described like any other sound: its functionals are finite.
    """

    is_clip_level = True
    dtype = "float32"  # formant frequencies and bandwidths need more than float16's three digits
    preparer: EgemapsPreparer

    def __init__(self, config: EgemapsConfig) -> None:
        self.settings = config.settings()
        self.preparer = EgemapsPreparer()

    @property
    def dim(self) -> int:
        """D, the functionals."""
        return EgemapsConfig.dim

    def encode_prepared(self, prepared: Sequence[NDArray[np.float32]]) -> list[Encoding]:
        """The functionals as they were prepared: (1, 88) or (0, 88) a clip."""
        return [Encoding(rows, np.arange(len(rows))) for rows in prepared]
