"""What stages ask of the LLM: where its answers are kept, what it is shown of a clip, and its votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Clip, Corpus, Modality, labels_of
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.files import read_json
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.encoders.config import EgemapsConfig, MiniXceptionConfig
from ecmf_pipeline.extraction.run import present_digests
from ecmf_pipeline.llm.answers import ScoreBooks, nothing_to_ask
from ecmf_pipeline.llm.config import LlmConfig
from ecmf_pipeline.llm.cues import face_cues, read_cues, speech_rate, voice_cues
from ecmf_pipeline.llm.frames import frame_scores
from ecmf_pipeline.llm.prompt import Context, load_rewrite_prompt
from ecmf_pipeline.llm.rewriting import contexts_of
from ecmf_pipeline.llm.scoring import Scored, label_scores
from ecmf_pipeline.llm.server_run import Budget
from ecmf_pipeline.llm.votes import calibrated_votes, calibration_summary, without_short, word_scores
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.inputs import expected_fingerprint, folds_of
from ecmf_pipeline.store import FeatureStore

REWRITE_BOOKS = ScoreBooks("rewrite", paths.REWRITE_CACHE, paths.DATA / ".rewrite.spool", paths.quarantine("rewrite"))
ANSWER_BOOKS = replace(REWRITE_BOOKS, cache=paths.REWRITE_ANSWERS)
"""Of rewrites that the model writes: its answers are no scores."""
VOTE_BOOKS = ScoreBooks(
    "vote",
    paths.VOTE_CACHE,
    paths.DATA / ".votes.spool",
    paths.quarantine("vote"),
    earlier=(REWRITE_BOOKS,),  # what `rewrite` asked is not asked again
)
CUE_BOOKS = replace(VOTE_BOOKS, quarantine=paths.QUARANTINE / "vote-cues.csv", earlier=())
FRAME_BOOKS = replace(VOTE_BOOKS, quarantine=paths.QUARANTINE / "vote-frames.csv", earlier=())

LLM_SOURCES = {"text": "llm", "cues": "llm/cues", "frames": "llm/frames"}
"""The source of votes that each of ``vote.inputs`` makes: it reads the words, what face and voice do, or pictures."""


def labels_to_ask() -> Sequence[str]:
    """The corpus' labels; MER's six where there is nothing to choose between: words can be enriched all the same."""
    labels: Sequence[str] = read_json(paths.CORPUS, made_by="index")["labels"]
    return labels if len(labels) >= 2 else MER_LABELS


def with_workers(config: LlmConfig, workers: int | None) -> LlmConfig:
    """The model's params with the workers that the command line asks for; None: as they are."""
    return config if workers is None else config.model_copy(update={"workers": workers})


def read_contexts(params: Params, clips: Sequence[Clip]) -> dict[str, Context]:
    """What the rewrite may show of each clip with words, by clip id; see `contexts_of`.

    Args:
        params: Which neighbours and cues are asked for.
        clips: The whole corpus.

    Raises:
        MissingInput: When cues are asked for and `cues` has not run yet.
    """
    return contexts_of(clips, params.rewrite, [read_cues(paths.cues(Modality(kind))) for kind in params.rewrite.cues])


def cues_of(params: Params, clips: Sequence[Clip], modality: Modality) -> dict[str, tuple[str, ...]]:
    """Names of the cues that a branch's features show of each clip, by clip id; see `llm.cues`.

    Args:
        params: Which features are in use.
        clips: The whole corpus, since cues are relative to it.
        modality: ``face`` or ``audio``.

    Raises:
        MissingInput: When the features are not extracted yet.
        StaleStore: When params ask for other settings than they were made with.
    """
    store = FeatureStore.open(paths.features(modality), expected_fingerprint(params, modality))
    digests = present_digests(modality, clips, {}, store)
    rows = store.load([clip.clip_id for clip in clips], digests=digests).values.astype(np.float64)
    if store.dim is None:  # no clip has such an input
        rows = np.full((len(clips), (MiniXceptionConfig if modality is Modality.FACE else EgemapsConfig).dim), np.nan)
    if modality is Modality.FACE:
        found = face_cues(rows[:, MiniXceptionConfig.expression_dim :])
    else:
        found = voice_cues(rows, np.array([speech_rate(clip.transcript, clip.duration) for clip in clips]))
    return {clip.clip_id: names for clip, names in zip(clips, found, strict=True)}


def cue_texts(params: Params, clips: Sequence[Clip]) -> dict[str, str]:
    """What face and voice do in each clip, in words, by clip id; blank where nothing is unusual.

    Raises:
        MissingInput: When the features are not extracted yet.
    """
    prompt = load_rewrite_prompt(params.rewrite.prompt)
    tables = [cues_of(params, clips, Modality(kind)) for kind in params.llm.votes.cues]
    return {clip.clip_id: prompt.cue_text(name for table in tables for name in table[clip.clip_id]) for clip in clips}


def about_cues(config: LlmConfig) -> LlmConfig:
    """The model's params with the prompt about cues."""
    return config.model_copy(update={"prompt": config.cues_prompt})


def llm_votes(
    params: Params, corpus: Corpus, *, workers: int | None = None, retry_quarantined: bool = False
) -> tuple[dict[str, NDArray[np.float64]], list[Scored]]:
    """The LLM's votes on every clip, by what it is shown of it, and what was asked.

    Whatever is learned from labels (examples in the prompt, temperature and bias) is learned on given labels of other
    folds than the clip's own; gold labels are never read.

    Args:
        params: What it is shown (``vote.inputs``), and how its scores become votes.
        corpus: The clips, with all words that are known.
        workers: Processes side by side; None: as params say.
        retry_quarantined: Whether texts that were set aside are tried again although nothing changed.

    Returns:
        By source (``llm`` reads the words, ``llm/cues`` what face and voice do, ``llm/frames`` sees pictures),
        probabilities, (n, K), rows of NaN where it abstains.
    """
    config, budget = with_workers(params.llm, workers), Budget(params.llm.budget)
    clips, labels, inputs = corpus.clips, corpus.labels, params.vote.inputs
    given = np.array(labels_of(clips, labels), np.int64)
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    own, of_cues, of_frames = (
        replace(books, retry_quarantined=retry_quarantined) for books in (VOTE_BOOKS, CUE_BOOKS, FRAME_BOOKS)
    )
    scores: dict[str, Scored] = {}
    if "text" in inputs:
        texts: dict[str, str] = {clip.clip_id: clip.transcript for clip in clips}
        found = word_scores(config, texts, labels, given, folds, seed=params.vote.seed, books=own, budget=budget)
        least = params.vote.llm_least_words
        scores["llm"], short = without_short(found, list(texts.values()), least)
        if short:
            echo(f"vote: llm abstains on {format_count(short, 'transcript')} of fewer than {least} words")
    else:
        nothing_to_ask(own)  # DVC waits for the table
    if "cues" in inputs:  # without the words; a clip that shows nothing unusual is not judged
        shown = cue_texts(params, clips)
        scores["llm/cues"] = label_scores(about_cues(config), shown, labels, books=of_cues, budget=budget)
    if "frames" in inputs:
        scores["llm/frames"] = frame_scores(
            config,
            clips,
            labels,
            corpus_root=params.corpus.root,
            media=params.media,
            faces=params.faces,
            books=of_frames,
            budget=budget,
        )
    votes = {}
    for source, asked in scores.items():
        votes[source], fitted = calibrated_votes(
            asked.values, given, folds, params.llm.votes, margin=params.vote.llm_margin
        )
        echo(f"vote: {source} {calibration_summary(fitted)}")
    return votes, list(scores.values())
