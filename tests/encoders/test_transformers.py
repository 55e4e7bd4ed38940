"""Transformers encoders against short scripts written after the library's own documentation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from ecmf_pipeline.encoders.base import ClipText
from ecmf_pipeline.encoders.config import AudioConfig, TextConfig, VisionConfig
from ecmf_pipeline.encoders.preprocess import read_preprocessing
from ecmf_pipeline.encoders.text import pool_tokens
from ecmf_pipeline.errors import ModelError


@pytest.fixture
def altered(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny model with values of one of its JSON files replaced."""

    def alter(name: str, file: str = "config.json", **values: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny / name, folder, dirs_exist_ok=True)
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **values}))
        return folder

    return alter


class TestPreprocessing:
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
            ours = preprocessing.normalised(preprocessing.resized(clip)).numpy()
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


class TestVision:
    @pytest.mark.parametrize("name", ["clip", "clip_two_towers", "vit", "dinov2"])
    def test_rows_equal_a_plain_script(self, tiny: Path, frames: list[NDArray[np.uint8]], name: str) -> None:
        kinds = {"clip": "CLIPVisionModel", "vit": "ViTModel", "dinov2": "Dinov2Model", "clip_two_towers": "CLIPModel"}
        model = getattr(transformers, kinds[name]).from_pretrained(tiny / name).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(tiny / name, backend="pil")
        encodings = VisionConfig(model=str(tiny / name)).build("cpu").encode(frames)
        for clip, encoding in zip(frames, encodings, strict=True):
            pixels = processor(list(clip), return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                out = (model.vision_model if name == "clip_two_towers" else model)(pixel_values=pixels)
            rows = out.last_hidden_state[:, 0] if name == "vit" else out.pooler_output
            cosine = torch.nn.functional.cosine_similarity(rows, torch.from_numpy(encoding.values))
            assert cosine.min() > 0.9999  # pictures may differ by a grey level

    def test_missing_weights_are_a_model_error(self, altered: Callable[..., Path]) -> None:
        folder = altered("vit")
        state = load_file(folder / "model.safetensors")
        del state[next(name for name in state if name.endswith("weight"))]
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match="lacks 1 weights"):
            VisionConfig(model=str(folder)).build("cpu")

    def test_a_model_without_image_processor_is_a_model_error(self, tiny: Path) -> None:
        with pytest.raises(ModelError, match="cannot load"):
            VisionConfig(model=str(tiny / "bert")).build("cpu")

    def test_damaged_weights_are_a_model_error(self, altered: Callable[..., Path]) -> None:
        folder = altered("vit")
        (folder / "model.safetensors").write_bytes(b"broken")
        with pytest.raises(ModelError, match="cannot load"):
            VisionConfig(model=str(folder)).build("cpu")

    def test_a_processor_that_does_not_fit_its_model_is_a_model_error(self, altered: Callable[..., Path]) -> None:
        folder = altered("vit", "preprocessor_config.json", size={"height": 64, "width": 64})
        with pytest.raises(ModelError, match="does not describe single pictures"):
            VisionConfig(model=str(folder)).build("cpu")


class TestAudio:
    @pytest.mark.parametrize("name", ["hubert", "wav2vec2", "wavlm"])
    @pytest.mark.parametrize("layers", ["last", "last4_mean", "last4_sum"])
    def test_rows_equal_a_plain_script(
        self, tiny: Path, sounds: list[NDArray[np.float32]], name: str, layers: str
    ) -> None:
        model = transformers.AutoModel.from_pretrained(tiny / name).eval()
        extractor = transformers.AutoFeatureExtractor.from_pretrained(tiny / name)
        encodings = AudioConfig(model=str(tiny / name), layers=layers, batch_size=4).build("cpu").encode(sounds)
        for samples, encoding in zip(sounds, encodings, strict=True):
            inputs = extractor(samples, sampling_rate=16_000, return_tensors="pt")
            with torch.no_grad():
                states = model(inputs.input_values, output_hidden_states=True).hidden_states
            four = torch.stack(states)[-4:]
            rows = {"last": states[-1], "last4_mean": four.mean(dim=0), "last4_sum": four.sum(dim=0)}[layers][0]
            np.testing.assert_allclose(encoding.values, rows.numpy(), atol=1e-4)

    @pytest.mark.parametrize("name", ["hubert", "wav2vec2"])
    def test_too_short_a_sound_has_no_row(self, tiny: Path, name: str) -> None:
        encoder = AudioConfig(model=str(tiny / name)).build("cpu")
        shortest = 10 + 2 * 5  # the receptive field of the two convolutions
        sounds = [np.full(count, 0.1, np.float32) for count in (0, 1, shortest - 1, shortest)]
        assert [len(encoding.values) for encoding in encoder.encode(sounds)] == [0, 0, 0, 1]

    def test_rows_can_be_averaged_in_runs(self, tiny: Path, sounds: list[NDArray[np.float32]]) -> None:
        config = AudioConfig(model=str(tiny / "hubert"))
        full = config.build("cpu").encode(sounds[:1])[0].values
        runs = config.model_copy(update={"frames_per_row": 7}).build("cpu").encode(sounds[:1])[0]
        assert len(runs.values) == len(runs.kept) == -(-len(full) // 7)
        np.testing.assert_allclose(runs.values[1], full[7:14].mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(runs.values[-1], full[7 * (len(runs.values) - 1) :].mean(axis=0), atol=1e-6)

    def test_another_sampling_rate_is_a_model_error(self, altered: Callable[..., Path]) -> None:
        folder = altered("hubert", "preprocessor_config.json", sampling_rate=44_100)
        with pytest.raises(ModelError, match="44100 Hz"):
            AudioConfig(model=str(folder)).build("cpu")

    def test_a_model_that_does_not_read_waveforms_is_a_model_error(self, tiny: Path) -> None:
        with pytest.raises(ModelError, match="does not read waveforms"):
            AudioConfig(model=str(tiny / "bert")).build("cpu")


class TestText:
    @pytest.mark.parametrize("name", ["bert", "llama"])
    def test_rows_equal_a_plain_script(self, tiny: Path, name: str) -> None:
        model = transformers.AutoModel.from_pretrained(tiny / name).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / name)
        texts = ["i miss my mother", "what a nice surprise today", "sad"]
        encodings = TextConfig(model=str(tiny / name)).build("cpu").encode([ClipText(text) for text in texts])
        for text, encoding in zip(texts, encodings, strict=True):
            with torch.no_grad():
                states = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state
            np.testing.assert_allclose(encoding.values, states.mean(dim=1).numpy(), atol=1e-5)

    def test_a_sentence_model_pools_as_its_folder_says(self, tiny: Path) -> None:
        model = transformers.AutoModel.from_pretrained(tiny / "sentence").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "sentence")
        row = TextConfig(model=str(tiny / "sentence")).build("cpu").encode([ClipText("i am happy")])[0].values
        with torch.no_grad():
            states = model(**tokenizer("i am happy", return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(row, states[:, 0].numpy(), atol=1e-5)

    def test_minilm_puts_like_meanings_close_on_the_unit_sphere(self, models: Path) -> None:
        texts = ["I am so happy today!", "What a joyful day for me.", "The train leaves at noon."]
        encodings = TextConfig(model=str(models / "minilm")).build("cpu").encode([ClipText(text) for text in texts])
        rows = np.concatenate([encoding.values for encoding in encodings])
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert rows[0] @ rows[1] > 0.5 > 0.25 > rows[0] @ rows[2]

    def test_inputs_choose_the_transcript(self, tiny: Path) -> None:
        view = ClipText("i am sad", "so very angry")
        rows = {
            inputs: TextConfig(model=str(tiny / "bert"), inputs=inputs).build("cpu").encode([view])[0].values
            for inputs in ("original", "enriched", "both")
        }
        np.testing.assert_allclose(rows["both"], np.hstack([rows["original"], rows["enriched"]]), atol=1e-6)
        assert np.abs(rows["original"] - rows["enriched"]).max() > 1e-2

    @pytest.mark.parametrize(
        ("inputs", "view"),
        [("original", ClipText("", "x")), ("enriched", ClipText("x", " ")), ("both", ClipText("x"))],
    )
    def test_a_text_that_is_asked_for_must_be_there(self, tiny: Path, inputs: Any, view: ClipText) -> None:
        encoder = TextConfig(model=str(tiny / "bert"), inputs=inputs).build("cpu")
        with pytest.raises(ValueError, match=inputs):
            encoder.encode([ClipText("happy", "sad"), view])

    def test_a_text_without_tokens_has_no_row(self, altered: Callable[..., Path]) -> None:
        folder = altered("llama")
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "..."}, "content": ""}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        some, none = TextConfig(model=str(folder)).build("cpu").encode([ClipText("sad"), ClipText("...")])
        assert (some.values.shape, none.values.shape) == ((1, 32), (0, 32))

    def test_long_texts_are_cut_at_the_smallest_limit(self, tiny: Path, altered: Callable[..., Path]) -> None:
        long = ClipText("sad angry " * 30)
        for folder, asked, kept in ((tiny / "llama", 6, 6), (tiny / "llama", 99, 16)):
            encoder = TextConfig(model=str(folder), max_tokens=asked).build("cpu")
            cut = ClipText(" ".join(long.original.split()[:kept]))
            np.testing.assert_array_equal(encoder.encode([long])[0].values, encoder.encode([cut])[0].values)

    def test_last_four_layers_need_four(self, tmp_path: Path, tiny: Path) -> None:
        folder = tmp_path / "shallow"
        shutil.copytree(tiny / "bert", folder)
        config = transformers.BertConfig.from_pretrained(folder)
        config.num_hidden_layers = 2
        transformers.BertModel(config).save_pretrained(folder)
        with pytest.raises(ModelError, match="has 2 layers"):
            TextConfig(model=str(folder), layers="last4_sum").build("cpu")

    @pytest.mark.parametrize(
        ("modules", "pooling"),
        [
            (["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True}),
            (["Transformer", "Pooling"], {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}),
            (["Transformer", "Pooling"], {"pooling_mode_weightedmean_tokens": True}),
        ],
    )
    def test_unknown_sentence_pooling_is_a_model_error(
        self, altered: Callable[..., Path], modules: list[str], pooling: dict[str, bool]
    ) -> None:
        folder = altered("sentence")
        listed = [{"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling"} for kind in modules]
        (folder / "modules.json").write_text(json.dumps(listed))
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        with pytest.raises(ModelError, match="not supported"):
            TextConfig(model=str(folder)).build("cpu")

    @pytest.mark.parametrize(
        ("pooling", "rows"),
        [("mean", [[2, 3], [5, 6]]), ("max", [[3, 4], [5, 6]]), ("last", [[3, 4], [5, 6]]), ("cls", [[1, 2], [5, 6]])],
    )
    def test_pooling_never_sees_padding(self, pooling: str, rows: list[list[float]]) -> None:
        states = torch.tensor([[[1.0, 2], [3, 4]], [[5, 6], [99, 99]]])
        assert pool_tokens(states, torch.tensor([[1, 1], [1, 0]]), pooling).tolist() == rows
