"""Compare stored picture embeddings of CLIP and SigLIP with texts, without decoding clips again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from ecmf_pipeline.core.errors import ModelError
from ecmf_pipeline.encoders.config import VisionConfig
from ecmf_pipeline.encoders.inference import load_model, load_pretrained


@torch.inference_mode()
def text_image_probs(config: VisionConfig, pictures: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float64]:
    """Return how well each text describes each picture, as probabilities over the texts.

    Args:
        config: Encoder of the pictures, with ``token_pool: projection``.
        pictures: Its rows, (..., D); may have NaN.
        texts: The texts, (K,).

    Returns:
        Probabilities, (..., K): the softmax of the scaled cosine similarities. Rows of NaN stay NaN.

    Raises:
        ModelError: If the model cannot be loaded, has no text tower, or embeds texts with another width.
    """
    source = config.source()
    model, _ = load_model(source, AutoModel)
    if not hasattr(model, "get_text_features"):
        raise ModelError(
            f"model {config.model} has no text tower", "choose a CLIP or SigLIP model, or set vote.zero_shot.text_image"
        )
    tokenizer = load_pretrained(source, AutoTokenizer.from_pretrained)
    # SigLIP was trained on texts of one length.
    padding = "max_length" if str(model.config.model_type).startswith("siglip") else True
    tokens = tokenizer(list(texts), padding=padding, truncation=True, return_tensors="pt")
    embedded = model.get_text_features(**tokens)
    embedded = getattr(embedded, "pooler_output", embedded).float()  # transformers 5 returns an object
    if embedded.shape[1] != pictures.shape[-1]:
        raise ModelError(
            f"model {config.model} embeds texts with {embedded.shape[1]} columns, but the stored pictures have "
            f"{pictures.shape[-1]}",
            "extract the features again with token_pool: projection",
        )
    rows = torch.from_numpy(np.asarray(pictures, np.float32))
    similarity = torch.nn.functional.normalize(rows, dim=-1) @ torch.nn.functional.normalize(embedded, dim=-1).T
    probs: NDArray[np.float64] = (similarity * model.logit_scale.float().exp()).double().softmax(dim=-1).numpy()
    return probs
