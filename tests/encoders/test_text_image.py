"""Tests of zero-shot scores of pictures by texts, and of the face network's own emotions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.config import VisionConfig
from ecmf_pipeline.encoders.embedded.mini_xception import expression_probs, load_mini_xception
from ecmf_pipeline.encoders.text_image import text_image_probs

TEXTS = ("a happy person", "a sad person")


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with random weights and a tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path_factory.mktemp("clip")
    words = {word: number for number, word in enumerate(["<pad>", "<end>", "a", "happy", "sad", "person"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<end>"))
    tokenizer.pre_tokenizer = Whitespace()
    # CLIP pools the text at its end token.
    tokenizer.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", model_max_length=16
    ).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={
            **sizes,
            "vocab_size": 6,
            "max_position_embeddings": 16,
            "eos_token_id": 1,
            "bos_token_id": 1,
            "pad_token_id": 0,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def test_a_picture_gets_the_text_with_the_same_embedding(clip_model: Path) -> None:
    model = transformers.CLIPModel.from_pretrained(clip_model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip_model)
    with torch.no_grad():
        texts = model.get_text_features(**tokenizer(list(TEXTS), return_tensors="pt"))
    embedded = getattr(texts, "pooler_output", texts).numpy()
    pictures = np.stack([embedded, 3 * embedded[::-1], np.full_like(embedded, np.nan)])  # (3, 2, D)
    config = VisionConfig(model=str(clip_model), token_pool="projection")
    probs = text_image_probs(config, pictures.astype(np.float32), TEXTS)
    assert probs.shape == (3, 2, 2)
    assert probs[:2].argmax(axis=2).tolist() == [[0, 1], [1, 0]]
    np.testing.assert_allclose(probs[:2].sum(axis=2), 1)
    assert np.isnan(probs[2]).all()
    with pytest.raises(ModelError):
        text_image_probs(config, np.zeros((1, 5), np.float32), TEXTS)


def test_expressions_of_constant_feature_maps_are_exact(models: Path) -> None:
    weights = models / "mini_xception" / "emotion_model.hdf5"
    features = np.random.default_rng(0).random((5, 128), np.float32)
    classifier = load_mini_xception(weights).classifier
    with torch.no_grad():
        maps = torch.from_numpy(features)[:, :, None, None].expand(-1, -1, 4, 4)
        exact = classifier(maps).mean(dim=(2, 3)).double().softmax(dim=1).numpy()
    np.testing.assert_allclose(expression_probs(weights, features), exact, atol=1e-5)
    features[0, 0] = np.nan
    assert np.isnan(expression_probs(weights, features)[0]).all()
