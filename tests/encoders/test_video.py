"""Compare VideoMAE with short reference scripts that follow the documentation of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.config import VideoConfig
from ecmf_pipeline.encoders.registry import build_encoder, build_preparer


@pytest.fixture(scope="module")
def videos(frames: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Clips of four and nine frames."""
    return [
        np.concatenate([frames[2], frames[2][:, ::-1, ::-1]]),
        np.stack([np.roll(frames[0][0], 11 * index, axis=1) for index in range(9)]),
    ]


def reference_output(folder: Path, video: NDArray[np.uint8], **options: Any) -> Any:
    processor = transformers.VideoMAEImageProcessorPil.from_pretrained(folder)
    pixels = processor(list(video), return_tensors="pt")["pixel_values"]
    model = transformers.VideoMAEModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(pixels, **options)


class TestVideoMAE:
    def test_clip_row_is_the_mean_of_all_tokens(self, tiny_models: Path, videos: list[NDArray[np.uint8]]) -> None:
        tokens = reference_output(tiny_models / "videomae", videos[0]).last_hidden_state[0]
        encoding = build_encoder(VideoConfig(model=str(tiny_models / "videomae")), "cpu").encode(videos[:1])[0]
        np.testing.assert_allclose(encoding.values[0], tokens.mean(dim=0).numpy(), atol=1e-4)
        assert encoding.kept.tolist() == [2]

    def test_tubelet_row_is_the_mean_of_its_tokens(self, tiny_models: Path, videos: list[NDArray[np.uint8]]) -> None:
        tokens = reference_output(tiny_models / "videomae", videos[0]).last_hidden_state[0]  # 2 tubelets of 9 patches
        encoding = build_encoder(VideoConfig(model=str(tiny_models / "videomae"), rows="tubelet"), "cpu").encode(
            videos[:1]
        )[0]
        rows = [tokens[:9].mean(dim=0).numpy(), tokens[9:].mean(dim=0).numpy()]
        np.testing.assert_allclose(encoding.values, rows, atol=1e-4)
        assert encoding.kept.tolist() == [0, 2]

    def test_fine_tuned_model_applies_its_norm_to_the_mean(
        self, tiny_models: Path, videos: list[NDArray[np.uint8]]
    ) -> None:
        folder = tiny_models / "videomae_tuned"
        mean = reference_output(folder, videos[0]).last_hidden_state[0].mean(dim=0)
        tuned = transformers.VideoMAEForVideoClassification.from_pretrained(folder).eval()
        with torch.no_grad():
            row = tuned.fc_norm(mean)
        encoding = build_encoder(VideoConfig(model=str(folder)), "cpu").encode(videos[:1])[0]
        np.testing.assert_allclose(encoding.values[0], row.numpy(), atol=1e-4)

    def test_given_layers_are_averaged(self, tiny_models: Path, videos: list[NDArray[np.uint8]]) -> None:
        hidden = reference_output(tiny_models / "videomae", videos[0], output_hidden_states=True).hidden_states
        encoding = build_encoder(VideoConfig(model=str(tiny_models / "videomae"), layers=(1, 3)), "cpu").encode(
            videos[:1]
        )[0]
        rows = (hidden[1] + hidden[3])[0].mean(dim=0) / 2
        np.testing.assert_allclose(encoding.values[0], rows.numpy(), atol=1e-4)

    def test_pictures_are_chosen_evenly_and_repeated_if_there_are_fewer(
        self, tiny_models: Path, videos: list[NDArray[np.uint8]]
    ) -> None:
        preparer = build_preparer(VideoConfig(model=str(tiny_models / "videomae")))
        assert preparer.prepare(videos[1]).chosen.tolist() == [1, 3, 5, 7]
        fewer = preparer.prepare(videos[1][:2])
        assert fewer.chosen.tolist() == [0, 0, 1, 1]
        np.testing.assert_array_equal(fewer.pictures[2], fewer.pictures[3])
        assert (fewer.pictures[0] != fewer.pictures[2]).any()

    def test_picture_model_raises_model_error(self, tiny_models: Path) -> None:
        with pytest.raises(ModelError) as caught:
            build_encoder(VideoConfig(model=str(tiny_models / "vit")), "cpu")
        assert str(tiny_models / "vit") in caught.value.message
        assert "videomae" in caught.value.message
