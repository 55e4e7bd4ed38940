"""Batches across clips, halving when memory runs out, and precision."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ecmf_pipeline.encoders.base_config import best_precision
from ecmf_pipeline.encoders.config import AudioConfig, TextConfig, VisionConfig
from ecmf_pipeline.encoders.inference import Inference
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.runner import machine

FAULTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    MemoryError(),
]


def limited_forward(limit: int, fault: Exception, sizes: list[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a forward pass that raises ``fault`` for batches larger than ``limit``."""

    def forward(items: torch.Tensor) -> torch.Tensor:
        sizes.append(len(items))
        if len(items) > limit:
            raise fault
        return items.float() * 2

    return forward


@pytest.fixture
def clips() -> list[NDArray[np.int64]]:
    return [np.arange(7)[:, None], np.arange(0)[:, None], np.arange(7, 23)[:, None]]


class TestOutOfMemory:
    @pytest.mark.parametrize("fault", FAULTS, ids=["cuda", "cpu", "python"])
    def test_batch_size_is_halved_once_with_one_warning(
        self, clips: list[NDArray[np.int64]], fault: Exception, capsys: pytest.CaptureFixture[str]
    ) -> None:
        inference, sizes = Inference("cpu", 8), list[int]()
        rows = inference.rows_of_clips(clips, limited_forward(5, fault, sizes))
        for clip, clip_rows in zip(clips, rows, strict=True):
            np.testing.assert_array_equal(clip_rows, clip * 2)
        assert sizes == [8, 4, 4, 4, 4, 4, 3]
        inference.rows_of_clips(clips, limited_forward(5, fault, sizes))
        assert sizes[7:] == [4, 4, 4, 4, 4, 3]
        (warning,) = capsys.readouterr().err.splitlines()
        assert re.findall(r"\d+", warning) == ["8", "4"]

    def test_single_item_that_is_too_large_raises_memory_error(self, clips: list[NDArray[np.int64]]) -> None:
        sizes: list[int] = []
        with pytest.raises(MemoryError):
            Inference("cpu", 8).rows_of_clips(clips, limited_forward(0, FAULTS[0], sizes))
        assert sizes == [8, 4, 2, 1]

    def test_other_errors_propagate(self, clips: list[NDArray[np.int64]]) -> None:
        with pytest.raises(RuntimeError, match="shapes do not match"):
            Inference("cpu", 8).rows_of_clips(clips, limited_forward(5, RuntimeError("shapes do not match"), []))

    def test_features_are_the_same_after_running_out_of_memory(
        self, tiny_models: Path, frames: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = build_encoder(VisionConfig(model=str(tiny_models / "vit")), "cpu")
        expected = encoder.encode(frames)
        original_forward = encoder._forward

        def forward(pictures: torch.Tensor) -> torch.Tensor:
            if len(pictures) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original_forward(pictures)

        monkeypatch.setattr(encoder, "_forward", forward)
        for one, two in zip(expected, encoder.encode(frames), strict=True):
            np.testing.assert_allclose(one.values, two.values, atol=1e-5)


class TestPrecision:
    @pytest.mark.parametrize("flags", ["avx2 avx512_bf16", "amx_bf16 fma", "avx2 fma"])
    def test_auto_is_bf16_if_the_processor_supports_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str
    ) -> None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
        monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
        assert best_precision("cpu") == ("bf16" if "bf16" in flags else "fp32")
        config = VisionConfig(model="org/name", precision="auto")
        assert config.resolved("cpu").precision == best_precision("cpu")

    def test_auto_is_fp32_if_the_processor_is_unknown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "absent")
        assert best_precision("cpu") == "fp32"

    def test_place_casts_matrices_but_not_norms(self) -> None:
        network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        Inference("cpu", 8, "bf16").place(network)
        assert [parameter.dtype for parameter in network.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2

    @pytest.mark.parametrize("name", ["hubert", "wav2vec2", "wavlm"])
    def test_half_precision_audio_features_are_similar(
        self, tiny_models: Path, sounds: list[NDArray[np.float32]], name: str
    ) -> None:
        full = build_encoder(AudioConfig(model=str(tiny_models / name)), "cpu").encode(sounds[:1])[0].values
        half = (
            build_encoder(AudioConfig(model=str(tiny_models / name), precision="bf16"), "cpu")
            .encode(sounds[:1])[0]
            .values
        )
        assert not np.array_equal(full, half)
        norms = np.linalg.norm(full, axis=1) * np.linalg.norm(half, axis=1)
        assert ((full * half).sum(axis=1) / norms).min() > 0.99

    def test_precision_is_in_the_settings(self, tiny_models: Path) -> None:
        config = TextConfig(model=str(tiny_models / "bert"))
        assert config.settings()["precision"] == "fp32"
        assert config.model_copy(update={"precision": "bf16"}).settings()["precision"] == "bf16"
