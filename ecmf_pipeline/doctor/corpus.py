"""Read the corpus, select clips for the trial and count the clips still to process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, ClipText, Modality, read_manifest, read_texts
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.core.languages import format_language
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.corpora.index import index_corpus
from ecmf_pipeline.corpora.languages import count_languages, translation_language, with_languages
from ecmf_pipeline.corpora.listing import MISTAKES, CorpusListing, count_by_kind
from ecmf_pipeline.corpora.measuring import Measurement
from ecmf_pipeline.corpora.registry import NOT_CUT, read_corpus
from ecmf_pipeline.corpora.segments import read_segments
from ecmf_pipeline.doctor.checks import Check, State
from ecmf_pipeline.doctor.trial import TRIAL_CLIPS, sample_evenly
from ecmf_pipeline.extraction.run import BranchInputs, coverage
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.languages import language_notes

_SAMPLED_TRANSCRIPTS = 1000
_MEASURED_CLIPS = 4 * TRIAL_CLIPS


@dataclass(frozen=True, slots=True)
class CorpusState:
    """The corpus and the results of earlier runs.

    Attributes:
        listing: Clips that the corpus files list.
        manifest: The manifest; None if `index` has not run.
        texts: Texts by clip id; None if `rewrite` has not run.
    """

    listing: CorpusListing
    manifest: Sequence[Clip] | None
    texts: Mapping[str, ClipText] | None

    @property
    def labels(self) -> Sequence[str]:
        """Labels that the LLM chooses from."""
        return self.listing.labels if len(self.listing.labels) > 1 else MER_LABELS

    @property
    def clips(self) -> Sequence[Clip]:
        """The clips of the manifest, which have the words of subtitles; before `index` ran, those of the listing."""
        return self.listing.clips if self.manifest is None else self.manifest

    def missing(self, modality: Modality, settings: Mapping[str, object]) -> int:
        """Return the number of clips whose features of a modality are missing, or an estimate before `index` ran."""
        if modality is Modality.TEXT and self.texts is None:
            return sum(bool(clip.transcript.strip()) for clip in self.clips)
        if self.manifest is None:
            return sum(bool(clip.path) for clip in self.listing.clips)
        return coverage(
            modality,
            self.manifest,
            self.texts or {},
            root=paths.features(modality),
            quarantine_path=paths.quarantine("extract", modality),
            fingerprint=fingerprint(settings),
            branch_inputs=BranchInputs.of_settings(settings),
        ).missing

    def unanswered(self) -> int:
        """Return the number of distinct transcripts that the LLM has not enriched yet."""
        enriched = {text.original for text in (self.texts or {}).values() if text.enriched}
        return len({clip.transcript for clip in self.clips if clip.transcript.strip()} - enriched)


def read_state(params: Params) -> CorpusState:
    """Read the corpus and the results of earlier runs.

    Raises:
        CorpusError: If the corpus cannot be read.
        InputError: If a table of an earlier run is damaged.
    """
    segments = read_segments(paths.SEGMENTS) if params.segment.by and paths.SEGMENTS.is_file() else NOT_CUT
    return CorpusState(
        read_corpus(params.corpus, face_crops=params.needs_face_crops, segments=segments),
        read_manifest(paths.MANIFEST) if paths.MANIFEST.is_file() else None,
        read_texts(paths.REWRITES) if paths.REWRITES.is_file() else None,
    )


def check_corpus(params: Params, corpus: CorpusState) -> Check:
    """Count the clips, media files and transcripts of the corpus."""
    clips = corpus.listing.clips
    files, transcripts = sum(bool(clip.path) for clip in clips), sum(bool(clip.transcript.strip()) for clip in clips)
    indexed = "not indexed yet" if corpus.manifest is None else f"{len(corpus.manifest)} in the manifest"
    message = (
        f"{params.corpus.kind} in {params.corpus.root}: {len(clips)} clips, {files} with a file, "
        f"{transcripts} with a transcript"
    )
    figures = {"clips": len(clips), "files": files, "transcripts": transcripts}
    if subtitles := len(corpus.listing.subtitles):
        message, figures = f"{message}, {subtitles} with a subtitle file", {**figures, "subtitles": subtitles}
    if not files and not transcripts:
        hint = "check corpus.root in params.yaml"
        return Check("corpus", State.FAILURE, f"{message}: nothing to compute", hint, figures)
    return Check("corpus", State.OK, f"{message}; {indexed}", figures=figures)


def check_findings(corpus: CorpusState) -> Iterator[Check]:
    """Yield a warning with the first finding of each kind of probable mistakes in names, labels and groups."""
    counts = count_by_kind(corpus.listing.findings)
    for kind in MISTAKES:
        findings = [finding for finding in corpus.listing.findings if finding.kind is kind]
        if findings:
            more = f"; {len(findings) - 1} more: run ecmf-pipe index" if findings[1:] else ""
            message = f"{findings[0].message}{more}"
            yield Check("corpus", State.WARNING, message, figures={"kind": kind.value, "count": counts[kind.value]})


def check_languages(params: Params, corpus: CorpusState) -> Iterator[Check]:
    """Yield a warning for each model in use that does not know the language of some transcripts.

    Before `index` ran, the languages of a sample of the transcripts are detected.
    """
    clips: Sequence[Clip] = corpus.manifest or ()
    if not any(clip.language for clip in clips):
        sampled = sample_evenly(
            [clip for clip in corpus.listing.clips if clip.transcript.strip()], _SAMPLED_TRANSCRIPTS
        )
        clips = with_languages(sampled, params.corpus.language)
    counts, translation = count_languages([clip.language for clip in clips]), translation_language(clips)
    figures = {"languages": counts, "translation_language": translation}
    notes = list(language_notes(params, counts, translation))
    for note in notes:
        message, _, hint = note.partition("; ")
        yield Check("language", State.WARNING, message, hint, figures)
    if counts and not notes:
        found = ", ".join(format_language(code) for code in counts)
        yield Check("language", State.OK, f"transcripts: {found}", figures=figures)


def probe_clips(
    corpus: CorpusState, folder: Path, clip_timeout: float
) -> tuple[list[Clip], Mapping[ClipId, Measurement]]:
    """Probe some clips as `index` does; return the readable clips and the failures by clip id.

    The clips are evenly spaced over the corpus. There are more than the trial needs, since some may lack the input of
    a modality.
    """
    chosen = sample_evenly([clip for clip in corpus.listing.clips if clip.path], _MEASURED_CLIPS)
    listing = replace(corpus.listing, clips=tuple(chosen))
    result = index_corpus(listing, folder / "index.json", workers=1, clip_timeout=clip_timeout)
    return list(result.clips), result.quarantined


def clips_with_transcript(corpus: CorpusState, count: int) -> list[Clip]:
    """Return up to ``count`` clips with different transcripts, evenly spaced over the corpus."""
    clip_of = {clip.transcript: clip for clip in corpus.clips if clip.transcript.strip()}
    return sample_evenly(list(clip_of.values()), count)
