"""`index`: scan the corpus and write the manifest; return at once if nothing has changed.

The stage runs in every `dvc repro`, so the modules that read files are imported only if there are files to read.
"""

from __future__ import annotations

import time
from dataclasses import replace

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import read_sealed_json
from ecmf_pipeline.corpora.last_scan import LastScan
from ecmf_pipeline.corpora.registry import scanned_folders
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.languages import language_notes


def run() -> None:
    """Print the summary of the last run if nothing has changed since; otherwise scan the corpus."""
    started_ns = time.time_ns()
    params = load_params()
    last = LastScan(
        f"{params.corpus!r} {params.index!r} {params.needs_face_crops}",
        *scanned_folders(params.corpus, face_crops=params.needs_face_crops),
    )
    summary = last.summary()
    if summary is None:
        _scan(params, last, started_ns)
    else:
        echo(summary)
        _echo_languages(params)


def _echo_languages(params: Params) -> None:
    metrics = read_sealed_json(paths.INDEX_METRICS, made_by="index")
    for note in language_notes(params, metrics["languages"], metrics["translation_language"]):
        echo(f"  {note}")


def _scan(params: Params, last: LastScan, started_ns: int) -> None:
    from ecmf_pipeline.core.errors import clip_error
    from ecmf_pipeline.corpora.index import format_index_summary, index_corpus, write_index
    from ecmf_pipeline.corpora.languages import with_languages
    from ecmf_pipeline.corpora.registry import read_corpus
    from ecmf_pipeline.runner.quarantine import Quarantine

    listing = read_corpus(params.corpus, face_crops=params.needs_face_crops)
    clips = with_languages(listing.clips, params.corpus.language, cache_path=paths.LANGUAGE_CACHE)
    listing = replace(listing, clips=clips)
    result = index_corpus(
        listing, paths.INDEX_CACHE, workers=params.index.workers, clip_timeout=params.index.clip_timeout
    )
    quarantine = Quarantine(paths.quarantine("index"), stage="index")
    changed = write_index(listing, result, quarantine)
    echo(format_index_summary(result, listing.labels, read=result.hashed, changed=changed))
    _echo_languages(params)
    quarantine.check_share(sum(bool(clip.path) for clip in result.clips), params.index.max_quarantined)
    reasons = {clip_error(measured.reason) for measured in result.quarantined.values()}
    if not any(reason.is_transient or reason.is_version_bound for reason in reasons):  # such files may be read again
        last.remember(format_index_summary(result, listing.labels, read=0, changed=False), started_ns=started_ns)
