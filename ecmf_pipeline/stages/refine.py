"""`refine`: combine the votes into refined labels with evidence."""

from __future__ import annotations

from collections import Counter

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import write_json
from ecmf_pipeline.labels.combining import MIN_GOLD
from ecmf_pipeline.labels.refine import (
    decide,
    describe_counts,
    describe_effect,
    describe_zero_shot,
    labels_to_verify,
    source_metrics,
)
from ecmf_pipeline.labels.selection import (
    can_be_judged,
    expected_gain,
    has_readable_media,
    select_clips_to_label,
    select_first_clips,
)
from ecmf_pipeline.labels.tables import write_clips_to_label, write_refined
from ecmf_pipeline.labels.thresholds import find_thresholds
from ecmf_pipeline.labels.voters import source_family
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    add_transcripts,
    assess_project,
    read_features,
    read_project_corpus,
    votes_of_sources,
)


def run(*, dry_run: bool = False) -> None:
    """Combine all votes and the predictions of the fusion model, and decide on the label of each clip.

    Without enough labels to train on, the votes of sources that need none are combined.

    Args:
        dry_run: Whether to print the decisions only and write nothing.
    """
    params = load_params()
    config = params.refine
    labelled = read_project_corpus(params)
    corpus, gold = labelled.corpus, labelled.known
    votes = votes_of_sources(labelled)
    assessment = assess_project(params, labelled, votes)
    families = {name: source_family(name) for name in votes}
    decisions = decide(
        assessment, corpus.clips, corpus.labels, config, families=families, gold=gold, basis=labelled.basis
    )
    counts = Counter(decision.decision.value for decision in decisions)
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
    eligible = (gold < 0) & can_be_judged(clips)
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
            "decisions": dict(counts),
            "verdicts": int((gold >= 0).sum()),
            "sources": source_metrics(assessment),
        },
    )
    if labelled.is_zero_shot and config.verdicts:
        echo(
            f"  next: write labels for the first clips of {paths.NEXT} into {config.verdicts} (columns clip_id,label), "
            f"then run dvc repro; models are trained from {MIN_GOLD} verdicts of "
            "two labels on"
        )
