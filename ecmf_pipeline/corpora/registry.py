"""The readers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.folder import read_folder
from ecmf_pipeline.corpora.listing import CorpusListing, existing_folder
from ecmf_pipeline.corpora.meld import read_meld
from ecmf_pipeline.corpora.mer import FACE_CROPS_FOLDER, MEDIA_FOLDER, read_mer, with_face_crops

Reader = Callable[[CorpusConfig], CorpusListing]


def read_sample(config: CorpusConfig) -> CorpusListing:
    """List the generated corpus, which has MER's layout."""
    existing_folder(config.root, "run `ecmf-pipe sample` to make it")
    return replace(read_mer(config), synthetic=True)


READERS: Mapping[str, Reader] = MappingProxyType(
    {"sample": read_sample, "mer": read_mer, "folder": read_folder, "meld": read_meld}
)
"""One reader for each value of `CorpusConfig.kind`."""


def read_corpus(config: CorpusConfig, *, face_crops: bool = False) -> CorpusListing:
    """List the corpus that the settings name, if wanted with the crops of faces that come with it.

    Raises:
        CorpusError: When the corpus is missing or empty, or a csv file in it cannot be used.
        ParamsError: When ``corpus.mapping`` is not of the corpus.
    """
    listing = READERS[config.kind](config)
    return with_face_crops(listing) if face_crops else listing


def looked_at(config: CorpusConfig, *, face_crops: bool = False) -> tuple[list[Path], list[Path]]:
    """The folders that the reader of a corpus lists, and those that it lists with all folders in them."""
    if config.kind == "folder":
        return [], [config.root]
    return [config.root, config.root / MEDIA_FOLDER], [config.root / FACE_CROPS_FOLDER] if face_crops else []
