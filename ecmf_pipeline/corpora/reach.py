"""Where the readers look: what else stands there cannot change what they find."""

from __future__ import annotations

from pathlib import Path

from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.face_crops import FACE_CROPS_FOLDER
from ecmf_pipeline.corpora.mer import MEDIA_FOLDER


def looked_at(config: CorpusConfig, *, face_crops: bool = False) -> tuple[list[Path], list[Path]]:
    """The folders that the reader of a corpus lists, and those that it lists with all folders in them.

    Args:
        config: Which corpus.
        face_crops: Whether crops of faces that come with it are looked for.
    """
    if config.kind == "folder":
        return [], [config.root]
    return [config.root, config.root / MEDIA_FOLDER], [config.root / FACE_CROPS_FOLDER] if face_crops else []
