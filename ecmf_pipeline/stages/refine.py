"""`refine`: votes combined into labels, each with its evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ecmf_pipeline import layout
from ecmf_pipeline.clips import labels_of
from ecmf_pipeline.errors import MissingInput
from ecmf_pipeline.files import write_json
from ecmf_pipeline.labels.label_model import assess_labels
from ecmf_pipeline.labels.refine import decide
from ecmf_pipeline.labels.tables import read_votes, write_refined
from ecmf_pipeline.params import load_params
from ecmf_pipeline.predictions import NO_MODALITY, PredictionTable
from ecmf_pipeline.progress import say
from ecmf_pipeline.stage_inputs import Corpus, folds_of, read_labelled_corpus

TIE = 1e-5
"""Probabilities nearer than this are alike."""


def run() -> None:
    """Combine all votes and the fusion's predictions, and decide about every clip's label."""
    params = load_params()
    corpus = read_labelled_corpus()
    table = read_votes(layout.VOTES, corpus.labels)
    fusion = PredictionTable.read(layout.predictions("given") / "fusion.csv")
    _refuse_another_manifest(corpus, table.clip_ids, "vote")
    _refuse_another_manifest(corpus, fusion.clip_ids, "predict")
    ranked = np.sort(fusion.probs, axis=1)
    # A model that has learned nothing finds all labels alike: that is an abstention, not a vote for the first one.
    decided = ranked[:, -1] - ranked[:, -2] > TIE
    judged = (np.array([flag != NO_MODALITY for flag in fusion.flags]) & decided)[:, None]
    votes = {**table.votes, "fusion": np.where(judged, fusion.probs, np.nan)}
    given = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    folds = folds_of(corpus, params.vote.folds, params.vote.seed)
    combined = assess_labels(votes, given, folds=folds, config=params.refine.label_model)
    families = {name: _family(name) for name in votes}
    decisions = decide(combined, corpus.clips, corpus.labels, params.refine, families=families)
    write_refined(layout.REFINED, decisions, votes, combined.posterior, corpus.labels)
    counts = Counter(decision.decision.value for decision in decisions)
    sources = {source.name: source.weight for source in combined.sources}
    write_json(layout.METRICS / "refine.json", {"decisions": dict(counts), "source_weights": sources})
    say("refine: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))


def _refuse_another_manifest(corpus: Corpus, clip_ids: Sequence[str], stage: str) -> None:
    if list(clip_ids) != [clip.clip_id for clip in corpus.clips]:
        raise MissingInput(f"what `{stage}` wrote is about other clips than the manifest", f"run `ecmf-pipe {stage}`")


def _family(source: str) -> str:
    """Sources that judge by the same input are one family: all voters of a modality; the LLM reads the words."""
    return "text" if source == "llm" else source.partition("/")[0]
