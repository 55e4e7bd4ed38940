"""Text encoders against short scripts written after the library's own documentation."""

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

from ecmf_pipeline.encoders.base import ClipText
from ecmf_pipeline.encoders.config import TextConfig
from ecmf_pipeline.encoders.text import pool_tokens
from ecmf_pipeline.errors import ModelError


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
        view = ClipText("i am sad", "so very angry", "what a surprise")
        rows = {
            inputs: TextConfig(model=str(tiny / "bert"), inputs=inputs).build("cpu").encode([view])[0].values
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
