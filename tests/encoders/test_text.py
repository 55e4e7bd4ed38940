"""Compare text encoders with short reference scripts that follow the documentation of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError

from ecmf_pipeline.core.clips import ClipText
from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.config import TextConfig
from ecmf_pipeline.encoders.registry import build_encoder
from ecmf_pipeline.encoders.text import pool_tokens

TEXTS = ["i miss my mother", "what a nice surprise today", "sad"]


def write_gguf(path: Path) -> None:
    """Write a Llama of two layers with random weights."""
    words = ["<unk>", "<s>", "</s>", "Ġi", *"iamsohpydĠ"]
    rng = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    writer.add_token_merges(["Ġ i"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (len(words), 32), "output": (len(words), 32), "output_norm": (32,)}
    for block in ("blk.0", "blk.1"):
        shapes |= {f"{block}.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
        shapes |= {f"{block}.attn_norm": (32,), f"{block}.ffn_norm": (32,)}
        shapes |= {f"{block}.ffn_gate": (48, 32), f"{block}.ffn_up": (48, 32), f"{block}.ffn_down": (32, 48)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class TestText:
    @pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
    @pytest.mark.parametrize("layers", ["last", "last4_mean", "last4_sum", (0, -1)])
    def test_rows_equal_the_reference_script(self, tiny_models: Path, name: str, layers: Any) -> None:
        model = transformers.AutoModel.from_pretrained(tiny_models / name).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models / name)
        config = TextConfig(model=str(tiny_models / name), layers=layers)
        encodings = build_encoder(config, "cpu").encode([ClipText(text) for text in TEXTS])
        for text, encoding in zip(TEXTS, encodings, strict=True):
            tokens = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            with torch.no_grad():
                states = torch.stack(model(**tokens, output_hidden_states=True).hidden_states)
            four = states[-4:]
            chosen = {"last": states[-1], "last4_mean": four.mean(dim=0), "last4_sum": four.sum(dim=0)}
            rows = chosen[layers] if isinstance(layers, str) else states[list(layers)].mean(dim=0)
            np.testing.assert_allclose(encoding.values, rows.mean(dim=1).numpy(), atol=1e-5)

    def test_special_tokens_can_be_excluded_from_the_mean(self, tiny_models: Path) -> None:
        model = transformers.BertModel.from_pretrained(tiny_models / "bert").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models / "bert")
        config = TextConfig(model=str(tiny_models / "bert"), layers="last4_sum", special_tokens=False)
        for text, encoding in zip(
            TEXTS, build_encoder(config, "cpu").encode([ClipText(text) for text in TEXTS]), strict=True
        ):
            with torch.no_grad():
                out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
            words = torch.stack(out.hidden_states)[-4:].sum(dim=0)[0, 1:-1]  # between [CLS] and [SEP]
            np.testing.assert_allclose(encoding.values[0], words.mean(dim=0).numpy(), atol=1e-5)

    @pytest.mark.parametrize("token_pool", ["cls", "mean", "max", "last"])
    def test_token_pool_overrides_the_pooling_of_a_sentence_model(self, tiny_models: Path, token_pool: Any) -> None:
        model = transformers.AutoModel.from_pretrained(tiny_models / "sentence").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models / "sentence")
        config = TextConfig(model=str(tiny_models / "sentence"), token_pool=token_pool)
        [short, row] = build_encoder(config, "cpu").encode([ClipText("sad"), ClipText("i am happy")])
        assert short.values.shape == (1, 32)
        with torch.no_grad():
            states = model(**tokenizer("i am happy", return_tensors="pt")).last_hidden_state[0]
        rows = {"cls": states[0], "mean": states.mean(dim=0), "max": states.amax(dim=0), "last": states[-1]}
        np.testing.assert_allclose(row.values[0], rows[token_pool].numpy(), atol=1e-5)

    def test_cls_pooling_without_special_tokens_is_rejected(self, tiny_models: Path) -> None:
        with pytest.raises(ValidationError, match="special_tokens"):
            TextConfig(model=str(tiny_models / "bert"), token_pool="cls", special_tokens=False)
        with pytest.raises(ModelError) as caught:
            build_encoder(TextConfig(model=str(tiny_models / "sentence"), special_tokens=False), "cpu")
        assert str(tiny_models / "sentence") in caught.value.message
        assert "special_tokens" in (caught.value.hint or "")

    def test_text_of_special_tokens_only_has_no_row_without_them(self, altered_model: Callable[..., Path]) -> None:
        folder = altered_model("bert")
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "..."}, "content": ""}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        view = ClipText("...")
        for special_tokens, rows in ((True, 1), (False, 0)):
            encoder = build_encoder(TextConfig(model=str(folder), special_tokens=special_tokens), "cpu")
            assert len(encoder.encode([view])[0].values) == rows

    def test_all_options_are_in_the_settings(self, tiny_models: Path) -> None:
        settings = TextConfig(model=str(tiny_models / "bert")).settings()
        options = {"inputs", "max_tokens", "layers", "token_pool", "special_tokens", "gguf_file", "precision"}
        assert settings.keys() == {"type", *options, "recipe", "dtype", "weights"}
        other = TextConfig(model=str(tiny_models / "bert"), token_pool="max", special_tokens=False).settings()
        assert (other["token_pool"], other["special_tokens"]) == ("max", False)

    def test_weights_are_read_from_a_gguf_file(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_gguf(tmp_path / "tiny.gguf")
        config = TextConfig(model=str(tmp_path), gguf_file="tiny.gguf", token_pool="last", layers=(-2,))
        encodings = build_encoder(config, "cpu").encode([ClipText(text) for text in ("i am so happy", "sad")])
        assert capfd.readouterr() == ("", "")
        model = transformers.AutoModel.from_pretrained(tmp_path, gguf_file="tiny.gguf").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")
        for text, encoding in zip(("i am so happy", "sad"), encodings, strict=True):
            with torch.no_grad():
                out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
            np.testing.assert_allclose(encoding.values, out.hidden_states[-2][:, -1].numpy(), atol=1e-5)
        assert config.settings()["weights"]["files"].keys() == {"tiny.gguf"}
        with pytest.raises(ModelError) as caught:
            TextConfig(model=str(tmp_path), gguf_file="other.gguf").settings()
        assert str(tmp_path) in caught.value.message
        assert "other.gguf" in caught.value.message

    def test_encoder_decoder_raises_model_error(self, tiny_models: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_models / "bert", tmp_path / "t5")
        config = transformers.T5Config(vocab_size=19, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        transformers.T5Model(config).save_pretrained(tmp_path / "t5")
        with pytest.raises(ModelError, match="an encoder and a decoder") as caught:
            build_encoder(TextConfig(model=str(tmp_path / "t5")), "cpu")
        assert str(tmp_path / "t5") in caught.value.message

    @pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
    def test_half_precision_changes_features_slightly(self, tiny_models: Path, name: str) -> None:
        config = TextConfig(model=str(tiny_models / name), layers="last4_sum")
        half, views = config.model_copy(update={"precision": "bf16"}), [ClipText(text) for text in TEXTS]
        for exact, near in zip(
            build_encoder(config, "cpu").encode(views), build_encoder(half, "cpu").encode(views), strict=True
        ):
            one, two = exact.values[0], near.values[0]
            assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.999
            assert not np.array_equal(one, two)

    def test_sentence_model_uses_the_pooling_of_its_folder(self, tiny_models: Path) -> None:
        model = transformers.AutoModel.from_pretrained(tiny_models / "sentence").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models / "sentence")
        row = (
            build_encoder(TextConfig(model=str(tiny_models / "sentence")), "cpu")
            .encode([ClipText("i am happy")])[0]
            .values
        )
        with torch.no_grad():
            states = model(**tokenizer("i am happy", return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(row, states[:, 0].numpy(), atol=1e-5)

    def test_minilm_rows_have_unit_length_and_reflect_similarity(self, models: Path) -> None:
        texts = ["I am so happy today!", "What a joyful day for me.", "The train leaves at noon."]
        encodings = build_encoder(TextConfig(model=str(models / "minilm")), "cpu").encode(
            [ClipText(text) for text in texts]
        )
        rows = np.concatenate([encoding.values for encoding in encodings])
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert rows[0] @ rows[1] > 0.5 > 0.25 > rows[0] @ rows[2]

    def test_inputs_select_the_transcripts(self, tiny_models: Path) -> None:
        view = ClipText("i am sad", "so very angry", "what a surprise")
        rows = {
            inputs: build_encoder(TextConfig(model=str(tiny_models / "bert"), inputs=inputs), "cpu")
            .encode([view])[0]
            .values
            for inputs in ("original", "enriched", "translation", "both", ("translation", "original"))
        }
        np.testing.assert_allclose(rows["both"], np.hstack([rows["original"], rows["enriched"]]), atol=1e-6)
        assert np.abs(rows["original"] - rows["enriched"]).max() > 1e-2
        listed = rows["translation", "original"]
        np.testing.assert_allclose(listed, np.hstack([rows["translation"], rows["original"]]), atol=1e-6)
        assert np.abs(rows["original"] - rows["translation"]).max() > 1e-2

    @pytest.mark.parametrize(
        ("inputs", "view"),
        [("original", ClipText("", "x")), ("enriched", ClipText("x", " ")), ("both", ClipText("x"))],
    )
    def test_missing_transcript_raises_value_error(self, tiny_models: Path, inputs: Any, view: ClipText) -> None:
        encoder = build_encoder(TextConfig(model=str(tiny_models / "bert"), inputs=inputs), "cpu")
        with pytest.raises(ValueError, match="without text"):
            encoder.encode([ClipText("happy", "sad"), view])

    def test_text_without_tokens_has_no_row(self, altered_model: Callable[..., Path]) -> None:
        folder = altered_model("llama")
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "..."}, "content": ""}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        some, none = build_encoder(TextConfig(model=str(folder)), "cpu").encode([ClipText("sad"), ClipText("...")])
        assert (some.values.shape, none.values.shape) == ((1, 32), (0, 32))

    def test_long_texts_are_truncated_at_the_smallest_limit(
        self, tiny_models: Path, altered_model: Callable[..., Path]
    ) -> None:
        long = ClipText("sad angry " * 30)
        limits = ((tiny_models / "llama", 6, 6), (tiny_models / "llama", 99, 16), (tiny_models / "roberta", 99, 13))
        for folder, max_tokens, expected in limits:
            encoder = build_encoder(TextConfig(model=str(folder), max_tokens=max_tokens), "cpu")
            truncated = ClipText(" ".join(long.original.split()[:expected]))
            np.testing.assert_array_equal(encoder.encode([long])[0].values, encoder.encode([truncated])[0].values)

    def test_last4_needs_four_layers(self, tmp_path: Path, tiny_models: Path) -> None:
        folder = tmp_path / "shallow"
        shutil.copytree(tiny_models / "bert", folder)
        config = transformers.BertConfig.from_pretrained(folder)
        config.num_hidden_layers = 2
        transformers.BertModel(config).save_pretrained(folder)
        with pytest.raises(ModelError, match="2 layers") as caught:
            build_encoder(TextConfig(model=str(folder), layers="last4_sum"), "cpu")
        assert "last4_sum" in caught.value.message

    @pytest.mark.parametrize(
        ("modules", "pooling"),
        [
            (["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True}),
            (["Transformer", "Pooling"], {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}),
            (["Transformer", "Pooling"], {"pooling_mode_weightedmean_tokens": True}),
        ],
    )
    def test_unknown_sentence_pooling_raises_model_error(
        self, altered_model: Callable[..., Path], modules: list[str], pooling: dict[str, bool]
    ) -> None:
        folder = altered_model("sentence")
        listed = [{"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling"} for kind in modules]
        (folder / "modules.json").write_text(json.dumps(listed))
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        with pytest.raises(ModelError, match="not supported") as caught:
            build_encoder(TextConfig(model=str(folder)), "cpu")
        assert str(folder) in caught.value.message
        assert ("Dense" in caught.value.message) is ("Dense" in modules)

    @pytest.mark.parametrize(
        ("pooling", "rows"),
        [("mean", [[2, 3], [5, 6]]), ("max", [[3, 4], [5, 6]]), ("last", [[3, 4], [5, 6]]), ("cls", [[1, 2], [5, 6]])],
    )
    def test_pooling_ignores_padding(self, pooling: str, rows: list[list[float]]) -> None:
        states = torch.tensor([[[1.0, 2], [3, 4]], [[5, 6], [99, 99]]])
        assert pool_tokens(states, torch.tensor([[1, 1], [1, 0]]), pooling).tolist() == rows
