"""Enriched texts, scored or written as params say: what a stage, the doctor and a single clip's prediction ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecmf_pipeline.llm.config import LlmConfig, RewriteConfig
from ecmf_pipeline.llm.label_scores import label_scores
from ecmf_pipeline.llm.loop import ScoreBooks
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.rewrite import enrich
from ecmf_pipeline.llm.rewrite_prompt import Context, load_rewrite_prompt
from ecmf_pipeline.llm.scoring import probabilities
from ecmf_pipeline.llm.written import Rewritten, write_rewrites
from ecmf_pipeline.runner import Engine


def enrich_texts(
    llm: LlmConfig,
    rewrite: RewriteConfig,
    contexts: Mapping[str, Context],
    labels: Sequence[str],
    *,
    books: ScoreBooks,
    retry_quarantined: bool = False,
    engine: Engine | None = None,
) -> Rewritten:
    """Enrich what clips say, asking only what no cache knows.

    Args:
        llm: The model.
        rewrite: How transcripts are enriched.
        contexts: What there is to show of each clip with words, by clip id.
        labels: Labels that are scored, (K,).
        books: Where the stage keeps what it has asked.
        retry_quarantined: Whether texts that were set aside are tried again although nothing changed.
        engine: Who runs the workers; None: as ``llm`` says.

    Raises:
        ModelError: When the model cannot be loaded.
        TryAgain: As `loop.ask_about` does, with what else it raises.
    """
    prompt = load_rewrite_prompt(rewrite.prompt)
    if rewrite.how == "written":
        return write_rewrites(
            contexts, config=llm, prompt=prompt, books=books, retry_quarantined=retry_quarantined, engine=engine
        )
    scores = label_scores(
        llm,
        {clip_id: context.text for clip_id, context in contexts.items()},
        labels,
        books=books,
        retry_quarantined=retry_quarantined,
        engine=engine,
    )
    wording = load_prompt(llm.prompt)
    texts, unclear = {}, 0
    probs = probabilities(scores.values, temperature=rewrite.temperature)
    for (clip_id, context), row in zip(contexts.items(), probs, strict=True):
        text = enrich(context.text, row, labels, prompt=wording, config=rewrite)
        unclear += wording.wording.unclear in text
        texts[clip_id] = text + prompt.told(context.cues)
    return Rewritten(
        texts,
        unclear,
        asked=scores.asked,
        cached=scores.cached,
        cut=scores.truncated,
        quarantined=scores.quarantined,
        invalid=scores.invalid,
    )
