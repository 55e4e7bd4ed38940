"""What verdicts teach, by the rule that picks the clips they are asked for.

The verdicts are simulated: the truth of generated votes, and MELD's labels before they were flipped. The rules are
`worth_labelling` (what ``next.csv`` goes by), ActiveLab (Goh and Mueller 2023, cleanlab), which is handed our
probabilities in place of a classifier's, plain entropy, and chance.
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
from ecmf_pipeline.labels.refine import decide, label_entropy, worth_labelling
from ecmf_pipeline.labels.votes import ABSTAIN, first_choice
from tools.bench.labels.meld_noise import BALANCE, Text, clips_of, flip, interval, out_of_fold, read, score, transitions
from tools.bench.labels.worlds import WORLDS, World, generate, gold_sample

Rule = Callable[[Mapping[str, Floats], Floats, Bools, int, np.random.Generator], Sequence[int]]
"""From votes by source, probabilities (n, K), clips that may be asked for (n,) and how many, to the clips."""

BATCHES, BATCH = 2, 100
"""As many verdicts as ``next.csv`` names, then the rest is judged anew."""

CLIPS = 1500
"""Of each generated setting; verdicts are offered of half of them."""

BEGUN_WITH = 60
"""Verdicts on clips of chance that all rules begin with, where there are no given labels."""


def ours(_votes: Mapping[str, Floats], probs: Floats, open_: Bools, count: int, _rng: np.random.Generator) -> list[int]:
    """What ``next.csv`` goes by."""
    return list(worth_labelling(probs, ~open_, count))


def entropy(
    _votes: Mapping[str, Floats], probs: Floats, open_: Bools, count: int, _rng: np.random.Generator
) -> list[int]:
    """The least certain first, whatever their class."""
    rows = np.flatnonzero(open_)
    return [int(row) for row in rows[np.argsort(-label_entropy(probs)[rows], kind="stable")[:count]]]


def margin(
    _votes: Mapping[str, Floats], probs: Floats, open_: Bools, count: int, _rng: np.random.Generator
) -> list[int]:
    """Those whose two likeliest labels are nearest to each other first."""
    rows = np.flatnonzero(open_)
    ranked = np.sort(probs[rows], axis=1)
    return [int(row) for row in rows[np.argsort(ranked[:, -1] - ranked[:, -2], kind="stable")[:count]]]


def active_lab(
    votes: Mapping[str, Floats], probs: Floats, open_: Bools, count: int, _rng: np.random.Generator
) -> list[int]:
    """Cleanlab's `get_active_learning_scores`, lowest first."""
    from cleanlab.multiannotator import get_active_learning_scores

    cast = np.stack([first_choice(one) for one in votes.values()], axis=1)
    voted = (cast != ABSTAIN).any(axis=1)
    annotations = np.where(cast == ABSTAIN, np.nan, cast)
    scores = np.empty(len(probs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        silent = probs[~voted] if not voted.all() else None
        scores[voted], scores[~voted] = get_active_learning_scores(annotations[voted], probs[voted], silent)
    rows = np.flatnonzero(open_)
    return [int(row) for row in rows[np.argsort(scores[rows], kind="stable")[:count]]]


def chance(
    _votes: Mapping[str, Floats], _probs: Floats, open_: Bools, count: int, rng: np.random.Generator
) -> list[int]:
    """Any."""
    return [int(row) for row in rng.permutation(np.flatnonzero(open_))[:count]]


def half_by_chance(
    votes: Mapping[str, Floats], probs: Floats, open_: Bools, count: int, rng: np.random.Generator
) -> list[int]:
    """Half by our rule, half of chance."""
    first = ours(votes, probs, open_, count // 2, rng)
    rest = open_.copy()
    rest[first] = False
    return first + chance(votes, probs, rest, count - len(first), rng)


RULES: dict[str, Rule] = {
    "next.csv": ours,
    "ActiveLab (cleanlab)": active_lab,
    "entropy": entropy,
    "margin": margin,
    "half of next.csv, half of chance": half_by_chance,
    "chance": chance,
}


def generated(seeds: Sequence[int], say: Callable[[str], None], *, full: bool) -> None:
    """Accuracy of `combine_votes` after the verdicts: on all clips, and on the half that is never asked about."""
    worlds = [replace(world, clips=CLIPS) for world in (WORLDS[::8] if full else WORLDS[:1])]
    say(f"\n{BATCHES * BATCH} verdicts more on {len(worlds)} generated settings, seeds {list(seeds)}")
    runs = [_taught(world, seed, rule) for rule in RULES.values() for world in worlds for seed in seeds]
    found = np.array(runs).reshape(len(RULES), len(worlds), len(seeds), 2).mean(axis=1)  # (rules, seeds, 2)
    for name, ones in zip(RULES, found, strict=True):
        every, others = (100 * ones.mean(axis=0)).tolist()
        over = [interval(ones[:, column] - found[-1, :, column]) for column in range(2)]
        say(f"  {name:<34} all clips {every:.2f}, over chance {over[0]:<24} never asked {others:.2f}, {over[1]}")


def _taught(world: World, seed: int, rule: Rule) -> tuple[float, float]:
    votes, truth = generate(world, seed)
    rng = np.random.default_rng(seed)
    offered = rng.permutation(len(truth)) < len(truth) // 2
    gold = np.where(offered, gold_sample(truth, 2 * BEGUN_WITH / len(truth), seed), -1)
    for _ in range(BATCHES):
        combined = combine_votes(votes, gold, seed=seed)
        asked = rule(votes, combined.probs, offered & (gold < 0), BATCH, rng)
        gold[asked] = truth[asked]
    right = combine_votes(votes, gold, seed=seed).labels == truth
    return float(right.mean()), float(right[~offered].mean())


def utterances(folder: Path, seeds: Sequence[int], say: Callable[[str], None], *, full: bool) -> None:
    """MELD with flipped labels: how many verdicts correct a label, and what training on the refined ones gains."""
    text = read(folder)
    for noise in ("30% symmetric", "30% class-dependent") if full else ("30% symmetric",):
        say(f"MELD, {noise} flips, {BATCHES * BATCH} verdicts, seeds {list(seeds)}")
        noisy = [flip(text.truth, transitions()[noise], seed) for seed in seeds]
        votes = [out_of_fold(text, labels, seed) for labels, seed in zip(noisy, seeds, strict=True)]
        rules: dict[str, Rule | None] = {"no verdict": None, **RULES}
        runs = [
            _corrected(text, labels, *voted, seed, rule)
            for rule in rules.values()
            for labels, voted, seed in zip(noisy, votes, seeds, strict=True)
        ]
        found = np.array(runs).reshape(len(rules), len(seeds), 3)
        for name, ones in zip(rules, found, strict=True):
            wrong, labels, f1 = ones.mean(axis=0).tolist()
            over = interval(ones[:, 2] - found[-1, :, 2])
            say(
                f"  {name:<34} corrected {100 * wrong:5.1f}% of those asked; likeliest label right "
                f"{100 * labels:.2f}%; test weighted F1 {100 * f1:.2f}, over chance {over}"
            )


def _corrected(
    text: Text, noisy: Ints, votes: Floats, folds: Ints, seed: int, rule: Rule | None
) -> tuple[float, float, float]:
    config, rng = RefineConfig(), np.random.default_rng(seed)
    sources = {"text": votes}
    annotations = {**sources, GIVEN: np.eye(len(MER_LABELS))[noisy]}
    gold = np.full(len(noisy), -1)
    for _ in range(BATCHES if rule else 0):
        assert rule is not None
        assessment = assess(sources, noisy, gold, folds=folds, seed=seed, config=config.label_model)
        asked = rule(annotations, assessment.posterior, gold < 0, BATCH, rng)
        gold[asked] = text.truth[asked]
    known = gold >= 0
    assessment = assess(sources, noisy, gold, folds=folds, seed=seed, config=config.label_model)
    labels = list(MER_LABELS)
    decisions = decide(assessment, clips_of(noisy), labels, config, families={"text": "text"}, gold=gold)
    weights = np.array([decision.weight for decision in decisions])
    new = np.array([labels.index(d.refined_label) if d.refined_label else -1 for d in decisions])
    corrected = float((noisy != gold)[known].mean()) if known.any() else float("nan")
    believed = float((assessment.labels == text.truth).mean())
    return corrected, believed, score(text, np.where(new < 0, noisy, new), weights, BALANCE)
