"""Recognise which corpus lies in a folder, by looking at names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.config import CorpusKind
from ecmf_pipeline.corpora.described import Description
from ecmf_pipeline.corpora.glimpse import Glimpse, look_at
from ecmf_pipeline.corpora.kinds import DESCRIPTIONS
from ecmf_pipeline.corpora.listing import CorpusListing, Finding, FindingKind
from ecmf_pipeline.corpora.meld import TABLES as MELD_TABLES
from ecmf_pipeline.corpora.mer import MEDIA_FOLDER
from ecmf_pipeline.corpora.mer import TABLES as MER_TABLES


def _is_mer(glimpse: Glimpse) -> bool:
    return any("/" not in path and path in MER_TABLES for path in glimpse.paths) and glimpse.has(
        f"^({MEDIA_FOLDER}|audio)/"
    )


LAYOUTS = {
    "mer": f"{MER_TABLES[0]} and clips in {MEDIA_FOLDER}/",
    "meld": f"{', '.join(MELD_TABLES.values())} and clips dia0_utt0.mp4",
    "folder": "video or sound files, perhaps with labels.csv",
} | {description.kind: description.layout for description in DESCRIPTIONS}
"""The contents of the folder of each kind of corpus, in words."""


def description_of(kind: str) -> Description | None:
    """Return the description of a kind; None for ``mer``, ``meld``, ``folder`` and ``sample``."""
    return next((description for description in DESCRIPTIONS if description.kind == kind), None)


def recognise(glimpse: Glimpse) -> CorpusKind | None:
    """Return the kind of a corpus; ``folder`` for media files in no known layout, None without media files.

    Raises:
        CorpusError: If several kinds fit.
    """
    if any(glimpse.has(f"^([^/]+/)?{name}$") for name in MELD_TABLES.values()):
        return "meld"
    if _is_mer(glimpse):
        return "mer"
    kinds = [description.kind for description in DESCRIPTIONS if description.fits(glimpse)]
    if len(kinds) > 1 and "table" in kinds:  # any corpus may have a table too
        kinds.remove("table")
    if len(kinds) > 1:
        raise CorpusError(
            f"{glimpse.root} may be a corpus of kind {' or '.join(kinds)}",
            "set corpus.kind and corpus.root in params.yaml (ecmf-pipe init without --corpus writes one)",
        )
    return kinds[0] if kinds else "folder" if glimpse.media else None


def _recognise_if_sure(glimpse: Glimpse) -> CorpusKind | None:
    try:
        return recognise(glimpse)
    except CorpusError:
        return None


def unlabelled_findings(listing: CorpusListing) -> Iterator[Finding]:
    """Yield a finding if a folder without labels has the layout of a published corpus, which has some."""
    if not any(clip.given_label or clip.gold_label for clip in listing.clips):
        kind = _recognise_if_sure(look_at(listing.root))
        if kind not in {None, "folder"}:
            message = f"{listing.root} looks like a corpus of kind {kind}, which has labels; set corpus.kind to {kind}"
            yield Finding(FindingKind.NO_LABELS, "", message, count=len(listing.clips))


def with_fitting_kind(error: CorpusError, kind: str, root: Path) -> CorpusError:
    """Return the error of a corpus that cannot be read, with the kind that fits if another one does."""
    glimpse = look_at(root)
    fitting = _recognise_if_sure(glimpse)
    if fitting in {None, kind, "folder"}:
        return error
    expected = LAYOUTS.get(kind)
    message = (
        f"{root} is no corpus of kind {kind}: expected {expected}; the folder holds {glimpse.contents()}, which fits "
        f"kind {fitting}"
        if expected
        else error.message
    )
    return CorpusError(message, f"set corpus.kind in params.yaml to {fitting}")
