"""`refine`: votes combined into labels, each with its evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ecmf_pipeline import layout
from ecmf_pipeline.clips import labels_of
from ecmf_pipeline.errors import MissingInput
from ecmf_pipeline.files import write_json
from ecmf_pipeline.labels.assessing import assess
from ecmf_pipeline.labels.effect import effect_of, source_accounts
from ecmf_pipeline.labels.next_clips import worth_labelling
from ecmf_pipeline.labels.refine import decide
from ecmf_pipeline.labels.tables import read_votes, write_next, write_refined
from ecmf_pipeline.labels.targets import find_targets
from ecmf_pipeline.labels.voters import family_of
from ecmf_pipeline.params import load_params
from ecmf_pipeline.predictions import PredictionTable
from ecmf_pipeline.progress import say
from ecmf_pipeline.stage_inputs import Corpus, folds_of, fusion_votes, read_corpus_verdicts, read_labelled_corpus


def run(*, dry_run: bool = False) -> None:
    """Combine all votes and the fusion's predictions, and decide about every clip's label.

    Args:
        dry_run: Say what would be decided, and write nothing.
    """
    params = load_params()
    config = params.refine
    corpus = read_labelled_corpus()
    table = read_votes(layout.VOTES, corpus.labels)
    fusion = PredictionTable.read(layout.predictions("given") / "fusion.csv")
    _refuse_another_manifest(corpus, table.clip_ids, "vote")
    _refuse_another_manifest(corpus, fusion.clip_ids, "predict")
    votes = {**table.votes, "fusion": fusion_votes(fusion)}
    given = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    gold = read_corpus_verdicts(config.verdicts, corpus)
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    assessment = assess(votes, given, gold, folds=folds, seed=params.vote.seed, config=config.label_model)
    families = {name: family_of(name) for name in votes}
    decisions = decide(assessment, corpus.clips, corpus.labels, config, families=families, gold=gold)
    counts = Counter(decision.decision.value for decision in decisions)
    would = "would be: " if dry_run else ""
    say(f"refine: {would}" + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    for sentence in (*find_targets(assessment, given, gold, config).words, *effect_of(decisions, corpus.labels)):
        say(f"  {sentence}")
    if dry_run:
        return
    write_refined(layout.REFINED, decisions, votes, assessment.posterior, corpus.labels)
    write_next(layout.NEXT, assessment.posterior, decisions, worth_labelling(assessment, gold >= 0, config.label_next))
    write_json(
        layout.METRICS / "refine.json",
        {"decisions": dict(counts), "verdicts": int((gold >= 0).sum()), "sources": source_accounts(assessment)},
    )


def _refuse_another_manifest(corpus: Corpus, clip_ids: Sequence[str], stage: str) -> None:
    if list(clip_ids) != [clip.clip_id for clip in corpus.clips]:
        raise MissingInput(f"what `{stage}` wrote is about other clips than the manifest", f"run `ecmf-pipe {stage}`")
