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
    def test_resizing_is_bit_identical_to_pillow(
        self, frames: list[NDArray[np.uint8]], height: int, width: int, resample: Filter
    ) -> None:
        pictures = np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames[0]])
        size = (224, 224 * width // height)
        actual = resize_as_pillow(pictures, size, resample)
        expected = [np.asarray(Image.fromarray(picture).resize(size[::-1], FILTERS[resample])) for picture in pictures]
        np.testing.assert_array_equal(actual, expected)

    @pytest.mark.parametrize(
        ("resample", "digest"),
        [("bilinear", "6008264a734fb673"), ("bicubic", "b184428053903b2f")],
    )
    def test_columns_of_tall_pictures_are_resized_first(self, resample: Filter, digest: str) -> None:
        """The digests were computed from Pillow's fixed-point sums written in NumPy, columns before rows."""
        tall = np.ascontiguousarray(data.astronaut()[:, 100:280])
        actual = resize_as_pillow(tall[None], (96, 96), resample)
        assert hashlib.sha256(actual.tobytes()).hexdigest()[:16] == digest


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
    def test_preprocessing_equals_the_processor(self, processor: Any, frames: list[NDArray[np.uint8]]) -> None:
        preprocessing = read_preprocessing(processor)
        for clip in frames:
            expected = np.stack(processor(list(clip), return_tensors="np")["pixel_values"])
            actual = preprocessing.normalise(preprocessing.resize_pictures(clip)).numpy()
            np.testing.assert_allclose(actual, expected, atol=2e-6)  # a grey level is 0.0078 or more

    @pytest.mark.parametrize(
        "processor",
        [
            transformers.CLIPImageProcessorPil(resample=1),
            transformers.CLIPImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 99}),
            transformers.ConvNextImageProcessorPil(size={"shortest_edge": 224}),  # crops by its own share
        ],
        ids=["lanczos", "bounded", "convnext"],
    )
    def test_unsupported_processor_raises_model_error(self, processor: Any) -> None:
        with pytest.raises(ModelError):
            read_preprocessing(processor)
