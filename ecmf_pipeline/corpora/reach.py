"""Where the readers look: what else stands there cannot change what they find."""

from __future__ import annotations

from pathlib import Path

from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.mer import MEDIA_FOLDER


def looked_at(config: CorpusConfig) -> tuple[list[Path], list[Path]]:
    """The folders that the reader of a corpus lists, and those that it lists with all folders in them."""
    if config.kind == "folder":
        return [], [config.root]
    return [config.root, config.root / MEDIA_FOLDER], []
