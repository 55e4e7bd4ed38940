"""`refine`: combine the votes into refined labels with evidence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.clips import Corpus
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import write_json
from ecmf_pipeline.labels.label_model import Assessment, assess
from ecmf_pipeline.labels.refine import (
    Decision,
    decide,
    describe_counts,
    describe_effect,
    labels_to_verify,
    soften,
    source_metrics,
)
from ecmf_pipeline.labels.selection import can_be_judged, expected_gain, has_readable_media, select_clips_to_label
from ecmf_pipeline.labels.tables import write_clips_to_label, write_refined
from ecmf_pipeline.labels.thresholds import find_thresholds
from ecmf_pipeline.labels.verdicts import Verdicts
from ecmf_pipeline.labels.voters import source_family
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.inputs import (
    add_transcripts,
    all_votes,
    folds_of,
    read_corpus_verdicts,
    read_labelled_corpus,
)


@dataclass(frozen=True, slots=True)
class Refinement:
    """Decisions on all clips with what they are based on: votes by source, (n, K), verdicts, the label model."""

    corpus: Corpus
    votes: dict[str, NDArray[np.float64]]
    verdicts: Verdicts
    assessment: Assessment
    decisions: list[Decision]


def compute(params: Params) -> Refinement:
    """Combine all votes, the predictions of the fusion model and the verdicts, and decide on each clip."""
    config = params.refine
    corpus = read_labelled_corpus()
    votes = all_votes(corpus)
    verdicts = read_corpus_verdicts(params, corpus)
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    assessment = soften(
        assess(votes, corpus.given, verdicts.gold, folds=folds, seed=params.vote.seed, config=config.label_model),
        verdicts.shares,
    )
    decisions = decide(
        assessment,
        corpus.clips,
        corpus.labels,
        config,
        families={name: source_family(name) for name in votes},
        gold=verdicts.gold,
        shares=verdicts.shares,
        is_bad=verdicts.is_bad,
    )
    return Refinement(corpus, votes, verdicts, assessment, decisions)


def run(*, dry_run: bool = False) -> None:
    """Combine the votes and write the decisions, the clips to label next and the metrics.

    Args:
        dry_run: Whether to print the decisions only and write nothing.
    """
    params = load_params()
    config = params.refine
    refinement = compute(params)
    corpus, votes, decisions = refinement.corpus, refinement.votes, refinement.decisions
    assessment, gold = refinement.assessment, refinement.verdicts.gold
    counts = Counter(decision.decision.value for decision in decisions)
    prefix = "refine (dry run): " if dry_run else "refine: "
    echo(prefix + ", ".join(describe_counts(decisions, gold >= 0)))
    for sentence in (
        *find_thresholds(assessment, corpus.given, gold, config).words,
        *describe_effect(decisions, corpus.labels),
    ):
        echo(f"  {sentence}")
    if dry_run:
        return
    write_refined(paths.REFINED, decisions, votes, assessment.posterior, corpus.labels)
    clips = add_transcripts(params, corpus).clips
    gain = expected_gain(assessment.posterior, labels_to_verify(decisions, corpus.labels))
    eligible = (gold < 0) & ~refinement.verdicts.is_bad & can_be_judged(clips)
    chosen = select_clips_to_label(
        gain, assessment.labels, eligible, config.label_next, last=~has_readable_media(clips)
    )
    write_clips_to_label(paths.NEXT, clips, decisions, votes, gain, chosen, corpus.labels)
    write_json(
        paths.METRICS / "refine.json",
        {"decisions": dict(counts), "verdicts": int((gold >= 0).sum()), "sources": source_metrics(assessment)},
    )
