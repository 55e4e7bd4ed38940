"""`rewrite`: enrich each transcript with the emotional cues that the LLM finds in it."""

from __future__ import annotations

from ecmf_pipeline import layout
from ecmf_pipeline.clips import read_manifest
from ecmf_pipeline.encoders.base import ClipText
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.rewrite import enrich
from ecmf_pipeline.llm.scoring import probabilities
from ecmf_pipeline.params import load_params
from ecmf_pipeline.progress import say
from ecmf_pipeline.sharing import pull_hint
from ecmf_pipeline.stage_inputs import REWRITE_BOOKS, llm_scores
from ecmf_pipeline.texts import write_texts


def run(*, workers: int | None = None, retry_quarantined: bool = False) -> None:
    """Score the transcripts (each only once) and word the enriched ones.

    Args:
        workers: Processes side by side; None: as params say.
        retry_quarantined: Whether texts that were set aside are tried again although nothing changed.
    """
    params = load_params()
    if hint := pull_hint([layout.REWRITE]):
        say(hint)
    manifest = read_manifest(layout.MANIFEST)
    clips = [clip for clip in manifest if clip.transcript.strip()]
    labels, scores = llm_scores(params.llm, clips, REWRITE_BOOKS, workers=workers, retry_quarantined=retry_quarantined)
    probs = probabilities(scores.values, temperature=params.rewrite.temperature)
    prompt = load_prompt(params.llm.prompt)
    enriched = {
        clip.clip_id: enrich(clip.transcript, row, labels, prompt=prompt, config=params.rewrite)
        for clip, row in zip(clips, probs, strict=True)
    }
    texts: dict[str, ClipText] = {
        clip.clip_id: ClipText(clip.transcript, enriched.get(clip.clip_id, ""), clip.translation)
        for clip in manifest
        if clip.clip_id in enriched or clip.translation.strip()
    }
    changed = write_texts(layout.REWRITES, texts)
    unclear = sum(prompt.wording.unclear in text for text in enriched.values())
    say(
        f"rewrite: {len(enriched)} transcripts enriched ({unclear} of them unclear by their words), "
        f"{scores.asked} asked, {scores.cached} from the cache, {scores.truncated} cut, "
        f"{scores.quarantined} quarantined, {scores.invalid} without a valid answer; "
        f"table {'written' if changed else 'unchanged'}"
    )
