"""All that `rewrite` and `vote` ask of the LLM about the corpus, under the settings of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ecmf_pipeline.core.clips import Clip, labels_of
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.llm.answers import TextScores, Written
from ecmf_pipeline.llm.frames import frame_settings
from ecmf_pipeline.llm.generation import generation_settings
from ecmf_pipeline.llm.inventory import Caches, Questions, frame_questions, rewrite_questions, score_questions
from ecmf_pipeline.llm.prompt import Prompt, load_prompt, load_rewrite_prompt
from ecmf_pipeline.llm.votes import prompts_by_fold
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.inputs import folds_of, read_labelled_corpus, read_spoken_manifest, with_words
from ecmf_pipeline.stages.shared.llm import (
    ANSWER_BOOKS,
    CUE_BOOKS,
    FRAME_BOOKS,
    REWRITE_BOOKS,
    VOTE_BOOKS,
    about_cues,
    cue_texts,
    labels_to_ask,
    read_contexts,
)

CACHES: Caches = (
    (REWRITE_BOOKS, TextScores.parse),
    (ANSWER_BOOKS, Written.parse),
    (VOTE_BOOKS, TextScores.parse),
)
"""Where answers are kept."""


def fingerprints_in_use(params: Params) -> dict[str, str]:
    """Fingerprint of what each source asks, by source; scored rewrites and votes by words ask the same."""
    labels, config, inputs = labels_to_ask(), params.llm, params.vote.inputs
    found: dict[str, str] = {}
    if params.rewrite.how == "written":
        prompt = load_rewrite_prompt(params.rewrite.prompt)
        found["rewrite"] = fingerprint(generation_settings(config, prompt.schema_of_answers(), prompt.settings()))
    if params.rewrite.how == "scored" or ("text" in inputs and config.votes.examples == "packaged"):
        found["llm"] = fingerprint(config.settings(labels))
    for source, (own, _) in _by_fold(params).items():
        found[source] = fingerprint(config.settings(labels, own))
    if "cues" in inputs:
        found["llm/cues"] = fingerprint(about_cues(config).settings(labels))
    if "frames" in inputs:
        found["llm/frames"] = fingerprint(frame_settings(config, labels, params.media, params.faces))
    return found


def questions(params: Params) -> Iterator[Questions]:
    """What each source asks."""
    clips, labels, config, in_use = (
        read_spoken_manifest(params),
        labels_to_ask(),
        params.llm,
        fingerprints_in_use(params),
    )
    if "rewrite" in in_use:
        prompt = load_rewrite_prompt(params.rewrite.prompt)
        contexts = read_contexts(params, clips)
        yield rewrite_questions(config, contexts, prompt, in_use["rewrite"], ANSWER_BOOKS)
    if "llm" in in_use:
        yield score_questions("llm", config, _words(clips), labels, in_use["llm"], VOTE_BOOKS)
    for source, (own, some) in _by_fold(params).items():
        yield score_questions(source, config, _words(some), labels, in_use[source], VOTE_BOOKS, own)
    if "llm/cues" in in_use:
        cues = [text for text in cue_texts(params, clips).values() if text.strip()]
        yield score_questions("llm/cues", about_cues(config), cues, labels, in_use["llm/cues"], CUE_BOOKS)
    if "llm/frames" in in_use:
        yield frame_questions("llm/frames", config, clips, labels, params.faces, in_use["llm/frames"], FRAME_BOOKS)


def _by_fold(params: Params) -> dict[str, tuple[Prompt, list[Clip]]]:
    """By source, the prompt and the clips of each fold that is asked with examples of the others."""
    if "text" not in params.vote.inputs or params.llm.votes.examples == "packaged":
        return {}
    corpus = with_words(params, read_labelled_corpus())
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    prompts = prompts_by_fold(
        load_prompt(params.llm.prompt),
        [clip.transcript for clip in corpus.clips],
        np.array(labels_of(corpus.clips, corpus.labels), np.int64),
        corpus.labels,
        folds,
        seed=params.vote.seed,
    )
    return {
        f"llm, fold {fold}": (prompt, [clip for clip, own in zip(corpus.clips, folds, strict=True) if own == fold])
        for fold, prompt in prompts.items()
    }


def _words(clips: Sequence[Clip]) -> list[str]:
    return [clip.transcript for clip in clips if clip.transcript.strip()]
