"""LLM set-up of the stages: files of answers, inputs of the prompts, and votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Corpus, Modality, read_corpus_description
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.encoders.config import EgemapsConfig, MiniXceptionConfig
from ecmf_pipeline.extraction.run import current_digests
from ecmf_pipeline.llm.answers import AnswerFiles, write_empty_quarantine
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.cues import face_cues, read_cues, speech_rate, voice_cues
from ecmf_pipeline.llm.frames import frame_scores
from ecmf_pipeline.llm.prompt import Context, load_rewrite_prompt
from ecmf_pipeline.llm.rewriting import rewrite_contexts
from ecmf_pipeline.llm.scoring import ScoringResult, label_scores
from ecmf_pipeline.llm.server_run import Budget
from ecmf_pipeline.llm.shards import files_of_shard
from ecmf_pipeline.llm.votes import calibrated_votes, calibration_summary, drop_short_transcripts, transcript_scores
from ecmf_pipeline.runner import Engine
from ecmf_pipeline.runner.config import EngineKind
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.engines import choose_engine
from ecmf_pipeline.stages.shared.inputs import folds_of, open_modality_store
from ecmf_pipeline.stages.shared.languages import llm_transcript, llm_transcripts

REWRITE_FILES = AnswerFiles("rewrite", paths.REWRITE_CACHE, paths.DATA / ".rewrite.spool", paths.quarantine("rewrite"))
REWRITE_ANSWER_FILES = replace(REWRITE_FILES, cache=paths.REWRITE_ANSWERS)
"""Files of ``rewrite.how: written``, whose answers are not scores."""
VOTE_FILES = AnswerFiles(
    "vote",
    paths.VOTE_CACHE,
    paths.DATA / ".votes.spool",
    paths.quarantine("vote"),
    earlier=(REWRITE_FILES,),  # answers to `rewrite` are reused
)
CUE_FILES = replace(VOTE_FILES, quarantine=paths.QUARANTINE / "vote-cues.csv", earlier=())
FRAME_FILES = replace(VOTE_FILES, quarantine=paths.QUARANTINE / "vote-frames.csv", earlier=())

LLM_SOURCES = {"text": "llm", "cues": "llm/cues", "frames": "llm/frames"}
"""Source of votes for each of ``vote.inputs``: transcripts, descriptions of cues, or video frames."""


def labels_to_ask() -> Sequence[str]:
    """Return the labels of the corpus, or MER's six if it has fewer than two, since texts can be enriched anyway."""
    labels: Sequence[str] = read_corpus_description().labels
    return labels if len(labels) >= 2 else MER_LABELS


def config_of_run(config: LlmConfig, workers: int | None, shard: Shard | None) -> LlmConfig:
    """Return the config of one run.

    Args:
        config: The config of params.
        workers: Number of worker processes of the command line; None: the value in params.
        shard: The shard, which has a share of the budget; None: the run has all of it.
    """
    changes: dict[str, Any] = {} if workers is None else {"workers": workers}
    if shard is not None:
        changes["budget"] = config.budget.of_shard(shard)
    return config.model_copy(update=changes)


def llm_engine(params: Params, kind: EngineKind | None, workers: int | None) -> Engine | None:
    """Return the engine that runs the LLM; None for this machine, and for a server, whose requests need no workers.

    Args:
        params: All params.
        kind: The engine of the command line; None: that of params.
        workers: Number of workers of the command line; None: that of params.

    Raises:
        InputError: If Ray is not installed, or cannot be used as configured.
    """
    llm = params.llm
    if llm.backend == "openai":
        return None
    folder = Path(llm.model)
    return choose_engine(
        params.engine,
        kind,
        workers,
        clip_timeout=llm.clip_timeout,
        device=llm.device,
        needs=[folder] if folder.is_dir() else [],
    )


def read_contexts(params: Params, clips: Sequence[Clip]) -> dict[str, Context]:
    """Return the prompt context of each clip with a transcript, by clip id; see `rewrite_contexts`.

    Args:
        params: Params with the neighbours and cues to include.
        clips: All clips of the corpus.

    Raises:
        MissingInput: If params include cues and `cues` has not run yet, or ran on other clips.
    """
    clip_ids = [clip.clip_id for clip in clips]
    clips = [replace(clip, transcript=llm_transcript(params, clip)) for clip in clips]
    return rewrite_contexts(
        clips, params.rewrite, [read_cues(paths.cues(Modality(kind)), clip_ids) for kind in params.rewrite.cues]
    )


def cues_of(params: Params, clips: Sequence[Clip], modality: Modality) -> dict[str, tuple[str, ...]]:
    """Return the names of the cues in the features of each clip, by clip id; see `llm.cues`.

    Args:
        params: Params with the encoders in use.
        clips: All clips of the corpus, since cues are relative to it.
        modality: ``face`` or ``audio``.

    Raises:
        MissingInput: If the features are not extracted yet.
        StaleStore: If the features were made with other settings than params has.
    """
    store = open_modality_store(params, modality)
    digests = current_digests(modality, clips, {}, store)
    rows = store.load([clip.clip_id for clip in clips], digests=digests).values.astype(np.float64)
    if store.dim is None:  # no clip has an input of this modality
        rows = np.full((len(clips), (MiniXceptionConfig if modality is Modality.FACE else EgemapsConfig).dim), np.nan)
    if modality is Modality.FACE:
        cues = face_cues(rows[:, MiniXceptionConfig.expression_dim :])
    else:
        cues = voice_cues(rows, np.array([speech_rate(clip.transcript, clip.duration) for clip in clips]))
    return {clip.clip_id: names for clip, names in zip(clips, cues, strict=True)}


def cue_texts(params: Params, clips: Sequence[Clip]) -> dict[str, str]:
    """Return a description of the cues of each clip, by clip id; blank if nothing is unusual.

    Raises:
        MissingInput: If the features are not extracted yet.
    """
    prompt = load_rewrite_prompt(params.rewrite.prompt)
    tables = [cues_of(params, clips, Modality(kind)) for kind in params.llm.votes.cues]
    return {clip.clip_id: prompt.cue_text(name for table in tables for name in table[clip.clip_id]) for clip in clips}


def with_cues_prompt(config: LlmConfig) -> LlmConfig:
    """Return the config with the prompt about cues."""
    return config.model_copy(update={"prompt": config.cues_prompt})


def llm_votes(
    params: Params,
    corpus: Corpus,
    *,
    workers: int | None = None,
    engine: Engine | None = None,
    retry_quarantined: bool = False,
) -> tuple[dict[str, NDArray[np.float64]], list[ScoringResult]]:
    """Query the LLM and return its votes on each clip.

    Everything that is fitted to labels (prompt examples, temperature, bias) uses given labels of other folds than the
    clip's fold. Gold labels are not used.

    Args:
        params: Params with the inputs of the LLM (``vote.inputs``) and the conversion of scores to votes.
        corpus: The clips with all known transcripts.
        workers: Number of worker processes; None: the value in params.
        engine: Runs the workers of a local model; None: this machine. See `llm_engine`.
        retry_quarantined: Whether to query again for quarantined texts although nothing changed.

    Returns:
        The votes by source (``llm`` for transcripts, ``llm/cues`` for cues, ``llm/frames`` for video frames), each
        (n, C), with NaN rows for abstentions; and the scores of each source.
    """
    scores = llm_scores(params, corpus, workers=workers, engine=engine, retry_quarantined=retry_quarantined)
    given = corpus.given
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    votes = {}
    for source, scored in scores.items():
        votes[source], calibrations = calibrated_votes(
            scored.values, given, folds, params.llm.votes, margin=params.vote.llm_margin
        )
        echo(f"vote: {source} {calibration_summary(calibrations)}")
    return votes, list(scores.values())


def llm_scores(
    params: Params,
    corpus: Corpus,
    *,
    workers: int | None = None,
    engine: Engine | None = None,
    retry_quarantined: bool = False,
    shard: Shard | None = None,
) -> dict[str, ScoringResult]:
    """Query the LLM and return the label scores of the clips by source; see `llm_votes`.

    With a shard, only its questions are sent: the scores of all other clips may be missing.
    """
    config = config_of_run(params.llm, workers, shard)
    budget = Budget(config.budget)
    clips, labels, inputs = corpus.clips, corpus.labels, params.vote.inputs
    given = corpus.given
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    text_files, cue_files, frame_files = (
        replace(files if shard is None else files_of_shard(files, shard), retry_quarantined=retry_quarantined)
        for files in (VOTE_FILES, CUE_FILES, FRAME_FILES)
    )
    scores: dict[str, ScoringResult] = {}
    if "text" in inputs:
        texts, n_foreign = llm_transcripts(params, clips)
        if n_foreign:
            echo(f"vote: llm abstains on {format_count(n_foreign, 'transcript')} in languages that it does not know")
        scored = transcript_scores(
            config,
            texts,
            labels,
            given,
            folds,
            seed=params.vote.seed,
            answer_files=text_files,
            engine=engine,
            budget=budget,
        )
        min_words = params.vote.llm_least_words
        scores["llm"], n_short = drop_short_transcripts(scored, list(texts.values()), min_words)
        if n_short:
            echo(f"vote: llm abstains on {format_count(n_short, 'transcript')} with fewer than {min_words} words")
    elif shard is None:
        write_empty_quarantine(text_files)  # DVC expects the quarantine table
    if "cues" in inputs:  # without the transcript; the LLM abstains on clips without cues
        descriptions = cue_texts(params, clips)
        scores["llm/cues"] = label_scores(
            with_cues_prompt(config), descriptions, labels, answer_files=cue_files, engine=engine, budget=budget
        )
    if "frames" in inputs:
        scores["llm/frames"] = frame_scores(
            config,
            clips,
            labels,
            corpus_root=params.corpus.root,
            media=params.media,
            faces=params.faces,
            answer_files=frame_files,
            budget=budget,
            index_cache=paths.INDEX_CACHE,
        )
    return scores
