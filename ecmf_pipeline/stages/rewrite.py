"""`rewrite`: enrich each transcript with the emotional cues that the LLM finds in it."""

from __future__ import annotations

from dataclasses import replace

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import ClipText, write_texts
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.llm.answers import nothing_to_ask
from ecmf_pipeline.llm.rewriting import Rewritten, enrich_texts
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.sharing.hints import pull_hint
from ecmf_pipeline.stages.shared.inputs import read_spoken_manifest
from ecmf_pipeline.stages.shared.llm import ANSWER_BOOKS, REWRITE_BOOKS, labels_to_ask, read_contexts, with_workers


def run(*, workers: int | None = None, retry_quarantined: bool = False) -> None:
    """Ask about the transcripts (each only once) and word the enriched ones.

    Args:
        workers: Processes side by side; None: as params say.
        retry_quarantined: Whether texts that were set aside are tried again although nothing changed.
    """
    params = load_params()
    if hint := pull_hint([paths.REWRITE]):
        echo(hint)
    clips = read_spoken_manifest(params)
    contexts = read_contexts(params, clips)
    books = replace(
        ANSWER_BOOKS if params.rewrite.how == "written" else REWRITE_BOOKS, retry_quarantined=retry_quarantined
    )
    if contexts:
        found = enrich_texts(
            with_workers(params.llm, workers),
            params.rewrite,
            contexts,
            labels_to_ask(),
            books=books,
        )
    else:
        nothing_to_ask(books)
        found = Rewritten()
    texts: dict[str, ClipText] = {
        clip.clip_id: ClipText(clip.transcript, found.texts.get(clip.clip_id, ""), clip.translation)
        for clip in clips
        if clip.clip_id in found.texts or clip.translation.strip()
    }
    changed = write_texts(paths.REWRITES, texts)
    echo(
        f"rewrite: {len(found.texts)} transcripts enriched ({found.unclear} of them unclear by their words), "
        f"{found.asked} asked, {found.cached} from the cache, {found.cut} cut, "
        f"{found.quarantined} quarantined, {found.invalid} without a valid answer; "
        f"table {'written' if changed else 'unchanged'}"
    )
    if found.unquoted:
        echo(f"  {found.unquoted} cues that the model named stand nowhere in what it was shown, and were left out")
