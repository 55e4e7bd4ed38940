"""`transcribe`: transcribe clips without words, and apply the corrections of people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipId, read_manifest
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.runner import Engine
from ecmf_pipeline.runner.config import EngineKind
from ecmf_pipeline.runner.quarantine import Quarantine
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.sharing.hints import warn_of_shared_outputs
from ecmf_pipeline.stages.shared.engines import choose_engine
from ecmf_pipeline.transcription.corrections import read_corrections
from ecmf_pipeline.transcription.table import Transcript, Verdict, corrected_transcript, write_transcripts


def run(
    *,
    workers: int | None = None,
    engine: EngineKind | None = None,
    retry_quarantined: bool = False,
    shard: Shard | None = None,
) -> None:
    """Transcribe clips without words, each sound once, and write the table of transcripts.

    Args:
        workers: Number of worker processes; None: the value in params.
        engine: The engine that runs them; None: that of params.
        retry_quarantined: Whether to process quarantined clips again although nothing changed.
        shard: The shard of the sounds to transcribe, without writing the table; None: all.
    """
    params = load_params()
    corrections = params.transcribe.find_corrections()
    if shard is not None and (not params.needs_transcripts or params.transcribe.model is None):
        echo("transcribe: there is nothing to transcribe, so nothing to do for a shard")
        return
    if not params.needs_transcripts or (params.transcribe.model is None and corrections is None):
        quarantine = Quarantine(paths.quarantine("transcribe"), stage="transcribe")
        quarantine.clear()
        quarantine.write()
        write_transcripts(paths.TRANSCRIPTS, {})
        reason = "transcribe.model is not set" if params.needs_transcripts else "nothing in use reads transcripts"
        echo(f"transcribe: {reason}, nothing to do")
        return
    config = params.transcribe
    runner = choose_engine(
        params.engine,
        engine,
        workers,
        clip_timeout=config.clip_timeout,
        device=config.device,
        needs=[params.corpus.root],
    )
    warn_of_shared_outputs([paths.TRANSCRIPTS.parent])
    clips = read_manifest(paths.MANIFEST)
    if shard is not None:
        _, summary = _recognise(params, clips, workers, runner, retry_quarantined=retry_quarantined, shard=shard)
        echo(f"transcribe shard {shard}: {summary}")
        return
    corrected = read_corrections(corrections, clips) if corrections else {}
    transcripts, summary = _recognise(params, clips, workers, runner, retry_quarantined=retry_quarantined)
    for clip_id, text in corrected.items():
        transcripts[clip_id] = corrected_transcript(text, transcripts.get(clip_id))
    changed = write_transcripts(paths.TRANSCRIPTS, transcripts)
    if corrected:
        summary += f"; {format_count(len(corrected), 'transcript')} corrected by {corrections}"
    echo(f"transcribe: {summary}; table {'written' if changed else 'unchanged'}")


def _recognise(
    params: Params,
    clips: Sequence[Clip],
    workers: int | None,
    engine: Engine | None,
    *,
    retry_quarantined: bool,
    shard: Shard | None = None,
) -> tuple[dict[ClipId, Transcript], str]:
    """Return the transcripts of the model by clip id, and a summary."""
    config = params.transcribe if workers is None else params.transcribe.model_copy(update={"workers": workers})
    if config.model is None:
        return {}, "transcribe.model is not set"
    from ecmf_pipeline.transcription.run import transcribe

    result = transcribe(
        clips,
        config=config,
        media=params.media,
        corpus_root=params.corpus.root,
        cache_root=paths.TRANSCRIPT_CACHE,
        spool=paths.DATA / ".transcripts.spool",
        quarantine_path=paths.quarantine("transcribe"),
        index_cache=paths.INDEX_CACHE,
        retry_quarantined=retry_quarantined,
        engine=engine,
        shard=shard,
    )
    verdicts = Counter(transcript.verdict for transcript in result.transcripts.values())
    unused = ", ".join(f"{verdict.value} {verdicts[verdict]}" for verdict in Verdict if verdict is not Verdict.USED)
    return dict(result.transcripts), (
        f"{result.transcribed} files transcribed, {result.reused} clips from the cache, "
        f"{verdicts[Verdict.USED]} transcripts used ({unused}), {result.quarantined} quarantined"
    )
