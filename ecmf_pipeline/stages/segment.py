"""`segment`: cut long recordings into clips, each a span of a file; return at once if nothing has changed.

The stage runs in every `dvc repro`, so the modules that read files are imported only if there are files to read.
"""

from __future__ import annotations

import time

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.files import sha256_file
from ecmf_pipeline.corpora.last_scan import LastScan
from ecmf_pipeline.corpora.registry import scanned_folders
from ecmf_pipeline.corpora.segments import OUTPUTS, write_segments
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.sharing.hints import warn_of_shared_outputs


def run(*, workers: int | None = None, retry_quarantined: bool = False) -> None:
    """Cut the recordings that are longer than `segment.max_seconds`, and write the table of segments.

    Args:
        workers: Number of worker processes; None: the value in params.
        retry_quarantined: Whether to process quarantined recordings again although nothing changed.
    """
    started_ns = time.time_ns()
    params = load_params()
    quarantine = Quarantine(paths.quarantine("segment"), stage="segment")
    if params.segment.by is None:
        quarantine.clear()
        quarantine.write()
        write_segments(paths.SEGMENTS, {}, paths.SEGMENT_FINDINGS, ())
        echo("segment: segment.by is not set, each file is one clip")
        return
    folders = scanned_folders(params.corpus)
    forgotten = sha256_file(paths.FORGOTTEN) if paths.FORGOTTEN.is_file() else ""
    settings = f"{params.corpus!r} {params.segment!r} {forgotten}"
    last = LastScan(settings, *folders, record=paths.LAST_SEGMENTATION, outputs=OUTPUTS)
    summary = None if retry_quarantined else last.summary()
    if summary is None:
        _segment(params, last, started_ns, workers, retry_quarantined=retry_quarantined)
    else:
        echo(summary)


def _segment(params: Params, last: LastScan, started_ns: int, workers: int | None, *, retry_quarantined: bool) -> None:
    from ecmf_pipeline.corpora.folder import read_files
    from ecmf_pipeline.corpora.forgotten import read_forgotten, segments_without_forgotten, without_forgotten
    from ecmf_pipeline.corpora.index import index_corpus
    from ecmf_pipeline.segmentation.run import segment

    warn_of_shared_outputs([paths.SEGMENTS.parent])
    config = params.segment if workers is None else params.segment.model_copy(update={"workers": workers})
    forgotten = read_forgotten()
    listing = without_forgotten(read_files(params.corpus), forgotten)
    indexed = index_corpus(
        listing, paths.INDEX_CACHE, workers=params.index.workers, clip_timeout=params.index.clip_timeout
    )
    result = segment(
        listing,
        indexed.clips,
        config=config,
        cache_root=paths.SEGMENT_CACHE,
        spool=paths.DATA / ".segments.spool",
        quarantine_path=paths.quarantine("segment"),
        index_cache=paths.INDEX_CACHE,
        retry_quarantined=retry_quarantined,
    )
    recordings = segments_without_forgotten(result.recordings, listing, forgotten)
    changed = write_segments(paths.SEGMENTS, recordings, paths.SEGMENT_FINDINGS, result.findings)
    count = sum(len(recording.segments) for recording in recordings.values())

    def summary(read: int, state: str) -> str:
        return (
            f"segment: {format_count(count, 'clip')} of {format_count(len(recordings), 'recording')} by "
            f"{config.by}, {read} read, {result.quarantined} quarantined; table {state}"
        )

    echo(summary(result.read, "written" if changed else "unchanged"))
    for finding in result.findings[:5]:
        echo(f"  {finding.message}")
    if indexed.is_final and not result.quarantined:
        last.remember(summary(0, "unchanged"), started_ns=started_ns)
