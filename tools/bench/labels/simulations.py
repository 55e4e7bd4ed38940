"""Generate votes with known truth, from sources of different skill that share errors, confuse classes and abstain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, softmax

from ecmf_pipeline.core.arrays import Floats, Ints


@dataclass(frozen=True, slots=True)
class VoteSimulation:
    """Parameters of generated votes.

    Attributes:
        name: Name of the setting; also part of the random seed.
        skills: Accuracy of each source, averaged over the classes; the length is the number of sources.
        classes: Number of classes K.
        clips: Number of clips n.
        imbalance: 0: all classes are equally frequent; 1: the share of the k-th class is proportional to 1 / k.
        shared: Share of the error variance of each source that all sources have in common.
        family: Share of the error variance that neighbours (sources 0 and 1, 2 and 3, ...) have in common in addition.
        confusion: Spread of the skill of a source over the classes, and of its preference for certain wrong classes.
        abstains: Share of clips on which each source abstains; twice as large for the last source.
        soft: Whether votes are probabilities; otherwise they are single labels.
        sharpness: Factor of the log-probabilities of a soft source: above 1 it is overconfident.
        prefix: Share of votes of the last source that are a fixed class, independent of the clip.
    """

    name: str
    skills: tuple[float, ...]
    classes: int = 6
    clips: int = 4000
    imbalance: float = 0.5
    shared: float = 0.2
    family: float = 0.2
    confusion: float = 0.15
    abstains: float = 0.1
    soft: bool = True
    sharpness: float = 1.5
    prefix: float = 0.0


_MIXED = (0.75, 0.65, 0.6, 0.5, 0.45, 0.35)

VOTE_SIMULATIONS = (
    VoteSimulation("plain", _MIXED),
    VoteSimulation("one label each", _MIXED, soft=False),
    VoteSimulation("three sources", (0.7, 0.6, 0.5)),
    VoteSimulation("three sources, one label each", (0.7, 0.6, 0.5), soft=False),
    VoteSimulation("eight sources", (0.75, 0.7, 0.6, 0.6, 0.5, 0.5, 0.4, 0.3)),
    VoteSimulation("eight sources, one label each", (0.75, 0.7, 0.6, 0.6, 0.5, 0.5, 0.4, 0.3), soft=False),
    VoteSimulation("independent", _MIXED, shared=0.0, family=0.0),
    VoteSimulation("independent, one label each", _MIXED, shared=0.0, family=0.0, soft=False),
    VoteSimulation("errors in common", _MIXED, shared=0.6, family=0.2),
    VoteSimulation("errors in common, one label each", _MIXED, shared=0.6, family=0.2, soft=False),
    VoteSimulation("twins", (0.65, 0.65, 0.55, 0.55, 0.45, 0.45), shared=0.0, family=0.9),
    VoteSimulation("twins, one label each", (0.65, 0.65, 0.55, 0.55, 0.45, 0.45), shared=0.0, family=0.9, soft=False),
    VoteSimulation("one good source among weak ones", (0.85, 0.35, 0.3, 0.3, 0.3)),
    VoteSimulation("one good source among weak ones, one label each", (0.85, 0.35, 0.3, 0.3, 0.3), soft=False),
    VoteSimulation("all alike", (0.55,) * 5),
    VoteSimulation("all alike, one label each", (0.55,) * 5, soft=False),
    VoteSimulation("all weak", (0.4, 0.35, 0.35, 0.3, 0.3)),
    VoteSimulation("all weak, one label each", (0.4, 0.35, 0.35, 0.3, 0.3), soft=False),
    VoteSimulation("all good", (0.9, 0.88, 0.85, 0.85)),
    VoteSimulation("classes confused", _MIXED, confusion=0.4),
    VoteSimulation("classes confused, one label each", _MIXED, confusion=0.4, soft=False),
    VoteSimulation("rare classes", _MIXED, imbalance=1.5),
    VoteSimulation("rare classes, one label each", _MIXED, imbalance=1.5, soft=False),
    VoteSimulation("half abstain", _MIXED, abstains=0.4),
    VoteSimulation("half abstain, one label each", _MIXED, abstains=0.4, soft=False),
    VoteSimulation("too sure", _MIXED, sharpness=5.0),
    VoteSimulation("too shy", _MIXED, sharpness=0.4),
    VoteSimulation("a source that likes one class, one label each", (0.7, 0.6, 0.55, 0.3), prefix=0.6, soft=False),
    VoteSimulation("two classes", (0.8, 0.75, 0.65, 0.6), classes=2),
    VoteSimulation("two classes, one label each", (0.8, 0.75, 0.65, 0.6), classes=2, soft=False),
    VoteSimulation("ten classes, one label each", (0.7, 0.6, 0.5, 0.4), classes=10, clips=8000, soft=False),
    VoteSimulation("many clips", _MIXED, clips=20000),
)
"""Named settings of `tools.bench.labels`. The method was chosen on them, with seeds 0 and 1."""


def random_simulations(count: int, seed: int) -> tuple[VoteSimulation, ...]:
    """Draw settings with random properties, on which no choice of the method was made."""
    rng = np.random.default_rng(seed)
    worlds = []
    for number in range(count):
        classes, sources = int(rng.choice([2, 3, 6, 8])), int(rng.integers(3, 9))
        shared = float(rng.uniform(0, 0.5))
        soft = bool(rng.random() < 0.5)
        skills = rng.uniform(1 / classes + 0.1, 0.85, sources).round(2)
        worlds.append(
            VoteSimulation(
                f"drawn {number + 1}: {sources} sources, {classes} classes{'' if soft else ', one label each'}",
                tuple(skills.tolist()),
                classes=classes,
                imbalance=float(rng.uniform(0, 1.5)),
                shared=shared,
                family=float(rng.uniform(0, 0.9 - shared)),
                confusion=float(rng.uniform(0, 0.35)),
                abstains=float(rng.uniform(0, 0.4)),
                soft=soft,
                sharpness=float(np.exp(rng.uniform(np.log(0.4), np.log(5.0)))),
            )
        )
    return tuple(worlds)


def generate(world: VoteSimulation, seed: int) -> tuple[dict[str, Floats], Ints]:
    """Return the votes of each source, (n, K) each, NaN if it abstains, and the true classes, (n,).

    A source assigns a score to each class: noise, partly shared between sources, plus a bonus for the true class that
    yields its skill. Its label is the class with the highest score, its probabilities are the softmax of the scores.
    """
    rng = np.random.default_rng([seed, len(world.name), *world.name.encode()])
    clips, classes = world.clips, world.classes
    prior = 1 / (1 + np.arange(classes)) ** world.imbalance
    truth: Ints = rng.choice(classes, clips, p=prior / prior.sum()).astype(np.int64)
    common = rng.normal(size=(clips, classes))
    pair = common
    independent = 1.0 - world.shared - world.family
    votes = {}
    for number, skill in enumerate(world.skills):
        if number % 2 == 0:
            pair = rng.normal(size=(clips, classes))
        noise = np.sqrt(world.shared) * common + np.sqrt(world.family) * pair
        noise = noise + np.sqrt(max(independent, 0.0)) * rng.normal(size=(clips, classes))
        bonus = _true_class_bonus(np.clip(skill + world.confusion * rng.uniform(-1, 1, classes), 0.05, 0.97), classes)
        preference = 2 * world.confusion * rng.normal(size=(classes, classes))  # (true class, voted class)
        np.fill_diagonal(preference, bonus)
        score = preference[truth] + noise
        probs = softmax(2 * world.sharpness * score, axis=1)
        if world.prefix and number == len(world.skills) - 1:
            probs[rng.random(clips) < world.prefix] = np.eye(classes)[rng.integers(classes)]
        if not world.soft:
            probs = np.eye(classes)[probs.argmax(axis=1)]
        abstain_share = world.abstains * (2 if number == len(world.skills) - 1 else 1)
        probs[rng.random(clips) < abstain_share] = np.nan
        votes[f"source{number}"] = probs
    return votes, truth


def _true_class_bonus(skill: Floats, classes: int) -> Floats:
    """Return by how much the score of the true class must be raised for it to win with these probabilities, (K,)."""
    bonuses = np.linspace(-1.0, 6.0, 141)
    points, weights = np.polynomial.hermite_e.hermegauss(31)
    wins = ((weights / weights.sum()) * ndtr(points + bonuses[:, None]) ** (classes - 1)).sum(axis=1)
    bonus: Floats = np.interp(skill, wins, bonuses)
    return bonus


def gold_sample(truth: Ints, share: float, seed: int) -> Ints:
    """Return the true class of a random share of the clips, -1 for the others, (n,)."""
    rng = np.random.default_rng(seed)
    gold = np.full(len(truth), -1)
    chosen = rng.permutation(len(truth))[: round(share * len(truth))]
    gold[chosen] = truth[chosen]
    return gold
