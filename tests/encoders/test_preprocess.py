from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.preprocess import Filter, read_preprocessing, resize_as_pillow

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


class TestProcessors:
    @pytest.mark.parametrize(
        "processor",
        [
            transformers.CLIPImageProcessorPil(),
            transformers.ViTImageProcessorPil(),
            transformers.SiglipImageProcessorPil(),
            transformers.BeitImageProcessorPil(),
            transformers.BitImageProcessorPil(),
            transformers.SiglipImageProcessorPil(size={"height": 256, "width": 192}),
            transformers.BitImageProcessorPil(size={"shortest_edge": 256}, do_center_crop=True),
            transformers.CLIPImageProcessorPil(size={"shortest_edge": 60}, crop_size={"height": 97, "width": 64}),
            transformers.ViTImageProcessorPil(size={"height": 90, "width": 90}, do_normalize=False),
        ],
        ids=["clip", "vit", "siglip", "data2vec", "dinov2", "siglip_256", "dinov2_256", "padded", "unnormalised"],
    )
    def test_it_equals_pillow_to_the_byte(self, processor: Any, frames: list[NDArray[np.uint8]]) -> None:
        preprocessing = read_preprocessing(processor)
        for clip in frames:
            theirs = np.stack(processor(list(clip), return_tensors="np")["pixel_values"])
            ours = preprocessing.normalise(preprocessing.resize_pictures(clip)).numpy()
            np.testing.assert_allclose(ours, theirs, atol=2e-6)  # a grey level is 0.0078 or more

    @pytest.mark.parametrize(
        "processor",
        [
            transformers.CLIPImageProcessorPil(resample=1),
            transformers.CLIPImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 99}),
            transformers.ConvNextImageProcessorPil(size={"shortest_edge": 224}),  # crops by a share of its own
        ],
        ids=["lanczos", "bounded", "convnext"],
    )
    def test_what_it_cannot_do_is_refused(self, processor: Any) -> None:
        with pytest.raises(ModelError):
            read_preprocessing(processor)
