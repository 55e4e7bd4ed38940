"""`vote`: collect out-of-fold votes of weak classifiers and the LLM on the label of each clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Corpus
from ecmf_pipeline.core.console import echo, format_count
from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.core.predictions import Basis
from ecmf_pipeline.core.shards import Shard
from ecmf_pipeline.core.tables import open_table
from ecmf_pipeline.labels.label_model import GIVEN
from ecmf_pipeline.labels.vote_files import read_external_votes, write_votes
from ecmf_pipeline.labels.voters import (
    ALL,
    JointVoter,
    VoterPanel,
    configured_voters,
    held_out_score,
    join_modalities,
    vote_in_rounds,
)
from ecmf_pipeline.llm.scoring import ScoringResult
from ecmf_pipeline.runner.config import EngineKind
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.sharing.hints import warn_of_shared_outputs
from ecmf_pipeline.stages.shared.inputs import (
    FUSION,
    add_transcripts,
    folds_of,
    read_features,
    read_project_corpus,
)
from ecmf_pipeline.stages.shared.llm import LLM_SOURCES, llm_engine, llm_scores, llm_votes
from ecmf_pipeline.stages.shared.zero_shot import FACE_SOURCE, saved_model_votes, zero_shot_votes


def run(
    *,
    workers: int | None = None,
    engine: EngineKind | None = None,
    retry_quarantined: bool = False,
    shard: Shard | None = None,
) -> None:
    """Collect the votes of all voters and write the long table of votes.

    Args:
        workers: Number of worker processes that query the LLM; None: the value in params.
        engine: The engine that runs them; None: that of params.
        retry_quarantined: Whether to query again for quarantined texts although nothing changed.
        shard: The shard of the questions to the LLM to send, without any vote; None: all votes are collected.
    """
    params = load_params()
    runner = llm_engine(params, engine, workers)
    if not paths.VOTES.is_file():
        warn_of_shared_outputs([paths.VOTES.parent])
    labelled = read_project_corpus(params)
    corpus = labelled.corpus
    if params.votes_on_transcripts:
        corpus = add_transcripts(params, corpus)
    if shard is not None:
        scored = llm_scores(
            params, corpus, workers=workers, engine=runner, retry_quarantined=retry_quarantined, shard=shard
        )
        echo(f"vote shard {shard}: {_count_questions(scored.values())}")
        return
    external = _external_votes(params, corpus)  # first, so that a wrong file is reported before hours of voting
    votes = {} if labelled.is_zero_shot else _classifier_votes(params, corpus, labelled.known)
    if labelled.basis is not Basis.GIVEN:
        votes.update(zero_shot_votes(params, corpus))
    votes.update(saved_model_votes(params, corpus))
    of_llm, results = llm_votes(params, corpus, workers=workers, engine=runner, retry_quarantined=retry_quarantined)
    votes.update(of_llm)
    votes.update(external)
    if labelled.is_zero_shot and not votes:
        raise InputError(
            "no source votes on the labels: there are too few labels to train on, and no source needs none",
            "set vote.inputs: [text], use the encoder mini_xception or a CLIP encoder, or add vote.sources",
        )
    write_votes(paths.VOTES, corpus.columns.ids, votes, corpus.labels)
    echo(f"vote: {len(corpus.clips)} clips, {len(votes)} sources")
    for name, probs in votes.items():
        n_votes = int(np.isfinite(probs).all(axis=1).sum())
        echo(f"  {name}: {format_count(n_votes, 'vote')}, {format_count(len(probs) - n_votes, 'abstention')}")
    echo(f"  {_count_questions(results)}")


def _count_questions(scored: Iterable[ScoringResult]) -> str:
    results = list(scored)
    counts = [sum(getattr(one, name) for one in results) for name in ("answered", "cached", "quarantined", "invalid")]
    return "{} questions answered, {} from the cache, {} clips quarantined, {} without a valid answer".format(*counts)


def _external_votes(params: Params, corpus: Corpus) -> dict[str, NDArray[np.float64]]:
    """Read the votes of the corpus and of the csv files in ``vote.sources``, by source."""
    votes: dict[str, NDArray[np.float64]] = {}
    reserved = _own_sources(params)
    for path in (*_corpus_votes(), *map(Path, params.vote.sources)):
        sources, _ = read_external_votes(path, corpus.labels, corpus.columns.ids)
        if duplicates := sorted((reserved | votes.keys()) & sources.keys()):
            raise InputError(f"{path}: another source has the name {duplicates[0]!r}", "rename the source in the file")
        votes.update(sources)
    return votes


def _corpus_votes() -> Iterator[Path]:
    """Yield the table with the votes that come with the corpus, if it has any.

    Raises:
        InputError: If the table differs from its seal: `index` wrote it, and nobody edits it.
    """
    if not paths.CORPUS_VOTES.is_file():  # a dependency of the stage, so only without DVC
        return
    table = open_table(paths.CORPUS_VOTES, command="ecmf-pipe index")
    table.check_seal()
    if table.text.count("\n") > 1:
        yield paths.CORPUS_VOTES


def _own_sources(params: Params) -> set[str]:
    """Return the source names that `vote` and `refine` reserve for their own votes."""
    modalities = list(params.tokens)
    of_llm = {LLM_SOURCES[kind] for kind in params.vote.inputs}
    return (
        {FUSION, GIVEN}
        | of_llm
        | {FACE_SOURCE, *(f"{name}/text-image" for name in ("global", "face", *params.tokens))}
        | {f"transfer:{name}" for name in params.vote.transfer}
        | {f"{name}/{kind}" for name in (*modalities, ALL) for kind in configured_voters(params.vote)}
    )


def _classifier_votes(params: Params, corpus: Corpus, verdicts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Train the classifiers out of fold and return their votes, by source."""
    config = params.vote
    voters = configured_voters(config)
    if not voters:
        return {}
    given = corpus.given
    by_modality = read_features(params, corpus.clips)
    features: dict[str, NDArray[np.floating]] = {**by_modality}
    if len(by_modality) > 1:
        features[ALL] = join_modalities(by_modality)
    # In a single round the fusion's vote is the prediction of `predict`; further rounds train the fusion again.
    joint: dict[str, JointVoter] = {}
    if config.rounds > 1:
        from ecmf_pipeline.fusion.training import FusionVoter

        fusion = FusionVoter(
            by_modality, corpus.columns.groups, corpus.labels, params.train.fusion, params.train.training
        )
        joint[FUSION] = fusion.votes
    result = vote_in_rounds(
        VoterPanel(features, voters, len(corpus.labels), config.seed, joint),
        given,
        folds_of(corpus, config.folds, config.seed),
        rounds=config.rounds,
        score=partial(held_out_score, given=given, human_labels=verdicts),
        config=params.refine,
    )
    if config.rounds > 1:
        scores = ", ".join(f"{score:.4f}" for score in result.scores)
        echo(f"vote: weighted F1 on held-out labels by round: {scores}; round {result.best} is used")
    if result.best == 1:
        result.votes.pop(FUSION, None)
    return result.votes
