"""Map each `CorpusConfig.kind` to its reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import CorpusConfig
from ecmf_pipeline.corpora.described import read_described
from ecmf_pipeline.corpora.folder import read_folder
from ecmf_pipeline.corpora.kinds import DESCRIPTIONS
from ecmf_pipeline.corpora.labels import label_findings
from ecmf_pipeline.corpora.listing import CorpusListing, require_folder
from ecmf_pipeline.corpora.meld import read_meld
from ecmf_pipeline.corpora.mer import FACE_CROPS_FOLDER, MEDIA_FOLDER, SOUND_FOLDER, add_face_crops, read_mer
from ecmf_pipeline.corpora.recognising import unlabelled_findings, with_fitting_kind
from ecmf_pipeline.corpora.segments import Segments

Reader = Callable[[CorpusConfig], CorpusListing]
NOT_CUT: Segments = MappingProxyType({})


def read_sample(config: CorpusConfig) -> CorpusListing:
    """List the generated corpus, which has MER's layout."""
    require_folder(config.root, "generate the sample corpus", command="ecmf-pipe sample")
    return replace(read_mer(config), synthetic=True)


READERS: Mapping[str, Reader] = MappingProxyType(
    {"sample": read_sample, "mer": read_mer, "folder": read_folder, "meld": read_meld}
    | {description.kind: partial(read_described, description) for description in DESCRIPTIONS}
)
"""The reader of each `CorpusConfig.kind`."""


def read_corpus(config: CorpusConfig, *, face_crops: bool = False, segments: Segments = NOT_CUT) -> CorpusListing:
    """List a corpus.

    Args:
        config: The corpus and its layout.
        face_crops: Whether to add the paths of the face crops that the corpus provides.
        segments: The clips of the recordings that `segment` has cut; only in corpora of kind folder.

    Raises:
        CorpusError: If the corpus is missing or empty, or of another kind, or one of its csv files is unusable.
        ParamsError: If ``corpus.mapping`` names an emotion that the corpus does not have.
    """
    try:
        listing = read_folder(config, segments) if segments else READERS[config.kind](config)
    except CorpusError as error:
        if config.kind == "sample" or not config.root.is_dir():
            raise
        raise with_fitting_kind(error, config.kind, config.root) from error
    unlabelled = unlabelled_findings(listing) if config.kind == "folder" else ()
    findings = (*listing.findings, *unlabelled, *label_findings(listing))
    listing = replace(listing, findings=findings, quarantines_wrong_length=config.wrong_length == "quarantine")
    return add_face_crops(listing) if face_crops else listing


def scanned_folders(config: CorpusConfig, *, face_crops: bool = False) -> tuple[list[Path], list[Path]]:
    """Return the folders that the corpus reader lists: first those listed flat, then those listed recursively."""
    if config.kind not in {"sample", "mer"}:
        return [], [config.root]
    flat = [config.root, config.root / MEDIA_FOLDER, config.root / SOUND_FOLDER]
    return flat, [config.root / FACE_CROPS_FOLDER] if face_crops else []
