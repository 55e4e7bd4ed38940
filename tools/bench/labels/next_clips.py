"""Compare rules that select clips for manual labels, by the gain from these labels.

Manual labels are simulated: the truth of generated votes, and the labels of MELD before they were flipped. The rules
are `select_clips_to_label` (used for ``next.csv``), ActiveLab (Goh and Mueller 2023, cleanlab) with our probabilities
instead of those of a classifier, entropy, margin, and random choice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ecmf_pipeline.core.arrays import Bools, Floats, Ints
from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.labels.combining import combine_votes
from ecmf_pipeline.labels.config import RefineConfig
from ecmf_pipeline.labels.label_model import GIVEN, assess
from ecmf_pipeline.labels.refine import decide
from ecmf_pipeline.labels.selection import expected_gain, label_entropy, select_clips_to_label
from ecmf_pipeline.labels.votes import ABSTAIN, first_choice
from tools.bench.labels.meld_noise import BALANCE, Text, clips_of, flip, interval, out_of_fold, read, score, transitions
from tools.bench.labels.simulations import VOTE_SIMULATIONS, VoteSimulation, generate, gold_sample

Rule = Callable[[Mapping[str, Floats], Floats, Bools, int, np.random.Generator], Sequence[int]]
"""Selects clips from votes by source, probabilities (n, K), a mask of eligible clips (n,) and a count."""

ROUNDS, LABELS_PER_ROUND = 2, 100
"""Number of rounds, and manual labels per round, as in ``next.csv``; labels are combined again after each round."""

CLIPS = 1500
"""Number of clips of each generated setting; half of them are eligible."""

N_INITIAL_LABELS = 60
"""Number of random manual labels before the first round, for generated votes."""


def ours(
    votes: Mapping[str, Floats], probs: Floats, eligible: Bools, count: int, _rng: np.random.Generator
) -> list[int]:
    """Select clips as for ``next.csv``."""
    likeliest = first_choice(probs)
    gain = expected_gain(probs, first_choice(votes[GIVEN]) if GIVEN in votes else likeliest)
    return select_clips_to_label(gain, likeliest, eligible, count, last=np.zeros(len(probs), bool))


def entropy(
    _votes: Mapping[str, Floats], probs: Floats, eligible: Bools, count: int, _rng: np.random.Generator
) -> list[int]:
    """Select the clips with the highest entropy."""
    rows = np.flatnonzero(eligible)
    return [int(row) for row in rows[np.argsort(-label_entropy(probs)[rows], kind="stable")[:count]]]


def margin(
    _votes: Mapping[str, Floats], probs: Floats, eligible: Bools, count: int, _rng: np.random.Generator
) -> list[int]:
    """Select the clips with the smallest difference between the two highest probabilities."""
    rows = np.flatnonzero(eligible)
    ranked = np.sort(probs[rows], axis=1)
    return [int(row) for row in rows[np.argsort(ranked[:, -1] - ranked[:, -2], kind="stable")[:count]]]


def active_lab(
    votes: Mapping[str, Floats], probs: Floats, eligible: Bools, count: int, _rng: np.random.Generator
) -> list[int]:
    """Select the clips with the lowest `get_active_learning_scores` of cleanlab."""
    from cleanlab.multiannotator import get_active_learning_scores

    cast = np.stack([first_choice(source) for source in votes.values()], axis=1)
    voted = (cast != ABSTAIN).any(axis=1)
    annotations = np.where(cast == ABSTAIN, np.nan, cast)
    scores = np.empty(len(probs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unvoted_probs = probs[~voted] if not voted.all() else None
        scores[voted], scores[~voted] = get_active_learning_scores(annotations[voted], probs[voted], unvoted_probs)
    rows = np.flatnonzero(eligible)
    return [int(row) for row in rows[np.argsort(scores[rows], kind="stable")[:count]]]


def random_choice(
    _votes: Mapping[str, Floats], _probs: Floats, eligible: Bools, count: int, rng: np.random.Generator
) -> list[int]:
    """Select random clips."""
    return [int(row) for row in rng.permutation(np.flatnonzero(eligible))[:count]]


def half_random(
    votes: Mapping[str, Floats], probs: Floats, eligible: Bools, count: int, rng: np.random.Generator
) -> list[int]:
    """Select half of the clips by our rule, half at random."""
    first = ours(votes, probs, eligible, count // 2, rng)
    rest = eligible.copy()
    rest[first] = False
    return first + random_choice(votes, probs, rest, count - len(first), rng)


RULES: dict[str, Rule] = {
    "next.csv": ours,
    "ActiveLab (cleanlab)": active_lab,
    "entropy": entropy,
    "margin": margin,
    "half next.csv, half random": half_random,
    "random": random_choice,
}


def generated(seeds: Sequence[int], echo: Callable[[str], None], *, full: bool) -> None:
    """Print the accuracy of `combine_votes` after manual labels: on all clips, and on the ineligible half."""
    worlds = [replace(world, clips=CLIPS) for world in (VOTE_SIMULATIONS[::8] if full else VOTE_SIMULATIONS[:1])]
    count = ROUNDS * LABELS_PER_ROUND
    echo(f"\naccuracy (%) after {count} manual labels, {len(worlds)} generated settings, seeds {list(seeds)}")
    runs = [_accuracy_after_labels(world, seed, rule) for rule in RULES.values() for world in worlds for seed in seeds]
    accuracies = np.array(runs).reshape(len(RULES), len(worlds), len(seeds), 2).mean(axis=1)  # (rules, seeds, 2)
    for name, by_seed in zip(RULES, accuracies, strict=True):
        all_clips, ineligible = (100 * by_seed.mean(axis=0)).tolist()
        gains = [interval(by_seed[:, column] - accuracies[-1, :, column]) for column in range(2)]
        echo(
            f"  {name:<28} all clips {all_clips:.2f}, minus random {gains[0]}; "
            f"ineligible clips {ineligible:.2f}, minus random {gains[1]}"
        )


def _accuracy_after_labels(world: VoteSimulation, seed: int, rule: Rule) -> tuple[float, float]:
    votes, truth = generate(world, seed)
    rng = np.random.default_rng(seed)
    eligible = rng.permutation(len(truth)) < len(truth) // 2
    gold = np.where(eligible, gold_sample(truth, 2 * N_INITIAL_LABELS / len(truth), seed), -1)
    for _ in range(ROUNDS):
        combined = combine_votes(votes, gold, seed=seed)
        selected = rule(votes, combined.probs, eligible & (gold < 0), LABELS_PER_ROUND, rng)
        gold[selected] = truth[selected]
    correct = combine_votes(votes, gold, seed=seed).labels == truth
    return float(correct.mean()), float(correct[~eligible].mean())


def utterances(folder: Path, seeds: Sequence[int], echo: Callable[[str], None], *, full: bool) -> None:
    """Print, for MELD with flipped labels, how many selected labels were wrong, and the gain in training."""
    text = read(folder)
    for noise in ("30% symmetric", "30% class-dependent") if full else ("30% symmetric",):
        echo(f"MELD, {noise} flips, {ROUNDS * LABELS_PER_ROUND} manual labels, seeds {list(seeds)}")
        noisy = [flip(text.truth, transitions()[noise], seed) for seed in seeds]
        votes = [out_of_fold(text, labels, seed) for labels, seed in zip(noisy, seeds, strict=True)]
        rules: dict[str, Rule | None] = {"no manual labels": None, **RULES}
        runs = [
            _refine_with_labels(text, labels, *voted, seed, rule)
            for rule in rules.values()
            for labels, voted, seed in zip(noisy, votes, seeds, strict=True)
        ]
        results = np.array(runs).reshape(len(rules), len(seeds), 3)
        for name, by_seed in zip(rules, results, strict=True):
            wrong, accuracy, f1 = by_seed.mean(axis=0).tolist()
            gain = interval(by_seed[:, 2] - results[-1, :, 2])
            echo(
                f"  {name:<28} selected labels that were wrong {100 * wrong:5.1f}%; accuracy of the likeliest label "
                f"{100 * accuracy:.2f}%; test weighted F1 {100 * f1:.2f}, minus random {gain}"
            )


def _refine_with_labels(
    text: Text, noisy: Ints, votes: Floats, folds: Ints, seed: int, rule: Rule | None
) -> tuple[float, float, float]:
    config, rng = RefineConfig(), np.random.default_rng(seed)
    sources = {"text": votes}
    annotations = {**sources, GIVEN: np.eye(len(MER_LABELS))[noisy]}
    gold = np.full(len(noisy), -1)
    for _ in range(ROUNDS if rule else 0):
        assert rule is not None
        assessment = assess(sources, noisy, gold, folds=folds, seed=seed, config=config.label_model)
        selected = rule(annotations, assessment.posterior, gold < 0, LABELS_PER_ROUND, rng)
        gold[selected] = text.truth[selected]
    is_gold = gold >= 0
    assessment = assess(sources, noisy, gold, folds=folds, seed=seed, config=config.label_model)
    labels = list(MER_LABELS)
    decisions = decide(assessment, clips_of(noisy), labels, config, families={"text": "text"}, gold=gold)
    weights = np.array([decision.weight for decision in decisions])
    new = np.array([labels.index(d.refined_label) if d.refined_label else -1 for d in decisions])
    wrong = float((noisy != gold)[is_gold].mean()) if is_gold.any() else float("nan")
    accuracy = float((assessment.labels == text.truth).mean())
    return wrong, accuracy, score(text, np.where(new < 0, noisy, new), weights, BALANCE)
