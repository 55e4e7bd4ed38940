"""`refine`: combine the votes into refined labels with evidence."""

from __future__ import annotations

from collections import Counter

from ecmf_pipeline.core import paths
from ecmf_pipeline.core.console import echo
from ecmf_pipeline.core.files import write_json
from ecmf_pipeline.labels.label_model import assess
from ecmf_pipeline.labels.refine import decide, describe_counts, describe_effect, labels_to_verify, source_metrics
from ecmf_pipeline.labels.selection import can_be_judged, expected_gain, has_readable_media, select_clips_to_label
from ecmf_pipeline.labels.tables import write_clips_to_label, write_refined
from ecmf_pipeline.labels.thresholds import find_thresholds
from ecmf_pipeline.labels.voters import source_family
from ecmf_pipeline.settings.params import load_params
from ecmf_pipeline.stages.shared.inputs import (
    add_transcripts,
    all_votes,
    folds_of,
    read_corpus_verdicts,
    read_labelled_corpus,
)


def run(*, dry_run: bool = False) -> None:
    """Combine all votes and the predictions of the fusion model, and decide on the label of each clip.

    Args:
        dry_run: Whether to print the decisions only and write nothing.
    """
    params = load_params()
    config = params.refine
    corpus = read_labelled_corpus()
    votes = all_votes(corpus)
    gold = read_corpus_verdicts(config.verdicts, corpus)
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    assessment = assess(votes, corpus.given, gold, folds=folds, seed=params.vote.seed, config=config.label_model)
    families = {name: source_family(name) for name in votes}
    decisions = decide(assessment, corpus.clips, corpus.labels, config, families=families, gold=gold)
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
    eligible = (gold < 0) & can_be_judged(clips)
    chosen = select_clips_to_label(
        gain, assessment.labels, eligible, config.label_next, last=~has_readable_media(clips)
    )
    write_clips_to_label(paths.NEXT, clips, decisions, votes, gain, chosen, corpus.labels)
    write_json(
        paths.METRICS / "refine.json",
        {"decisions": dict(counts), "verdicts": int((gold >= 0).sum()), "sources": source_metrics(assessment)},
    )
