"""Enriched texts, scored or written as params say: what a stage, the doctor and a single clip's prediction ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ecmf_pipeline.llm.config import LlmConfig, RewriteConfig
from ecmf_pipeline.llm.label_scores import label_scores
from ecmf_pipeline.llm.loop import ScoreBooks
from ecmf_pipeline.llm.prompt import load_prompt
from ecmf_pipeline.llm.rewrite import enrich
from ecmf_pipeline.llm.rewrite_prompt import Context, load_rewrite_prompt
from ecmf_pipeline.llm.scoring import probabilities
from ecmf_pipeline.llm.written import write_rewrites
from ecmf_pipeline.runner import Engine


@dataclass(frozen=True, slots=True)
class Enriched:
    """Enriched texts, and what they took.

    Attributes:
        texts: The enriched text of each clip.
        unclear: How many of them name no emotion.
        asked: How many texts the model was asked about.
        cached: How many were answered from the cache.
        cut: How many were too long, and cut.
        quarantined: How many clips are set aside.
        invalid: How many clips the model abstains on because its answers were not valid.
        unquoted: How many cues were left out, since they stand nowhere in what the model was shown.
    """

    texts: Mapping[str, str]
    unclear: int = 0
    asked: int = 0
    cached: int = 0
    cut: int = 0
    quarantined: int = 0
    invalid: int = 0
    unquoted: int = 0


def enrich_texts(
    llm: LlmConfig,
    rewrite: RewriteConfig,
    contexts: Mapping[str, Context],
    labels: Sequence[str],
    *,
    books: ScoreBooks,
    retry_quarantined: bool = False,
    engine: Engine | None = None,
) -> Enriched:
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
        written = write_rewrites(
            contexts, config=llm, prompt=prompt, books=books, retry_quarantined=retry_quarantined, engine=engine
        )
        return Enriched(
            written.texts,
            written.unclear,
            written.asked,
            written.cached,
            written.cut,
            written.quarantined,
            written.invalid,
            written.unquoted,
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
    return Enriched(texts, unclear, scores.asked, scores.cached, scores.truncated, scores.quarantined, scores.invalid)
