"""Measure tie-breaks of a majority vote without gold labels: class order, random, and reliability of the sources.

The generator's classes are sorted by frequency, so class order means the most frequent class there.

Generated votes have known truth. The real votes are those of three linear classifiers of RAVDESS (action units, MFCCs,
both), each trained without the actor that it votes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ecmf_pipeline.core.arrays import Floats, Ints
from ecmf_pipeline.labels.config import LightGbmConfig, LinearConfig
from ecmf_pipeline.labels.majority import count_votes
from ecmf_pipeline.labels.voters import vote
from ecmf_pipeline.labels.votes import ABSTAIN, first_choice
from tools.bench.fusion.ravdess import RAVDESS, read_ravdess
from tools.bench.labels.simulations import VoteSimulation, generate

N_FOLDS = 6
_LINE = "{:<67}{:>7}{:>13}{:>11}{:>13}{:>29}"
THREE_SOURCES = tuple(
    VoteSimulation(f"three sources, accuracy {', '.join(map(str, skills))}, one label each", skills, soft=False)
    for skills in ((0.7, 0.6, 0.5), (0.8, 0.5, 0.5), (0.6, 0.6, 0.6), (0.5, 0.45, 0.4), (0.85, 0.8, 0.4))
)
"""Settings without a choice made on them."""


def ties(seeds: Sequence[int], echo: Callable[[str], None]) -> None:
    """Print the share of ties and the accuracy by tie-break."""
    echo(f"\nmajority of three sources without gold labels, accuracy (%); seeds {list(seeds)}")
    columns = ("setting", "ties", "class order", "at random", "reliability", "minus random (95% interval)")
    echo(_LINE.format(*columns))
    for world in THREE_SOURCES:
        echo(_compare(world.name, [generate(world, seed) for seed in seeds]))
    if not RAVDESS.is_file():
        echo(f"skipped: {RAVDESS.name} is absent")
        return
    for name, votes, truth in _ravdess_votes():
        echo(_compare(f"{name}, one label each", [(_hard(votes), truth)]))
        echo(_compare(f"{name}, probabilities", [(votes, truth)]))


def _compare(name: str, draws: Sequence[tuple[Mapping[str, Floats], Ints]]) -> str:
    tied, by_order, at_random, ours = [], [], [], []
    for votes, truth in draws:
        hard_votes = np.stack([first_choice(probs) for probs in votes.values()], axis=1)  # (n, S)
        voted = (hard_votes != ABSTAIN).any(axis=1)
        counts = (hard_votes[:, :, None] == np.arange(next(iter(votes.values())).shape[1])).sum(axis=1)
        highest = counts == counts.max(axis=1, keepdims=True)
        tied.append((highest.sum(axis=1) > 1)[voted])
        at_random.append((highest[np.arange(len(truth)), truth] / highest.sum(axis=1))[voted])  # expected accuracy
        by_order.append((counts.argmax(axis=1) == truth)[voted])
        ours.append((count_votes(votes).argmax(axis=1) == truth)[voted])
    paired = np.concatenate(ours).astype(float) - np.concatenate(at_random)
    half = 1.96 * paired.std() / np.sqrt(len(paired))
    interval = (
        f"{100 * paired.mean():+.2f} ({100 * (paired.mean() - half):+.2f} to {100 * (paired.mean() + half):+.2f})"
    )
    shares = (f"{100 * np.concatenate(column).mean():.2f}" for column in (tied, by_order, at_random, ours))
    return _LINE.format(name, *shares, interval)


def _hard(votes: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: np.eye(probs.shape[1])[first_choice(probs)] for name, probs in votes.items()}


def _ravdess_votes() -> Iterator[tuple[str, dict[str, Floats], Ints]]:
    """Yield a name, out-of-fold votes and the truth; folds hold out whole actors."""
    features, labels, actors = read_ravdess()
    truth = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    inputs = {**features, "both": np.concatenate(list(features.values()), axis=1)}
    folds = np.unique(actors, return_inverse=True)[1] % N_FOLDS
    voters = {"linear": LinearConfig(), "lightgbm": LightGbmConfig()}
    votes = {}
    for source in ("face/linear", "audio/linear", "both/linear", "audio/lightgbm"):
        name, _, kind = source.partition("/")
        rows = inputs[name].astype(np.float64)
        votes[source] = np.full((len(truth), truth.max() + 1), np.nan)
        for fold in range(N_FOLDS):
            held_out = folds == fold
            votes[source][held_out] = vote(voters[kind], rows[~held_out], truth[~held_out], rows[held_out], seed=0)
    for sources in (("face/linear", "audio/linear", "both/linear"), ("face/linear", "audio/linear", "audio/lightgbm")):
        yield f"RAVDESS: {', '.join(sources)}", {name: votes[name] for name in sources}, truth
