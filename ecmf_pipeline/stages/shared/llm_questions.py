"""Questions that `rewrite` and `vote` send to the LLM with the settings of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ecmf_pipeline.core.clips import Clip, label_indices
from ecmf_pipeline.core.files import fingerprint
from ecmf_pipeline.llm.answers import FormAnswer, TextScores
from ecmf_pipeline.llm.frames import frame_settings
from ecmf_pipeline.llm.generation import generation_settings
from ecmf_pipeline.llm.inventory import Caches, QuestionSet, frame_questions, rewrite_questions, score_questions
from ecmf_pipeline.llm.prompt import Prompt, load_prompt, load_rewrite_prompt
from ecmf_pipeline.llm.votes import prompts_by_fold
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.inputs import (
    add_transcripts,
    folds_of,
    read_labelled_corpus,
    read_manifest_with_transcripts,
)
from ecmf_pipeline.stages.shared.languages import llm_transcript
from ecmf_pipeline.stages.shared.llm import (
    CUE_FILES,
    FRAME_FILES,
    REWRITE_ANSWER_FILES,
    REWRITE_FILES,
    VOTE_FILES,
    cue_texts,
    labels_to_ask,
    read_contexts,
    with_cues_prompt,
)

CACHES: Caches = (
    (REWRITE_FILES, TextScores.parse),
    (REWRITE_ANSWER_FILES, FormAnswer.parse),
    (VOTE_FILES, TextScores.parse),
)
"""Files of answers, with the function that parses their lines."""


def fingerprints_in_use(params: Params) -> dict[str, str]:
    """Return the fingerprint of the questions of each source; scored rewrites and text votes share one."""
    labels, config, inputs = labels_to_ask(), params.llm, params.vote.inputs
    fingerprints: dict[str, str] = {}
    how = params.rewrite.how if params.needs_enriched_texts else "not used"
    if how == "written":
        prompt = load_rewrite_prompt(params.rewrite.prompt)
        settings = generation_settings(config, prompt.answer_schema(), prompt.settings())
        fingerprints["rewrite"] = fingerprint(settings)
    if how == "scored" or ("text" in inputs and config.votes.examples == "packaged"):
        fingerprints["llm"] = fingerprint(config.settings(labels))
    for source, (fold_prompt, _) in _by_fold(params).items():
        fingerprints[source] = fingerprint(config.settings(labels, fold_prompt))
    if "cues" in inputs:
        fingerprints["llm/cues"] = fingerprint(with_cues_prompt(config).settings(labels))
    if "frames" in inputs:
        fingerprints["llm/frames"] = fingerprint(frame_settings(config, labels, params.media, params.faces))
    return fingerprints


def questions(params: Params) -> Iterator[QuestionSet]:
    """Yield the questions of each source."""
    clips, labels, config, in_use = (
        read_manifest_with_transcripts(params),
        labels_to_ask(),
        params.llm,
        fingerprints_in_use(params),
    )
    if "rewrite" in in_use:
        prompt = load_rewrite_prompt(params.rewrite.prompt)
        contexts = read_contexts(params, clips)
        yield rewrite_questions(config, contexts, prompt, in_use["rewrite"], REWRITE_ANSWER_FILES)
    if "llm" in in_use:
        yield score_questions("llm", config, _transcripts(params, clips), labels, in_use["llm"], VOTE_FILES)
    for source, (fold_prompt, fold_clips) in _by_fold(params).items():
        texts = _transcripts(params, fold_clips)
        yield score_questions(source, config, texts, labels, in_use[source], VOTE_FILES, fold_prompt)
    if "llm/cues" in in_use:
        cues = [text for text in cue_texts(params, clips).values() if text.strip()]
        yield score_questions("llm/cues", with_cues_prompt(config), cues, labels, in_use["llm/cues"], CUE_FILES)
    if "llm/frames" in in_use:
        yield frame_questions("llm/frames", config, clips, labels, params.faces, in_use["llm/frames"], FRAME_FILES)


def _by_fold(params: Params) -> dict[str, tuple[Prompt, list[Clip]]]:
    """Return the prompt, with examples of other folds, and the clips of each fold, by source."""
    if "text" not in params.vote.inputs or params.llm.votes.examples == "packaged":
        return {}
    corpus = add_transcripts(params, read_labelled_corpus())
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    prompts = prompts_by_fold(
        load_prompt(params.llm.prompt),
        [llm_transcript(params, clip) for clip in corpus.clips],
        np.array(label_indices(corpus.clips, corpus.labels), np.int64),
        corpus.labels,
        folds,
        seed=params.vote.seed,
    )
    return {
        f"llm, fold {fold}": (prompt, [clip for clip, its in zip(corpus.clips, folds, strict=True) if its == fold])
        for fold, prompt in prompts.items()
    }


def _transcripts(params: Params, clips: Sequence[Clip]) -> list[str]:
    return [text for clip in clips if (text := llm_transcript(params, clip)).strip()]
