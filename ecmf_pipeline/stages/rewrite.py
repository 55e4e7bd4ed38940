"""`rewrite`: enrich each transcript with emotional cues by the LLM."""

from __future__ import annotations

from dataclasses import replace

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, ClipText, write_texts
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.llm.answers import write_empty_quarantine
from ecmf_pipeline.llm.rewriting import RewriteResult, enrich_transcripts
from ecmf_pipeline.llm.shards import files_of_shard
from ecmf_pipeline.runner.config import EngineKind
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.sharing.hints import warn_of_shared_outputs
from ecmf_pipeline.stages.shared.inputs import read_manifest_with_transcripts
from ecmf_pipeline.stages.shared.languages import foreign_columns, llm_transcript, llm_transcripts
from ecmf_pipeline.stages.shared.llm import (
    REWRITE_ANSWER_FILES,
    REWRITE_FILES,
    config_of_run,
    labels_to_ask,
    llm_engine,
    read_contexts,
)


def run(
    *,
    workers: int | None = None,
    engine: EngineKind | None = None,
    retry_quarantined: bool = False,
    shard: Shard | None = None,
) -> None:
    """Query the LLM about each distinct transcript once and write the enriched texts.

    Args:
        workers: Number of worker processes; None: the value in params.
        engine: The engine that runs them; None: that of params.
        retry_quarantined: Whether to query again for quarantined texts although nothing changed.
        shard: The shard of the questions to send, without writing the texts; None: all.
    """
    params = load_params()
    if shard is not None and not (params.text_columns and params.needs_enriched_texts):
        echo("rewrite: no encoder in use reads enriched transcripts, so nothing to do for a shard")
        return
    if not params.text_columns:
        write_empty_quarantine(REWRITE_FILES)
        write_texts(paths.REWRITES, {})
        echo("rewrite: no encoder in use reads texts, nothing to do")
        return
    runner = llm_engine(params, engine, workers)
    warn_of_shared_outputs([paths.REWRITE])
    clips = read_manifest_with_transcripts(params)
    contexts = read_contexts(params, clips) if params.needs_enriched_texts else {}
    answer_files = replace(
        REWRITE_ANSWER_FILES if params.rewrite.how == "written" else REWRITE_FILES, retry_quarantined=retry_quarantined
    )
    if shard is not None:
        answer_files = files_of_shard(answer_files, shard)
    if contexts:
        rewritten = enrich_transcripts(
            config_of_run(params.llm, workers, shard),
            params.rewrite,
            contexts,
            labels_to_ask(),
            answer_files=answer_files,
            engine=runner,
        )
    else:
        write_empty_quarantine(answer_files)
        rewritten = RewriteResult()
    if shard is not None:
        echo(
            f"rewrite shard {shard}: {rewritten.answered} answered, {rewritten.cached} from the cache, "
            f"{rewritten.quarantined} quarantined"
        )
        return
    texts: dict[str, ClipText] = {
        clip.clip_id: ClipText(clip.transcript, _enriched(params, clip, rewritten), clip.translation, foreign)
        for clip, foreign in zip(clips, foreign_columns(params, clips), strict=True)
        if clip.transcript.strip() or clip.translation.strip()
    }
    changed = write_texts(paths.REWRITES, texts)
    if masked := sum(bool(text.foreign) for text in texts.values()):
        echo(f"rewrite: {format_count(masked, 'text')} masked: the text encoder does not know the language")
    if params.needs_enriched_texts and (unknown := llm_transcripts(params, clips)[1]):
        echo(f"rewrite: {format_count(unknown, 'transcript')} not enriched: the LLM does not know the language")
    if not params.needs_enriched_texts:
        state = "written" if changed else "unchanged"
        echo(f"rewrite: no encoder in use reads enriched transcripts, none was enriched; table {state}")
        return
    echo(
        f"rewrite: {len(rewritten.texts)} transcripts enriched ({rewritten.unclear} without a clear emotion), "
        f"{rewritten.answered} answered, {rewritten.cached} from the cache, {rewritten.truncated} truncated, "
        f"{rewritten.quarantined} quarantined, {rewritten.invalid} without a valid answer; "
        f"table {'written' if changed else 'unchanged'}"
    )
    if rewritten.unquoted:
        echo(f"  {rewritten.unquoted} cues left out because the model's quotes do not occur in its input")


def _enriched(params: Params, clip: Clip, rewritten: RewriteResult) -> str:
    """Return the enriched transcript of a clip; the transcript itself if the LLM does not know its language."""
    is_skipped = params.needs_enriched_texts and clip.transcript.strip() and not llm_transcript(params, clip)
    return clip.transcript if is_skipped else rewritten.texts.get(clip.clip_id, "")
