from __future__ import annotations

import numpy as np

from ecmf_pipeline.corpora.sample.generate import encode_mp4


def test_encoding_is_deterministic() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.normal(128 + index, 4, (160, 160, 3)).clip(0, 255).astype(np.uint8) for index in range(50)]
    files = {encode_mp4(frames, None, 160) for _ in range(45)}
    assert len(files) == 1
