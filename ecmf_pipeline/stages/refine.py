"""`refine`: combine the votes into refined labels with evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import write_json
from ecmf_pipeline.labels.decision_files import write_clips_to_label, write_refined
from ecmf_pipeline.labels.label_model import Assessment
from ecmf_pipeline.labels.refine import (
    Decisions,
    decide,
    describe_counts,
    describe_effect,
    describe_zero_shot,
    labels_to_verify,
    soften,
    source_metrics,
)
from ecmf_pipeline.labels.selection import (
    can_be_judged,
    expected_gain,
    has_readable_media,
    select_clips_to_label,
    select_first_clips,
)
from ecmf_pipeline.labels.thresholds import find_thresholds
from ecmf_pipeline.labels.verdicts import MIN_GOLD
from ecmf_pipeline.labels.voters import source_family
from ecmf_pipeline.settings.params import Params, load_params
from ecmf_pipeline.stages.shared.inputs import (
    LabelledCorpus,
    add_transcripts,
    assess_project,
    read_features,
    read_project_corpus,
    votes_of_sources,
)


@dataclass(frozen=True, slots=True)
class Refinement:
    """Decisions on all clips with what they are based on: labels, votes by source, (n, K), and the label model."""

    labelled: LabelledCorpus
    votes: dict[str, NDArray[np.float64]]
    assessment: Assessment
    decisions: Decisions


def compute(params: Params) -> Refinement:
    """Combine all votes, the predictions of the fusion model and the verdicts, and decide on each clip."""
    labelled = read_project_corpus(params)
    votes = votes_of_sources(labelled)
    assessment = soften(assess_project(params, labelled, votes), labelled.verdicts.shares)
    decisions = decide(
        assessment,
        labelled.corpus.clips,
        labelled.corpus.labels,
        params.refine,
        families={name: source_family(name) for name in votes},
        gold=labelled.known,
        shares=labelled.verdicts.shares,
        is_bad=labelled.verdicts.is_bad,
        basis=labelled.basis,
    )
    return Refinement(labelled, votes, assessment, decisions)


def run(*, dry_run: bool = False) -> None:
    """Combine the votes and write the decisions, the clips to label next and the metrics.

    Without enough labels to train on, the votes of sources that need none are combined.

    Args:
        dry_run: Whether to print the decisions only and write nothing.
    """
    params = load_params()
    config = params.refine
    refinement = compute(params)
    labelled, votes, decisions = refinement.labelled, refinement.votes, refinement.decisions
    corpus, gold, assessment = labelled.corpus, labelled.known, refinement.assessment
    prefix = "refine (dry run): " if dry_run else "refine: "
    echo(prefix + ", ".join(describe_counts(decisions, gold >= 0)))
    if labelled.is_zero_shot:
        sentences = describe_zero_shot(decisions, assessment, gold)
    else:
        sentences = [
            *find_thresholds(assessment, corpus.given, gold, config).words,
            *describe_effect(decisions, corpus.labels),
        ]
    for sentence in sentences:
        echo(f"  {sentence}")
    if dry_run:
        return
    write_refined(paths.REFINED, decisions, votes, assessment.posterior, corpus.labels)
    clips = add_transcripts(params, corpus).clips
    gain = expected_gain(assessment.posterior, labels_to_verify(decisions, corpus.labels))
    eligible = (gold < 0) & ~labelled.verdicts.is_bad & can_be_judged(clips)
    chosen = select_clips_to_label(
        gain, assessment.labels, eligible, config.label_next, last=~has_readable_media(clips)
    )
    if labelled.is_zero_shot:
        features = read_features(params, corpus.clips)
        first = select_first_clips(features, gain, eligible, gold >= 0, clusters=MIN_GOLD)
        chosen = [*first, *(row for row in chosen if row not in set(first))][: config.label_next]
    write_clips_to_label(paths.NEXT, clips, decisions, votes, gain, chosen, corpus.labels)
    write_json(
        paths.METRICS / "refine.json",
        {
            "basis": labelled.basis.value,
            "decisions": decisions.counts("decision"),
            "verdicts": int((gold >= 0).sum()),
            "sources": source_metrics(assessment),
        },
    )
    if labelled.is_zero_shot and config.verdicts:
        echo(
            f"  next: label the first clips of {paths.NEXT}: run ecmf-pipe review, or write {config.verdicts} (columns "
            f"name,label); then run dvc repro; models are trained from {MIN_GOLD} verdicts of "
            "two labels on"
        )
