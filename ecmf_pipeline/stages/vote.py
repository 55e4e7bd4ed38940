"""`vote`: what weak classifiers and the LLM say of every clip, out of fold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline import layout
from ecmf_pipeline.clips import labels_of
from ecmf_pipeline.labels.tables import write_votes
from ecmf_pipeline.labels.voters import out_of_fold_votes
from ecmf_pipeline.params import Params, load_params
from ecmf_pipeline.progress import progress, say
from ecmf_pipeline.sharing import pull_hint
from ecmf_pipeline.stage_inputs import Corpus, folds_of, llm_votes, read_features, read_labelled_corpus


def run(*, workers: int | None = None, retry_quarantined: bool = False) -> None:
    """Let every voter judge every clip it can, and write the long table of votes.

    Args:
        workers: Processes that ask the LLM side by side; None: as params say.
        retry_quarantined: Whether texts that were set aside are tried again although nothing changed.
    """
    params = load_params()
    if hint := pull_hint([layout.VOTES.parent]):
        say(hint)
    corpus = read_labelled_corpus()
    votes = dict(_classifiers(params, corpus))
    votes["llm"], asked = llm_votes(params, corpus, workers=workers, retry_quarantined=retry_quarantined)
    write_votes(layout.VOTES, [clip.clip_id for clip in corpus.clips], votes, corpus.labels)
    say(f"vote: {len(corpus.clips)} clips, {len(votes)} sources")
    for name, probs in votes.items():
        say(f"  {name}: {int(np.isfinite(probs).all(axis=1).sum())} votes, the rest abstentions")
    counts = [sum(getattr(scores, name) for scores in asked) for name in ("asked", "cached", "quarantined", "invalid")]
    say("  {} texts asked, {} from the cache, {} clips quarantined, {} without a valid answer".format(*counts))


def _classifiers(params: Params, corpus: Corpus) -> Iterator[tuple[str, NDArray[np.float64]]]:
    config = params.vote
    given = np.array(labels_of(corpus.clips, corpus.labels), np.int64)
    folds = folds_of(corpus, config.folds, config.seed)
    features = read_features(params, corpus.clips)
    voters = {"linear": config.linear, "lightgbm": config.lightgbm}
    tasks = [(name, kind, voter) for name in features for kind, voter in voters.items() if voter is not None]
    for name, kind, voter in progress(tasks, "vote", unit="voter"):
        votes = out_of_fold_votes(
            features[name], given, folds, voter.build(), n_classes=len(corpus.labels), seed=config.seed
        )
        yield f"{name}/{kind}", votes
