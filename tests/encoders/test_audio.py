"""Compare speech models with short reference scripts that follow the documentation of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.audio import group_by_length, split_evenly
from ecmf_pipeline.encoders.config import AudioConfig
from ecmf_pipeline.encoders.registry import build_encoder

WAVES = ["hubert", "hubert_large", "wav2vec2", "wavlm", "data2vec_audio"]


def reference_rows(folder: Path, samples: NDArray[np.float32], layers: Any) -> NDArray[np.float32]:
    """Encode one clip without padding, as in the documentation of HuBERT."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(samples, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        out = model(inputs.input_values, output_hidden_states=True)
    if layers == "last":
        return out.last_hidden_state[0].numpy()
    states = torch.stack(out.hidden_states)  # (layers + 1, 1, T, D)
    chosen = states[-4:] if isinstance(layers, str) else states[list(layers)]
    return (chosen.sum(dim=0) if layers == "last4_sum" else chosen.mean(dim=0))[0].numpy()


class TestAudio:
    @pytest.mark.parametrize("name", WAVES)
    @pytest.mark.parametrize("layers", ["last", "last4_mean", "last4_sum", (0, 2, -1)])
    def test_rows_equal_the_reference_script(
        self, tiny_models: Path, sounds: list[NDArray[np.float32]], name: str, layers: Any
    ) -> None:
        encodings = build_encoder(
            AudioConfig(model=str(tiny_models / name), layers=layers, batch_size=4), "cpu"
        ).encode(sounds)
        for samples, encoding in zip(sounds, encodings, strict=True):
            np.testing.assert_allclose(encoding.values, reference_rows(tiny_models / name, samples, layers), atol=1e-5)

    @pytest.mark.parametrize("name", WAVES)
    def test_rows_do_not_depend_on_padding(
        self, tiny_models: Path, sounds: list[NDArray[np.float32]], name: str
    ) -> None:
        encoder = build_encoder(AudioConfig(model=str(tiny_models / name), layers="last4_sum", batch_size=4), "cpu")
        encoder.max_padding = 9.0  # allows more different lengths in a batch than in production
        sounds = [*sounds, sounds[0][:15_900], sounds[2][:700]]
        for samples, encoding in zip(sounds, encoder.encode(sounds), strict=True):
            alone = reference_rows(tiny_models / name, samples, "last4_sum")
            np.testing.assert_allclose(encoding.values, alone, atol=1e-5)

    @pytest.mark.parametrize("name", ["hubert", "wav2vec2"])
    def test_sound_shorter_than_the_receptive_field_has_no_row(self, tiny_models: Path, name: str) -> None:
        encoder = build_encoder(AudioConfig(model=str(tiny_models / name)), "cpu")
        shortest = 10 + 2 * 5  # the receptive field of the two convolutions
        sounds = [np.full(count, 0.1, np.float32) for count in (0, 1, shortest - 1, shortest)]
        assert [len(encoding.values) for encoding in encoder.encode(sounds)] == [0, 0, 0, 1]

    def test_frames_per_row_averages_rows(self, tiny_models: Path, sounds: list[NDArray[np.float32]]) -> None:
        config = AudioConfig(model=str(tiny_models / "hubert"))
        full = build_encoder(config, "cpu").encode(sounds[:1])[0].values
        averaged = build_encoder(config.model_copy(update={"frames_per_row": 7}), "cpu").encode(sounds[:1])[0]
        assert len(averaged.values) == len(averaged.kept) == -(-len(full) // 7)
        np.testing.assert_allclose(averaged.values[1], full[7:14].mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(averaged.values[-1], full[7 * (len(averaged.values) - 1) :].mean(axis=0), atol=1e-6)

    def test_other_sampling_rate_raises_model_error(self, altered_model: Callable[..., Path]) -> None:
        folder = altered_model("hubert", "preprocessor_config.json", sampling_rate=44_100)
        with pytest.raises(ModelError) as caught:
            build_encoder(AudioConfig(model=str(folder)), "cpu")
        assert str(folder) in caught.value.message
        assert "44100" in caught.value.message

    def test_model_without_waveform_input_raises_model_error(self, tiny_models: Path) -> None:
        with pytest.raises(ModelError, match="waveforms") as caught:
            build_encoder(AudioConfig(model=str(tiny_models / "bert")), "cpu")
        assert str(tiny_models / "bert") in caught.value.message

    def test_long_clips_are_encoded_in_windows(self, tiny_models: Path, sounds: list[NDArray[np.float32]]) -> None:
        long = np.concatenate(sounds)[:50_001]  # 3.1 s
        folder = tiny_models / "hubert"
        encoder = build_encoder(AudioConfig(model=str(folder), window_seconds=1.6), "cpu")
        normalised = (long - long.mean()) / np.sqrt(long.var() + 1e-7)  # over the whole clip, not each window
        model = transformers.AutoModel.from_pretrained(folder).eval()
        with torch.no_grad():
            halves = [
                model(torch.from_numpy(part[None])).last_hidden_state[0] for part in np.split(normalised, [25_001])
            ]
        [encoding] = encoder.encode([long])
        np.testing.assert_allclose(encoding.values, torch.cat(halves).numpy(), atol=1e-5)
        np.testing.assert_array_equal(encoding.kept, np.arange(len(encoding.values)))

    def test_window_longer_than_all_clips_changes_no_row(
        self, tiny_models: Path, sounds: list[NDArray[np.float32]]
    ) -> None:
        config = AudioConfig(model=str(tiny_models / "wavlm"))
        wider = config.model_copy(update={"window_seconds": 60.0})
        for one, two in zip(
            build_encoder(config, "cpu").encode(sounds), build_encoder(wider, "cpu").encode(sounds), strict=True
        ):
            assert one.values.tobytes() == two.values.tobytes()
        assert (config.settings()["window_seconds"], wider.settings()["window_seconds"]) == (30, 60)

    @pytest.mark.parametrize("name", ["hubert", "hubert_large", "wavlm", "whisper"])
    def test_half_precision_changes_features_slightly(
        self, tiny_models: Path, sounds: list[NDArray[np.float32]], name: str
    ) -> None:
        config = AudioConfig(model=str(tiny_models / name), layers="last4_sum")
        half = config.model_copy(update={"precision": "bf16"})
        for exact, near in zip(
            build_encoder(config, "cpu").encode(sounds), build_encoder(half, "cpu").encode(sounds), strict=True
        ):
            one, two = exact.values.mean(axis=0), near.values.mean(axis=0)
            assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.999
            assert not np.array_equal(one, two)

    def test_model_with_adapter_raises_model_error(self, altered_model: Callable[..., Path]) -> None:
        folder = altered_model("wav2vec2", add_adapter=True, num_adapter_layers=1, output_hidden_size=32)
        config = transformers.Wav2Vec2Config.from_pretrained(folder)
        transformers.Wav2Vec2Model(config).save_pretrained(folder)
        with pytest.raises(ModelError) as caught:
            build_encoder(AudioConfig(model=str(folder)), "cpu")
        assert str(folder) in caught.value.message
        assert "adapter" in (caught.value.hint or "")


class TestWhisper:
    @pytest.mark.parametrize("layers", ["last", "last4_sum", (1,)])
    def test_rows_equal_the_reference_script_up_to_the_end_of_the_sound(
        self, tiny_models: Path, sounds: list[NDArray[np.float32]], layers: Any
    ) -> None:
        model = transformers.WhisperModel.from_pretrained(tiny_models / "whisper").eval()
        extractor = transformers.AutoFeatureExtractor.from_pretrained(tiny_models / "whisper")
        sounds = [*sounds, sounds[0][:1]]
        encodings = build_encoder(AudioConfig(model=str(tiny_models / "whisper"), layers=layers), "cpu").encode(sounds)
        for samples, encoding in zip(sounds, encodings, strict=True):
            inputs = extractor(samples, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
            with torch.no_grad():
                out = model.encoder(inputs.input_features, output_hidden_states=True)
            states = {
                "last": out.last_hidden_state,
                "last4_sum": sum(out.hidden_states[-4:]),
                (1,): out.hidden_states[1],
            }
            n_rows = -(-int(inputs.attention_mask.sum()) // 2)
            assert len(encoding.values) == n_rows == -(-len(samples) // 320)
            np.testing.assert_allclose(encoding.values, states[layers][0, :n_rows].numpy(), atol=1e-5)

    def test_long_clips_are_encoded_in_windows(self, tiny_models: Path, sounds: list[NDArray[np.float32]]) -> None:
        encoder = build_encoder(AudioConfig(model=str(tiny_models / "whisper")), "cpu")
        long = np.concatenate(sounds)[:65_000]  # 4.06 s, in windows of at most 2 s
        whole, *parts = encoder.encode([long, *np.split(long, [21_667, 43_334])])
        np.testing.assert_allclose(whole.values, np.concatenate([part.values for part in parts]), atol=1e-5)

    def test_decoder_is_not_loaded(self, tiny_models: Path) -> None:
        encoder = build_encoder(AudioConfig(model=str(tiny_models / "whisper")), "cpu")
        whole = transformers.WhisperModel.from_pretrained(tiny_models / "whisper")
        n_parameters = sum(weight.numel() for weight in encoder.model.parameters())
        assert n_parameters == sum(weight.numel() for weight in whole.encoder.parameters())

    def test_missing_encoder_weights_raise_model_error(self, altered_model: Callable[..., Path]) -> None:
        folder = altered_model("whisper")
        state = load_file(folder / "model.safetensors")
        del state["model.encoder.conv1.weight"]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"1 weights.*conv1\.weight"):
            build_encoder(AudioConfig(model=str(folder)), "cpu")

    def test_feature_extractor_of_another_model_raises_model_error(self, altered_model: Callable[..., Path]) -> None:
        folder = altered_model("whisper", "preprocessor_config.json", feature_size=20)
        with pytest.raises(ModelError) as caught:
            build_encoder(AudioConfig(model=str(folder)), "cpu")
        assert "20 x 200" in caught.value.message
        assert "16 x 200" in caught.value.message


@pytest.mark.parametrize(("count", "longest", "lengths"), [(0, 4, []), (4, 4, [4]), (5, 4, [3, 2]), (9, 4, [3, 3, 3])])
def test_window_lengths_differ_by_at_most_one_sample(count: int, longest: int, lengths: list[int]) -> None:
    samples = np.arange(count, dtype=np.float32)
    windows = split_evenly(samples, longest)
    assert [len(window) for window in windows] == lengths
    np.testing.assert_array_equal(np.concatenate([np.empty(0), *windows]), samples)


def test_groups_contain_similar_lengths() -> None:
    lengths = [100, 50, 104, 105, 106, 52, 100]
    assert list(group_by_length(lengths, 0.05)) == [[1, 5], [0, 6, 2, 3], [4]]
    assert list(group_by_length(lengths, 0.0)) == [[1], [5], [0, 6], [2], [3], [4]]
    assert list(group_by_length([], 0.5)) == []
