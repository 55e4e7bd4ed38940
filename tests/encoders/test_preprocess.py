from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from ecmf_pipeline.encoders.preprocess import Filter, resize_as_pillow

FILTERS: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class TestResize:
    @pytest.mark.parametrize("resample", FILTERS)
    @pytest.mark.parametrize(
        ("height", "width"), [(480, 640), (256, 256), (448, 448), (180, 320), (90, 70), (224, 300)]
    )
    def test_photographs_equal_pillow_to_the_byte(
        self, frames: list[NDArray[np.uint8]], height: int, width: int, resample: Filter
    ) -> None:
        pictures = np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames[0]])
        size = (224, 224 * width // height)
        ours = resize_as_pillow(pictures, size, resample)
        theirs = [np.asarray(Image.fromarray(picture).resize(size[::-1], FILTERS[resample])) for picture in pictures]
        np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize(
        ("resample", "digest"),
        [("bilinear", "6008264a734fb673"), ("bicubic", "b184428053903b2f")],
    )
    def test_tall_pictures_are_the_same_whichever_pass_pillow_takes_first(self, resample: Filter, digest: str) -> None:
        """The digests are those of its fixed-point sums written out in NumPy, columns before rows."""
        tall = np.ascontiguousarray(data.astronaut()[:, 100:280])
        ours = resize_as_pillow(tall[None], (96, 96), resample)
        assert hashlib.sha256(ours.tobytes()).hexdigest()[:16] == digest
