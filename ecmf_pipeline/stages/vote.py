"""`vote`: what weak classifiers and the LLM say of every clip, out of fold."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Corpus
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.labels.label_model import GIVEN
from ecmf_pipeline.labels.tables import read_sources, write_votes
from ecmf_pipeline.labels.voters import ALL, JointVoter, Panel, held_out_score, joined, vote_in_rounds, voters_of
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.sharing.hints import pull_hint
from ecmf_pipeline.stages.shared.inputs import (
    FUSION,
    folds_of,
    read_corpus_verdicts,
    read_features,
    read_labelled_corpus,
    with_words,
)
from ecmf_pipeline.stages.shared.llm import LLM_SOURCES, llm_votes


def run(*, workers: int | None = None, retry_quarantined: bool = False) -> None:
    """Let every voter judge every clip it can, and write the long table of votes.

    Args:
        workers: Processes that ask the LLM side by side; None: as params say.
        retry_quarantined: Whether texts that were set aside are tried again although nothing changed.
    """
    params = load_params()
    if not paths.VOTES.is_file() and (hint := pull_hint([paths.VOTES.parent])):
        echo(hint)
    corpus = with_words(params, read_labelled_corpus())
    outside = _outside(params, corpus)  # first: what is wrong with a file should not come out after hours of voting
    votes = _classifiers(params, corpus)
    of_llm, asked = llm_votes(params, corpus, workers=workers, retry_quarantined=retry_quarantined)
    votes.update(of_llm)
    votes.update(outside)
    write_votes(paths.VOTES, [clip.clip_id for clip in corpus.clips], votes, corpus.labels)
    echo(f"vote: {len(corpus.clips)} clips, {len(votes)} sources")
    for name, probs in votes.items():
        echo(f"  {name}: {int(np.isfinite(probs).all(axis=1).sum())} votes, the rest abstentions")
    counts = [sum(getattr(scores, name) for scores in asked) for name in ("asked", "cached", "quarantined", "invalid")]
    echo("  {} questions asked, {} from the cache, {} clips quarantined, {} without a valid answer".format(*counts))


def _outside(params: Params, corpus: Corpus) -> dict[str, NDArray[np.float64]]:
    votes: dict[str, NDArray[np.float64]] = {}
    taken = _own_sources(params)
    for path in params.vote.sources:
        found, others = read_sources(Path(path), corpus.labels, [clip.clip_id for clip in corpus.clips])
        if doubled := sorted((taken | votes.keys()) & found.keys()):
            raise InputError(f"{path}: there is a source {doubled[0]!r} already", "give the source another name")
        votes.update(found)
        if others:
            echo(f"  {others} votes in {path} are about clips that the corpus does not have")
    return votes


def _own_sources(params: Params) -> set[str]:
    """The names under which this stage and `refine` may enter votes of their own."""
    modalities = [modality.value for modality in params.extract.encoders]
    of_llm = {LLM_SOURCES[shown] for shown in params.vote.inputs}
    return (
        {FUSION, GIVEN} | of_llm | {f"{name}/{kind}" for name in (*modalities, ALL) for kind in voters_of(params.vote)}
    )


def _classifiers(params: Params, corpus: Corpus) -> dict[str, NDArray[np.float64]]:
    config = params.vote
    given = corpus.given
    verdicts = read_corpus_verdicts(params.refine.verdicts, corpus)
    alone = read_features(params, corpus.clips)
    features: dict[str, NDArray[np.floating]] = {**alone}
    if len(alone) > 1:
        features[ALL] = joined(alone)
    voters = voters_of(config)
    if not voters:
        return {}
    # In one round the fusion's vote is what `predict` wrote; further rounds train it again with the others.
    joint: dict[str, JointVoter] = {}
    if config.rounds > 1:
        from ecmf_pipeline.fusion.training import FusionVoter

        groups = [clip.group for clip in corpus.clips]
        joint[FUSION] = FusionVoter(alone, groups, corpus.labels, params.train.fusion, params.train.training).votes
    found = vote_in_rounds(
        Panel(features, voters, len(corpus.labels), config.seed, joint),
        given,
        folds_of(corpus, config.folds, config.seed),
        rounds=config.rounds,
        score=partial(held_out_score, given=given, verdicts=verdicts),
        config=params.refine,
    )
    if config.rounds > 1:
        shown = ", ".join(f"{score:.4f}" for score in found.scores)
        echo(f"vote: weighted F1 on held-out labels by round: {shown}; round {found.best} is used")
    if found.best == 1:
        found.votes.pop(FUSION, None)
    return found.votes
