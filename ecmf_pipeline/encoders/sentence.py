"""How a sentence-transformers folder says that tokens become one row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ecmf_pipeline.encoders.pretrained import load_part
from ecmf_pipeline.encoders.weights import ModelSource
from ecmf_pipeline.files import read_text

_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}
"""sentence-transformers' name of a pooling, and ours."""

_KNOWN_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})


@dataclass(frozen=True, slots=True)
class SentencePooling:
    """What follows the network in a sentence-transformers model.

    Attributes:
        pooling: ``mean``, ``max``, ``cls`` or ``last``; of no meaning where something is unsupported.
        scales: Whether rows are scaled to length 1.
        unsupported: What stands there that is not known here; empty where all is.
    """

    pooling: str
    scales: bool
    unsupported: str = ""


def sentence_pooling(source: ModelSource) -> tuple[SentencePooling | None, int]:
    """Read a model's own pooling (None where it has none), and the most tokens that its folder allows."""
    modules = _read(source, "modules.json") or []
    limit = int((_read(source, "sentence_bert_config.json") or {}).get("max_seq_length") or 2**31)
    kinds = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    if unknown := kinds.keys() - _KNOWN_MODULES:
        return SentencePooling("", scales=False, unsupported=f"its module {min(unknown)}"), limit
    if "Pooling" not in kinds:
        return None, limit
    chosen = _read(source, f"{kinds['Pooling']}/config.json") or {}
    named = [pooling for key, pooling in _POOLING.items() if chosen.get(key)]
    if len(named) != 1 or chosen.get("pooling_mode_mean_sqrt_len_tokens"):
        return SentencePooling("", scales=False, unsupported="its pooling"), limit
    return SentencePooling(named[0], scales="Normalize" in kinds), limit


def _read(source: ModelSource, name: str) -> Any:
    """A JSON file of the model; None where it has none."""
    found = load_part(
        source, lambda model, **where: cached_file(model, name, _raise_exceptions_for_missing_entries=False, **where)
    )
    return json.loads(read_text(Path(found))) if found else None
