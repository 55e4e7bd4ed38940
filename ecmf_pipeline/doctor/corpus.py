"""The clips that a trial takes, and how many are still to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Modality, read_manifest, read_texts
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.index import index_corpus
from ecmf_pipeline.corpora.listing import CorpusListing
from ecmf_pipeline.corpora.measuring import Measured
from ecmf_pipeline.corpora.registry import read_corpus
from ecmf_pipeline.doctor.checks import Check, State
from ecmf_pipeline.doctor.trial import TRIAL_CLIPS, spread
from ecmf_pipeline.extraction.run import Reading, coverage
from ecmf_pipeline.settings.params import Params

_MEASURED = 4 * TRIAL_CLIPS


@dataclass(frozen=True, slots=True)
class Ahead:
    """The corpus, and what is there of it.

    Attributes:
        listing: What the corpus' files say.
        manifest: What `index` made of it; None where it has not run.
        texts: Transcripts as `rewrite` left them, by clip id; None where it has not run.
    """

    listing: CorpusListing
    manifest: Sequence[Clip] | None
    texts: Mapping[str, ClipText] | None

    @property
    def labels(self) -> Sequence[str]:
        """What the LLM is to choose from."""
        return self.listing.labels if len(self.listing.labels) > 1 else MER_LABELS

    def missing(self, modality: Modality, settings: Mapping[str, object]) -> int:
        """Clips whose features of a modality are still to be computed, as far as can be told."""
        if modality is Modality.TEXT and self.texts is None:
            return sum(bool(clip.transcript.strip()) for clip in self.listing.clips)
        if self.manifest is None:
            return sum(bool(clip.path) for clip in self.listing.clips)
        return coverage(
            modality,
            self.manifest,
            self.texts or {},
            root=paths.features(modality),
            quarantine_path=paths.quarantine("extract", modality),
            fingerprint=fingerprint(settings),
            reading=Reading.of_settings(settings),
        ).missing

    def unasked(self) -> int:
        """Texts that the LLM is still to be asked about."""
        known = {clip_id: text.original for clip_id, text in (self.texts or {}).items()}
        return len({c.transcript for c in self.listing.clips if c.transcript.strip()} - set(known.values()))


def look_ahead(params: Params) -> Ahead:
    """Read the corpus, and what earlier runs made of it.

    Raises:
        CorpusError: When it cannot be read.
        InputError: When a table of an earlier run is damaged.
    """
    return Ahead(
        read_corpus(params.corpus, face_crops=params.faces.source == "openface"),
        read_manifest(paths.MANIFEST) if paths.MANIFEST.is_file() else None,
        read_texts(paths.REWRITES) if paths.REWRITES.is_file() else None,
    )


def check_corpus(params: Params, ahead: Ahead) -> Check:
    """How many clips there are, and of what."""
    clips = ahead.listing.clips
    files, spoken = sum(bool(clip.path) for clip in clips), sum(bool(clip.transcript.strip()) for clip in clips)
    indexed = "not indexed yet" if ahead.manifest is None else f"{len(ahead.manifest)} in the manifest"
    message = (
        f"{params.corpus.kind} in {params.corpus.root}: {len(clips)} clips, {files} with a file, {spoken} with words"
    )
    figures = {"clips": len(clips), "files": files, "transcripts": spoken}
    if not files and not spoken:
        return Check("corpus", State.FAILURE, f"{message}: there is nothing to compute", "see corpus.root", figures)
    return Check("corpus", State.OK, f"{message}; {indexed}", figures=figures)


def measured_clips(ahead: Ahead, folder: Path, clip_timeout: float) -> tuple[list[Clip], Mapping[ClipId, Measured]]:
    """Measure some clips with a file, evenly spread over the corpus, as `index` does; tell those that cannot be read.

    More than are tried, for some may lack what a modality reads.
    """
    chosen = spread([clip for clip in ahead.listing.clips if clip.path], _MEASURED)
    listing = replace(ahead.listing, clips=tuple(chosen))
    found = index_corpus(listing, folder / "index.json", workers=1, clip_timeout=clip_timeout)
    return list(found.clips), found.quarantined


def spoken_clips(ahead: Ahead, count: int) -> list[Clip]:
    """Some clips with words, evenly spread over the corpus, no two of which say the same."""
    by_words = {clip.transcript: clip for clip in ahead.listing.clips if clip.transcript.strip()}
    return spread(list(by_words.values()), count)
