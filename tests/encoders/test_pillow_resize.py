from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ecmf_pipeline.encoders.preprocess import Filter, resize_as_pillow

FILTERS: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def by_pillow(picture: NDArray[np.uint8], size: tuple[int, int], resample: Filter) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize(size[::-1], FILTERS[resample]))


class TestResize:
    @pytest.mark.parametrize("resample", FILTERS)
    @pytest.mark.parametrize(
        ("height", "width"), [(480, 640), (256, 256), (448, 448), (180, 320), (90, 70), (224, 300)]
    )
    def test_photographs_equal_pillow_to_the_byte(
        self, frames: list[NDArray[np.uint8]], height: int, width: int, resample: Filter
    ) -> None:
        picture = np.asarray(Image.fromarray(frames[0][0]).resize((width, height)))
        size = (224, 224 * width // height)
        ours = resize_as_pillow(picture[None], size, (0, 0, *size), resample)
        np.testing.assert_array_equal(ours[0], by_pillow(picture, size, resample))

    @settings(max_examples=100, deadline=None)
    @given(
        st.tuples(st.integers(1, 90), st.integers(1, 90)),
        st.tuples(st.integers(1, 60), st.integers(1, 60)),
        st.sampled_from(sorted(FILTERS)),
        st.booleans(),
        st.integers(0, 2**32 - 1),
    )
    def test_any_picture_equals_pillows_columns_and_then_rows(
        self, shape: tuple[int, int], size: tuple[int, int], resample: Filter, black_and_white: bool, seed: int
    ) -> None:
        picture = np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)
        if black_and_white:  # overshoots, and sums that end between two grey levels
            picture = (picture // 128 * 255).astype(np.uint8)
        ours = resize_as_pillow(picture[None], size, (0, 0, *size), resample)
        columns = by_pillow(picture, (shape[0], size[1]), resample)  # Pillow 13 takes some rows first by itself
        np.testing.assert_array_equal(ours[0], by_pillow(columns, size, resample))

    def test_a_window_is_cut_out_of_the_whole(self, frames: list[NDArray[np.uint8]]) -> None:
        whole = resize_as_pillow(frames[2], (70, 105), (0, 0, 70, 105), "bicubic")
        window = resize_as_pillow(frames[2], (70, 105), (9, 20, 50, 61), "bicubic")
        np.testing.assert_array_equal(window, whole[:, 9:59, 20:81])
