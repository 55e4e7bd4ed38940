"""`transcribe`: transcribe clips without a transcript, if params name a model and something in use reads them."""

from __future__ import annotations

from collections import Counter

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import read_manifest
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.sharing.hints import warn_of_shared_outputs
from ecmf_pipeline.transcription.table import Verdict, write_transcripts


def run(*, workers: int | None = None, retry_quarantined: bool = False) -> None:
    """Transcribe clips without a transcript, each file once, and write the table of transcripts.

    Args:
        workers: Number of worker processes; None: the value in params.
        retry_quarantined: Whether to process quarantined clips again although nothing changed.
    """
    params = load_params()
    config = params.transcribe if workers is None else params.transcribe.model_copy(update={"workers": workers})
    path = paths.quarantine("transcribe")
    if config.model is None or not params.needs_transcripts:
        quarantine = Quarantine(path, stage="transcribe")
        quarantine.clear()
        quarantine.write()
        write_transcripts(paths.TRANSCRIPTS, {})
        reason = "transcribe.model is not set" if config.model is None else "nothing in use reads transcripts"
        echo(f"transcribe: {reason}, nothing to do")
        return
    warn_of_shared_outputs([paths.TRANSCRIPTS.parent])
    from ecmf_pipeline.transcription.run import transcribe

    result = transcribe(
        read_manifest(paths.MANIFEST),
        config=config,
        media=params.media,
        corpus_root=params.corpus.root,
        cache_root=paths.TRANSCRIPT_CACHE,
        spool=paths.DATA / ".transcripts.spool",
        quarantine_path=path,
        index_cache=paths.INDEX_CACHE,
        retry_quarantined=retry_quarantined,
    )
    changed = write_transcripts(paths.TRANSCRIPTS, result.transcripts)
    verdicts = Counter(transcript.verdict for transcript in result.transcripts.values())
    unused = ", ".join(f"{verdict.value} {verdicts[verdict]}" for verdict in Verdict if verdict is not Verdict.USED)
    echo(
        f"transcribe: {result.transcribed} files transcribed, {result.reused} clips from the cache, "
        f"{verdicts[Verdict.USED]} transcripts used ({unused}), {result.quarantined} quarantined; "
        f"table {'written' if changed else 'unchanged'}"
    )
