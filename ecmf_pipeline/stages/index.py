"""`index`: scan the corpus and write the manifest; return at once if nothing has changed.

The stage runs in every `dvc repro`, so the modules that read files are imported only if there are files to read.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.corpora.last_scan import LastScan
from ecmf_pipeline.corpora.registry import scanned_folders
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.segments import read_segments_in_use


def run() -> None:
    """Print the summary of the last run if nothing has changed since; otherwise scan the corpus."""
    started_ns = time.time_ns()
    params = load_params()
    tables = (params.segment.by, *map(_digest_of, (paths.SEGMENTS, paths.SEGMENT_FINDINGS, paths.FORGOTTEN)))
    last = LastScan(
        f"{params.corpus!r} {params.index!r} {params.needs_face_crops} {_read_for_notes(params)!r} {tables}",
        *scanned_folders(params.corpus, face_crops=params.needs_face_crops),
    )
    summary = last.summary()
    if summary is None:
        _scan(params, last, started_ns)
    else:
        echo(summary)


def _digest_of(path: Path) -> str:
    return sha256_file(path) if path.is_file() else ""


def _read_for_notes(params: Params) -> tuple[object, ...]:
    """Return the params that notes about languages depend on."""
    return params.text_encoders, params.needs_llm, params.llm.model, params.llm.languages


def _scan(params: Params, last: LastScan, started_ns: int) -> None:
    from ecmf_pipeline.corpora.forgotten import (
        limited_to,
        read_forgotten,
        without_forgotten,
        without_forgotten_content,
    )
    from ecmf_pipeline.corpora.index import describe_splits, format_index_summary, index_corpus, write_index
    from ecmf_pipeline.corpora.languages import count_languages, translation_language, with_languages
    from ecmf_pipeline.corpora.registry import read_corpus
    from ecmf_pipeline.corpora.segments import read_segment_findings
    from ecmf_pipeline.runner.quarantine import Quarantine
    from ecmf_pipeline.stages.shared.languages import language_notes

    listing = read_corpus(params.corpus, face_crops=params.needs_face_crops, segments=read_segments_in_use(params))
    if params.segment.by:
        listing = replace(listing, findings=(*listing.findings, *read_segment_findings(paths.SEGMENT_FINDINGS)))
    forgotten = read_forgotten()
    listing = without_forgotten(listing, forgotten)
    result = index_corpus(
        listing, paths.INDEX_CACHE, workers=params.index.workers, clip_timeout=params.index.clip_timeout
    )
    result = without_forgotten_content(result, forgotten)
    clips = with_languages(result.clips, params.corpus.language, cache_path=paths.LANGUAGE_CACHE)
    result = replace(result, clips=clips)
    listing = limited_to(listing, {clip.clip_id for clip in clips}) if forgotten.salts else listing
    quarantine = Quarantine(paths.quarantine("index"), stage="index")
    changed = write_index(listing, result, quarantine)
    languages = count_languages([clip.language for clip in clips])
    notes = [f"\n  {note}" for note in language_notes(params, languages, translation_language(clips))]
    format_summary = partial(format_index_summary, result, listing.labels, splits=describe_splits(listing))
    echo("".join([format_summary(read=result.hashed, changed=changed), *notes]))
    quarantine.check_share(sum(bool(clip.path) for clip in result.clips), params.index.max_quarantined)
    if result.is_final:
        summary = format_summary(read=0, changed=False)
        last.remember("".join([summary, *notes]), started_ns=started_ns)
